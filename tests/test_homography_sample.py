"""homography_sample: what every sampler is tested for, other libraries, and points at or behind the plane w = 0."""

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

import stn_kernels
from stn_kernels.op_cases import OP_CASES, Inputs, Sample, grad_output
from stn_kernels.reference.affine import homogeneous_base
from stn_kernels.reference.homography import homography_grid as reference_grid

from .op_tests import FLAGS, SamplingTests
from .tolerances import assert_close, assert_like_reference

TILTED = [[0.9, 0.1, 0.05], [-0.2, 1.1, 0.03], [0.2, -0.1, 1.0]]
# w = 0 on a line through the output: on the middle column of an odd width exactly, and off all pixels.
HORIZONS = {
    "on a column": [[1.0, 0.2, 0.1], [0.1, 0.9, 0.2], [1.0, 0.0, 0.0]],
    "oblique": [[1.0, 0.2, 0.1], [0.1, 0.9, 0.2], [0.7, 0.61, 0.313]],
    "everywhere": [[1.0, 0.2, 0.1], [0.1, 0.9, 0.2], [0.0, 0.0, 0.0]],
    "all behind": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -1.0]],
}


def composed_grid(matrix, size, align):
    """Straight from the definition: (B, Ho, Wo, 2)."""
    homogeneous = homogeneous_base(size, align, matrix.dtype, matrix.device) @ matrix.mT.unsqueeze(1)
    return homogeneous[..., :2] / homogeneous[..., 2:]


def inputs_at(matrix, padding, align=False, dtype=torch.float32, out_size=(9, 11)):
    image = torch.randn(1, 2, 8, 10, dtype=torch.float64).to(dtype)
    matrix = torch.as_tensor(matrix, dtype=torch.float64 if dtype == torch.float64 else torch.float32).unsqueeze(0)
    return Inputs(
        {"input": image, "matrix": matrix}, {"size": out_size, "padding_mode": padding, "align_corners": align}
    )


