"""The thin-plate spline of normalized points: the rules of reference/tps.py."""

import triton
import triton.language as tl


@triton.jit
def radial(control_ptr, k, x, y):
    """U(r) = r^2 log r^2 around control point k; 0 at 0."""
    dx = x - tl.load(control_ptr + 2 * k).to(x.dtype)
    dy = y - tl.load(control_ptr + 2 * k + 1).to(x.dtype)
    squared = dx * dx + dy * dy
    return squared * tl.log(tl.maximum(squared, 1e-30))


@triton.jit
def apply(coefficients_ptr, control_ptr, controls, x, y):
    """The source of (x, y) under coefficients (controls + 3, 2)."""
    affine = coefficients_ptr + 2 * controls
    source_x = tl.load(affine).to(x.dtype) + tl.load(affine + 4).to(x.dtype) * y + tl.load(affine + 2).to(x.dtype) * x
    source_y = tl.load(affine + 1).to(x.dtype) + tl.load(affine + 5).to(x.dtype) * y
    source_y += tl.load(affine + 3).to(x.dtype) * x
    for k in range(controls):
        value = radial(control_ptr, k, x, y)
        source_x += tl.load(coefficients_ptr + 2 * k).to(x.dtype) * value
        source_y += tl.load(coefficients_ptr + 2 * k + 1).to(x.dtype) * value
    return source_x, source_y
