"""The operators on Triton kernels. On CPU tensors they need Triton's interpreter."""

import math

import torch
import triton

from .._library import MODE_NAMES, PADDING_NAMES
from ..ops._outputs import empty_images, is_channels_last
from ..reference.sampling import compute_dtype
from . import affine, cpab_ops, fixed_point, linearized_ops, warp_ops
from .gather import affine_gather
from .lattice import lattice_backward, lattice_forward
from .launch import COMPUTE, OPTIONS, ROOMY, block_shape, has_channels_last, launch, memory_constants
from .parameter_sums import theta_from_moments, total
from .second import grid_double_backward
from .warp_ops import controls, no_gradient, sampler_options, sizes, strides

GRID_BLOCK = 1024  # numbers a program writes
LATTICE_BLOCK = 512  # points a program of the coordinates alone


def affine_sample(input, theta, size, mode, padding_mode, align_corners):
    return warp_ops.forward("affine", input, theta, theta.shape[:-2], size, mode, padding_mode, align_corners)


def grid_sample(input, grid, mode, padding_mode, align_corners):
    n = input.dim() - 2
    lead, size = grid.shape[: -n - 1], grid.shape[-n - 1 : -1]
    return warp_ops.forward("grid", input, grid, lead, size, mode, padding_mode, align_corners)


def affine_sample_backward(
    grad_output, input, theta, mode, padding_mode, align_corners, need_input, need_theta, deterministic
):
    n = input.dim() - 2
    gathers = need_input and n == 2 and MODE_NAMES[mode] == "bilinear" and PADDING_NAMES[padding_mode] == "zeros"
    grad_output = warp_ops.like_input(grad_output, input)
    options = mode, padding_mode, align_corners, need_input and not gathers, need_theta, deterministic
    grad_input, moments = warp_ops.backward("affine", grad_output, input, theta, *options)
    if gathers:
        grad_input = _gather(grad_output, input, theta, align_corners)
    if moments is None:
        return grad_input, no_gradient(theta, need_theta)
    spans = [s - align_corners for s in reversed(input.shape[2:])]
    return grad_input, theta_from_moments(moments, theta, spans, grad_output.shape[-n:], align_corners)


def grid_sample_backward(
    grad_output, input, grid, mode, padding_mode, align_corners, need_input, need_grid, deterministic
):
    options = mode, padding_mode, align_corners, need_input, need_grid, deterministic
    grad_input, grad_grid = warp_ops.backward("grid", warp_ops.like_input(grad_output, input), input, grid, *options)
    return grad_input, no_gradient(grid, need_grid) if grad_grid is None else grad_grid


