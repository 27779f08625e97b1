"""The transform that a user already has as coordinates: a grid (N, *out, n), contiguous."""

import triton
import triton.language as tl

from .coords import stored


@triton.jit
def number_of(point, sizes):
    """A pixel's number in a lattice with these sizes."""
    number = point[len(point) - 1]
    for i in tl.static_range(1, len(point)):
        number = number * sizes[len(point) - 1 - i] + point[len(point) - 1 - i]
    return number


@triton.jit
def first_number(n, point, sizes):
    """Where image n has the coordinates of a pixel."""
    total = n
    for axis in tl.static_range(len(sizes)):
        total = total * sizes[axis]
    return (total + number_of(point, sizes)) * len(sizes)


@triton.jit
def load_points(grid_ptr, n, point, exists, sizes):
    """Normalized coordinates of the output pixels `point`."""
    at = grid_ptr + first_number(n, point, sizes)
    coords = ()
    for axis in tl.static_range(len(sizes)):
        coords = coords + (tl.load(at + axis, mask=exists, other=0.0),)  # noqa: RUF005
    return coords


@triton.jit
def to_pixel(g, size, ALIGN: tl.constexpr, COMPUTE: tl.constexpr):
    scale = (size - ALIGN).to(COMPUTE) * 0.5
    x = (g.to(COMPUTE) + 1) * scale
    return x if ALIGN else x - 0.5


@triton.jit
def store_gradient(grad_grid_ptr, n, point, exists, grads, sizes):
    """Writes the gradient of normalized coordinates."""
    at = grad_grid_ptr + first_number(n, point, sizes)
    for axis in tl.static_range(len(sizes)):
        tl.store(at + axis, stored(grads[axis], at.dtype.element_ty), mask=exists)
