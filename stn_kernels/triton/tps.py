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


@triton.jit
def store_gradient(sums_ptr, parts, control_ptr, controls, x, y, grad_x, grad_y):
    """Writes what points (x, y) add to the coefficients' gradient (controls + 3, 2), entries `parts` apart."""
    for k in range(controls):
        value = radial(control_ptr, k, x, y)
        store_pair(sums_ptr, parts, k, grad_x * value, grad_y * value)
    store_pair(sums_ptr, parts, controls, grad_x, grad_y)
    store_pair(sums_ptr, parts, controls + 1, grad_x * x, grad_y * x)
    store_pair(sums_ptr, parts, controls + 2, grad_x * y, grad_y * y)


@triton.jit
def store_pair(sums_ptr, parts, row, x, y):
    tl.store(sums_ptr + 2 * row * parts, tl.sum(tl.sum(x, 1), 0))
    tl.store(sums_ptr + (2 * row + 1) * parts, tl.sum(tl.sum(y, 1), 0))
