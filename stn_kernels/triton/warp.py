"""The warp, transform x sampler: an output point goes through the transform, and the sampler reads there."""

import triton.language as tl

from . import bilinear
from .coords import batch_and_sample, channel_range, kernel, known_multiple, program_share, stored, tile_points
from .transforms import add_parameter_gradient, no_sums, source_pixels, store_sums


@kernel
def warp_forward(
    input_ptr,  # (B, C, H, W)
    params_ptr,
    control_ptr,  # of a spline, else None
    output_ptr,  # (B * S, C, Ho, Wo)
    input_b: tl.int64,  # strides
    input_c: tl.int64,
    input_y: tl.int64,
    input_x: tl.int64,
    output_n: tl.int64,
    output_c: tl.int64,
    output_y: tl.int64,
    output_x: tl.int64,
    samples: tl.int32,
    channels: tl.int32,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    tile_rows: tl.int32,  # rows of a program, TILE_H at a time
    controls: tl.int32,
    TRANSFORM: tl.constexpr,
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
    tiles = tl.cdiv(out_width, TILE_W) * tl.cdiv(out_height, tile_rows)
    n, chunk, tile = program_share(tiles, tl.cdiv(channels, CHUNK))
    b, _sample = batch_and_sample(n, samples)
    last = channels // VECTOR * VECTOR
    step_y = known_multiple(input_y, VECTOR, INDEX)
    step_x = 1 if X_UNIT else known_multiple(input_x, VECTOR, INDEX)
    step_c = 1 if C_LAST else input_c
    image = input_ptr + b * known_multiple(input_b, VECTOR, tl.int64)
    out_y = known_multiple(output_y, VECTOR, INDEX)
    out_x = 1 if X_UNIT else known_multiple(output_x, VECTOR, INDEX)
    out_c = 1 if C_LAST else output_c
    output = output_ptr + n * known_multiple(output_n, VECTOR, tl.int64)
    u, first_v = tile_points(tile, out_width, tile_rows, TILE_H, TILE_W, C_LAST)
    for row in range(0, tile_rows, TILE_H):
        v = first_v + row
        exists = (u < out_width) & (v < out_height)
        x, y = source_pixels(
            params_ptr, control_ptr, controls, n, u, v, exists,
            height, width, out_height, out_width, TRANSFORM, ALIGN, COMPUTE,
        )  # fmt: skip
        x0, y0, fx, fy, left, right, top, bottom, _slope_x, _slope_y = bilinear.corner(
            x, y, exists, height, width, PADDING, ALIGN
        )
        w00, w01, w10, w11 = bilinear.weights(fx, fy)
        taps = y0.to(INDEX) * step_y + x0.to(INDEX) * step_x
        points = v.to(INDEX) * out_y + u.to(INDEX) * out_x
        for k in tl.static_range(0, CHUNK, BLOCK_C):
            c = chunk * CHUNK + k + channel_range(BLOCK_C, C_LAST)
            in_range = (c < last) | WHOLE
            v00, v01, v10, v11 = bilinear.load_taps(
                image + c * step_c + taps, step_x, step_y, left, right, top, bottom, in_range, COMPUTE
            )
            value = (v00 * w00 + v01 * w01) + (v10 * w10 + v11 * w11)
            tl.store(output + c * out_c + points, stored(value, output_ptr.dtype.element_ty), mask=exists & in_range)


@kernel
def warp_backward(
    grad_output_ptr,  # (B, S, C, Ho, Wo)
    input_ptr,  # (B, C, H, W)
    params_ptr,
    control_ptr,
    grad_input_ptr,  # (B, C, H, W) accumulators, zero before; None: not needed
    grad_params_ptr,  # see transforms.py; None: not needed
    fixed_scale_ptr,  # (B,) for int64 accumulators, else None
    grad_output_b: tl.int64,  # strides
    grad_output_s: tl.int64,
    grad_output_c: tl.int64,
    grad_output_y: tl.int64,
    grad_output_x: tl.int64,
    input_b: tl.int64,
    input_c: tl.int64,
    input_y: tl.int64,
    input_x: tl.int64,
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
    tile_rows: tl.int32,
    controls: tl.int32,
    chunk_size: tl.int32,  # channels a program
    TRANSFORM: tl.constexpr,
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
    tiles = tl.cdiv(out_width, TILE_W) * tl.cdiv(out_height, tile_rows)
    chunks = tl.cdiv(channels, chunk_size)
    n, chunk, tile = program_share(tiles, chunks)
    b, sample = batch_and_sample(n, samples)
    last = channels // VECTOR * VECTOR
    in_y = known_multiple(input_y, VECTOR, INDEX)
    in_x = 1 if X_UNIT else known_multiple(input_x, VECTOR, INDEX)
    in_c = 1 if C_LAST else input_c
    image = input_ptr + b * known_multiple(input_b, VECTOR, tl.int64)
    out_y = known_multiple(grad_output_y, VECTOR, INDEX)
    out_x = 1 if X_UNIT else known_multiple(grad_output_x, VECTOR, INDEX)
    out_c = 1 if C_LAST else grad_output_c
    grads = grad_output_ptr + b * known_multiple(grad_output_b, VECTOR, tl.int64)
    grads += sample * known_multiple(grad_output_s, VECTOR, tl.int64)
    if grad_input_ptr is not None:
        to_y = known_multiple(grad_input_y, VECTOR, INDEX)
        to_x = 1 if X_UNIT else known_multiple(grad_input_x, VECTOR, INDEX)
        to_c = 1 if C_LAST else grad_input_c
        accumulators = grad_input_ptr + b * known_multiple(grad_input_b, VECTOR, tl.int64)
        fixed_scale = 1.0 if fixed_scale_ptr is None else tl.load(fixed_scale_ptr + b)

    u, first_v = tile_points(tile, out_width, tile_rows, TILE_H, TILE_W, C_LAST)
    block: tl.constexpr = (u + channel_range(BLOCK_C, C_LAST)).shape
    sums = no_sums(u.shape, TRANSFORM, COMPUTE)
    begin = chunk * (chunk_size // CHUNK * CHUNK)
    for row in range(0, tile_rows, TILE_H):
        v = first_v + row
        exists = (u < out_width) & (v < out_height)
        x, y = source_pixels(
            params_ptr, control_ptr, controls, n, u, v, exists,
            height, width, out_height, out_width, TRANSFORM, ALIGN, COMPUTE,
        )  # fmt: skip
        x0, y0, fx, fy, left, right, top, bottom, slope_x, slope_y = bilinear.corner(
            x, y, exists, height, width, PADDING, ALIGN
        )
        taps = y0.to(INDEX) * in_y + x0.to(INDEX) * in_x
        points = v.to(INDEX) * out_y + u.to(INDEX) * out_x
        gx = tl.zeros(block, COMPUTE)
        gy = tl.zeros(block, COMPUTE)
        for first in range(begin, tl.minimum(begin + chunk_size, channels), CHUNK):
            for k in tl.static_range(0, CHUNK, BLOCK_C):
                c = first + k + channel_range(BLOCK_C, C_LAST)
                in_range = (c < last) | WHOLE
                grad = tl.load(grads + c * out_c + points, mask=exists & in_range, other=0.0).to(COMPUTE)
                if grad_params_ptr is not None:
                    v00, v01, v10, v11 = bilinear.load_taps(
                        image + c * in_c + taps, in_x, in_y, left, right, top, bottom, in_range, COMPUTE
                    )
                    along_x, along_y = bilinear.point_gradient(grad, v00, v01, v10, v11, fx, fy)
                    gx += along_x
                    gy += along_y
                if grad_input_ptr is not None:
                    targets = y0.to(INDEX) * to_y + x0.to(INDEX) * to_x
                    bilinear.scatter(
                        accumulators + c * to_c + targets,
                        to_x, to_y, grad, fx, fy, left, right, top, bottom, in_range, fixed_scale,
                    )  # fmt: skip
        if grad_params_ptr is not None:
            AXIS: tl.constexpr = 1 if C_LAST else 0
            gx = tl.sum(gx, AXIS, keep_dims=True) * slope_x
            gy = tl.sum(gy, AXIS, keep_dims=True) * slope_y
            sums = add_parameter_gradient(
                grad_params_ptr, sums, n, u, v, exists, gx, gy,
                height, width, out_height, out_width, TRANSFORM, ALIGN,
            )  # fmt: skip
    if grad_params_ptr is not None:
        store_sums(grad_params_ptr, sums, n, chunk * tiles + tile, tiles * chunks, TRANSFORM)
