"""The warp, transform x sampler: an output point goes through the transform, and the sampler reads there.

Images have up to three axes (x, y, z). Of those that are not there sizes are 1 and strides 0.
"""

import triton
import triton.language as tl

from .coords import (
    axes_of,
    batch_and_sample,
    channel_range,
    kernel,
    known_multiple,
    offset,
    pixel_steps,
    point_of,
    program_share,
    row_count,
    row_offset,
    stored,
    tile_points,
    zeros,
)
from .samplers import axis_tap, places, row_taps
from .transforms import add_parameter_gradient, no_sums, normalized_gradient, source_pixels, store_sums


@triton.jit
def add_taps(
    totals, at, block_step, left, whole, steps, taps, exists, sizes, outer,
    TAPS: tl.constexpr, SAMPLER: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """totals + a row of taps; totals[k] belongs to the k-th block of channels from `at` on, of which `left` exist."""
    row, in_row, row_weight, _slopes = row_taps(taps, sizes, outer, TAPS, SAMPLER, PADDING, ALIGN)
    at += row_offset(row, steps, INDEX)
    in_row = in_row & exists
    for tap in tl.static_range(TAPS):
        x, inside, weight, _slope = axis_tap(taps[0], sizes[0], tap, SAMPLER, PADDING, ALIGN)
        weight = weight * row_weight
        source = at + x.to(INDEX) * steps[0]
        inside = inside & in_row
        sums = ()
        for k in tl.static_range(len(totals)):
            read = tl.load(source + k * block_step, mask=inside & ((k * BLOCK_C < left) | whole), other=0.0)
            sums = sums + (totals[k] + weight * read.to(totals[k].dtype),)  # noqa: RUF005
        totals = sums
    return totals


@kernel
def warp_forward(
    input_ptr,  # (B, C, *in)
    params_ptr,  # see transforms.py
    control_ptr,
    output_ptr,  # (B * S, C, *out)
    input_b: tl.int64,  # strides
    input_c: tl.int64,
    input_z: tl.int64,
    input_y: tl.int64,
    input_x: tl.int64,
    output_n: tl.int64,
    output_c: tl.int64,
    output_z: tl.int64,
    output_y: tl.int64,
    output_x: tl.int64,
    samples: tl.int32,
    channels: tl.int32,
    width: tl.int32,
    height: tl.int32,
    depth: tl.int32,
    out_width: tl.int32,
    out_height: tl.int32,
    out_depth: tl.int32,
    tile_rows: tl.int32,  # rows of a program, TILE_H at a time
    controls: tl.int32,
    N: tl.constexpr,  # dimensions of an image
    TRANSFORM: tl.constexpr,
    SAMPLER: tl.constexpr,
    TAPS: tl.constexpr,  # of the sampler, along an axis
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,  # type of offsets within an image
    VECTOR: tl.constexpr,  # every offset of a pixel and the number of channels are multiples of it
    X_UNIT: tl.constexpr,  # neighbours in a row are neighbours in memory
    WHOLE: tl.constexpr,  # the channels are a multiple of CHUNK
    C_LAST: tl.constexpr,
    CHUNK: tl.constexpr,  # channels a program
    BLOCK_C: tl.constexpr,  # channels at a time
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    sizes = axes_of(width, height, depth, N)
    out_sizes = axes_of(out_width, out_height, out_depth, N)
    rows = row_count(out_sizes)
    tiles = tl.cdiv(out_width, TILE_W) * tl.cdiv(rows, tile_rows)
    n, chunk, tile = program_share(tiles, tl.cdiv(channels, CHUNK))
    b, _sample = batch_and_sample(n, samples)
    c = chunk * CHUNK + channel_range(BLOCK_C, C_LAST)
    left = channels // VECTOR * VECTOR - c  # channels from c on
    step_c = 1 if C_LAST else input_c
    out_c = 1 if C_LAST else output_c
    steps = pixel_steps(input_x, input_y, input_z, N, VECTOR, X_UNIT, INDEX)
    out_steps = pixel_steps(output_x, output_y, output_z, N, VECTOR, X_UNIT, INDEX)
    image = input_ptr + b * known_multiple(input_b, VECTOR, tl.int64) + c * step_c
    output = output_ptr + n * known_multiple(output_n, VECTOR, tl.int64) + c * out_c
    x, first_row = tile_points(tile, out_width, tile_rows, TILE_H, TILE_W, C_LAST)
    for row in range(0, tile_rows, TILE_H):
        y = first_row + row
        exists = (x < out_width) & (y < rows)
        point = point_of(x, y, out_sizes)
        source = source_pixels(
            params_ptr, control_ptr, controls, n, point, exists, sizes, out_sizes, TRANSFORM, ALIGN, COMPUTE
        )
        taps = places(source, sizes, SAMPLER, PADDING, ALIGN)
        totals = zeros((x + c).shape, COMPUTE, CHUNK // BLOCK_C)
        if TAPS < 4:
            for outer in tl.static_range(TAPS ** (N - 1)):
                totals = add_taps(
                    totals, image, BLOCK_C * step_c, left, WHOLE, steps, taps, exists, sizes, outer,
                    TAPS, SAMPLER, PADDING, ALIGN, INDEX, BLOCK_C,
                )  # fmt: skip
        else:
            for outer in range(TAPS ** (N - 1)):
                totals = add_taps(
                    totals, image, BLOCK_C * step_c, left, WHOLE, steps, taps, exists, sizes, outer,
                    TAPS, SAMPLER, PADDING, ALIGN, INDEX, BLOCK_C,
                )  # fmt: skip
        points = offset(point, out_steps, INDEX)
        for k in tl.static_range(CHUNK // BLOCK_C):
            in_range = exists & ((k * BLOCK_C < left) | WHOLE)
            value = stored(totals[k], output_ptr.dtype.element_ty)
            tl.store(output + k * BLOCK_C * out_c + points, value, mask=in_range)


@triton.jit
def pull_taps(
    along, grads, at, block_step, target, target_step, left, whole, steps, target_steps, taps, exists, sizes,
    fixed_scale, outer, NEED_PARAMS: tl.constexpr, NEED_INPUT: tl.constexpr,
    TAPS: tl.constexpr, SAMPLER: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """A row of taps of the backward: along + the gradient of the source's coordinates, and the image's, scattered."""
    row, in_row, row_weight, row_slopes = row_taps(taps, sizes, outer, TAPS, SAMPLER, PADDING, ALIGN)
    at += row_offset(row, steps, INDEX)
    target += row_offset(row, target_steps, INDEX)
    in_row = in_row & exists
    for tap in tl.static_range(TAPS):
        x, inside, weight, slope = axis_tap(taps[0], sizes[0], tap, SAMPLER, PADDING, ALIGN)
        inside = inside & in_row
        if NEED_PARAMS:
            source = at + x.to(INDEX) * steps[0]
            dot = tl.zeros(grads[0].shape, grads[0].dtype)
            for k in tl.static_range(len(grads)):
                read = tl.load(source + k * block_step, mask=inside & ((k * BLOCK_C < left) | whole), other=0.0)
                dot += grads[k] * read.to(dot.dtype)
            sums = (along[0] + dot * (slope * row_weight),)
            for axis in tl.static_range(1, len(along)):
                sums = sums + (along[axis] + dot * (weight * row_slopes[axis - 1]),)  # noqa: RUF005
            along = sums
        if NEED_INPUT:
            total = weight * row_weight
            to = target + x.to(INDEX) * target_steps[0]
            for k in tl.static_range(len(grads)):
                mask = inside & ((k * BLOCK_C < left) | whole)
                accumulate(to + k * target_step, total * grads[k], mask, fixed_scale)
    return along


@triton.jit
def accumulate(at, value, mask, fixed_scale):
    """Adds to accumulators; of type int64 they hold value * fixed_scale."""
    if at.dtype.element_ty == tl.int64:
        value = tl.floor(tl.where(mask, value * fixed_scale, 0.0) + 0.5)
    tl.atomic_add(at, value.to(at.dtype.element_ty), mask=mask, sem="relaxed")


@kernel
def warp_backward(
    grad_output_ptr,  # (B, S, C, *out)
    input_ptr,  # (B, C, *in)
    params_ptr,
    control_ptr,
    grad_input_ptr,  # (B, C, *in) accumulators, zero before; None: not needed
    grad_params_ptr,  # see transforms.py; None: not needed
    fixed_scale_ptr,  # (B,) for int64 accumulators, else None
    grad_output_b: tl.int64,  # strides
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
    grad_input_b: tl.int64,
    grad_input_c: tl.int64,
    grad_input_z: tl.int64,
    grad_input_y: tl.int64,
    grad_input_x: tl.int64,
    samples: tl.int32,
    channels: tl.int32,
    width: tl.int32,
    height: tl.int32,
    depth: tl.int32,
    out_width: tl.int32,
    out_height: tl.int32,
    out_depth: tl.int32,
    tile_rows: tl.int32,
    controls: tl.int32,
    chunk_size: tl.int32,  # channels a program
    N: tl.constexpr,
    TRANSFORM: tl.constexpr,
    SAMPLER: tl.constexpr,
    TAPS: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,  # these as in warp_forward
    VECTOR: tl.constexpr,
    X_UNIT: tl.constexpr,
    WHOLE: tl.constexpr,
    C_LAST: tl.constexpr,
    CHUNK: tl.constexpr,  # channels an iteration
    BLOCK_C: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    NEED_INPUT: tl.constexpr = grad_input_ptr is not None
    NEED_PARAMS: tl.constexpr = grad_params_ptr is not None
    sizes = axes_of(width, height, depth, N)
    out_sizes = axes_of(out_width, out_height, out_depth, N)
    rows = row_count(out_sizes)
    tiles = tl.cdiv(out_width, TILE_W) * tl.cdiv(rows, tile_rows)
    chunks = tl.cdiv(channels, chunk_size)
    n, chunk, tile = program_share(tiles, chunks)
    b, sample = batch_and_sample(n, samples)
    last = channels // VECTOR * VECTOR
    in_c = 1 if C_LAST else input_c
    out_c = 1 if C_LAST else grad_output_c
    steps = pixel_steps(input_x, input_y, input_z, N, VECTOR, X_UNIT, INDEX)
    out_steps = pixel_steps(grad_output_x, grad_output_y, grad_output_z, N, VECTOR, X_UNIT, INDEX)
    image = input_ptr + b * known_multiple(input_b, VECTOR, tl.int64)
    output = grad_output_ptr + b * known_multiple(grad_output_b, VECTOR, tl.int64)
    output += sample * known_multiple(grad_output_s, VECTOR, tl.int64)
    to_c = 1 if C_LAST else grad_input_c
    to_steps = pixel_steps(grad_input_x, grad_input_y, grad_input_z, N, VECTOR, X_UNIT, INDEX)
    target = image
    fixed_scale = 1.0
    if NEED_INPUT:
        target = grad_input_ptr + b * known_multiple(grad_input_b, VECTOR, tl.int64)
        if fixed_scale_ptr is not None:
            fixed_scale = tl.load(fixed_scale_ptr + b)

    x, first_row = tile_points(tile, out_width, tile_rows, TILE_H, TILE_W, C_LAST)
    block: tl.constexpr = (x + channel_range(BLOCK_C, C_LAST)).shape
    sums = no_sums(tl.zeros(x.shape, COMPUTE), N, TRANSFORM)
    begin = chunk * (chunk_size // CHUNK * CHUNK)
    for row in range(0, tile_rows, TILE_H):
        y = first_row + row
        exists = (x < out_width) & (y < rows)
        point = point_of(x, y, out_sizes)
        source = source_pixels(
            params_ptr, control_ptr, controls, n, point, exists, sizes, out_sizes, TRANSFORM, ALIGN, COMPUTE
        )
        taps = places(source, sizes, SAMPLER, PADDING, ALIGN)
        points = offset(point, out_steps, INDEX)
        along = zeros(block, COMPUTE, N)
        for first in range(begin, tl.minimum(begin + chunk_size, channels), CHUNK):
            c = first + channel_range(BLOCK_C, C_LAST)
            left = last - c
            grads = ()
            for k in tl.static_range(CHUNK // BLOCK_C):
                mask = exists & ((k * BLOCK_C < left) | WHOLE)
                grad = tl.load(output + (c + k * BLOCK_C) * out_c + points, mask=mask, other=0.0)
                grads = grads + (grad.to(COMPUTE),)  # noqa: RUF005
            if TAPS < 4 and N < 3:
                for outer in tl.static_range(TAPS ** (N - 1)):
                    along = pull_taps(
                        along, grads, image + c * in_c, BLOCK_C * in_c, target + c * to_c, BLOCK_C * to_c, left, WHOLE,
                        steps, to_steps, taps, exists, sizes, fixed_scale, outer, NEED_PARAMS, NEED_INPUT,
                        TAPS, SAMPLER, PADDING, ALIGN, INDEX, BLOCK_C,
                    )  # fmt: skip
            else:
                for outer in range(TAPS ** (N - 1)):
                    along = pull_taps(
                        along, grads, image + c * in_c, BLOCK_C * in_c, target + c * to_c, BLOCK_C * to_c, left, WHOLE,
                        steps, to_steps, taps, exists, sizes, fixed_scale, outer, NEED_PARAMS, NEED_INPUT,
                        TAPS, SAMPLER, PADDING, ALIGN, INDEX, BLOCK_C,
                    )  # fmt: skip
        if NEED_PARAMS:
            AXIS: tl.constexpr = 1 if C_LAST else 0
            grads = ()
            for axis in tl.static_range(N):
                total = tl.sum(along[axis], AXIS, keep_dims=True) * taps[axis][2]
                grads = grads + (total,)  # noqa: RUF005
            if TRANSFORM != "affine":
                grads = normalized_gradient(grads, sizes, ALIGN)
            part = (chunk * tiles + tile) * (tile_rows // TILE_H) + row // TILE_H
            sums = add_parameter_gradient(
                grad_params_ptr, sums, params_ptr, control_ptr, controls, n, part,
                tiles * chunks * (tile_rows // TILE_H), point, exists, grads, out_sizes, TRANSFORM, ALIGN,
            )  # fmt: skip
    if NEED_PARAMS and (TRANSFORM == "affine" or TRANSFORM == "homography"):
        store_sums(grad_params_ptr, sums, n, chunk * tiles + tile, tiles * chunks)
