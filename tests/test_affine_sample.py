"""affine_sample: what every sampler is tested for, and matrices of every kind."""

import math

import pytest
import torch
import torch.nn.functional as F

import stn_kernels
from stn_kernels.op_cases import OP_CASES, Inputs, Sample, image
from stn_kernels.reference.affine import affine_grid as reference_grid

from .op_tests import FLAGS, SamplingTests, smooth_translation
from .tolerances import assert_close, assert_like_reference


def rotation(degrees, zoom=1.0):
    c, s = zoom * math.cos(math.radians(degrees)), zoom * math.sin(math.radians(degrees))
    return [[c, -s, 0.0], [s, c, 0.0]]


MATRICES = {
    "identity": rotation(0),
    "zoom 0.1": rotation(0, 0.1),
    "zoom 0.4": rotation(13, 0.4),
    "zoom 1.7": rotation(-40, 1.7),
    "zoom 2.3": rotation(3, 2.3),
    "zoom 9": rotation(0, 9.0),
    "rotation 45": rotation(45),
    "rotation 90": rotation(90),
    "rotation 180": rotation(180),
    "reflection": [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    "reflection and shear": [[-0.9, 0.6, 0.1], [0.2, 1.1, -0.3]],
    "shear 3": [[1.0, 3.0, 0.0], [0.0, 1.0, 0.0]],
    "unequal zoom": [[0.05, 0.0, 0.1], [0.0, 4.0, 0.2]],
    "zero": [[0.0, 0.0, 0.1], [0.0, 0.0, -0.2]],
    "rank 1": [[0.5, 0.25, 0.1], [1.0, 0.5, 0.0]],
    "one row zero": [[0.7, 0.1, 0.0], [0.0, 0.0, 0.3]],
    "nearly singular": [[0.5, 0.25, 0.1], [1.0, 0.500001, 0.0]],
    "far outside": [[1.0, 0.0, 5.0], [0.0, 1.0, -7.0]],
    "half outside": [[1.0, 0.1, 1.0], [-0.1, 1.0, 0.0]],
}
SIZE, OUT_SIZE = (13, 18), (17, 14)


def inputs_at(
    theta, padding, align, dtype=torch.float32, layout="contiguous", channels=3, size=SIZE, out_size=OUT_SIZE
):
    sample = Sample(dtype=dtype, layout=layout, channels=channels, size=size, batch=1)
    theta = torch.as_tensor(theta, dtype=sample.parameter_dtype).reshape(1, 2, 3)
    options = {"size": out_size, "padding_mode": padding, "align_corners": align}
    return Inputs({"input": image(sample, torch.Generator().manual_seed(5)), "theta": theta}, options)


class TestAffineSample(SamplingTests):
    case = OP_CASES["affine_sample"]

    def points(self, inputs):
        return reference_grid(inputs.tensors["theta"].double(), inputs.options["size"], inputs.options["align_corners"])

    def torch_call(self, inputs):
        image, theta = inputs.tensors.values()
        align = inputs.options["align_corners"]
        grid = F.affine_grid(theta, (*image.shape[:2], *inputs.options["size"]), align)
        return F.grid_sample(image, grid, inputs.options["mode"], inputs.options["padding_mode"], align)

    @pytest.mark.thinned(13)
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("align", FLAGS)
    @pytest.mark.parametrize("kind", MATRICES)
    def test_matrices(self, backend, padding, kind, align, dtype, layout):
        size = (7, 9) if kind == "zoom 9" else SIZE  # 80 pixels outside, float32 coordinates are off by 1e-5
        theta = smooth_translation(
            torch.tensor(MATRICES[kind]), Sample(align_corners=align, size=size, out_size=OUT_SIZE)
        )
        assert_like_reference(backend, self.case, inputs_at(theta, padding, align, dtype, layout, size=size))

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("align", FLAGS)
    @pytest.mark.parametrize("kind", ["identity", "rotation 90", "rotation 180", "reflection", "zoom 0.1", "zoom 9"])
    def test_matrices_on_the_lattice(self, backend, padding, kind, align):
        """The value and the image's gradient are continuous, so they agree on lattice lines too; theta's is not."""
        inputs = inputs_at(MATRICES[kind], padding, align, size=(16, 16), out_size=(16, 16))
        one = Inputs({"input": inputs.tensors["input"]}, {**inputs.options, "theta": inputs.tensors["theta"]})
        self._like_reference_by_image(backend, one)

    def _like_reference_by_image(self, backend, inputs):
        image, theta = inputs.tensors["input"], inputs.options["theta"]
        options = {k: v for k, v in inputs.options.items() if k != "theta"}
        results = []
        for name, dtype, device in ((backend.name, image.dtype, backend.device), ("reference", torch.float64, "cpu")):
            leaf = image.to(device, dtype).requires_grad_()
            output = stn_kernels.affine_sample(leaf, theta.to(device, dtype), backend=name, **options)
            cotangent = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
            (gradient,) = torch.autograd.grad(output, leaf, cotangent.to(output))
            results.append((output, gradient))
        (output, gradient), (expected, expected_gradient) = results
        assert_close(output, expected)
        assert_close(gradient, expected_gradient, "image")

    @pytest.mark.parametrize("align", FLAGS)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_identity_returns_the_image(self, backend, padding, dtype, align):
        inputs = inputs_at(MATRICES["identity"], padding, align, dtype, size=(16, 24), out_size=(16, 24))
        output = backend.call(self.case, inputs.to(device=backend.device))
        assert_close(output, inputs.tensors["input"])

    def test_half_a_pixel_averages_neighbours(self, backend, padding):
        width = 24
        theta = torch.eye(2, 3, dtype=torch.float64)
        theta[0, 2] = 1 / width
        inputs = inputs_at(theta, padding, False, torch.float64, size=(8, width), out_size=(8, width))
        output = backend.call(self.case, inputs.to(device=backend.device)).cpu()
        image = inputs.tensors["input"]
        assert_close(output[..., :-1], (image[..., 1:] + image[..., :-1]) / 2)

    @pytest.mark.thinned(7)
    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e38, -1e38])
    @pytest.mark.parametrize("entry", range(6))
    def test_bad_entries_of_theta(self, backend, padding, entry, value):
        """Like the reference, with gradients 0 or as the rule says and nothing non-finite in the value."""
        theta = torch.tensor([[0.9, 0.1, 0.05], [-0.2, 1.1, 0.03]])
        theta.view(-1)[entry] = value
        inputs = inputs_at(theta, padding, False, out_size=(6, 8))
        one = Inputs({"input": inputs.tensors["input"]}, {**inputs.options, "theta": inputs.tensors["theta"]})
        self._like_reference_by_image(backend, one)

    def test_one_bad_sample_leaves_the_others_alone(self, backend, padding):
        sample = Sample(padding_mode=padding, samples=3, channels=4)
        inputs = backend.draw(self.case, sample)
        good = backend.call(self.case, inputs)
        inputs.tensors["theta"][:, 1] = torch.nan
        got = backend.call(self.case, inputs)
        assert torch.equal(got[:, ::2], good[:, ::2])
        assert got.isfinite().all()

    def test_gradient_of_theta_at_nan_is_zero(self, backend, padding):
        inputs = inputs_at(torch.full((2, 3), torch.nan), padding, False).to(device=backend.device).requires_grad()
        output = backend.call(self.case, inputs)
        (gradient,) = torch.autograd.grad(output.sum(), (inputs.tensors["theta"],))
        assert torch.equal(gradient, torch.zeros_like(gradient))
