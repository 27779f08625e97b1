"""How points moved by a CPAB transformation depend on its parameters."""

import torch

from .. import _library
from ..reference import cpab as reference
from . import _cpab
from ._vmap import moving_points

NAME = "cpab_jacobian"
SCHEMA = f"(Tensor points, Tensor velocities, {_cpab.TABLES}) -> Tensor"


def cpab_jacobian(points, theta, tessellation, *, method="exact", steps=50, inverse=False, backend=None):
    """The derivative of every transformed point by every parameter: d `cpab_transform` / d theta.

    A gradient of a loss does not need it and is far cheaper by autograd.

    Args:
        points: (P, n) or (B, P, n), as in `cpab_transform`.
        theta: parameters (B, d) or (B, S, d).
        tessellation, method, steps, inverse: as in `cpab_transform`.
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B, P, n, d), or (B, S, P, n, d) if theta has a sample dimension; float64 if points or theta is, else float32.
        Not differentiable itself.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    code = _cpab.steps_of(method, steps)
    points, velocities, tables = _cpab.points_and_field(points, theta, tessellation, inverse)
    by_velocities = _library.call(NAME, backend, points, velocities, *tables, code)
    nodal = tessellation.vertex_velocities(
        torch.eye(tessellation.dim, dtype=velocities.dtype, device=theta.device), inverse
    )
    return by_velocities.flatten(-2) @ nodal.flatten(1).T


def _fake(points, velocities, integers, reals, shape, steps):
    *lead, vertices, n = velocities.shape
    return velocities.new_empty((*lead, points.shape[-2], n, vertices, n))


_library.declare(_library.Op(NAME, SCHEMA, _fake, reference.cpab_jacobian, vmap=moving_points(NAME)))
