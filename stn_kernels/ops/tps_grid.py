"""The coordinates of a thin-plate spline alone."""

from .. import _checks, _library
from ..reference import tps as reference
from ..reference.sampling import compute_dtype
from . import _tps_system
from ._warp import declare_grid


def tps_grid(points, size, align_corners=False, *, control_points=None, affine=None, backend=None):
    """Normalized source coordinates of a thin-plate spline: what `tps_sample` samples at.

    Args:
        points: (B, K, n) or (B, S, K, n) with n = 2 or 3, as in `tps_sample`.
        size: spatial size of the output: (Ho, Wo) or (Do, Ho, Wo).
        align_corners: whether -1 and 1 are the centres of the border pixels (True) or their outer edges (False).
        control_points: (K, n), or None for the regular 4x4 (4x4x4) grid, as in `tps_sample`.
        affine: matrices (B[, S], n, n + 1) applied after the spline, or None.
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B[, S], *size, n), last dimension (x, y) or (x, y, z); float64 for float64 points, else float32.
        Differentiable in points and affine, twice.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    n = _tps_system.check(points, control_points, affine)
    size = _checks.spatial_size(size, n)
    _checks.flag("align_corners", align_corners)
    values, control_points = _tps_system.coefficients(points, control_points, affine, n)
    narrow = values.to(compute_dtype(points))
    return _library.call("tps_grid", backend, narrow, control_points, size, align_corners, sampler=(None, n))


declare_grid("tps_grid", "coefficients", reference.tps_grid, reference.tps_grid_backward, ("control_points",))
