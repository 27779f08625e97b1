"""Points moved by a continuous piecewise-affine velocity field."""

from .. import _library
from ..reference import cpab as reference
from . import _cpab
from ._double_backward import by_autograd
from ._vmap import moving_points

NAME = "cpab_transform"
SCHEMA = f"(Tensor points, Tensor velocities, {_cpab.TABLES}) -> Tensor"
BACKWARD_SCHEMA = (
    f"(Tensor grad_output, Tensor points, Tensor velocities, {_cpab.TABLES},"
    " bool need_points, bool need_velocities) -> (Tensor, Tensor)"
)


def cpab_transform(points, theta, tessellation, *, method="exact", steps=50, inverse=False, backend=None):
    """Moves points along a CPAB velocity field for a unit of time: a diffeomorphism (Freifeld et al. 2015, 2017).

    Args:
        points: (P, n), or (B, P, n) for points of each image, in units of the domain [0, 1]^n; (x[, y[, z]]). Any
            floating dtype. Points outside: `Tessellation`.
        theta: parameters (B, d), or (B, S, d) for S transformations an image, d = tessellation.dim; any floating dtype.
        tessellation: the cells and the basis, a `Tessellation`.
        method: "exact" integrates in closed form from cell to cell, to a rounding. "fixed" takes `steps` steps, each in
            the cell of its start, as libcpab does: off by some 1e-4 at 50 steps, its gradient by some percent.
        steps: the number of steps of "fixed".
        inverse: whether to move the points back: the inverse transformation, exactly so for "exact".
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B, P, n), or (B, S, P, n) if theta has a sample dimension; float64 if points or theta is, else float32.
        Differentiable in points and theta, twice (the second backward runs on the reference). The first gradient
        costs one sweep, whatever d is. A path of more than 1024 segments (theta in the hundreds) is finished in fixed
        steps; the cpu backend warns and counts them.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    code = _cpab.steps_of(method, steps)
    points, velocities, tables = _cpab.points_and_field(points, theta, tessellation, inverse)
    return _library.call(NAME, backend, points, velocities, *tables, code)


def _fake(points, velocities, integers, reals, shape, steps):
    return velocities.new_empty((*velocities.shape[:-2], *points.shape[-2:]))


def _fake_backward(grad_output, points, velocities, integers, reals, shape, steps, need_points, need_velocities):
    return (
        points.new_empty(points.shape if need_points else 0),
        velocities.new_empty(velocities.shape if need_velocities else 0),
    )


def _reference_backward(grad_output, points, velocities, integers, reals, shape, steps, need_points, need_velocities):
    grads = reference.cpab_transform_backward(grad_output, points, velocities, integers, reals, shape, steps)
    needs = zip((points, velocities), grads, (need_points, need_velocities), strict=True)
    return tuple(g.contiguous() if needed else t.new_empty(0) for t, g, needed in needs)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.shape, ctx.steps = inputs
    ctx.save_for_backward(*tensors)


def _backward(namespace):
    def backward(ctx, grad_output):
        needs = ctx.needs_input_grad[:2]
        grads = _library.call_in(
            namespace, f"_{NAME}_backward", grad_output, *ctx.saved_tensors, ctx.shape, ctx.steps, *needs
        )
        return (*(g if needed else None for g, needed in zip(grads, needs, strict=True)), None, None, None, None)

    return backward


def _setup_backward_context(ctx, inputs, output):
    *tensors, ctx.shape, ctx.steps, need_points, need_velocities = inputs
    ctx.needed = need_points, need_velocities
    ctx.save_for_backward(*tensors)


def _double_backward(namespace):
    def backward(ctx, *grads):
        *leaves, integers, reals = ctx.saved_tensors
        second = by_autograd(
            lambda *tensors: reference.differentiable_backward(*tensors, integers, reals, ctx.shape, ctx.steps),
            leaves,
            grads,
            ctx.needed,
        )
        return (*second, None, None, None, None, None, None)

    return backward


_library.declare(
    _library.Op(
        f"_{NAME}_backward",
        BACKWARD_SCHEMA,
        _fake_backward,
        _reference_backward,
        _setup_backward_context,
        _double_backward,
        moving_points(f"_{NAME}_backward", backward=True),
    )
)
_library.declare(
    _library.Op(NAME, SCHEMA, _fake, reference.cpab_transform, _setup_context, _backward, moving_points(NAME))
)
