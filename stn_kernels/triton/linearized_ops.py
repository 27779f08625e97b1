"""The operators of linearized multi-sampling on Triton kernels, at any transform."""

import math
import struct

import torch

from .._library import MODES
from ..ops.linearized import TRANSFORMS
from ..reference.linearized import WEIGHTINGS
from . import fixed_point, warp_ops
from .launch import COMPUTE, LONG, block_shape, launch
from .linearized import linearized_bounds
from .parameter_sums import theta_from_moments, total
from .warp_ops import coordinate_dtype, no_gradient, sizes


def linearized_sample(
    input, params, control_points, seed, offsets, transform, size, padding_mode, align_corners, *options
):
    name, lead = TRANSFORMS[transform], _lead(input, params, transform)
    multi = None if options[3] else _arguments(name, input, params, seed, offsets, size, *options)
    where = MODES["bilinear"], padding_mode, align_corners
    return warp_ops.forward(name, input, params, lead, size, *where, control_points, multi)


def linearized_sample_backward(
    grad_output, input, params, control_points, seed, offsets, transform, size, padding_mode, align_corners, *options
):
    *options, need_input, need_params, deterministic = options
    name, fixed_bias, through_samples = TRANSFORMS[transform], options[3], options[-1]
    multi = _arguments(name, input, params, seed, offsets, size, *options)
    tensors = warp_ops.like_input(grad_output, input), input, params
    where = MODES["bilinear"], padding_mode, align_corners
    through = through_samples and not fixed_bias
    largest = None
    if through and need_input and deterministic and grad_output.numel() > 0:
        largest = _largest(grad_output, input, multi, size, align_corners, coordinate_dtype(name, input, params))
    needs = need_input and through, need_params, deterministic
    grad_input, sums = warp_ops.backward(name, *tensors, *where, *needs, control_points, multi, largest)
    if need_input and not through:
        grad_input, _ = warp_ops.backward(name, *tensors, *where, True, False, deterministic, control_points)
    if sums is None:
        return grad_input, no_gradient(params, need_params)
    if name == "grid":
        return grad_input, sums
    if name == "affine":
        spans = [s - align_corners for s in reversed(input.shape[2:])]
        return grad_input, theta_from_moments(sums, params, spans, size, align_corners)
    return grad_input, total(sums, params)


IMPLEMENTATIONS = {
    "_linearized_sample": linearized_sample,
    "_linearized_sample_backward": linearized_sample_backward,
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
