"""tps_sample: what every sampler is tested for, kornia, accuracy at 512x512, memory."""

import pytest
import torch
import torch.nn.functional as F

import stn_kernels
from benchmarks.harness import peak_bytes
from stn_kernels.op_cases import OP_CASES, Inputs, Sample
from stn_kernels.ops import _tps_system

from .op_tests import SamplingTests
from .test_tps_grid import CONTROL, F64, bent
from .tolerances import assert_close, assert_like_reference


class TestTpsSample(SamplingTests):
    case = OP_CASES["tps_sample"]
    thin_everywhere = True

    def points(self, inputs):
        return stn_kernels.tps_grid(
            inputs.tensors["points"].double().cpu(),
            inputs.options["size"],
            inputs.options["align_corners"],
            backend="reference",
        )

    def torch_call(self, inputs):
        image, points = inputs.tensors.values()
        align = inputs.options["align_corners"]
        grid = stn_kernels.tps_grid(points, inputs.options["size"], align, backend="reference")
        return F.grid_sample(image, grid, inputs.options["mode"], inputs.options["padding_mode"], align)

    def test_equals_kornia(self, backend):
        """Its warp, with our weights for its half as large functions; its get_tps_transform solves another system."""
        from kornia.geometry import transform  # a GPU machine may not have it

        image, points = torch.randn(2, 3, 9, 12, dtype=F64), bent(CONTROL, (2,))
        values, control = _tps_system.coefficients(points, None, None, 2)
        weights, affine = 2 * values[:, :16], values[:, 16:]
        expected = transform.warp_image_tps(image, control.expand(2, 16, 2), weights, affine)
        actual = backend.op("tps_sample")(image.to(backend.device), points.to(backend.device), (9, 12))
        assert_close(actual, expected)

    @pytest.mark.parametrize("lead", [(2,), (2, 3)])
    def test_affine_interpolates_once(self, backend, padding, lead):
        image, points, theta = torch.randn(2, 3, 9, 12, dtype=F64), bent(CONTROL, lead), torch.eye(2, 3, dtype=F64)
        theta = theta + 0.2 * torch.randn(*lead, 2, 3, dtype=F64)
        tensors = [t.to(backend.device).requires_grad_() for t in (image, points, theta)]
        actual = backend.op("tps_sample")(tensors[0], tensors[1], (5, 6), padding_mode=padding, affine=tensors[2])
        grid = stn_kernels.tps_grid(tensors[1], (5, 6), affine=tensors[2], backend="reference")
        expected = stn_kernels.grid_sample(tensors[0], grid, padding_mode=padding, backend="reference")
        assert_close(actual, expected)
        cotangent = torch.randn_like(expected)
        for a, b in zip(*(torch.autograd.grad(o, tensors, cotangent) for o in (actual, expected)), strict=True):
            assert_close(a, b, "coords")

    def test_float32_at_512(self, backend):
        """Pixel noise, the worst case: a coordinate's error times the largest step between pixels."""
        size = (8, 512) if backend.slow else (512, 512)
        image, points = torch.randn(1, 1, 512, 512), bent(CONTROL, amount=0.1).float()
        inputs = Inputs({"input": image, "points": points}, {"size": size})
        actual = backend.call(self.case, inputs.to(device=backend.device)).cpu()
        expected = self.case.call(inputs.to(dtype=F64), "reference")
        error = (actual - expected).abs().max()
        assert error <= (1e-5 if backend.name == "cpu" else 2e-3)

    def test_points_far_apart(self, backend, padding):
        """Splines whose terms cancel, and others, side by side: several tiles of each.

        Only the CPU keeps coordinates in double: in float32 what reflection brings back from afar is less exact.
        """
        inputs = backend.draw(self.case, Sample(padding_mode=padding, size=(20, 21), out_size=(22, 70), batch=3))
        spread = 30 if backend.name in ("reference", "cpu") else 3
        inputs.tensors["points"][1] += spread * torch.randn(16, 2).to(inputs.tensors["points"])
        assert_like_reference(backend, self.case, inputs)

    def test_no_matrix_of_pixels_by_control_points(self, backend):
        if backend.name != "cpu":
            return
        sample = Sample(size=(64, 64), out_size=(128, 128), channels=1, batch=1)
        inputs = backend.draw(self.case, sample)
        peak = peak_bytes(lambda: backend.call(self.case, inputs), "cpu")
        assert peak <= 128 * 128 * 4 + 10_000  # the result; 16 control points would take 16 times that

    def test_meta_tensors_give_the_shape(self):
        image, points = torch.empty(2, 3, 5, 6, device="meta"), torch.empty(2, 4, 16, 2, device="meta")
        assert stn_kernels.tps_sample(image, points, (4, 7)).shape == (2, 4, 3, 4, 7)
        control = torch.empty(16, 2, device="meta")
        assert stn_kernels.tps_sample(image, points, (4, 7), control_points=control).shape == (2, 4, 3, 4, 7)

    def test_nan_points_read_nothing(self, backend, padding):
        inputs = backend.draw(self.case, Sample(padding_mode=padding, samples=3))
        good = backend.call(self.case, inputs)
        inputs.tensors["points"][:, 1, 5] = torch.nan
        got = backend.call(self.case, inputs)
        assert torch.equal(got[:, ::2], good[:, ::2])
        assert got.isfinite().all()
