"""The input's gradient of affine sampling under zeros padding: every input pixel gathers from the outputs that read it.

They are found through the inverse map. No atomics, no accumulators: the same bits every time, in the image's own dtype.
Positions (u, v) of outputs are counted from the middle of the output, as in affine.py.
"""

import triton
import triton.language as tl

from .affine import pixel_row
from .coords import centred, channel_range, kernel, known_multiple, program_share, stored, tile_points, zeros


@triton.jit
def slab(p, slack, limit):
    """For |p u + d| < 1 + slack and |u| < limit: the factor that turns -d into the middle of u, and half its extent."""
    tiny = 1.0 / 1048576
    inverse = 1.0 / tl.where(tl.abs(p) < tiny, tiny, p)
    return inverse, (1.0 + slack + tiny * limit) * tl.abs(inverse)


@triton.jit
def clip_index(x, size):
    """ceil(x) as an index in [0, size]; NaN gives 0."""
    last = size.to(x.dtype)
    return tl.ceil(tl.where(x > 0, tl.where(x < last, x, last), 0.0)).to(tl.int32)


@triton.jit
def most_integers(extent, size):
    """The most integers that an interval of this extent can hold, at most size; NaN gives size."""
    last = size.to(extent.dtype)
    return tl.where(extent + 1 < last, extent + 1, last).to(tl.int32)


@triton.jit
def footprint(theta_ptr, height, width, out_height, out_width, ALIGN: tl.constexpr, COMPUTE: tl.constexpr):
    """What finds the outputs that read a pixel: those whose source is less than a pixel away on both axes.

    Returns the map's rows (x, y); for v its inverse's row and half the extent; for u, in a given row of outputs, the
    two slabs; the most rows, and the most columns in a row, that hold such outputs.
    """
    sizes = (out_width, out_height)
    x_row = pixel_row(theta_ptr, width, sizes, ALIGN, COMPUTE)
    y_row = pixel_row(theta_ptr + 3, height, sizes, ALIGN, COMPUTE)
    xu, xv, xc = x_row
    yu, yv, yc = y_row
    # Error bounds of a source coordinate, and by how much the determinant's cancellation enlarges the inverse's.
    rounding = 1e-6 if tl.float32 == COMPUTE else 2e-15  # some units in the last place
    limit = tl.maximum(out_width, out_height).to(COMPUTE)
    slack_x = rounding * (tl.abs(xu) * out_width + tl.abs(xv) * out_height + tl.abs(xc) + width)
    slack_y = rounding * (tl.abs(yu) * out_width + tl.abs(yv) * out_height + tl.abs(yc) + height)
    r = 1.0 / (xu * yv - xv * yu)
    condition = rounding * (tl.abs(xu * yv) + tl.abs(xv * yu)) * tl.abs(r)
    vx = -yu * r
    vy = xu * r
    reach = tl.abs(vx) * (1 + slack_x) + tl.abs(vy) * (1 + slack_y)
    reach += condition * (reach + limit)
    x_slab = slab(xu, slack_x, limit)
    y_slab = slab(yu, slack_y, limit)
    rows = most_integers(2 * reach, out_height)
    rows = tl.where(slack_x + slack_y < float("inf"), rows, 0)  # a map that is not finite leads outside
    columns = most_integers(2 * tl.minimum(x_slab[1], y_slab[1]), out_width)
    return x_row, y_row, (vx, vy, reach), (x_slab, y_slab), rows, columns


@triton.jit
def row_offsets(v, x_row, y_row, px, py, out_height, COMPUTE: tl.constexpr):
    """Of the sources of row v at u = 0 from the pixel (px, py)."""
    cv = centred(v, out_height, COMPUTE)
    return x_row[1] * cv + x_row[2] - px, y_row[1] * cv + y_row[2] - py


@triton.jit
def columns_from(dx, dy, slabs, out_width):
    """The first column of a row that may read the pixel, and the one after the last."""
    middle = (out_width - 1).to(dx.dtype) * 0.5
    x_slab, y_slab = slabs
    low = tl.maximum(-dx * x_slab[0] - x_slab[1], -dy * y_slab[0] - y_slab[1]) + middle
    high = tl.minimum(-dx * x_slab[0] + x_slab[1], -dy * y_slab[0] + y_slab[1]) + middle
    return clip_index(low, out_width), clip_index(high + 1, out_width)


