"""The thin-plate spline of normalized points, in two or three dimensions: the rules of reference/tps.py."""

import triton
import triton.language as tl


@triton.jit
def radial(control_ptr, k, point):
    """U(r) around control point k: r^2 log r^2, 0 at 0, or in three dimensions r."""
    N: tl.constexpr = len(point)
    dx = point[0] - tl.load(control_ptr + N * k).to(point[0].dtype)
    squared = dx * dx
    for axis in tl.static_range(1, N):
        along = point[axis] - tl.load(control_ptr + N * k + axis).to(point[0].dtype)
        squared += along * along
    return tl.sqrt(squared) if N == 3 else squared * tl.log(tl.maximum(squared, 1e-30))


@triton.jit
def apply(coefficients_ptr, control_ptr, controls, point):
    """The source of a point under coefficients (controls + n + 1, n)."""
    N: tl.constexpr = len(point)
    affine_ptr = coefficients_ptr + N * controls
    source = ()
    for axis in tl.static_range(N):
        total = tl.load(affine_ptr + axis).to(point[0].dtype)
        for i in tl.static_range(N):
            total += tl.load(affine_ptr + N * (N - i) + axis).to(point[0].dtype) * point[N - 1 - i]
        source = source + (total,)  # noqa: RUF005
    for k in range(controls):
        value = radial(control_ptr, k, point)
        sums = ()
        for axis in tl.static_range(N):
            weight = tl.load(coefficients_ptr + N * k + axis).to(point[0].dtype)
            sums = sums + (source[axis] + weight * value,)  # noqa: RUF005
        source = sums
    return source


@triton.jit
def store_gradient(sums_ptr, parts, control_ptr, controls, point, grads):
    """Writes what points add to the coefficients' gradient (controls + n + 1, n), entries `parts` apart."""
    for k in range(controls):
        store_row(sums_ptr, parts, k, radial(control_ptr, k, point), grads)
    store_row(sums_ptr, parts, controls, 1, grads)
    for axis in tl.static_range(len(point)):
        store_row(sums_ptr, parts, controls + 1 + axis, point[axis], grads)


@triton.jit
def store_row(sums_ptr, parts, row, value, grads):
    for axis in tl.static_range(len(grads)):
        at = sums_ptr + (len(grads) * row + axis) * parts
        tl.store(at, tl.sum(tl.sum(grads[axis] * value, 1), 0))
