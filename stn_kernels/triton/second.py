"""The second backward of sampling at a grid, of samplers whose weights have no curvature along an axis.

With a tap's weight w, cotangents g of the image's gradient and a of the grid's, and d = sum_i a_i dw/dx_i, the gradient
to grad_output is sum w g + d image; to the image it is d grad_output, scattered; to coordinate i of the grid it is
sum grad_output (g dw/dx_i + image sum_j a_j d2w/dx_i dx_j).
"""

import triton
import triton.language as tl

from .coords import (
    axes_of,
    batch_and_sample,
    kernel,
    offset,
    pixel_steps,
    point_of,
    program_share,
    row_count,
    stored,
    tile_points,
    zeros,
)
from .grid import load_points, store_gradient
from .samplers import axis_tap, places
from .transforms import normalized_gradient, source_pixels
from .warp import accumulate


@triton.jit
def product(taps, A: tl.constexpr, B: tl.constexpr):
    """The weight of a tap of all axes; its derivatives along the axes A and B, if not -1."""
    total = taps[0][3] if A == 0 or B == 0 else taps[0][2]
    for axis in tl.static_range(1, len(taps)):
        total = total * (taps[axis][3] if axis == A or axis == B else taps[axis][2])  # noqa: SIM109
    return total


@triton.jit
def directional(taps, along, SKIP: tl.constexpr):
    """sum_j a_j dw/dx_j; if SKIP is an axis, of the derivative along it, which has none along it again."""
    total = along[0] * 0
    for axis in tl.static_range(len(taps)):
        if axis != SKIP:
            total += along[axis] * product(taps, axis, SKIP)
    return total


