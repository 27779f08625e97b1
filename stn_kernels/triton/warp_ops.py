"""Launches of the warp: any transform with any sampler."""

import math

import torch
import triton

from .._library import MODE_NAMES, PADDING_NAMES
from ..ops._outputs import empty_images, is_channels_last, store_images
from ..reference.sampling import compute_dtype
from . import fixed_point
from .launch import (
    COMPUTE,
    LONG,
    NUM_WARPS,
    OPTIONS,
    ROOMIEST,
    ROOMY,
    block_shape,
    has_channels_last,
    launch,
    memory_constants,
)
from .linearized import linearized_forward, linearized_scatter
from .samplers import TAPS
from .warp import warp_backward, warp_forward

CHUNK_BACKWARD = 32  # channels a program of the backward
AXES = ("width", "height", "depth")


def sizes(prefix, size):
    """The kernels' arguments for a spatial size (..., H, W), 1 along axes that are not there."""
    extents = [*reversed(size), 1, 1]
    return {prefix + axis: extents[i] for i, axis in enumerate(AXES)}


def strides(name, tensor, lead, n):
    """The kernels' arguments for an image's strides, 0 along axes that are not there."""
    letters = lead + "zyx"[3 - n :]
    strides = {f"{name}_{axis}": 0 for axis in "zyx"}
    return strides | {f"{name}_{letter}": s for letter, s in zip(letters, tensor.stride(), strict=True)}


def like_input(grad_output, input):
    """grad_output; a copy with channels last if the image has them and it has not, for which no kernel is good."""
    n = input.dim() - 2
    if is_channels_last(input) and has_channels_last(n, input) and not has_channels_last(n, grad_output):
        return store_images(grad_output, True, n)
    return grad_output


def sampler_options(transform, mode, padding_mode, align_corners, input, params):
    return {
        "TRANSFORM": transform,
        "SAMPLER": MODE_NAMES[mode],
        "TAPS": TAPS[MODE_NAMES[mode]],
        "PADDING": PADDING_NAMES[padding_mode],
        "ALIGN": int(align_corners),
        "COMPUTE": COMPUTE[coordinate_dtype(transform, input, params)],
    }


def coordinate_dtype(transform, input, params):
    """In which the coordinates are handled; a spline's coefficients are float64 whatever it is."""
    return compute_dtype(input) if transform == "tps" else compute_dtype(input, params)


def controls(control):
    """The kernels' arguments for a spline's control points (K, 2); or for (constants of a transform, a count)."""
    if isinstance(control, tuple):
        return {"control_ptr": control[0], "controls": control[1]}
    return {
        "control_ptr": None if control is None else control.contiguous(),
        "controls": 0 if control is None else control.shape[0],
    }


def forward(transform, input, params, lead, size, mode, padding_mode, align_corners, control=None, multi=None):
    """The warp; multi: the arguments of linearized multi-sampling, if it samples."""
    n, channels = input.dim() - 2, input.shape[1]
    output = empty_images(input, (*lead, channels, *size), is_channels_last(input), n)
    if output.numel() == 0:
        return output
    images = output.flatten(0, len(lead) - 1)  # one stride for B and S: the output is ours
    alone = transform == "cpab" or multi is not None  # a lane a point
    channels_last = has_channels_last(n, input, images) and not alone
    block = block_shape(n, channels, channels_last, input.element_size(), warps=1 if alone else NUM_WARPS)
    chunks, points, height = triton.cdiv(channels, block.CHUNK), math.prod(size), math.prod(size[:-1])
    rows = block.rows(images.shape[0] * chunks * points, height)
    arguments = {
        "input_ptr": input,
        "params_ptr": params.contiguous(),
        **controls(control),
        "output_ptr": images,
        **strides("input", input, "bc", n),
        **strides("output", images, "nc", n),
        "samples": lead[1] if len(lead) == 2 else 1,
        "channels": channels,
        **sizes("", input.shape[2:]),
        **sizes("out_", size),
        "tile_rows": rows,
        "N": n,
        **sampler_options(transform, mode, padding_mode, align_corners, input, params),
        **memory_constants(n, channels_last, block.CHUNK, input, images),
    }
    kernel = warp_forward if multi is None else linearized_forward
    programs = images.shape[0] * chunks * block.tiles(height, size[-1], rows)
    launch(kernel, programs, taken(kernel, arguments, multi), block, LONG if alone else OPTIONS)
    return output


