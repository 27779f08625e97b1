"""homography_grid: what every operator is tested for, its definition, and the plane w = 0."""

import pytest
import torch

from stn_kernels.op_cases import OP_CASES, Sample, grad_output

from .op_tests import FLAGS, OpTests
from .test_homography_sample import HORIZONS, composed_grid
from .tolerances import assert_close


class TestHomographyGrid(OpTests):
    case = OP_CASES["homography_grid"]
    thin_everywhere = True

    @pytest.mark.parametrize("align", FLAGS)
    @pytest.mark.parametrize("size", [(1, 7), (6, 9), (32, 17)])
    def test_equals_the_definition(self, backend, size, align):
        inputs = backend.draw(self.case, Sample(dtype=torch.float64, align_corners=align, out_size=size, batch=3))
        matrix = inputs.tensors["matrix"].requires_grad_()
        actual, expected = backend.call(self.case, inputs), composed_grid(matrix, size, align)
        assert_close(actual, expected)
        cotangent = grad_output(expected, "contiguous")
        assert_close(*(torch.autograd.grad(o, matrix, cotangent)[0] for o in (actual, expected)), "coords")

    @pytest.mark.parametrize("kind", HORIZONS)
    def test_plane(self, backend, kind):
        """NaN exactly where w is not positive, and the gradient of the others alone."""
        matrix = torch.tensor([HORIZONS[kind]], dtype=torch.float64, device=backend.device, requires_grad=True)
        grid = backend.op("homography_grid")(matrix, (9, 11))
        x = (2 * torch.arange(11, dtype=torch.float64) + 1) / 11 - 1
        y = (2 * torch.arange(9, dtype=torch.float64) + 1) / 9 - 1
        depth = matrix[0, 2, 0] * x + matrix[0, 2, 1] * y.unsqueeze(1) + matrix[0, 2, 2]
        assert torch.equal(grid.isnan().any(-1)[0], depth < 1e-9)  # the middle column's 0 may have a rounding error
        (gradient,) = torch.autograd.grad(grid, matrix, torch.ones_like(grid))
        masked = torch.where(grid.isnan(), 0.0, 1.0)
        grid = backend.op("homography_grid")(matrix, (9, 11))
        assert torch.equal(gradient, torch.autograd.grad(grid, matrix, masked)[0])
        assert gradient.isfinite().all()
