"""The parameters' gradient from what the programs summed: (N, count, parts)."""

from .affine import theta_gradient
from .launch import launch
from .warp_ops import sizes

PARTS_BLOCK = 128  # partial sums added at a time


def total(sums, params):
    """The parameters' gradient from its sums (N, count, parts)."""
    return sums.sum(-1).reshape(params.shape).to(params.dtype)


def theta_from_moments(moments, theta, spans, size, align_corners):
    """Theta's gradient from its moments; spans: twice the pixels (x[, y[, z]]) in a normalized unit."""
    grad_theta = theta.new_empty(theta.shape)
    if grad_theta.numel() == 0:
        return grad_theta
    n = len(spans)
    arguments = {
        "partial_ptr": moments,
        "grad_theta_ptr": grad_theta,
        "parts": moments.shape[-1],
        **{f"span_{axis}": span for axis, span in zip("xyz", [*spans, 0, 0], strict=False)},
        **sizes("out_", size),
        "N": n,
        "ALIGN": int(align_corners),
        "BLOCK": PARTS_BLOCK,
    }
    launch(theta_gradient, moments.shape[0], arguments)
    return grad_theta