def taken(kernel, arguments, multi):
    """The arguments that a kernel takes."""
    return {name: value for name, value in (arguments | (multi or {})).items() if name in kernel.arg_names}


def backward(
    transform,
    grad_output,
    input,
    params,
    mode,
    padding_mode,
    align_corners,
    need_input,
    need_params,
    deterministic,
    control=None,
    multi=None,
    largest=None,
):
    """Gradients to the input, by scattering, and to the parameters.

    multi: the arguments of linearized multi-sampling, if it samples: for the input's gradient alone, through all its
    samples, of which every term is at most `largest` (B,) where it has to be deterministic.

    Those are as transforms.py says: of a grid its own, else sums (N, count, parts); None if not needed, or 0.
    """
    n, channels = input.dim() - 2, input.shape[1]
    moves = need_params and MODE_NAMES[mode] != "nearest"  # whose value does not follow the coordinates
    if grad_output.numel() == 0 or not (need_input or moves):
        shape = input.shape if need_input else (0,)
        return empty_images(input, shape, need_input and is_channels_last(input), n).zero_(), None
    grads = grad_output if grad_output.dim() == n + 3 else grad_output.unsqueeze(1)
    size = grads.shape[-n:]
    compute, accumulator = (
        coordinate_dtype(transform, input, params),
        torch.int64 if deterministic else compute_dtype(input),
    )
    channels_last = has_channels_last(n, input, grads) and (not need_input or is_channels_last(input)) and not multi
    itemsize = max(input.element_size(), accumulator.itemsize * need_input)
    block = block_shape(n, channels, channels_last, itemsize, backward=True, warps=1 if multi else NUM_WARPS)
    chunk = triton.cdiv(channels, block.CHUNK) * block.CHUNK
    if transform != "grid" or not moves:  # else the gradient of a point is one program's sum over channels
        chunk = min(chunk, max(CHUNK_BACKWARD, block.CHUNK))
    count, chunks, height = grads.shape[0] * grads.shape[1], triton.cdiv(channels, chunk), math.prod(size[:-1])
    rows = block.rows(count * chunks * math.prod(size), height)
    parts = chunks * block.tiles(height, size[-1], rows)

    grad_params = None
    if moves and transform == "grid":
        grad_params = params.new_empty(params.shape)
    elif moves:
        steps = rows // block.TILE_H if transform == "tps" else 1
        grad_params = params.new_empty((count, params.shape[-2] * params.shape[-1], parts * steps), dtype=compute)
    sums, scale = None, None
    if need_input:
        sums = empty_images(input.new_empty(0, dtype=accumulator), input.shape, is_channels_last(input), n).zero_()
        if deterministic:
            largest = fixed_point.largest(grads) if largest is None else largest
            terms = grads.shape[1] * math.prod(size) * (multi["count"] if multi else 1)
            scale = fixed_point.scale(largest, terms, compute)
    target = input if sums is None else sums
    arguments = {
        "grad_output_ptr": grads,
        "input_ptr": input,
        "params_ptr": params.contiguous(),
        **controls(control),
        "grad_input_ptr": sums,
        "grad_params_ptr": grad_params,
        "fixed_scale_ptr": scale,
        **strides("grad_output", grads, "bsc", n),
        **strides("input", input, "bc", n),
        **strides("grad_input", target, "bc", n),
        "samples": grads.shape[1],
        "channels": channels,
        **sizes("", input.shape[2:]),
        **sizes("out_", size),
        "tile_rows": rows,
        "chunk_size": chunk,
        "N": n,
        **sampler_options(transform, mode, padding_mode, align_corners, input, params),
        **memory_constants(n, channels_last, block.CHUNK, grads, input, target),
    }
    options = OPTIONS
    if multi:
        options = LONG
    elif n == 3 and input.dtype == torch.float64:
        options = ROOMIEST
    elif n == 3 or MODE_NAMES[mode] == "bicubic" or input.dtype == torch.float64 or channels_last:
        options = ROOMY
    kernel = linearized_scatter if multi else warp_backward
    launch(kernel, count * parts, taken(kernel, arguments, multi), block, options)
    if not need_input:
        return input.new_empty(0), grad_params
    return (fixed_point.to_float(sums, scale) if deterministic else sums).to(input.dtype), grad_params


def no_gradient(params, needed):
    """Zeros if a gradient is needed."""
    return params.new_zeros(params.shape if needed else 0)
