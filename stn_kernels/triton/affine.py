"""The affine transform of an output lattice and its transpose, in distances from the middle of each axis.

There the identity maps every pixel onto itself exactly, and the sums for theta's gradient do not cancel.
"""

import triton
import triton.language as tl

from .coords import centred, kernel, lattice_intervals, program_share, quotient, stored, tile_points


@triton.jit
def row_map(theta_ptr, span, shift, out_height, out_width, ALIGN: tl.constexpr, COMPUTE: tl.constexpr):
    """One row of theta -> (p, q, r): an output at (u, v) from the middle has the coordinate p u + q v + r.

    span counts the result's units between normalized -1 and 1, and shift is where 0 lies.
    """
    a = tl.load(theta_ptr).to(COMPUTE)
    b = tl.load(theta_ptr + 1).to(COMPUTE)
    c = tl.load(theta_ptr + 2).to(COMPUTE)
    across = a * quotient(span, lattice_intervals(out_width, ALIGN, COMPUTE))
    down = b * quotient(span, lattice_intervals(out_height, ALIGN, COMPUTE))
    return across, down, c * (span * 0.5) + shift


@triton.jit
def pixel_row(theta_ptr, size, out_height, out_width, ALIGN: tl.constexpr, COMPUTE: tl.constexpr):
    """`row_map` to the pixels of an axis."""
    span = (size - ALIGN).to(COMPUTE)
    return row_map(theta_ptr, span, (size - 1).to(COMPUTE) * 0.5, out_height, out_width, ALIGN, COMPUTE)


@triton.jit
def apply_row(p, q, r, u, v):
    return p * u + (q * v + r)


@triton.jit
def no_moments(zero):
    return zero, zero, zero, zero, zero, zero


@triton.jit
def add_moments(sums, gx, gy, u, v):
    """sums + what points at (u, v) add to theta's gradient, for the gradient (gx, gy) of their source pixels."""
    gx_u, gx_v, gx_1, gy_u, gy_v, gy_1 = sums
    return gx_u + gx * u, gx_v + gx * v, gx_1 + gx, gy_u + gy * u, gy_v + gy * v, gy_1 + gy


@triton.jit
def store_moments(partial_ptr, n, part, parts, sums):
    """Writes a program's sums to column `part` of image n."""
    at = partial_ptr + n * 6 * parts + part
    for k in tl.static_range(6):
        tl.store(at + k * parts, tl.sum(tl.sum(sums[k], 1), 0))


@kernel
def theta_gradient(
    partial_ptr,  # (N, 6, parts)
    grad_theta_ptr,  # (N, 2, 3)
    parts: tl.int32,
    span_x: tl.int32,  # twice the pixels in a normalized unit
    span_y: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Second pass: adds the moments of an image in a fixed order."""
    n = tl.program_id(0).to(tl.int64)
    entry = tl.arange(0, 8)[:, None]  # 6 of them
    i = tl.arange(0, BLOCK)[None, :]
    total = tl.zeros([8, BLOCK], partial_ptr.dtype.element_ty)
    for first in range(0, parts, BLOCK):
        mask = (entry < 6) & (first + i < parts)
        total += tl.load(partial_ptr + (n * 6 + entry) * parts + first + i, mask=mask, other=0.0)
    moment = tl.sum(total, 1, keep_dims=True)
    span = tl.where(entry < 3, span_x, span_y).to(moment.dtype)
    size = tl.where(entry % 3 == 0, out_width, out_height)
    per_pixel = quotient(span, lattice_intervals(size, ALIGN, moment.dtype))
    gradient = moment * tl.where(entry % 3 == 2, span * 0.5, per_pixel)
    tl.store(grad_theta_ptr + n * 6 + entry, stored(gradient, grad_theta_ptr.dtype.element_ty), mask=entry < 6)


@kernel
def affine_grid_forward(
    theta_ptr,  # (N, 2, 3)
    grid_ptr,  # (N, Ho, Wo, 2)
    out_height: tl.int32,
    out_width: tl.int32,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Normalized source coordinates; neighbouring lanes write the x and y of one point."""
    COMPUTE: tl.constexpr = grid_ptr.dtype.element_ty
    size = out_height * out_width
    blocks = tl.cdiv(size, BLOCK // 2)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    i = tl.arange(0, BLOCK)
    point = tl.program_id(0) % blocks * (BLOCK // 2) + i // 2
    u = centred(point % out_width, out_width, COMPUTE)
    v = centred(point // out_width, out_height, COMPUTE)
    two = tl.full([], 2, COMPUTE)
    p, q, r = row_map(theta_ptr + n * 6 + i % 2 * 3, two, 0.0, out_height, out_width, ALIGN, COMPUTE)
    tl.store(grid_ptr + (n * size + point) * 2 + i % 2, apply_row(p, q, r, u, v), mask=point < size)


@kernel
def affine_grid_backward(
    grad_grid_ptr,  # (N, Ho, Wo, 2), contiguous
    partial_ptr,  # (N, 6, parts)
    out_height: tl.int32,
    out_width: tl.int32,
    tile_rows: tl.int32,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    COMPUTE: tl.constexpr = partial_ptr.dtype.element_ty
    parts = tl.cdiv(out_width, TILE_W) * tl.cdiv(out_height, tile_rows)
    n, _, tile = program_share(parts, 1)
    x, y0 = tile_points(tile, out_width, tile_rows, TILE_H, TILE_W, False)
    u = centred(x, out_width, COMPUTE)
    sums = no_moments(tl.zeros(x.shape, COMPUTE))
    for row in range(0, tile_rows, TILE_H):
        y = y0 + row
        exists = (x < out_width) & (y < out_height)
        at = grad_grid_ptr + ((n * out_height + y) * out_width + x) * 2
        gx = tl.load(at, mask=exists, other=0.0).to(COMPUTE)
        gy = tl.load(at + 1, mask=exists, other=0.0).to(COMPUTE)
        sums = add_moments(sums, gx, gy, u, centred(y, out_height, COMPUTE))
    store_moments(partial_ptr, n, tile, parts, sums)
