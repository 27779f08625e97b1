"""Operators of a transform: the one that samples, and the one of coordinates alone.

Their parameters are (B[, S], rows, columns), or a grid (B[, S], *out, n).
`constants` names tensors that follow the parameters and are not differentiated, such as control points.
"""

import torch

from .. import _library
from .._library import MODE_NAMES, PADDING_NAMES
from ..reference.sampling import compute_dtype
from ._double_backward import grid_double_backward, reference_double_backward
from ._outputs import empty_images, is_channels_last, store_images
from ._vmap import into_batch, sampling


def declare_sample(name, parameters, reference, reference_backward, constants=(), *, double_backward=None, sized=True):
    """Declares `name` and `_name_backward`.

    Args:
        parameters: the name of the differentiable parameters in the schema.
        reference: (input, parameters, *constants[, size], padding_mode, align_corners, mode) -> output.
        reference_backward: (grad_output, input, parameters, *constants, padding_mode, align_corners, mode) -> both
            gradients.
        constants: names of further tensors.
        double_backward: as `double_backward_at_grid`, for where there are kernels of the second backward.
        sized: whether the output's size is an argument; else the parameters are a grid and have it.
    """
    count = len(constants)
    tensors = ", ".join(f"Tensor {t}" for t in ("input", parameters, *constants))
    options = "int mode, int padding_mode, bool align_corners"
    schema = f"({tensors}, {'SymInt[] size, ' if sized else ''}{options}) -> Tensor"
    needs = f"bool need_input, bool need_{parameters}, bool deterministic"
    backward_schema = f"(Tensor grad_output, {tensors}, {options}, {needs}) -> (Tensor, Tensor)"
    backward_name, constant_gradients = f"_{name}_backward", (None,) * (count + sized + 3)

    def fake(input, values, *rest):
        n = input.dim() - 2
        lead, size = (values.shape[:-2], rest[count]) if sized else (values.shape[: -n - 1], values.shape[-n - 1 : -1])
        return empty_images(input, (*lead, input.shape[1], *size), is_channels_last(input), n)

    def forward(input, values, *rest):
        *first, mode, padding_mode, align_corners = rest
        output = reference(input, values, *first, PADDING_NAMES[padding_mode], align_corners, MODE_NAMES[mode])
        return store_images(output, is_channels_last(input), input.dim() - 2)

    def fake_backward(grad_output, input, values, *rest):
        need_input, need_values, _ = rest[-3:]
        grad_input = input.new_empty(0)
        if need_input:
            grad_input = empty_images(input, input.shape, is_channels_last(input), input.dim() - 2)
        return grad_input, values.new_empty(values.shape if need_values else 0)

    def backward(grad_output, input, values, *rest):
        mode, padding_mode, align_corners, need_input, need_values, _ = rest[count:]
        options = PADDING_NAMES[padding_mode], align_corners, MODE_NAMES[mode]
        grad_input, grad_values = reference_backward(grad_output, input, values, *rest[:count], *options)
        return (
            store_images(grad_input, is_channels_last(input), input.dim() - 2) if need_input else input.new_empty(0),
            grad_values.contiguous() if need_values else values.new_empty(0),
        )

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[: 2 + count])
        ctx.options = inputs[-3:]

    def formula(namespace):
        def gradient(ctx, grad_output):
            need_input, need_values = ctx.needs_input_grad[:2]
            deterministic = torch.are_deterministic_algorithms_enabled()
            arguments = (*ctx.saved_tensors, *ctx.options, need_input, need_values, deterministic)
            grad_input, grad_values = _library.call_in(namespace, backward_name, grad_output, *arguments)
            given = grad_input if need_input else None, grad_values if need_values else None
            return given + constant_gradients

        return gradient

    second = reference_double_backward(reference_backward, count, double_backward)
    vmap = sampling(backward_name, 1, count, sized, backward=True)
    _library.declare(_library.Op(backward_name, backward_schema, fake_backward, backward, *second, vmap))
    vmap = sampling(name, 1, count, sized)
    _library.declare(_library.Op(name, schema, fake, forward, setup_context, formula, vmap))


def declare_grid(name, parameters, reference, reference_backward, constants=()):
    """Declares `name` and `_name_backward`.

    Args:
        parameters: the name of the differentiable parameters in the schema.
        reference: (parameters, *constants, size, align_corners) -> grid (B[, S], *size, n).
        reference_backward: (grad_output, parameters, *constants, align_corners) -> the gradient of the parameters.
        constants: names of further tensors.
    """
    count = len(constants)
    tensors = ", ".join(f"Tensor {t}" for t in (parameters, *constants))
    schema = f"({tensors}, SymInt[] size, bool align_corners) -> Tensor"
    backward_schema = f"(Tensor grad_output, {tensors}, bool align_corners) -> Tensor"

    def fake(values, *rest):
        size = rest[count]
        return values.new_empty((*values.shape[:-2], *size, len(size)), dtype=compute_dtype(values))

    def fake_backward(grad_output, values, *rest):
        return grad_output.new_empty(values.shape)

    def backward(grad_output, values, *rest):
        return reference_backward(grad_output, values.to(grad_output.dtype), *rest)

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[: 1 + count])
        ctx.align_corners = inputs[-1]

    def formula(namespace):
        def gradient(ctx, grad_output):
            arguments = (*ctx.saved_tensors, ctx.align_corners)
            grad = _library.call_in(namespace, f"_{name}_backward", grad_output, *arguments)
            return (grad.to(ctx.saved_tensors[0].dtype), *[None] * (count + 2))

        return gradient

    double_backward = grid_double_backward(backward, count)
    vmap = into_batch(f"_{name}_backward", 2, count)
    _library.declare(_library.Op(f"_{name}_backward", backward_schema, fake_backward, backward, *double_backward, vmap))
    vmap = into_batch(name, 1, count)
    _library.declare(_library.Op(name, schema, fake, reference, setup_context, formula, vmap))
