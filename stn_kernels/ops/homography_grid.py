"""The coordinates of a projective transformation alone."""

from .. import _checks, _library
from ..reference import homography as reference
from ._warp import declare_grid


def homography_grid(matrix, size, align_corners=False, *, backend=None):
    """Normalized source coordinates of a projective transformation: what `homography_sample` samples at.

    Args:
        matrix: (B, 3, 3) or (B, S, 3, 3), as in `homography_sample`.
        size: spatial size (Ho, Wo) of the output.
        align_corners: whether -1 and 1 are the centres of the border pixels (True) or their outer edges (False).
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B[, S], Ho, Wo, 2), last dimension (x, y); NaN for a point at or behind the plane w = 0, which has no
        gradient; float64 for a float64 matrix, else float32. Differentiable in matrix, twice.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    _checks.matrix("matrix", matrix, 3, 3)
    size = _checks.spatial_size(size)
    _checks.flag("align_corners", align_corners)
    return _library.call("homography_grid", backend, matrix, size, align_corners, sampler=(None, 2))


declare_grid("homography_grid", "matrix", reference.homography_grid, reference.homography_grid_backward)