@kernel
def grid_double_backward(
    gg_input_ptr,  # (B, C, *in), cotangent of the image's gradient; None: 0
    gg_grid_ptr,  # (B, S, *out, n), contiguous; None: 0
    grad_output_ptr,  # (B, S, C, *out)
    input_ptr,  # (B, C, *in)
    grid_ptr,  # (B, S, *out, n)
    to_output_ptr,  # (B, S, C, *out), contiguous; None: not needed
    to_input_ptr,  # (B, C, *in) accumulators, contiguous, zero before; None: not needed
    to_grid_ptr,  # (B, S, *out, n); None: not needed
    fixed_scale_ptr,  # (B,) for int64 accumulators, else None
    gg_input_b: tl.int64,  # strides
    gg_input_c: tl.int64,
    gg_input_z: tl.int64,
    gg_input_y: tl.int64,
    gg_input_x: tl.int64,
    grad_output_b: tl.int64,
    grad_output_s: tl.int64,
    grad_output_c: tl.int64,
    grad_output_z: tl.int64,
    grad_output_y: tl.int64,
    grad_output_x: tl.int64,
    input_b: tl.int64,
    input_c: tl.int64,
    input_z: tl.int64,
    input_y: tl.int64,
    input_x: tl.int64,
    samples: tl.int32,
    channels: tl.int32,
    width: tl.int32,
    height: tl.int32,
    depth: tl.int32,
    out_width: tl.int32,
    out_height: tl.int32,
    out_depth: tl.int32,
    tile_rows: tl.int32,
    N: tl.constexpr,
    SAMPLER: tl.constexpr,
    TAPS: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,  # these as in warp.warp_forward
    X_UNIT: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    MOVES: tl.constexpr = SAMPLER != "nearest"  # whose weights have no slope
    DIRECTED: tl.constexpr = MOVES and gg_grid_ptr is not None
    sizes = axes_of(width, height, depth, N)
    out_sizes = axes_of(out_width, out_height, out_depth, N)
    rows = row_count(out_sizes)
    tiles = tl.cdiv(out_width, TILE_W) * tl.cdiv(rows, tile_rows)
    n, _chunk, tile = program_share(tiles, 1)
    b, sample = batch_and_sample(n, samples)
    steps = pixel_steps(input_x, input_y, input_z, N, 1, X_UNIT, INDEX)
    gg_steps = pixel_steps(gg_input_x, gg_input_y, gg_input_z, N, 1, X_UNIT, INDEX)
    out_steps = pixel_steps(grad_output_x, grad_output_y, grad_output_z, N, 1, X_UNIT, INDEX)
    dense = pixel_steps(1, width, width * height, N, 1, True, INDEX)
    dense_out = pixel_steps(1, out_width, out_width * out_height, N, 1, True, INDEX)
    pixels = (width * row_count(sizes)).to(tl.int64)
    points = (out_width * rows).to(tl.int64)
    fixed_scale = 1.0
    if fixed_scale_ptr is not None:
        fixed_scale = tl.load(fixed_scale_ptr + b)
    x, first_row = tile_points(tile, out_width, tile_rows, TILE_H, TILE_W, False)
    for row in range(0, tile_rows, TILE_H):
        y = first_row + row
        exists = (x < out_width) & (y < rows)
        point = point_of(x, y, out_sizes)
        source = source_pixels(grid_ptr, None, 0, n, point, exists, sizes, out_sizes, "grid", ALIGN, COMPUTE)
        taps = places(source, sizes, SAMPLER, PADDING, ALIGN)
        along = zeros(x.shape, COMPUTE, N)
        if DIRECTED:
            cotangents = load_points(gg_grid_ptr, n, point, exists, out_sizes)
            along = ()
            for axis in tl.static_range(N):
                along = along + (cotangents[axis].to(COMPUTE) * taps[axis][2],)  # noqa: RUF005
            along = normalized_gradient(along, sizes, ALIGN)
        to_grid = zeros(x.shape, COMPUTE, N)
        for c in range(channels):
            at = grad_output_ptr + b * grad_output_b + sample * grad_output_s + c * grad_output_c
            grad = tl.load(at + offset(point, out_steps, INDEX), mask=exists, other=0.0).to(COMPUTE)
            image_ptr = input_ptr + b * input_b + c * input_c
            total = tl.zeros(x.shape, COMPUTE)
            for number in range(TAPS**N):
                found = (axis_tap(taps[0], sizes[0], number % TAPS, SAMPLER, PADDING, ALIGN),)
                pixel, inside = (found[0][0],), found[0][1] & exists
                for axis in tl.static_range(1, N):
                    k = number // TAPS**axis % TAPS
                    one = axis_tap(taps[axis], sizes[axis], k, SAMPLER, PADDING, ALIGN)
                    found, pixel, inside = found + (one,), pixel + (one[0],), inside & one[1]  # noqa: RUF005
                cotangent = tl.zeros(x.shape, COMPUTE)
                if gg_input_ptr is not None:
                    gg_ptr = gg_input_ptr + b * gg_input_b + c * gg_input_c
                    cotangent = tl.load(gg_ptr + offset(pixel, gg_steps, INDEX), mask=inside, other=0.0).to(COMPUTE)
                    total += cotangent * product(found, -1, -1)
                if DIRECTED:
                    image = tl.load(image_ptr + offset(pixel, steps, INDEX), mask=inside, other=0.0).to(COMPUTE)
                    slope = directional(found, along, -1)
                    total += image * slope
                    if to_input_ptr is not None:
                        to = to_input_ptr + (b * channels + c) * pixels + offset(pixel, dense, INDEX)
                        accumulate(to, grad * slope, inside, fixed_scale)
                if MOVES and to_grid_ptr is not None:
                    sums = ()
                    for axis in tl.static_range(N):
                        share = cotangent * product(found, axis, -1)
                        if DIRECTED:
                            share += image * directional(found, along, axis)
                        sums = sums + (to_grid[axis] + grad * share,)  # noqa: RUF005
                    to_grid = sums
            if to_output_ptr is not None:
                to = to_output_ptr + (n * channels + c) * points + offset(point, dense_out, INDEX)
                tl.store(to, stored(total, to_output_ptr.dtype.element_ty), mask=exists)
        if MOVES and to_grid_ptr is not None:
            grads = ()
            for axis in tl.static_range(N):
                grads = grads + (to_grid[axis] * taps[axis][2],)  # noqa: RUF005
            store_gradient(to_grid_ptr, n, point, exists, normalized_gradient(grads, sizes, ALIGN), out_sizes)
