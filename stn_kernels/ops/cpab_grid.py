"""The coordinates of a CPAB transformation alone."""

from .. import _checks
from ..reference.cpab import lattice_points
from ..reference.sampling import compute_dtype
from . import _cpab
from .cpab_transform import cpab_transform


def cpab_grid(theta, size, tessellation, align_corners=False, *, affine=None, method="exact", steps=50, backend=None):
    """Normalized source coordinates of a CPAB transformation: what `cpab_sample` samples at.

    Args:
        theta: parameters (B, d) or (B, S, d), d = tessellation.dim.
        size: spatial size of the output, (Wo,), (Ho, Wo) or (Do, Ho, Wo).
        tessellation: the cells and the basis, a `Tessellation`.
        align_corners: whether -1 and 1 are the centres of the border pixels (True) or their outer edges (False).
        affine: matrices (B, n, n + 1) or (B, S, n, n + 1) applied afterwards, on normalized coordinates; None for none.
        method, steps: as in `cpab_transform`.
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B[, S], *size, n), last dimension (x[, y[, z]]); float64 for a float64 theta, else float32. Differentiable in
        theta and affine.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    _cpab.check_tessellation(tessellation)
    _cpab.check_theta(theta, tessellation)
    size = _checks.spatial_size(size, tessellation.n)
    _checks.flag("align_corners", align_corners)
    _cpab.check_affine(affine, theta, tessellation.n)
    points = lattice_points(size, align_corners, compute_dtype(theta), theta.device)
    moved = cpab_transform(points, theta, tessellation, method=method, steps=steps, backend=backend)
    source = 2 * moved - 1
    if affine is not None:
        matrix = affine.to(source.dtype).unsqueeze(-3)
        source = (matrix[..., :-1] * source.unsqueeze(-2)).sum(-1) + matrix[..., -1]
    return source.unflatten(-2, tuple(size))