class TestHomographySample(SamplingTests):
    case = OP_CASES["homography_sample"]
    thin_everywhere = True

    def points(self, inputs):
        options = inputs.options
        return reference_grid(inputs.tensors["matrix"].double(), options["size"], options["align_corners"])

    def torch_call(self, inputs):
        image, matrix = inputs.tensors.values()
        align = inputs.options["align_corners"]
        grid = composed_grid(matrix, inputs.options["size"], align)
        return F.grid_sample(image, grid, inputs.options["mode"], inputs.options["padding_mode"], align)

    def test_equals_kornia(self, backend):
        """warp_perspective takes the matrix from source to output pixels, and normalizes as align_corners=True does."""
        from kornia.geometry import transform  # a GPU machine may not have it

        image, matrix = torch.randn(2, 3, 9, 12, dtype=torch.float64), torch.tensor(TILTED, dtype=torch.float64)
        size = (10, 7)

        def pixels(height, width):
            scale = torch.tensor([(width - 1) / 2, (height - 1) / 2, 1.0], dtype=torch.float64)
            return torch.diag(scale) + torch.tensor([[0, 0, scale[0]], [0, 0, scale[1]], [0, 0, 0]])

        forward = torch.linalg.inv(pixels(9, 12) @ matrix @ torch.linalg.inv(pixels(*size)))
        expected = transform.warp_perspective(image, forward.expand(2, 3, 3), size, align_corners=True)
        inputs = Inputs({"input": image, "matrix": matrix.expand(2, 3, 3)}, {"size": size, "align_corners": True}).to(
            device=backend.device
        )
        torch.testing.assert_close(backend.call(self.case, inputs).cpu(), expected, rtol=1e-6, atol=1e-6)  # its eps

    @pytest.mark.parametrize("align", FLAGS)
    def test_equals_scipy(self, backend, align):
        inputs = inputs_at(TILTED, "zeros", align, torch.float64)
        grid = composed_grid(inputs.tensors["matrix"], inputs.options["size"], align)[0].numpy()
        extent = np.array([10, 8])
        pixels = (grid + 1) * (extent - 1) / 2 if align else ((grid + 1) * extent - 1) / 2
        expected = [
            scipy.ndimage.map_coordinates(plane, [pixels[..., 1], pixels[..., 0]], order=1, mode="grid-constant")
            for plane in inputs.tensors["input"][0].numpy()
        ]
        output = backend.call(self.case, inputs.to(device=backend.device))
        assert_close(output[0], torch.from_numpy(np.stack(expected)))

    @pytest.mark.parametrize("align", FLAGS)
    def test_affine_matrices(self, backend, padding, align):
        sample = Sample(dtype=torch.float64, padding_mode=padding, align_corners=align)
        inputs = backend.draw(OP_CASES["affine_sample"], sample).requires_grad()
        image, theta = inputs.tensors.values()
        expected = OP_CASES["affine_sample"].call(inputs, "reference" if backend.device == "cpu" else backend.name)
        last = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device=theta.device).expand(len(theta), 1, 3)
        actual = backend.op("homography_sample")(image, torch.cat([theta, last], 1), **inputs.options)
        assert_close(actual, expected)
        cotangent = grad_output(expected, "contiguous")
        for a, b in zip(*(torch.autograd.grad(o, (image, theta), cotangent) for o in (actual, expected)), strict=True):
            assert_close(a, b, "coords")

    def test_positive_factors_do_not_matter(self, backend, padding):
        inputs = inputs_at(TILTED, padding).to(device=backend.device)
        expected = backend.call(self.case, inputs)
        inputs.tensors["matrix"] *= 2.0**-20
        assert_close(backend.call(self.case, inputs), expected)

    @pytest.mark.thinned(7)
    @pytest.mark.parametrize("align", FLAGS)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("kind", HORIZONS)
    def test_points_at_or_behind_the_plane_have_no_source(self, backend, padding, kind, dtype, align):
        """They read 0, or the first pixel, and pass no gradient; the others are as if they were alone."""
        inputs = inputs_at(HORIZONS[kind], padding, align, dtype).to(device=backend.device).requires_grad()
        image, matrix = inputs.tensors.values()
        output = backend.call(self.case, inputs)
        grid = reference_grid(matrix.detach(), inputs.options["size"], align)
        behind = grid[0].isnan().any(-1)
        assert behind.any()
        first = torch.zeros_like(image[0, :, 0, 0]) if padding == "zeros" else image[0, :, 0, 0]
        assert torch.equal(output[0][:, behind], first.unsqueeze(1).expand(-1, int(behind.sum())))
        cotangent = grad_output(output, "contiguous")
        gradients = torch.autograd.grad(output, (image, matrix), cotangent, retain_graph=True)
        assert all(g.isfinite().all() for g in gradients)
        (alone,) = torch.autograd.grad(output, (matrix,), cotangent.masked_fill(behind, 0.0))
        assert torch.equal(gradients[1], alone)
        if behind.all():
            assert torch.equal(alone, torch.zeros_like(alone))

    @pytest.mark.parametrize("kind", HORIZONS)
    def test_horizon_like_reference(self, backend, padding, kind):
        """The value is continuous but where w = 0, which the oblique line crosses off all pixels."""
        inputs = inputs_at(HORIZONS[kind], padding, dtype=torch.float64)
        assert_like_reference(backend, self.case, inputs)

    @pytest.mark.thinned(7)
    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e38, -1e38])
    @pytest.mark.parametrize("entry", range(9))
    def test_bad_entries(self, backend, padding, entry, value):
        inputs = inputs_at(TILTED, padding, out_size=(6, 8)).to(device=backend.device).requires_grad()
        with torch.no_grad():
            inputs.tensors["matrix"].view(-1)[entry] = value
        output = backend.call(self.case, inputs)
        assert output.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(output.sum(), list(inputs.tensors.values())))

    def test_one_bad_sample_leaves_the_others_alone(self, backend, padding):
        inputs = backend.draw(self.case, Sample(padding_mode=padding, samples=3, channels=4))
        good = backend.call(self.case, inputs)
        inputs.tensors["matrix"][:, 1] = torch.nan
        got = backend.call(self.case, inputs)
        assert torch.equal(got[:, ::2], good[:, ::2])
        assert got.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 4, 3, 3)])
def test_meta_tensors_give_the_shape(shape):
    matrix = torch.empty(shape, device="meta")
    output = stn_kernels.homography_sample(torch.empty(2, 3, 5, 6, device="meta"), matrix, (4, 7))
    assert output.shape == (*shape[:-2], 3, 4, 7)
