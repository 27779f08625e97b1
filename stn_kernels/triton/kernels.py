"""The operators on Triton kernels. On CPU tensors they need Triton's interpreter."""

import torch
import triton

from .._library import PADDING_NAMES
from ..ops._outputs import empty_images, is_channels_last, store_images
from ..reference.sampling import compute_dtype
from . import affine, fixed_point
from .gather import affine_gather
from .lattice import lattice_backward, lattice_forward
from .launch import COMPUTE, block_shape, has_channels_last, launch, memory_constants
from .warp import warp_backward, warp_forward

CHUNK_BACKWARD = 32  # channels a program of the backward
GRID_BLOCK = 1024  # numbers a program writes
LATTICE_BLOCK = 512  # points a program of the coordinates alone
PARTS_BLOCK = 128  # partial sums added at a time


def affine_sample(input, theta, size, mode, padding_mode, align_corners):
    output = empty_images(input, (*theta.shape[:-2], input.shape[1], *size), is_channels_last(input))
    return _forward("affine", input, theta, output, padding_mode, align_corners)


def grid_sample(input, grid, mode, padding_mode, align_corners):
    shape = (*grid.shape[:-3], input.shape[1], *grid.shape[-3:-1])
    output = empty_images(input, shape, is_channels_last(input))
    return _forward("grid", input, grid, output, padding_mode, align_corners)


def affine_sample_backward(
    grad_output, input, theta, mode, padding_mode, align_corners, need_input, need_theta, deterministic
):
    grad_theta = theta.new_empty(theta.shape if need_theta else 0)
    scatters = need_input and PADDING_NAMES[padding_mode] != "zeros"
    grad_output = _like_input(grad_output, input)
    if need_input and not scatters:
        grad_input = _gather(grad_output, input, theta, align_corners)
    if not need_theta and not scatters:
        return (grad_input if need_input else input.new_empty(0)), grad_theta
    scattered, moments = _backward(
        "affine", grad_output, input, theta, padding_mode, align_corners, scatters, need_theta, deterministic
    )
    if need_theta:
        spans = input.shape[-1] - align_corners, input.shape[-2] - align_corners
        _add_moments(moments, grad_theta, spans, grad_output.shape[-2:], align_corners)
    return (grad_input if need_input and not scatters else scattered), grad_theta


def grid_sample_backward(
    grad_output, input, grid, mode, padding_mode, align_corners, need_input, need_grid, deterministic
):
    grad_output = _like_input(grad_output, input)
    return _backward(
        "grid", grad_output, input, grid, padding_mode, align_corners, need_input, need_grid, deterministic
    )


