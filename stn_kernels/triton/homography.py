"""The projective transform of normalized points: the rules of reference/homography.py."""

import triton
import triton.language as tl

from .coords import quotient


@triton.jit
def entry(matrix_ptr, k: tl.constexpr, like):
    return tl.load(matrix_ptr + k).to(like.dtype)


@triton.jit
def project(matrix_ptr, x, y):
    """The source of (x, y), NaN where it has none, and 1 / w, there 0."""
    w = entry(matrix_ptr, 6, x) * x + (entry(matrix_ptr, 7, x) * y + entry(matrix_ptr, 8, x))
    front = w >= 8.673617379884035e-19  # 2^-60
    reciprocal = quotient(tl.full(w.shape, 1, w.dtype), tl.where(front, w, 1.0))
    source_x = (entry(matrix_ptr, 0, x) * x + (entry(matrix_ptr, 1, x) * y + entry(matrix_ptr, 2, x))) * reciprocal
    source_y = (entry(matrix_ptr, 3, x) * x + (entry(matrix_ptr, 4, x) * y + entry(matrix_ptr, 5, x))) * reciprocal
    nan = float("nan")
    return tl.where(front, source_x, nan), tl.where(front, source_y, nan), tl.where(front, reciprocal, 0.0)


@triton.jit
def project_vjp(source_x, source_y, reciprocal, grad_x, grad_y):
    """The gradients of (X, Y, w) from those of the source."""
    x = tl.where(tl.abs(source_x) < float("inf"), source_x, 0.0)
    y = tl.where(tl.abs(source_y) < float("inf"), source_y, 0.0)
    grad_x = grad_x * reciprocal
    grad_y = grad_y * reciprocal
    return grad_x, grad_y, -(grad_x * x + grad_y * y)


@triton.jit
def add_sums(sums, matrix_ptr, x, y, grad_x, grad_y):
    """sums + what points (x, y) add to the matrix's gradient, row by row, for the gradient of their source."""
    source_x, source_y, reciprocal = project(matrix_ptr, x, y)
    grads = project_vjp(source_x, source_y, reciprocal, grad_x, grad_y)
    total = ()
    for row in tl.static_range(3):
        total = total + (sums[3 * row] + grads[row] * x, sums[3 * row + 1] + grads[row] * y)  # noqa: RUF005
        total = total + (sums[3 * row + 2] + grads[row],)  # noqa: RUF005
    return total
