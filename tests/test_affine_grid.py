"""affine_grid: what every operator is tested for, and its exactness."""

import pytest
import torch
import torch.nn.functional as F

from stn_kernels.op_cases import OP_CASES, Sample

from .op_tests import FLAGS, OpTests
from .tolerances import assert_close


class TestAffineGrid(OpTests):
    case = OP_CASES["affine_grid"]

    @pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid")
    @pytest.mark.parametrize("align", FLAGS)
    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 9), (32, 17)])
    def test_equals_torch(self, backend, size, align):
        inputs = backend.draw(self.case, Sample(dtype=torch.float64, align_corners=align, out_size=size, batch=3))
        theta = inputs.tensors["theta"].requires_grad_()
        actual, expected = backend.call(self.case, inputs), F.affine_grid(theta, (3, 1, *size), align)
        assert_close(actual, expected)
        cotangent = torch.randn_like(expected)
        gradients = [torch.autograd.grad(o, theta, cotangent)[0] for o in (actual, expected)]
        assert_close(*gradients, "coords")

    @pytest.mark.parametrize("align", FLAGS)
    def test_identity_spans_the_image(self, backend, align):
        theta = torch.eye(2, 3, device=backend.device).unsqueeze(0)
        width = 9 if align else 8  # coordinates are multiples of 1/8
        grid = backend.op("affine_grid")(theta, (4, width), align)
        edge = 1.0 if align else 1 - 1 / 8
        assert grid[0, 0, 0, 0].item() == -edge
        assert grid[0, -1, -1, 0].item() == edge
        assert torch.equal(grid[0, 0, :, 0], -grid[0, 0, :, 0].flip(0))

    def test_float32_is_exact_to_a_rounding(self, backend):
        """torch's own matmul may round coordinates to TF32 or bfloat16; one row of 1024 pixels shows it."""
        theta = torch.tensor([[[0.3, -0.7, 0.11], [0.5, 0.9, -0.2]]], device=backend.device)
        grid = backend.op("affine_grid")(theta, (16, 1024))
        expected = backend.op("affine_grid")(theta.double(), (16, 1024))
        assert (grid - expected).abs().max() <= 4 * torch.finfo(torch.float32).eps

    def test_identity_is_exact_where_matrix_products_are_not(self, backend):
        """5e-4 pixels over a 4K frame: TF32, allowed here, would be off by more than one."""
        width = 3840 if not backend.slow else 480
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            grid = backend.op("affine_grid")(torch.eye(2, 3, device=backend.device).unsqueeze(0), (2, width))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
        pixels = ((grid[0, 0, :, 0].double().cpu() + 1) * width - 1) / 2
        assert (pixels - torch.arange(width)).abs().max() <= 5e-4