def grid_sample_double_backward(
    gg_input,
    gg_grid,
    grad_output,
    input,
    grid,
    mode,
    padding_mode,
    align_corners,
    need_grad_output,
    need_input,
    need_grid,
    deterministic,
):
    n, moves = input.dim() - 2, MODE_NAMES[mode] != "nearest"
    grads = grad_output if grad_output.dim() == n + 3 else grad_output.unsqueeze(1)
    gg_input, gg_grid = (gg if gg.numel() > 0 else None for gg in (gg_input, gg_grid))
    to_output = grad_output.new_empty(grad_output.shape if need_grad_output else 0)
    if grads.numel() == 0 or input.numel() == 0:
        return to_output.zero_(), no_gradient(input, need_input), no_gradient(grid, need_grid)
    scatters, moves = need_input and moves and gg_grid is not None, need_grid and moves
    compute = compute_dtype(input, grid)
    to_grid = grid.new_empty(grid.shape) if moves else None
    sums, scale = None, None
    if scatters:
        sums = input.new_zeros(input.shape, dtype=torch.int64 if deterministic else compute_dtype(input))
    if scatters and deterministic:
        spans = gg_grid.new_tensor([(s - align_corners) / 2 for s in reversed(input.shape[2:])])
        reach = (gg_grid.abs() * spans).sum(-1)
        bound = fixed_point.largest(grads) * fixed_point.largest(reach)
        scale = fixed_point.scale(bound, grads.shape[1] * grads.shape[-n:].numel(), compute)
    other = input if gg_input is None else gg_input
    height, width = math.prod(grads.shape[-n:-1]), grads.shape[-1]
    block = block_shape(n, 1, False, backward=True)
    count = grads.shape[0] * grads.shape[1]
    rows = block.rows(count * height * width, height)
    options = sampler_options("grid", mode, padding_mode, align_corners, input, grid)
    memory = memory_constants(n, False, 1, grads, input, other)
    arguments = {
        "gg_input_ptr": gg_input,
        "gg_grid_ptr": None if gg_grid is None else gg_grid.contiguous(),
        "grad_output_ptr": grads,
        "input_ptr": input,
        "grid_ptr": grid.contiguous(),
        "to_output_ptr": to_output if need_grad_output else None,
        "to_input_ptr": sums,
        "to_grid_ptr": to_grid,
        "fixed_scale_ptr": scale,
        **strides("gg_input", other, "bc", n),
        **strides("grad_output", grads, "bsc", n),
        **strides("input", input, "bc", n),
        "samples": grads.shape[1],
        "channels": input.shape[1],
        **sizes("", input.shape[2:]),
        **sizes("out_", grads.shape[-n:]),
        "tile_rows": rows,
        "N": n,
        **{k: v for k, v in (options | memory).items() if k in grid_double_backward.arg_names},
    }
    programs = count * block.tiles(height, width, rows)
    launch(grid_double_backward, programs, arguments, block, ROOMY if n == 3 else OPTIONS)
    if scatters:
        to_input = (fixed_point.to_float(sums, scale) if deterministic else sums).to(input.dtype)
    else:
        to_input = no_gradient(input, need_input)
    return to_output, to_input, to_grid if moves else no_gradient(grid, need_grid)


