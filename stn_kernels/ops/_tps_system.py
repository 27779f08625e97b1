"""The interpolation system of a thin-plate spline: from the control points' images to the kernels' coefficients."""

import functools

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from .. import _checks
from ..reference import tps as reference

_systems = WeakTensorKeyDictionary()  # a user's control points -> their version, _solve(them)


def _in_a_transform() -> bool:
    """Whether tensors computed now belong to a trace, or to a transform of torch.func: they must not outlive it."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _solve(control_points):
    """Control points (K, 2) -> the same and their solver (K + 3, K), in float64 on their device."""
    wide = control_points.detach().double()
    return wide, reference.solver(wide)


def default_control_points():
    """The regular 4x4 grid on [-1, 1]^2, row by row: (16, 2) float64."""
    axis = torch.linspace(-1, 1, 4, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis).flip(-1).contiguous()


@functools.cache
def _default_system_once(device):
    return tuple(t.to(device) for t in _solve(default_control_points()))


def _default_system(device):
    return (_default_system_once.__wrapped__ if _in_a_transform() else _default_system_once)(device)


# torch.compile takes its result as a constant, and does not trace the cache.
_default_system._dynamo_marked_constant = True


def _system(control_points):
    """_solve(control_points), once for a tensor that is not written to.

    Raises:
        ValueError: the points lie on a line, or two coincide.
    """
    if _in_a_transform():
        return _solve(control_points)
    version, system = _systems.get(control_points, (None, None))
    if version != control_points._version:
        try:
            system = _solve(control_points)
            solvable = control_points.is_meta or system[1].abs().max() < 1e9
        except torch.linalg.LinAlgError:
            solvable = False
        if not solvable:
            raise ValueError("control_points must be distinct, finite and not all on a line: their system is singular")
        _systems[control_points] = control_points._version, system
    return system


def check(points, control_points, affine):
    """Raises TypeError or ValueError unless they are as `coefficients` says."""
    _checks.floating_tensor("points", points)
    if points.dim() not in (3, 4) or points.shape[-1] != 2:
        raise ValueError(f"points must be (B, K, 2) or (B, S, K, 2), got shape {tuple(points.shape)}")
    count = 16
    if control_points is not None:
        _checks.floating_tensor("control_points", control_points)
        if control_points.dim() != 2 or control_points.shape[0] < 3 or control_points.shape[1] != 2:
            raise ValueError(f"control_points must be (K, 2) with K >= 3, got shape {tuple(control_points.shape)}")
        if control_points.device != points.device:
            raise ValueError(
                f"control_points must be on the device of points ({points.device}), got {control_points.device}"
            )
        if control_points.requires_grad:
            raise ValueError("control_points must not require a gradient, got a tensor that does: only points may")
        count = control_points.shape[0]
    if points.shape[-2] != count:
        raise ValueError(f"points must have a row for each of {count} control points, got shape {tuple(points.shape)}")
    if affine is None:
        return
    _checks.matrix("affine", affine, 2, 3)
    if affine.device != points.device:
        raise ValueError(f"affine must be on the device of points ({points.device}), got {affine.device}")
    if affine.shape[:-2] != points.shape[:-2]:
        wanted = (*points.shape[:-2], 2, 3)
        raise ValueError(f"affine must be {wanted}, with the batch of points, got shape {tuple(affine.shape)}")


def coefficients(points, control_points, affine):
    """The spline through (control_points, points), then affine, as coefficients.

    Args:
        points: (B[, S], K, 2).
        control_points: (K, 2), or None for a regular 4x4 grid on [-1, 1]^2, row by row.
        affine: (B[, S], 2, 3) or None. It acts on the spline's value, so it maps its coefficients.

    Returns:
        coefficients (B[, S], K + 3, 2) and control points (K, 2), float64; differentiable in points and affine.

    Raises:
        ValueError: the system is singular.
    """
    control_points, solver = _default_system(points.device) if control_points is None else _system(control_points)
    values = solver @ points.double()
    if affine is not None:
        wide = affine.double()
        shift = torch.nn.functional.pad(wide[..., 2].unsqueeze(-2), (0, 0, len(control_points), 2))
        values = values @ wide[..., :2].mT + shift
    return values, control_points
