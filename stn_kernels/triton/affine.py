"""The affine transform of an output lattice and its transpose, in distances from the middle of each axis.

There the identity maps every pixel onto itself exactly, and the sums for theta's gradient do not cancel.
"""

import triton
import triton.language as tl

from .coords import axes_of, centred, kernel, lattice_intervals, point_of, quotient, row_count, stored


@triton.jit
def row_map(theta_ptr, span, shift, sizes, ALIGN: tl.constexpr, COMPUTE: tl.constexpr):
    """One row of theta -> (p, q, ..., r): outputs at (u, v, ...) from the middle have the coordinate p u + q v + ... r.

    span counts the result's units between normalized -1 and 1, and shift is where 0 lies; sizes: the output's.
    """
    row = ()
    for axis in tl.static_range(len(sizes)):
        value = tl.load(theta_ptr + axis).to(COMPUTE)
        row = row + (value * quotient(span, lattice_intervals(sizes[axis], ALIGN, COMPUTE)),)  # noqa: RUF005
    return row + (tl.load(theta_ptr + len(sizes)).to(COMPUTE) * (span * 0.5) + shift,)  # noqa: RUF005


@triton.jit
def pixel_row(theta_ptr, size, sizes, ALIGN: tl.constexpr, COMPUTE: tl.constexpr):
    """`row_map` to the pixels of an axis."""
    span = (size - ALIGN).to(COMPUTE)
    return row_map(theta_ptr, span, (size - 1).to(COMPUTE) * 0.5, sizes, ALIGN, COMPUTE)


@triton.jit
def apply_row(row, point):
    """point: distances (u, v, ...) from the middle."""
    total = row[len(point)]
    for i in tl.static_range(len(point)):
        total = row[len(point) - 1 - i] * point[len(point) - 1 - i] + total
    return total


@triton.jit
def from_middle(point, sizes, COMPUTE: tl.constexpr):
    """An output pixel's distances from the middle of each axis."""
    distances = ()
    for axis in tl.static_range(len(point)):
        distances = distances + (centred(point[axis], sizes[axis], COMPUTE),)  # noqa: RUF005
    return distances


@triton.jit
def add_moments(sums, grads, point):
    """sums + what points at distances `point` give theta's gradient, by the gradient of their source's coordinates."""
    total = ()
    for i in tl.static_range(len(grads)):
        for j in tl.static_range(len(point)):
            total = total + (sums[i * (len(point) + 1) + j] + grads[i] * point[j],)  # noqa: RUF005
        total = total + (sums[i * (len(point) + 1) + len(point)] + grads[i],)  # noqa: RUF005
    return total


@kernel
def theta_gradient(
    partial_ptr,  # (N, n (n + 1), parts)
    grad_theta_ptr,  # (N, n, n + 1)
    parts: tl.int32,
    span_x: tl.int32,  # twice the pixels in a normalized unit
    span_y: tl.int32,
    span_z: tl.int32,
    out_width: tl.int32,
    out_height: tl.int32,
    out_depth: tl.int32,
    N: tl.constexpr,  # dimensions
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Second pass: adds the moments of an image in a fixed order."""
    n = tl.program_id(0).to(tl.int64)
    COUNT: tl.constexpr = N * (N + 1)
    entry = tl.arange(0, 16)[:, None]  # COUNT of them
    i = tl.arange(0, BLOCK)[None, :]
    total = tl.zeros([16, BLOCK], partial_ptr.dtype.element_ty)
    for first in range(0, parts, BLOCK):
        mask = (entry < COUNT) & (first + i < parts)
        total += tl.load(partial_ptr + (n * COUNT + entry) * parts + first + i, mask=mask, other=0.0)
    moment = tl.sum(total, 1, keep_dims=True)
    row = entry // (N + 1)
    column = entry % (N + 1)
    span = tl.where(row == 0, span_x, tl.where(row == 1, span_y, span_z)).to(moment.dtype)
    size = tl.where(column == 0, out_width, tl.where(column == 1, out_height, out_depth))
    per_pixel = quotient(span, lattice_intervals(size, ALIGN, moment.dtype))
    gradient = moment * tl.where(column == N, span * 0.5, per_pixel)
    tl.store(grad_theta_ptr + n * COUNT + entry, stored(gradient, grad_theta_ptr.dtype.element_ty), mask=entry < COUNT)


@kernel
def affine_grid_forward(
    theta_ptr,  # (N, n, n + 1)
    grid_ptr,  # (N, *out, n)
    out_width: tl.int32,
    out_height: tl.int32,
    out_depth: tl.int32,
    N: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Normalized source coordinates; neighbouring lanes write the axes of one point."""
    COMPUTE: tl.constexpr = grid_ptr.dtype.element_ty
    sizes = axes_of(out_width, out_height, out_depth, N)
    size = out_width * row_count(sizes)
    blocks = tl.cdiv(size, BLOCK // N)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    i = tl.arange(0, BLOCK)
    point = tl.program_id(0) % blocks * (BLOCK // N) + i // N
    distances = from_middle(point_of(point % out_width, point // out_width, sizes), sizes, COMPUTE)
    two = tl.full([], 2, COMPUTE)
    row = row_map(theta_ptr + (n * N + i % N) * (N + 1), two, 0.0, sizes, ALIGN, COMPUTE)
    exists = (point < size) & (i < BLOCK // N * N)
    tl.store(grid_ptr + (n * size + point) * N + i % N, apply_row(row, distances), mask=exists)
