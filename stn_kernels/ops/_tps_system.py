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
    """Control points (K, n) -> the same and their solver (K + n + 1, K), in float64 on their device."""
    wide = control_points.detach().to(torch.float64, copy=True)  # of its own: a user may write to theirs
    return wide, reference.solver(wide)


def default_control_points(n=2):
    """The regular grid with four points along each axis of [-1, 1]^n, row by row: (16, 2) or (64, 3) float64."""
    axis = torch.linspace(-1, 1, 4, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * n).flip(-1).contiguous()


@functools.cache
def _default_system_once(device, n):
    return tuple(t.to(device) for t in _solve(default_control_points(n)))


def _default_system(device, n):
    return (_default_system_once.__wrapped__ if _in_a_transform() else _default_system_once)(device, n)


# torch.compile takes its result as a constant, and does not trace the cache.
_default_system._dynamo_marked_constant = True


def _system(control_points):
    """_solve(control_points), once for a tensor that is not written to.

    Raises:
        ValueError: the points lie on a line, in 3-D a plane, or two coincide.
    """
    if _in_a_transform() or control_points.is_inference():  # which has no version
        return _solve(control_points)
    version, system = _systems.get(control_points, (None, None))
    if version != control_points._version:
        try:
            system = _solve(control_points)
            solvable = control_points.is_meta or system[1].abs().max() < 1e9
        except torch.linalg.LinAlgError:
            solvable = False
        if not solvable:
            flat = "line" if control_points.shape[1] == 2 else "plane"
            raise ValueError(
                f"control_points must be distinct, finite and not all on a {flat}: their system is singular"
            )
        _systems[control_points] = control_points._version, system
    return system


def system_at_hand(points, control_points):
    """The system of arguments of which nothing is checked yet, if it is there or the default one; else None."""
    if not isinstance(points, torch.Tensor):
        return None
    if control_points is None:
        n = points.shape[-1] if points.dim() > 2 else 0
        return _default_system(points.device, n) if n in (2, 3) else None
    if not isinstance(control_points, torch.Tensor) or control_points.requires_grad:
        return None
    version, system = _systems.get(control_points, (None, None))
    return system if system and version == control_points._version else None


def check_control_points(control_points, dimensions=(2, 3)):
    """Raises TypeError or ValueError unless they are (K, n) with K > n, n one of `dimensions`; returns n."""
    _checks.floating_tensor("control_points", control_points)
    shape = tuple(control_points.shape)
    if len(shape) != 2 or shape[1] not in dimensions or shape[0] <= shape[1]:
        wanted = " or ".join(f"(K, {n}) with K >= {n + 1}" for n in dimensions)
        raise ValueError(f"control_points must be {wanted}, got shape {shape}")
    if control_points.requires_grad:
        raise ValueError("control_points must not require a gradient, got a tensor that does: only points may")
    return shape[1]


def check(points, control_points, affine, n=None):
    """Raises TypeError or ValueError unless they are as `coefficients` says; returns their dimensions.

    n: of the image, if there is one.
    """
    _checks.floating_tensor("points", points)
    shape = tuple(points.shape)
    if len(shape) not in (3, 4) or shape[-1] not in ((2, 3) if n is None else (n,)):
        wanted = " or ".join(f"(B, K, {m}) or (B, S, K, {m})" for m in ((2, 3) if n is None else (n,)))
        raise ValueError(f"points must be {wanted}, got shape {shape}")
    n = 2 if shape[-1] == 2 else 3  # a constant to torch.compile
    count = 4**n
    if control_points is not None:
        check_control_points(control_points, (n,))
        if control_points.device != points.device:
            raise ValueError(
                f"control_points must be on the device of points ({points.device}), got {control_points.device}"
            )
        count = control_points.shape[0]
    if shape[-2] != count:
        raise ValueError(f"points must have a row for each of {count} control points, got shape {shape}")
    if affine is None:
        return n
    _checks.matrix("affine", affine, n, n + 1)
    if affine.device != points.device:
        raise ValueError(f"affine must be on the device of points ({points.device}), got {affine.device}")
    if affine.shape[:-2] != points.shape[:-2]:
        wanted = (*points.shape[:-2], n, n + 1)
        raise ValueError(f"affine must be {wanted}, with the batch of points, got shape {tuple(affine.shape)}")
    return n


def coefficients(points, control_points, affine, n):
    """The spline through (control_points, points), then affine, as coefficients.

    Args:
        points: (B[, S], K, n).
        control_points: (K, n), or None for four points along each axis of [-1, 1]^n, row by row.
        affine: (B[, S], n, n + 1) or None. It acts on the spline's value, so it maps its coefficients.
        n: 2 or 3.

    Returns:
        coefficients (B[, S], K + n + 1, n) and control points (K, n), float64; differentiable in points and affine.

    Raises:
        ValueError: the system is singular.
    """
    control_points, solver = _default_system(points.device, n) if control_points is None else _system(control_points)
    values = solver @ points.double()
    if affine is not None:
        wide = affine.double()
        shift = torch.nn.functional.pad(wide[..., n].unsqueeze(-2), (0, 0, len(control_points), n))
        values = values @ wide[..., :n].mT + shift
    return values, control_points