@triton.jit
def add_output(
    totals, grads, u, v, exists, channels, strides, offsets, slopes, out_width,
    INDEX: tl.constexpr, BLOCK_C: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """totals + what the pixel gets of output (u, v); totals[k] belongs to the k-th block of channels from grads on."""
    cu = u.to(totals[0].dtype) - (out_width - 1).to(totals[0].dtype) * 0.5
    dx = tl.abs(slopes[0] * cu + offsets[0])
    dy = tl.abs(slopes[1] * cu + offsets[1])
    reads = exists & (u < out_width) & (dx < 1) & (dy < 1)
    weight = tl.where(reads, (1 - dx) * (1 - dy), 0.0)
    at = grads + (v.to(INDEX) * strides[1] + u.to(INDEX) * strides[2])
    sums = ()
    for k in tl.static_range(len(totals)):
        grad = tl.load(at + k * BLOCK_C * strides[0], mask=reads & ((k * BLOCK_C < channels) | WHOLE), other=0.0)
        sums = sums + (totals[k] + weight * grad.to(weight.dtype),)  # noqa: RUF005
    return sums


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
    CHUNK: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    tiles = tl.cdiv(width, TILE_W) * tl.cdiv(height, TILE_H)
    b, chunk, tile = program_share(tiles, tl.cdiv(channels, CHUNK))
    x, y = tile_points(tile, width, TILE_H, TILE_H, TILE_W, C_LAST)
    exists = (x < width) & (y < height)
    px = x.to(COMPUTE)
    py = y.to(COMPUTE)
    c = chunk * CHUNK + channel_range(BLOCK_C, C_LAST)
    last = channels // VECTOR * VECTOR
    out_y = known_multiple(grad_output_y, VECTOR, INDEX)
    out_x = 1 if X_UNIT else known_multiple(grad_output_x, VECTOR, INDEX)
    out_c = 1 if C_LAST else grad_output_c
    grads = grad_output_ptr + b * known_multiple(grad_output_b, VECTOR, tl.int64) + c * out_c
    strides = (out_c, out_y, out_x)
    left = last - c  # channels from c on
    totals = zeros((x + c).shape, COMPUTE, CHUNK // BLOCK_C)
    for s in range(samples):
        x_row, y_row, inverse, slabs, rows, columns = footprint(
            theta_ptr + (b * samples + s) * 6, height, width, out_height, out_width, ALIGN, COMPUTE
        )
        slopes = (x_row[0], y_row[0])
        image = grads + s * known_multiple(grad_output_s, VECTOR, tl.int64)
        middle = inverse[0] * (px - x_row[2]) + inverse[1] * (py - y_row[2]) + (out_height - 1).to(COMPUTE) * 0.5
        first_v = clip_index(middle - inverse[2], out_height)
        # Candidates may be too far away or no outputs at all: they get the weight 0 or are masked.
        if (rows <= 3) & (columns <= 3):
            for j in tl.static_range(3):
                v = first_v + j
                offsets = row_offsets(v, x_row, y_row, px, py, out_height, COMPUTE)
                first_u, _end = columns_from(offsets[0], offsets[1], slabs, out_width)
                for i in tl.static_range(3):
                    totals = add_output(
                        totals, image, first_u + i, v, exists & (v < out_height), left, strides, offsets, slopes,
                        out_width, INDEX, BLOCK_C, WHOLE,
                    )  # fmt: skip
        else:
            for j in range(rows):
                v = first_v + j
                offsets = row_offsets(v, x_row, y_row, px, py, out_height, COMPUTE)
                first_u, end = columns_from(offsets[0], offsets[1], slabs, out_width)
                wanted = columns
                if columns > 4:  # singular or nearly so: most rows hold nothing
                    wanted = tl.minimum(columns, tl.max(tl.where(v < out_height, end - first_u, 0)))
                for i in range(wanted):
                    totals = add_output(
                        totals, image, first_u + i, v, exists & (v < out_height), left, strides, offsets, slopes,
                        out_width, INDEX, BLOCK_C, WHOLE,
                    )  # fmt: skip
    to_y = known_multiple(grad_input_y, VECTOR, INDEX)
    to_x = 1 if X_UNIT else known_multiple(grad_input_x, VECTOR, INDEX)
    to_c = 1 if C_LAST else grad_input_c
    target = grad_input_ptr + b * known_multiple(grad_input_b, VECTOR, tl.int64) + c * to_c
    target += y.to(INDEX) * to_y + x.to(INDEX) * to_x
    for k in tl.static_range(CHUNK // BLOCK_C):
        total = stored(totals[k], grad_input_ptr.dtype.element_ty)
        tl.store(target + k * BLOCK_C * to_c, total, mask=exists & ((k * BLOCK_C < left) | WHOLE))
