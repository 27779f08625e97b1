"""Sampling at coordinates that the user already has."""

import torch

from .. import _checks, _library
from .._library import MODE_NAMES, PADDING_NAMES
from ..reference import sampling as reference
from . import linearized
from ._broadcast import over_batch
from ._double_backward import double_backward_at_grid
from ._vmap import into_batch
from ._warp import declare_sample

DOUBLE_BACKWARD_SCHEMA = (
    "(Tensor grad_grad_input, Tensor grad_grad_grid, Tensor grad_output, Tensor input, Tensor grid, int mode,"
    " int padding_mode, bool align_corners, bool need_grad_output, bool need_input, bool need_grid,"
    " bool deterministic) -> (Tensor, Tensor, Tensor)"
)


def grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False, *, backend=None):
    """Samples input at given coordinates: `torch.nn.functional.grid_sample`, with S grids an image without copies.

    Args:
        input: images (B, C, *in) with in = (W,), (H, W) or (D, H, W), or one image (B = 1) for a batch of grids;
            float32, float64, float16 or bfloat16; contiguous, channels_last or strided.
        grid: normalized coordinates (B, *out, n), or (B, S, *out, n) for S grids an image; the last dimension is
            (x,), (x, y) or (x, y, z), and [-1, 1] spans the image. Any floating dtype; a float32 grid keeps its
            precision whatever the image's dtype.
        mode: "bilinear" (linear in 1-D, trilinear in 3-D), "nearest", "bicubic" (cubic, tricubic; a = -0.75), or
            "linearized", which is `Linearized()`, or another `Linearized`.
        padding_mode: "zeros", "border" or "reflection": what lies outside the image (`reference/sampling.py`).
        align_corners: whether -1 and 1 are the centres of the border pixels (True) or their outer edges (False).
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B, C, *out), or (B, S, C, *out) if grid has a sample dimension; the dtype of input; channels_last if input is.
        Differentiable in input and grid, twice.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    if not torch.compiler.is_compiling():
        result = _library.eager_sample("grid", input, grid, None, mode, padding_mode, align_corners, backend)
        if result is not None:
            return result
    n = _checks.image(input, (1, 2, 3))
    _checks.grid(grid, n)
    _checks.same_batch_and_device("grid", grid, input, broadcast=True)
    padding = _checks.padding_mode(padding_mode)
    _checks.flag("align_corners", align_corners)
    if linearized.chosen(mode):
        size = grid.shape[-n - 1 : -1]
        return linearized.sample(mode, "grid", input, grid, n + 1, size, padding, align_corners, backend)
    options = _checks.mode(mode, MODE_NAMES), padding, align_corners

    def run(grid):
        return _library.call("grid_sample", backend, input, grid, *options, sampler=(mode, n))

    return over_batch(run, input, grid, n + 1)


# The second backward, bilinear and nearest; a cotangent without elements is none.
def _fake_double_backward(gg_input, gg_grid, grad_output, input, grid, mode, padding_mode, align_corners, *needs):
    tensors = grad_output, input, grid
    return tuple(t.new_empty(t.shape if need else 0) for t, need in zip(tensors, needs[:3], strict=True))


def _reference_double_backward(gg_input, gg_grid, grad_output, input, grid, mode, padding_mode, align_corners, *needs):
    cotangents = (None if gg.numel() == 0 else gg for gg in (gg_input, gg_grid))
    options = PADDING_NAMES[padding_mode], align_corners, MODE_NAMES[mode]
    results = reference.grid_sample_double_backward(*cotangents, grad_output, input, grid, *options)
    return tuple(t.contiguous() if need else t.new_empty(0) for t, need in zip(results, needs[:3], strict=True))


_library.declare(
    _library.Op(
        "_grid_sample_double_backward",
        DOUBLE_BACKWARD_SCHEMA,
        _fake_double_backward,
        _reference_double_backward,
        vmap=into_batch("_grid_sample_double_backward", 5),
    )
)
declare_sample(
    "grid_sample",
    "grid",
    reference.grid_sample,
    reference.grid_sample_backward,
    double_backward=double_backward_at_grid,
    sized=False,
)
