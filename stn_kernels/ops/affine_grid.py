"""The coordinates of an affine transformation alone."""

from .. import _checks, _library
from ..reference import affine as reference
from ..reference.sampling import compute_dtype
from ._vmap import into_batch

SCHEMA = "(Tensor theta, SymInt[] size, bool align_corners) -> Tensor"
BACKWARD_SCHEMA = "(Tensor grad_output, bool align_corners) -> Tensor"


def affine_grid(theta, size, align_corners=False, *, backend=None):
    """Normalized source coordinates of an affine transformation: what `affine_sample` samples at.

    Args:
        theta: affine matrices (B, n, n + 1) or (B, S, n, n + 1), as in `affine_sample`; n = 1, 2 or 3.
        size: spatial size (Wo,), (Ho, Wo) or (Do, Ho, Wo) of the output (torch's affine_grid takes (N, C, H, W)).
        align_corners: whether -1 and 1 are the centres of the border pixels (True) or their outer edges (False).
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B[, S], *size, n), last dimension (x,), (x, y) or (x, y, z); float64 for a float64 theta, else float32.
        Differentiable in theta.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    n = _checks.affine(theta)
    size = _checks.spatial_size(size, n)
    _checks.flag("align_corners", align_corners)
    return _library.call("affine_grid", backend, theta, size, align_corners, sampler=(None, n))


def _fake(theta, size, align_corners):
    return theta.new_empty((*theta.shape[:-2], *size, theta.shape[-2]), dtype=compute_dtype(theta))


def _fake_backward(grad_output, align_corners):
    n = grad_output.shape[-1]
    return grad_output.new_empty((*grad_output.shape[: -n - 1], n, n + 1))


def _setup_context(ctx, inputs, output):
    theta, _, ctx.align_corners = inputs
    ctx.dtype = theta.dtype


def _backward(namespace):
    def backward(ctx, grad_output):
        grad_theta = _library.call_in(namespace, "_affine_grid_backward", grad_output, ctx.align_corners)
        return grad_theta.to(ctx.dtype), None, None

    return backward


def _setup_backward_context(ctx, inputs, output):
    grad_output, ctx.align_corners = inputs
    ctx.size = grad_output.shape[-1 - grad_output.shape[-1] : -1]


def _double_backward(namespace):
    def backward(ctx, grad):  # the map is linear: its adjoint's adjoint is itself
        return _library.call_in(namespace, "affine_grid", grad, ctx.size, ctx.align_corners), None

    return backward


_library.declare(
    _library.Op(
        "_affine_grid_backward",
        BACKWARD_SCHEMA,
        _fake_backward,
        reference.affine_grid_backward,
        _setup_backward_context,
        _double_backward,
        into_batch("_affine_grid_backward", 1),
    )
)
_library.declare(
    _library.Op(
        "affine_grid",
        SCHEMA,
        _fake,
        reference.affine_grid,
        _setup_context,
        _backward,
        into_batch("affine_grid", 1),
    )
)
