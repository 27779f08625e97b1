"""What the CPAB operators share: checks, and theta as velocities at the cells' vertices."""

from .. import _checks
from ..reference.sampling import compute_dtype
from ..tessellation import Tessellation, check_points, check_theta

METHODS = ("exact", "fixed")
TABLES = "Tensor integers, Tensor reals, int[] shape, int steps"  # of a schema; steps is 0 for the exact method


def steps_of(method, steps) -> int:
    """The operators' code of a method: its number of steps, 0 for the exact one."""
    if method not in METHODS:
        raise ValueError(f"method must be 'exact' or 'fixed', got {method!r}")
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps must be an integer, got {steps!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return steps if method == "fixed" else 0


def check_tessellation(value) -> None:
    if not isinstance(value, Tessellation):
        raise TypeError(f"tessellation must be a stn_kernels.Tessellation, got {type(value).__name__}")


def check_affine(affine, theta, n) -> None:
    """affine: None, or a matrix for every theta."""
    if affine is None:
        return
    _checks.matrix("affine", affine, n, n + 1)
    if affine.shape[:-2] != theta.shape[:-1]:
        wanted = (*theta.shape[:-1], n, n + 1)
        raise ValueError(f"affine must be {wanted} for theta {tuple(theta.shape)}, got shape {tuple(affine.shape)}")
    if affine.device != theta.device:
        raise ValueError(f"affine must be on the device of theta ({theta.device}), got {affine.device}")


def field(theta, tessellation: Tessellation, inverse: bool = False):
    """(velocities at the vertices, tables): how an operator gets a field."""
    velocities = tessellation.vertex_velocities(theta, inverse)
    return velocities, (*tessellation.tables(theta.device), list(tessellation.shape))


def points_and_field(points, theta, tessellation, inverse):
    """The checked arguments of an operator on points, in one dtype."""
    check_tessellation(tessellation)
    check_points(points, tessellation)
    check_theta(theta, tessellation)
    _checks.flag("inverse", inverse)
    if points.device != theta.device:
        raise ValueError(f"theta must be on the device of points ({points.device}), got {theta.device}")
    if points.dim() == 3 and points.shape[0] != theta.shape[0]:
        wanted = points.shape[0]
        raise ValueError(f"theta must have the batch size of points ({wanted}), got shape {tuple(theta.shape)}")
    dtype = compute_dtype(points, theta)
    velocities, tables = field(theta.to(dtype), tessellation, inverse)
    return points.to(dtype), velocities, tables
