"""grid_sample: what every sampler is tested for, and coordinates of every kind."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from stn_kernels.op_cases import OP_CASES, Inputs, Sample, image

from .op_tests import FLAGS, SamplingTests
from .tolerances import assert_close, assert_like_reference

BAD = (torch.nan, torch.inf, -torch.inf, 1e38, -1e38)


def pixel_grid(rows, columns, size, align):
    """Normalized points (1, len(rows), len(columns), 2) at pixel coordinates, in float64."""
    height, width = size
    y, x = torch.meshgrid(torch.as_tensor(rows).double(), torch.as_tensor(columns).double(), indexing="ij")
    pixels, extent = torch.stack([x, y], -1), torch.tensor([width, height], dtype=torch.float64)
    normalized = 2 * pixels / (extent - 1) - 1 if align else (2 * pixels + 1) / extent - 1
    return normalized.unsqueeze(0)


def inputs_at(grid, padding, align, dtype=torch.float64, size=(8, 16), channels=3):
    sample = Sample(dtype=dtype, channels=channels, size=size, batch=1)
    options = {"padding_mode": padding, "align_corners": align}
    return Inputs({"input": image(sample, torch.Generator().manual_seed(5)), "grid": grid.to(dtype)}, options)


class TestGridSample(SamplingTests):
    case = OP_CASES["grid_sample"]

    def points(self, inputs):
        return inputs.tensors["grid"].double()

    def torch_call(self, inputs):
        return F.grid_sample(*inputs.tensors.values(), **inputs.options)

    @pytest.mark.parametrize("align", FLAGS)
    def test_pixel_centres_return_the_pixels(self, backend, padding, align):
        inputs = inputs_at(pixel_grid(range(8), range(16), (8, 16), align), padding, align)
        output = backend.call(self.case, inputs.to(device=backend.device))
        assert_close(output, inputs.tensors["input"])

    def test_gradient_on_lattice_lines_is_one_of_the_sides(self, backend, padding):
        """Exact coordinates (powers of two) on lattice lines: each derivative is the one of a neighbouring cell."""
        size = (8, 16)
        centres = pixel_grid(range(1, 7), range(1, 15), size, False)
        inputs = inputs_at(centres, padding, False, size=size).to(device=backend.device).requires_grad()
        output = backend.call(self.case, inputs)
        (gradient,) = torch.autograd.grad(output.sum(), (inputs.tensors["grid"],))
        sides = []
        for dx, dy in itertools.product((-0.25, 0.25), repeat=2):
            moved = centres + torch.tensor([dx * 2 / size[1], 0.0])
            moved_y = centres + torch.tensor([0.0, dy * 2 / size[0]])
            both = []
            for grid, axis in ((moved, 0), (moved_y, 1)):
                near = inputs_at(grid, padding, False, size=size).requires_grad()
                (side,) = torch.autograd.grad(self.case.call(near, "reference").sum(), (near.tensors["grid"],))
                both.append(side[..., axis])
            sides.append(torch.stack(both, -1))
        distance = torch.stack([(gradient.cpu() - side).abs() for side in sides]).amin(0)
        assert distance.max() <= 1e-11 * gradient.abs().max()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("align", FLAGS)
    def test_bad_coordinates(self, backend, padding, align, dtype):
        """The rule of reference/sampling.py, spelled out: NaN counts as -inf, and so does huge under reflection."""
        points = list(itertools.product(BAD, BAD))
        grid = torch.tensor(points).reshape(1, 1, -1, 2)
        inputs = inputs_at(grid.float(), padding, align, torch.float32)
        inputs.tensors["input"] = inputs.tensors["input"].to(dtype)
        leaves = inputs.to(device=backend.device).requires_grad()
        output = backend.call(self.case, leaves)
        picture = leaves.tensors["input"].detach()
        last = [picture.shape[3] - 1, picture.shape[2] - 1]
        expected, hits = torch.zeros_like(output), torch.zeros_like(picture[0, 0])
        if padding != "zeros":
            for i, point in enumerate(points):
                column, row = (e if v > 0 and padding == "border" else 0 for v, e in zip(point, last, strict=True))
                expected[..., i] = picture[:, :, row, column].unsqueeze(-1)
                hits[row, column] += 1
        assert torch.equal(output, expected)
        of_image, of_grid = torch.autograd.grad(output.sum(), tuple(leaves.tensors.values()))
        assert torch.equal(of_grid, torch.zeros_like(of_grid))
        assert torch.equal(of_image, hits.expand_as(of_image))

    def test_bad_coordinates_leave_other_points_alone(self, backend, padding):
        inputs = backend.draw(self.case, Sample(padding_mode=padding, channels=4, out_size=(9, 20)))
        good = backend.call(self.case, inputs)
        inputs.tensors["grid"][:, ::3, ::4] = torch.nan
        got = backend.call(self.case, inputs)
        mask = torch.ones(9, 20, dtype=torch.bool, device=got.device)
        mask[::3, ::4] = False
        assert torch.equal(got[..., mask], good[..., mask])
        assert got.isfinite().all()

    @pytest.mark.parametrize("align", FLAGS)
    def test_far_outside(self, backend, padding, align):
        generator = torch.Generator().manual_seed(0)
        rows = 40 * torch.rand(12, generator=generator).double() - 20 + 0.01
        columns = 80 * torch.rand(13, generator=generator).double() - 40 + 0.01
        inputs = inputs_at(pixel_grid(rows, columns, (8, 16), align), padding, align)
        assert_like_reference(backend, self.case, inputs)

    @pytest.mark.parametrize("align", FLAGS)
    def test_zeros_fade_out_over_one_pixel(self, backend, align):
        steps = torch.tensor([-1.0, -0.75, -0.5, -0.25, 0.0])
        inputs = inputs_at(pixel_grid([0.0], steps, (8, 16), align), "zeros", align)
        output = backend.call(self.case, inputs.to(device=backend.device))
        assert_close(output[..., 0, :], inputs.tensors["input"][:, :, 0, :1] * (1 + steps.double()))