def affine_grid(theta, size, align_corners):
    height, width = size
    grid = theta.new_empty((*theta.shape[:-2], height, width, 2), dtype=compute_dtype(theta))
    if grid.numel() > 0:
        launch(
            affine.affine_grid_forward,
            theta.shape[:-2].numel() * triton.cdiv(height * width, GRID_BLOCK // 2),
            {
                "theta_ptr": theta.contiguous(),
                "grid_ptr": grid,
                "out_height": height,
                "out_width": width,
                "ALIGN": int(align_corners),
                "BLOCK": GRID_BLOCK,
            },
        )
    return grid


def affine_grid_backward(grad_output, align_corners):
    *lead, height, width, _ = grad_output.shape
    grad_theta = grad_output.new_empty((*lead, 2, 3))
    block = block_shape(1, False, backward=True)
    images = torch.Size(lead).numel()
    rows = block.rows(images * height * width, height)
    tiles = block.tiles(height, width, rows)
    moments = grad_output.new_empty((images, 6, tiles), dtype=compute_dtype(grad_output))
    if images > 0:
        arguments = {
            "grad_grid_ptr": grad_output.contiguous(),
            "partial_ptr": moments,
            "out_height": height,
            "out_width": width,
            "tile_rows": rows,
        }
        launch(affine.affine_grid_backward, images * tiles, arguments, block)
    _add_moments(moments, grad_theta, (2, 2), (height, width), align_corners)
    return grad_theta


def homography_sample(input, matrix, size, mode, padding_mode, align_corners):
    output = empty_images(input, (*matrix.shape[:-2], input.shape[1], *size), is_channels_last(input))
    return _forward("homography", input, matrix, output, padding_mode, align_corners)


def homography_sample_backward(
    grad_output, input, matrix, mode, padding_mode, align_corners, need_input, need_matrix, deterministic
):
    needs = need_input, need_matrix, deterministic
    grad_input, grad_grid = _backward(
        "homography", _like_input(grad_output, input), input, matrix, padding_mode, align_corners, *needs
    )
    if not need_matrix:
        return grad_input, matrix.new_empty(0)
    return grad_input, _lattice_backward("homography", grad_grid, matrix, None, align_corners).to(matrix.dtype)


def tps_sample(input, coefficients, control_points, size, mode, padding_mode, align_corners):
    output = empty_images(input, (*coefficients.shape[:-2], input.shape[1], *size), is_channels_last(input))
    narrow = coefficients.to(compute_dtype(input))  # float64 for the CPU's sake
    return _forward("tps", input, narrow, output, padding_mode, align_corners, control_points)


def tps_sample_backward(
    grad_output,
    input,
    coefficients,
    control_points,
    mode,
    padding_mode,
    align_corners,
    need_input,
    need_coefficients,
    deterministic,
):
    narrow = coefficients.to(compute_dtype(input))
    needs = need_input, need_coefficients, deterministic
    grad_input, grad_grid = _backward(
        "tps", _like_input(grad_output, input), input, narrow, padding_mode, align_corners, *needs, control_points
    )
    if not need_coefficients:
        return grad_input, coefficients.new_empty(0)
    gradient = _lattice_backward("tps", grad_grid, narrow, control_points, align_corners)
    return grad_input, gradient.to(coefficients.dtype)


def homography_grid(matrix, size, align_corners):
    return _lattice("homography", matrix, None, size, align_corners)


def homography_grid_backward(grad_output, matrix, align_corners):
    return _lattice_backward("homography", grad_output, matrix, None, align_corners)


def tps_grid(coefficients, control_points, size, align_corners):
    return _lattice("tps", coefficients, control_points, size, align_corners)


def tps_grid_backward(grad_output, coefficients, control_points, align_corners):
    return _lattice_backward("tps", grad_output, coefficients, control_points, align_corners)


def implementations():
    """Operator name -> kernel, for `_library.add_namespace`."""
    return {
        "affine_sample": affine_sample,
        "_affine_sample_backward": affine_sample_backward,
        "grid_sample": grid_sample,
        "_grid_sample_backward": grid_sample_backward,
        "affine_grid": affine_grid,
        "_affine_grid_backward": affine_grid_backward,
        "homography_sample": homography_sample,
        "_homography_sample_backward": homography_sample_backward,
        "homography_grid": homography_grid,
        "_homography_grid_backward": homography_grid_backward,
        "tps_sample": tps_sample,
        "_tps_sample_backward": tps_sample_backward,
        "tps_grid": tps_grid,
        "_tps_grid_backward": tps_grid_backward,
    }


def _sizes(input, output):
    """What every kernel wants to know of the shapes; output: (B[, S], C, Ho, Wo)."""
    return {
        "samples": output.shape[1] if output.dim() == 5 else 1,
        "channels": input.shape[1],
        "height": input.shape[2],
        "width": input.shape[3],
        "out_height": output.shape[-2],
        "out_width": output.shape[-1],
    }


def _strides(name, tensor, letters):
    return {f"{name}_{letter}": stride for letter, stride in zip(letters, tensor.stride(), strict=True)}


def _with_samples(images):
    """(B[, S], C, H, W) -> (B, S, C, H, W)."""
    return images if images.dim() == 5 else images.unsqueeze(1)


def _like_input(grad_output, input):
    """grad_output; a copy with channels last if the image has them and it has not, for which no kernel is good."""
    if is_channels_last(input) and has_channels_last(input) and not has_channels_last(grad_output):
        return store_images(grad_output, True)
    return grad_output


def _forward(transform, input, params, output, padding_mode, align_corners, control_points=None):
    if output.numel() == 0:
        return output
    sizes = _sizes(input, output)
    channels = sizes["channels"]
    images = output.flatten(0, -4)  # one stride for B and S: the output is ours
    channels_last = has_channels_last(input, images)
    block = block_shape(channels, channels_last, input.element_size())
    chunks = triton.cdiv(channels, block.CHUNK)
    height, width = output.shape[-2:]
    rows = block.rows(images.shape[0] * chunks * height * width, height)
    arguments = {
        "input_ptr": input,
        "params_ptr": params.contiguous(),
        **_controls(control_points),
        "output_ptr": images,
        **_strides("input", input, "bcyx"),
        **_strides("output", images, "ncyx"),
        **sizes,
        "tile_rows": rows,
        "TRANSFORM": transform,
        "PADDING": PADDING_NAMES[padding_mode],
        "ALIGN": int(align_corners),
        "COMPUTE": COMPUTE[compute_dtype(input, params)],
        **memory_constants(channels_last, block.CHUNK, input, images),
    }
    launch(warp_forward, images.shape[0] * chunks * block.tiles(height, width, rows), arguments, block)
    return output


def _backward(
    transform,
    grad_output,
    input,
    params,
    padding_mode,
    align_corners,
    need_input,
    need_params,
    deterministic,
    control_points=None,
):
    """Gradients to the input, by scattering, and to the parameters.

    Those of theta are moments (N, 6, parts), those of a matrix or a spline the coordinates' (B[, S], Ho, Wo, 2).
    """
    compute = compute_dtype(input, params)
    sizes = _sizes(input, grad_output)
    channels = sizes["channels"]
    grads = _with_samples(grad_output)
    empty = grad_output.numel() == 0
    channels_last = has_channels_last(input, grads) and (not need_input or is_channels_last(input))
    accumulator = torch.int64 if deterministic else compute_dtype(input)
    itemsize = max(input.element_size(), accumulator.itemsize * need_input)
    block = block_shape(max(channels, 1), channels_last, itemsize, backward=True)
    chunk = triton.cdiv(max(channels, 1), block.CHUNK) * block.CHUNK
    if transform == "affine" or not need_params:  # else the gradient of a grid is one program's sum over channels
        chunk = min(chunk, max(CHUNK_BACKWARD, block.CHUNK))
    count, chunks, (height, width) = grads.shape[0] * grads.shape[1], triton.cdiv(channels, chunk), grads.shape[-2:]
    rows = block.rows(count * chunks * height * width, height)
    parts = chunks * block.tiles(height, width, rows)

    grad_params = params.new_empty(params.shape if need_params else 0)
    if transform == "affine" and need_params:
        grad_params = params.new_empty((count, 6, parts), dtype=compute)
    elif transform != "grid" and need_params:
        grad_params = params.new_empty((*params.shape[:-2], *grads.shape[-2:], 2), dtype=compute)
    if empty:
        grad_input = empty_images(input, input.shape, is_channels_last(input)) if need_input else input.new_empty(0)
        return grad_input.zero_(), grad_params.zero_()

    sums, scale = None, None
    if need_input:
        sums = empty_images(input.new_empty(0, dtype=accumulator), input.shape, is_channels_last(input)).zero_()
        if deterministic:
            scale = fixed_point.scale(grads, compute)
    target = input if sums is None else sums
    arguments = {
        "grad_output_ptr": grads,
        "input_ptr": input,
        "params_ptr": params.contiguous(),
        **_controls(control_points),
        "grad_input_ptr": sums,
        "grad_params_ptr": grad_params if need_params else None,
        "fixed_scale_ptr": scale,
        **_strides("grad_output", grads, "bscyx"),
        **_strides("input", input, "bcyx"),
        **_strides("grad_input", target, "bcyx"),
        **sizes,
        "tile_rows": rows,
        "chunk_size": chunk,
        "TRANSFORM": transform,
        "PADDING": PADDING_NAMES[padding_mode],
        "ALIGN": int(align_corners),
        "COMPUTE": COMPUTE[compute],
        **memory_constants(channels_last, block.CHUNK, grads, input, target),
    }
    launch(warp_backward, count * parts, arguments, block)
    if not need_input:
        return input.new_empty(0), grad_params
    return (fixed_point.to_float(sums, scale) if deterministic else sums).to(input.dtype), grad_params


def _controls(control_points):
    return {
        "control_ptr": None if control_points is None else control_points.contiguous(),
        "controls": 0 if control_points is None else control_points.shape[0],
    }


def _lattice_arguments(transform, params, control_points, size, align_corners):
    return {
        "params_ptr": params.contiguous(),
        **_controls(control_points),
        "count": params.shape[-2] * params.shape[-1],
        "out_height": size[0],
        "out_width": size[1],
        "TRANSFORM": transform,
        "ALIGN": int(align_corners),
        "BLOCK": LATTICE_BLOCK,
    }


def _lattice(transform, params, control_points, size, align_corners):
    """The coordinates alone: (B[, S], Ho, Wo, 2)."""
    grid = params.new_empty((*params.shape[:-2], *size, 2), dtype=compute_dtype(params))
    if grid.numel() > 0:
        arguments = _lattice_arguments(transform, params, control_points, size, align_corners) | {"grid_ptr": grid}
        programs = params.shape[:-2].numel() * triton.cdiv(size[0] * size[1], LATTICE_BLOCK)
        launch(lattice_forward, programs, arguments)
    return grid


def _lattice_backward(transform, grad_grid, params, control_points, align_corners):
    """The gradient of the parameters from that of the coordinates: a program's sums, then their total."""
    size = grad_grid.shape[-3:-1]
    images, parts = params.shape[:-2].numel(), triton.cdiv(size[0] * size[1], LATTICE_BLOCK)
    if images == 0:
        return grad_grid.new_empty(params.shape)
    count = params.shape[-2] * params.shape[-1]
    partial = grad_grid.new_empty((images, parts, count))
    arguments = _lattice_arguments(transform, params, control_points, size, align_corners)
    arguments |= {"grad_grid_ptr": grad_grid.contiguous(), "partial_ptr": partial}
    launch(lattice_backward, images * parts, arguments)
    return partial.sum(1).reshape(params.shape)


def _gather(grad_output, input, theta, align_corners):
    grad_input = empty_images(input, input.shape, is_channels_last(input))
    if grad_output.numel() == 0:
        return grad_input.zero_()
    sizes = _sizes(input, grad_output)
    channels = sizes["channels"]
    grads = _with_samples(grad_output)
    channels_last = has_channels_last(grad_input, grads)
    block = block_shape(channels, channels_last, input.element_size(), backward=True)
    arguments = {
        "grad_output_ptr": grads,
        "theta_ptr": theta.contiguous(),
        "grad_input_ptr": grad_input,
        **_strides("grad_output", grads, "bscyx"),
        **_strides("grad_input", grad_input, "bcyx"),
        **sizes,
        "ALIGN": int(align_corners),
        "COMPUTE": COMPUTE[compute_dtype(input, theta)],
        **memory_constants(channels_last, block.CHUNK, grads, grad_input),
    }
    chunks = triton.cdiv(channels, block.CHUNK)
    launch(affine_gather, input.shape[0] * chunks * block.tiles(*input.shape[-2:]), arguments, block)
    return grad_input


def _add_moments(moments, grad_theta, spans, size, align_corners):
    """Second pass of theta's gradient; spans: twice the pixels (x, y) in a normalized unit."""
    if grad_theta.numel() == 0:
        return
    span_x, span_y = spans
    out_height, out_width = size
    arguments = {
        "partial_ptr": moments,
        "grad_theta_ptr": grad_theta,
        "parts": moments.shape[-1],
        "span_x": span_x,
        "span_y": span_y,
        "out_height": out_height,
        "out_width": out_width,
        "ALIGN": int(align_corners),
        "BLOCK": PARTS_BLOCK,
    }
    launch(affine.theta_gradient, moments.shape[0], arguments)