def affine_grid(theta, size, align_corners):
    n = theta.shape[-2]
    grid = theta.new_empty((*theta.shape[:-2], *size, n), dtype=compute_dtype(theta))
    if grid.numel() > 0:
        arguments = {"theta_ptr": theta.contiguous(), "grid_ptr": grid, **sizes("out_", size)}
        arguments |= {"N": n, "ALIGN": int(align_corners), "BLOCK": GRID_BLOCK}
        programs = theta.shape[:-2].numel() * triton.cdiv(math.prod(size), GRID_BLOCK // n)
        launch(affine.affine_grid_forward, programs, arguments)
    return grid


def affine_grid_backward(grad_output, align_corners):
    n = grad_output.shape[-1]
    theta = grad_output.new_empty((*grad_output.shape[: -n - 1], n, n + 1))
    moments = _lattice_backward("affine", grad_output, theta, None, align_corners)
    return theta_from_moments(moments, theta, [2] * n, grad_output.shape[-n - 1 : -1], align_corners)


def homography_sample(input, matrix, size, mode, padding_mode, align_corners):
    return warp_ops.forward("homography", input, matrix, matrix.shape[:-2], size, mode, padding_mode, align_corners)


def homography_sample_backward(
    grad_output, input, matrix, mode, padding_mode, align_corners, need_input, need_matrix, deterministic
):
    options = mode, padding_mode, align_corners, need_input, need_matrix, deterministic
    grad_input, sums = warp_ops.backward("homography", warp_ops.like_input(grad_output, input), input, matrix, *options)
    return grad_input, no_gradient(matrix, need_matrix) if sums is None else total(sums, matrix)


def tps_sample(input, coefficients, control_points, size, mode, padding_mode, align_corners):
    lead = coefficients.shape[:-2]
    return warp_ops.forward("tps", input, coefficients, lead, size, mode, padding_mode, align_corners, control_points)


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
    options = mode, padding_mode, align_corners, need_input, need_coefficients, deterministic
    grad_input, sums = warp_ops.backward(
        "tps", warp_ops.like_input(grad_output, input), input, coefficients, *options, control_points
    )
    if sums is None:
        return grad_input, no_gradient(coefficients, need_coefficients)
    return grad_input, total(sums, coefficients)


def homography_grid(matrix, size, align_corners):
    return _lattice("homography", matrix, None, size, align_corners)


def homography_grid_backward(grad_output, matrix, align_corners):
    return total(_lattice_backward("homography", grad_output, matrix, None, align_corners), matrix)


def tps_grid(coefficients, control_points, size, align_corners):
    return _lattice("tps", coefficients, control_points, size, align_corners)


def tps_grid_backward(grad_output, coefficients, control_points, align_corners):
    sums = _lattice_backward("tps", grad_output, coefficients, control_points, align_corners)
    return total(sums, coefficients)


def implementations():
    """Operator name -> kernel, for `_library.add_namespace`."""
    of_transforms = {
        "affine_sample": affine_sample,
        "_affine_sample_backward": affine_sample_backward,
        "grid_sample": grid_sample,
        "_grid_sample_backward": grid_sample_backward,
        "_grid_sample_double_backward": grid_sample_double_backward,
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
    return {**of_transforms, **cpab_ops.IMPLEMENTATIONS, **linearized_ops.implementations(of_transforms)}


def _lattice(transform, params, control_points, size, align_corners):
    """The coordinates alone: (B[, S], *size, n)."""
    n = len(size)
    grid = params.new_empty((*params.shape[:-2], *size, n), dtype=compute_dtype(params))
    if grid.numel() > 0:
        arguments = {
            "params_ptr": params.contiguous(),
            **controls(control_points),
            "grid_ptr": grid,
            **sizes("out_", size),
            "N": n,
            "TRANSFORM": transform,
            "ALIGN": int(align_corners),
            "BLOCK": LATTICE_BLOCK,
        }
        programs = params.shape[:-2].numel() * triton.cdiv(math.prod(size), LATTICE_BLOCK)
        launch(lattice_forward, programs, arguments)
    return grid


def _lattice_backward(transform, grad_grid, params, control_points, align_corners):
    """The sums (N, count, parts) of the parameters' gradient from that of the coordinates."""
    n = grad_grid.shape[-1]
    size = grad_grid.shape[-n - 1 : -1]
    block = block_shape(n, 1, False, backward=True)
    images, height = params.shape[:-2].numel(), math.prod(size[:-1])
    rows = block.rows(images * math.prod(size), height)
    tiles = block.tiles(height, size[-1], rows)
    steps = rows // block.TILE_H if transform == "tps" else 1
    shape = images, params.shape[-2] * params.shape[-1], tiles * steps
    sums = grad_grid.new_empty(shape, dtype=compute_dtype(grad_grid))
    if sums.numel() > 0:
        arguments = {
            "params_ptr": params.contiguous() if transform == "homography" else None,
            **controls(control_points),
            "grad_grid_ptr": grad_grid.contiguous(),
            "partial_ptr": sums,
            **sizes("out_", size),
            "tile_rows": rows,
            "N": n,
            "TRANSFORM": transform,
            "ALIGN": int(align_corners),
        }
        launch(lattice_backward, images * tiles, arguments, block)
    return sums


def _gather(grad_output, input, theta, align_corners):
    grad_input = empty_images(input, input.shape, is_channels_last(input))
    if grad_output.numel() == 0:
        return grad_input.zero_()
    channels = input.shape[1]
    grads = grad_output if grad_output.dim() == 5 else grad_output.unsqueeze(1)
    channels_last = has_channels_last(2, grad_input, grads)
    block = block_shape(2, channels, channels_last, input.element_size(), backward=True)
    arguments = {
        "grad_output_ptr": grads,
        "theta_ptr": theta.contiguous(),
        "grad_input_ptr": grad_input,
        **{f"grad_output_{letter}": s for letter, s in zip("bscyx", grads.stride(), strict=True)},
        **{f"grad_input_{letter}": s for letter, s in zip("bcyx", grad_input.stride(), strict=True)},
        "samples": grads.shape[1],
        "channels": channels,
        "height": input.shape[2],
        "width": input.shape[3],
        "out_height": grads.shape[-2],
        "out_width": grads.shape[-1],
        "ALIGN": int(align_corners),
        "COMPUTE": COMPUTE[compute_dtype(input, theta)],
        **memory_constants(2, channels_last, block.CHUNK, grads, grad_input),
    }
    chunks = triton.cdiv(channels, block.CHUNK)
    launch(affine_gather, input.shape[0] * chunks * block.tiles(*input.shape[-2:]), arguments, block)
    return grad_input
