"""The input's gradient of affine sampling under zeros padding: every input pixel gathers from the outputs that read it.

They are found through the inverse map. No atomics, no accumulators: the same bits every time, in the image's own dtype.
"""

import triton
import triton.language as tl

from .affine import pixel_row
from .coords import centred, channel_range, kernel, known_multiple, program_share, stored, tile_points


@triton.jit
def slab(p, slack, limit):
    """For |p u + offset| < 1 + slack: the factor that gives u's centre from -offset, and half its extent."""
    tiny = 1.0 / 1048576
    slope = tl.where(tl.abs(p) < tiny, tiny, p)
    inverse = 1.0 / slope
    return inverse, (1.0 + slack + tiny * limit) * tl.abs(inverse)


@triton.jit
def clip_index(x, size):
    """ceil(x) as an index in [0, size]; NaN gives 0."""
    last = size.to(x.dtype)
    return tl.ceil(tl.where(x > 0, tl.where(x < last, x, last), 0.0)).to(tl.int32)


@triton.jit
def count(extent, size):
    """The most integers that an interval of this length can hold, at most size; NaN gives size."""
    last = size.to(extent.dtype)
    return tl.where(extent + 1 < last, extent + 1, last).to(tl.int32)


@triton.jit
def hat(d):
    return tl.where(tl.abs(d) < 1, 1 - tl.abs(d), 0.0)


@triton.jit
def add_output(total, grads, u, v, exists, dx, dy, px, py, out_y, out_x, out_height, out_width, COMPUTE: tl.constexpr, INDEX: tl.constexpr):
    """total + the gradient of output (u, v), as far as it reads the pixel; dx, dy: its row's map, less the pixel."""
    cu = centred(u, out_width, COMPUTE)
    weight = hat(px * cu + dx) * hat(py * cu + dy)
    reads = exists & (u < out_width) & (v < out_height) & (weight > 0)
    grad = tl.load(grads + (v.to(INDEX) * out_y + u.to(INDEX) * out_x), mask=reads, other=0.0)
    return total + weight * grad.to(COMPUTE)


