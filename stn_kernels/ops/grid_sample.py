"""Sampling at coordinates that the user already has."""

import torch

from .. import _checks, _library
from .._library import PADDING_NAMES
from ..reference import sampling as reference
from ._double_backward import reference_double_backward
from ._outputs import empty_images, is_channels_last, store_images

SCHEMA = "(Tensor input, Tensor grid, int mode, int padding_mode, bool align_corners) -> Tensor"
BACKWARD_SCHEMA = (
    "(Tensor grad_output, Tensor input, Tensor grid, int mode, int padding_mode, bool align_corners,"
    " bool need_input, bool need_grid, bool deterministic) -> (Tensor, Tensor)"
)


def grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False, *, backend=None):
    """Samples input at given coordinates: `torch.nn.functional.grid_sample`, with S grids an image without copies.

    Args:
        input: images (B, C, H, W); float32, float64, float16 or bfloat16; contiguous, channels_last or strided.
        grid: normalized coordinates (B, Ho, Wo, 2), or (B, S, Ho, Wo, 2) for S grids an image; the last dimension is
            (x, y), and [-1, 1] spans the image. Any floating dtype; a float32 grid keeps its precision whatever the
            image's dtype.
        mode: "bilinear".
        padding_mode: "zeros", "border" or "reflection": what lies outside the image (`reference/sampling.py`).
        align_corners: whether -1 and 1 are the centres of the border pixels (True) or their outer edges (False).
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B, C, Ho, Wo), or (B, S, C, Ho, Wo) if grid has a sample dimension; the dtype of input; channels_last if
        input is. Differentiable in input and grid, twice (the second backward runs on the reference).

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    _checks.image(input)
    _checks.grid(grid)
    _checks.same_batch_and_device("grid", grid, input)
    mode = _checks.mode(mode)
    padding_mode = _checks.padding_mode(padding_mode)
    _checks.flag("align_corners", align_corners)
    return _library.call("grid_sample", backend, input, grid, mode, padding_mode, align_corners)


def _fake(input, grid, mode, padding_mode, align_corners):
    size = grid.shape[-3:-1]
    return empty_images(input, (*grid.shape[:-3], input.shape[1], *size), is_channels_last(input))


def _reference(input, grid, mode, padding_mode, align_corners):
    output = reference.grid_sample(input, grid, PADDING_NAMES[padding_mode], align_corners)
    return store_images(output, is_channels_last(input))


def _fake_backward(grad_output, input, grid, mode, padding_mode, align_corners, need_input, need_grid, deterministic):
    grad_input = empty_images(input, input.shape, is_channels_last(input)) if need_input else input.new_empty(0)
    return grad_input, grid.new_empty(grid.shape if need_grid else 0)


def _reference_backward(
    grad_output, input, grid, mode, padding_mode, align_corners, need_input, need_grid, deterministic
):
    grad_input, grad_grid = reference.grid_sample_backward(
        grad_output, input, grid, PADDING_NAMES[padding_mode], align_corners
    )
    return (
        store_images(grad_input, is_channels_last(input)) if need_input else input.new_empty(0),
        grad_grid.contiguous() if need_grid else grid.new_empty(0),
    )


def _setup_context(ctx, inputs, output):
    input, grid, *ctx.options = inputs
    ctx.save_for_backward(input, grid)


def _backward(namespace):
    def backward(ctx, grad_output):
        need_input, need_grid = ctx.needs_input_grad[:2]
        deterministic = torch.are_deterministic_algorithms_enabled()
        grad_input, grad_grid = _library.call_in(
            namespace,
            "_grid_sample_backward",
            grad_output,
            *ctx.saved_tensors,
            *ctx.options,
            need_input,
            need_grid,
            deterministic,
        )
        return grad_input if need_input else None, grad_grid if need_grid else None, None, None, None

    return backward


_library.declare(
    _library.Op(
        "_grid_sample_backward",
        BACKWARD_SCHEMA,
        _fake_backward,
        _reference_backward,
        *reference_double_backward(reference.grid_sample_backward),
    )
)
_library.declare(_library.Op("grid_sample", SCHEMA, _fake, _reference, _setup_context, _backward))
