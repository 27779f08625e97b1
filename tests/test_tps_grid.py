"""tps_grid: what every operator is tested for, SciPy's interpolator, and the system behind it."""

from unittest import mock

import numpy as np
import pytest
import scipy.interpolate
import torch

import stn_kernels
from stn_kernels.op_cases import OP_CASES
from stn_kernels.ops import _tps_system
from stn_kernels.reference.affine import homogeneous_base

from .op_tests import FLAGS, OpTests
from .tolerances import assert_close

F64 = torch.float64
CONTROL = _tps_system.default_control_points()


def bent(control, lead=(1,), amount=0.2):
    return control + amount * torch.randn(*lead, *control.shape, dtype=control.dtype)


class TestTpsGrid(OpTests):
    case = OP_CASES["tps_grid"]
    thin_everywhere = True

    @pytest.mark.parametrize("align", FLAGS)
    @pytest.mark.parametrize("count", [None, 4, 9, 40])
    def test_equals_scipy(self, backend, count, align):
        control = CONTROL if count is None else 2 * torch.rand(count, 2, dtype=F64) - 1
        points = bent(control)
        lattice = homogeneous_base((7, 9), align, F64, "cpu")[..., :2].reshape(-1, 2)
        spline = scipy.interpolate.RBFInterpolator(
            control.numpy(), points[0].numpy(), kernel="thin_plate_spline", degree=1
        )
        expected = torch.from_numpy(spline(lattice.numpy())).reshape(1, 7, 9, 2)
        given = None if count is None else control.to(backend.device)
        actual = backend.op("tps_grid")(points.to(backend.device), (7, 9), align, control_points=given)
        assert (actual.cpu() - expected).abs().max() < 1e-9  # of SciPy's solution for 40 random points

    def test_control_points_go_to_points(self, backend):
        """The default control points are the pixels of a 4x4 lattice with align_corners, in its order."""
        points = bent(CONTROL, (2, 3)).to(backend.device)
        grid = backend.op("tps_grid")(points, (4, 4), True)
        assert_close(grid, points.unflatten(-2, (4, 4)), "coords")

    @pytest.mark.parametrize("count", [None, 3, 5])
    def test_affine_maps_are_reproduced(self, backend, count):
        control = CONTROL if count is None else torch.rand(count, 2, dtype=F64)
        theta = torch.randn(2, 2, 3, dtype=F64)
        points = control @ theta[..., :2].mT + theta[..., 2].unsqueeze(1)
        given = None if count is None else control.to(backend.device)
        grid = backend.op("tps_grid")(points.to(backend.device), (6, 5), control_points=given)
        assert_close(grid, stn_kernels.affine_grid(theta, (6, 5), backend="reference"), "coords")

    @pytest.mark.parametrize("lead", [(2,), (2, 3)])
    def test_affine_comes_after_the_spline(self, backend, lead):
        points, theta = bent(CONTROL, lead).to(backend.device), torch.randn(*lead, 2, 3, dtype=F64).to(backend.device)
        plain = backend.op("tps_grid")(points, (6, 5))
        flat = theta.flatten(0, -3)
        expected = (plain.flatten(0, -4).flatten(1, 2) @ flat[..., :2].mT + flat[..., 2].unsqueeze(1)).reshape(
            plain.shape
        )
        assert_close(backend.op("tps_grid")(points, (6, 5), affine=theta), expected, "coords")

    def test_derivatives_with_affine_and_control_points(self, backend):
        control = (2 * torch.rand(5, 2, dtype=F64) - 1).to(backend.device)
        points = bent(control.cpu(), (2,)).to(backend.device).requires_grad_()
        theta = torch.randn(2, 2, 3, dtype=F64, device=backend.device, requires_grad=True)

        def call(points, theta):
            return backend.op("tps_grid")(points, (3, 4), control_points=control, affine=theta)

        assert torch.autograd.gradcheck(call, (points, theta), fast_mode=backend.slow)
        assert torch.autograd.gradgradcheck(call, (points, theta), fast_mode=backend.slow)

    def test_float32_at_512(self, backend):
        """Within a hundredth of a pixel's thousandth, of float32 points."""
        if backend.slow:
            size, reach = (8, 512), 256
        else:
            size, reach = (512, 512), 256
        points = bent(CONTROL).float().to(backend.device)
        wide = backend.op("tps_grid")(points.double(), size)
        error = (backend.op("tps_grid")(points, size) - wide).abs().max() * reach
        assert error <= (1e-4 if backend.name == "cpu" else 5e-4)


class TestSystem:
    """Solved once for a tensor, and again when it was written to."""

    def test_factorised_once(self):
        control, points = torch.rand(6, 2), torch.rand(1, 6, 2)
        with mock.patch.object(_tps_system, "_solve", wraps=_tps_system._solve) as solve:
            first = stn_kernels.tps_grid(points, (3, 3), control_points=control)
            assert torch.equal(stn_kernels.tps_grid(points, (3, 3), control_points=control), first)
            assert solve.call_count == 1
            control[0] += 0.5
            assert not torch.equal(stn_kernels.tps_grid(points, (3, 3), control_points=control), first)
            assert solve.call_count == 2

    def test_cache_does_not_keep_control_points(self):
        before = len(_tps_system._systems)
        control = torch.rand(6, 2)
        stn_kernels.tps_grid(torch.rand(1, 6, 2), (3, 3), control_points=control)
        assert len(_tps_system._systems) == before + 1
        del control
        assert len(_tps_system._systems) == before

    @pytest.mark.parametrize(
        "control",
        [
            torch.tensor([[0.0, 0], [0.5, 0.5], [1, 1], [-1, -1]]),
            torch.tensor([[0.0, 0], [0.0, 0], [1, 1], [-1, 1]]),
            torch.tensor([[0.0, torch.nan], [0.0, 0], [1, 1], [-1, 1]]),
        ],
        ids=["on a line", "twice", "nan"],
    )
    def test_singular(self, control):
        with pytest.raises(ValueError, match=r"control_points must be distinct.* not all on a line"):
            stn_kernels.tps_grid(torch.zeros(1, 4, 2), (3, 3), control_points=control)

    def test_default_is_the_regular_grid(self):
        axis = np.linspace(-1, 1, 4)
        expected = np.stack(np.meshgrid(axis, axis), -1).reshape(16, 2)
        np.testing.assert_allclose(CONTROL.numpy(), expected)
        points = bent(CONTROL)
        assert torch.equal(
            stn_kernels.tps_grid(points, (5, 6)), stn_kernels.tps_grid(points, (5, 6), control_points=CONTROL.clone())
        )