@kernel
def affine_gather(
    grad_output_ptr,  # (B, S, C, Ho, Wo)
    theta_ptr,  # (B, S, 2, 3)
    grad_input_ptr,  # (B, C, H, W)
    grad_output_b: tl.int64,  # strides
    grad_output_s: tl.int64,
    grad_output_c: tl.int64,
    grad_output_y: tl.int64,
    grad_output_x: tl.int64,
    grad_input_b: tl.int64,
    grad_input_c: tl.int64,
    grad_input_y: tl.int64,
    grad_input_x: tl.int64,
    samples: tl.int32,
    channels: tl.int32,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    ALIGN: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,  # these as in warp.warp_forward
    VECTOR: tl.constexpr,
    X_UNIT: tl.constexpr,
    WHOLE: tl.constexpr,
    C_LAST: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    b, chunk, tile = program_share(
        tl.cdiv(width, TILE_W) * tl.cdiv(height, TILE_H), tl.cdiv(channels, BLOCK_C)
    )
    x, y = tile_points(tile, width, TILE_H, TILE_H, TILE_W, C_LAST)
    px = x.to(COMPUTE)
    py = y.to(COMPUTE)
    c = chunk * BLOCK_C + channel_range(BLOCK_C, C_LAST)
    exists = (x < width) & (y < height) & ((c < channels // VECTOR * VECTOR) | WHOLE)
    out_y = known_multiple(grad_output_y, VECTOR, INDEX)
    out_x = 1 if X_UNIT else known_multiple(grad_output_x, VECTOR, INDEX)
    grads = grad_output_ptr + b * known_multiple(grad_output_b, VECTOR, tl.int64)
    grads += c * (1 if C_LAST else grad_output_c)
    rounding = 1e-6 if tl.float32 == COMPUTE else 2e-15  # some units in the last place
    limit = tl.maximum(out_width, out_height).to(COMPUTE)
    total = tl.zeros(exists.shape, COMPUTE)
    for s in range(samples):
        theta = theta_ptr + (b * samples + s) * 6
        xu, xv, xc = pixel_row(theta, width, out_height, out_width, ALIGN, COMPUTE)
        yu, yv, yc = pixel_row(theta + 3, height, out_height, out_width, ALIGN, COMPUTE)
        # Error bounds of a source coordinate, and by how much the determinant's cancellation enlarges the inverse's.
        slack_x = rounding * (tl.abs(xu) * out_width + tl.abs(xv) * out_height + tl.abs(xc) + width)
        slack_y = rounding * (tl.abs(yu) * out_width + tl.abs(yv) * out_height + tl.abs(yc) + height)
        r = 1.0 / (xu * yv - xv * yu)
        vx = -yu * r
        vy = xu * r
        condition = rounding * (tl.abs(xu * yv) + tl.abs(xv * yu)) * tl.abs(r)
        reach = tl.abs(vx) * (1 + slack_x) + tl.abs(vy) * (1 + slack_y)
        reach += condition * (reach + limit)
        inverse_x, half_x = slab(xu, slack_x, limit)
        inverse_y, half_y = slab(yu, slack_y, limit)
        rows = count(2 * reach, out_height)
        columns = count(2 * tl.minimum(half_x, half_y), out_width)
        finite = slack_x + slack_y < float("inf")  # otherwise every source pixel is outside
        rows = tl.where(finite, rows, 0)
        # Out of the output, the pre-image of a pixel has fewer rows than `rows`, or none: they are masked.
        first_v = clip_index(vx * (px - xc) + vy * (py - yc) - reach + (out_height - 1).to(COMPUTE) * 0.5, out_height)
        image = grads + s * known_multiple(grad_output_s, VECTOR, tl.int64)
        if (rows <= 3) & (columns <= 3):
            for j in tl.static_range(3):
                v = first_v + j
                cv = centred(v, out_height, COMPUTE)
                dx = xv * cv + xc - px
                dy = yv * cv + yc - py
                first_u = clip_index(
                    tl.maximum(-dx * inverse_x - half_x, -dy * inverse_y - half_y)
                    + (out_width - 1).to(COMPUTE) * 0.5,
                    out_width,
                )
                for i in tl.static_range(3):
                    total = add_output(
                        total, image, first_u + i, v, exists, dx, dy, xu, yu, out_y, out_x, out_height, out_width, COMPUTE, INDEX
                    )
        else:
            for j in range(rows):
                v = first_v + j
                cv = centred(v, out_height, COMPUTE)
                dx = xv * cv + xc - px
                dy = yv * cv + yc - py
                middle = (out_width - 1).to(COMPUTE) * 0.5
                low = tl.maximum(-dx * inverse_x - half_x, -dy * inverse_y - half_y) + middle
                high = tl.minimum(-dx * inverse_x + half_x, -dy * inverse_y + half_y) + middle
                first_u = clip_index(low, out_width)
                last_u = clip_index(high + 1, out_width)
                wanted = columns
                if columns > 4:  # singular or nearly so: most rows hold nothing
                    wanted = tl.minimum(columns, tl.max(tl.where(v < out_height, last_u - first_u, 0)))
                for i in range(wanted):
                    total = add_output(
                        total, image, first_u + i, v, exists, dx, dy, xu, yu, out_y, out_x, out_height, out_width, COMPUTE, INDEX
                    )
    to_y = known_multiple(grad_input_y, VECTOR, INDEX)
    to_x = 1 if X_UNIT else known_multiple(grad_input_x, VECTOR, INDEX)
    target = grad_input_ptr + b * known_multiple(grad_input_b, VECTOR, tl.int64) + c * (1 if C_LAST else grad_input_c)
    tl.store(target + (y.to(INDEX) * to_y + x.to(INDEX) * to_x), stored(total, grad_input_ptr.dtype.element_ty), mask=exists)
