"""The operators of linearized multi-sampling on Triton kernels, at any transform."""

import functools
import math
import struct

import torch

from .._library import MODES
from ..ops._outputs import empty_images, is_channels_last
from ..ops.linearized import TRANSFORMS
from ..reference.linearized import WEIGHTINGS
from ..reference.sampling import compute_dtype
from . import fixed_point, warp_ops
from .launch import COMPUTE, LONG, block_shape, launch
from .linearized import linearized_bounds, linearized_grad_grid
from .warp_ops import coordinate_dtype, sizes, strides


def linearized_sample(
    input, params, control_points, seed, offsets, transform, size, padding_mode, align_corners, *options
):
    *options, need_slopes = options
    name, lead, n, fixed_bias = TRANSFORMS[transform], _lead(input, params, transform), input.dim() - 2, options[3]
    where = MODES["bilinear"], padding_mode, align_corners
    slopes, dtype = None, compute_dtype(input)
    if need_slopes:
        slopes = empty_images(input, (*lead, n * input.shape[1], *size), is_channels_last(input), n, dtype)
    if need_slopes or not fixed_bias:
        multi = _arguments(name, input, params, seed, offsets, size, *options) | _slopes_arguments(slopes, lead, n)
        output = warp_ops.forward(name, input, params, lead, size, *where, control_points, multi)
    if fixed_bias:
        output = warp_ops.forward(name, input, params, lead, size, *where, control_points)
    return output, input.new_empty(0, dtype=dtype) if slopes is None else slopes


def linearized_sample_backward(
    operators, grad_output, slopes, input, params, control_points, seed, offsets, transform, size, padding_mode,
    align_corners, *options,
):  # fmt: skip
    """operators: those of the transforms by name, whose backward to the image and to the coordinates are its parts."""
    *options, need_input, need_params, deterministic = options
    name, fixed_bias, through_samples = TRANSFORMS[transform], options[3], options[-1]
    given = (input, params) if control_points is None else (input, params, control_points)
    where = MODES["bilinear"], padding_mode, align_corners
    if need_input and through_samples and not fixed_bias:
        multi = _arguments(name, input, params, seed, offsets, size, *options)
        largest = None
        if deterministic and grad_output.numel() > 0:
            largest = _largest(grad_output, input, multi, size, align_corners, coordinate_dtype(name, input, params))
        grads = warp_ops.like_input(grad_output, input)
        grad_input, _ = warp_ops.backward(
            name, grads, input, params, *where, True, False, deterministic, control_points, multi, largest
        )
    else:
        backward = operators[f"_{name}_sample_backward"]
        grad_input, _ = backward(grad_output, *given, *where, need_input, False, deterministic)
    if not need_params:
        return grad_input, params.new_empty(0)
    grad_grid = _grad_grid(grad_output, slopes, size)
    if name == "grid":
        return grad_input, grad_grid.to(params.dtype)
    linear = () if name == "affine" else given[1:]
    return grad_input, operators[f"_{name}_grid_backward"](grad_grid, *linear, align_corners).to(params.dtype)


def implementations(operators):
    """Operator name -> kernel; operators: those of the transforms."""
    return {
        "_linearized_sample": linearized_sample,
        "_linearized_sample_backward": functools.partial(linearized_sample_backward, operators),
    }


def _lead(input, params, transform):
    return params.shape[: -input.dim() + 1 if TRANSFORMS[transform] == "grid" else -2]


def _arguments(
    transform, input, params, seed, offsets, size, samples, noise, push_away, fixed_bias, weighting, ridge, through
):
    """What the kernels take besides those of a warp."""
    wide = coordinate_dtype(transform, input, params) == torch.float64
    push = 2.0 if push_away else 0.0
    spreads = [math.hypot(noise / o, push / s) for s, o in zip(input.shape[:1:-1], size[::-1], strict=True)]
    named = zip(("ridge", "spread_x", "spread_y", "spread_z"), [ridge, *spreads, 0.0, 0.0], strict=False)
    return {
        "seed_ptr": seed,
        "offsets_ptr": None if offsets is None else offsets.contiguous(),
        "count": samples,
        "WEIGHTING": WEIGHTINGS[weighting],
        **{name: _bits(value, wide) for name, value in named},
    }


def _slopes_arguments(slopes, lead, n):
    if slopes is None:
        return {"slopes_ptr": None} | {f"slopes_{axis}": 0 for axis in "nczyx"}
    images = slopes.flatten(0, len(lead) - 1)
    return {"slopes_ptr": images, **strides("slopes", images, "nc", n)}


def _bits(value, wide):
    """A number as the integer that has its bits in float64 or float32."""
    return struct.unpack("<q" if wide else "<i", struct.pack("<d" if wide else "<f", value))[0]


def _largest(grad_output, input, multi, size, align_corners, dtype):
    """A bound (B,) of the terms that make up the input's gradient through all samples."""
    n = input.dim() - 2
    grads = grad_output if grad_output.dim() == n + 3 else grad_output.unsqueeze(1)
    count, height = grads.shape[0] * grads.shape[1], math.prod(size[:-1])
    block = block_shape(n, 1, False, backward=True, warps=1)
    rows = block.rows(count * math.prod(size), height)
    tiles = block.tiles(height, size[-1], rows)
    bounds = grad_output.new_empty((count, tiles), dtype=dtype)
    arguments = {
        "bounds_ptr": bounds,
        **sizes("", input.shape[2:]),
        **sizes("out_", size),
        "tile_rows": rows,
        "N": n,
        "ALIGN": int(align_corners),
        "COMPUTE": COMPUTE[dtype],
    }
    launch(linearized_bounds, count * tiles, arguments | multi, block, LONG)
    return fixed_point.largest(grads) * bounds.reshape(grads.shape[0], -1).amax(1)


def _grad_grid(grad_output, slopes, size):
    """The gradient (B[, S], *out, n) of normalized coordinates."""
    n = len(size)
    grads, planes = (t if t.dim() == n + 3 else t.unsqueeze(1) for t in (grad_output, slopes))
    count, height = grads.shape[0] * grads.shape[1], math.prod(size[:-1])
    block = block_shape(n, 1, False, backward=True)
    rows = block.rows(count * math.prod(size), height)
    result = slopes.new_empty((*slopes.shape[: -n - 1], *size, n))
    arguments = {
        "grad_output_ptr": grads,
        "slopes_ptr": planes,
        "grad_grid_ptr": result,
        **strides("grad_output", grads, "bsc", n),
        **strides("slopes", planes, "bsc", n),
        "samples": grads.shape[1],
        "channels": grads.shape[2],
        **sizes("out_", size),
        "tile_rows": rows,
        "N": n,
    }
    if grad_output.numel() == 0:
        return result.zero_()
    launch(linearized_grad_grid, count * block.tiles(height, size[-1], rows), arguments, block)
    return result
