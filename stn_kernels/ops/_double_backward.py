"""The second backward of an operator: a kernel where there is one, else autograd through the reference's backward."""

import functools

import torch

from .. import _library
from .._library import MODE_NAMES, PADDING_NAMES
from ..reference.sampling import compute_dtype


def by_autograd(backward, tensors, grads, needed):
    """Gradients to tensors of <grads, backward(*tensors)>, a None among tensors staying one.

    Args:
        backward: tensors -> the first gradients, as a function that autograd follows.
        grads: the cotangents of the first gradients; None for none.
        needed: which of the first gradients were asked for.
    """
    wanted = [i for i, need in enumerate(needed) if need and grads[i] is not None]
    present = [i for i, t in enumerate(tensors) if t is not None]

    def first(*leaves):
        given = dict(zip(present, leaves, strict=True))
        gradients = backward(*(given.get(i) for i in range(len(tensors))))
        return tuple(gradients[i] for i in wanted)

    _, pull_back = torch.func.vjp(first, *(tensors[i] for i in present))  # differentiable itself, in all of them
    found = dict(zip(present, pull_back(tuple(grads[i] for i in wanted)), strict=True))
    return [found.get(i) for i in range(len(tensors))]


def double_backward_at_grid(namespace, gg_input, gg_grid, grad_output, input, grid, options, needs):
    """Gradients to grad_output, input and grid by `_grid_sample_double_backward`; a cotangent may be None."""
    nothing = input.new_empty(0)
    cotangents = (nothing if gg is None else gg for gg in (gg_input, gg_grid))
    name = "_grid_sample_double_backward"
    deterministic = torch.are_deterministic_algorithms_enabled()
    return _library.call_in(namespace, name, *cotangents, grad_output, input, grid, *options, *needs, deterministic)


def double_backward_at_transform(transform, reference_backward):
    """The same for `{transform}_sample`, at the grid of its parameters: (..., parameters, *constants, options, needs).

    Args:
        reference_backward: (gradient of the grid, parameters, *constants, align_corners) -> that of the parameters;
            None if the transform is linear in them.
    """

    def double_backward(namespace, gg_input, gg_values, grad_output, input, values, *rest):
        *constants, options, needs = rest
        size, align_corners = grad_output.shape[values.dim() - 1 :], options[-1]
        wide = values.to(compute_dtype(input, values))

        def grid_of(parameters):
            return _library.call_in(namespace, f"{transform}_grid", parameters, *constants, size, align_corners)

        grid, gg_grid, curvature = grid_of(wide), None, None
        if gg_values is not None and reference_backward is None:
            gg_grid = grid_of(gg_values.to(wide.dtype))
        elif gg_values is not None:
            deterministic = torch.are_deterministic_algorithms_enabled()
            arguments = (grad_output, input, grid, *options, False, True, deterministic)
            _, grad_grid = _library.call_in(namespace, "_grid_sample_backward", *arguments)
            gg_grid, curvature = by_autograd(
                lambda grad, parameters: (reference_backward(grad, parameters, *constants, align_corners),),
                (grad_grid, wide),
                [gg_values.to(wide.dtype)],
                [True],
            )
        of_output, of_input, of_grid = double_backward_at_grid(
            namespace, gg_input, gg_grid, grad_output, input, grid, options, needs
        )
        if needs[2]:
            parameters = () if transform == "affine" else (wide,)
            name = f"_{transform}_grid_backward"
            of_values = _library.call_in(namespace, name, of_grid, *parameters, *constants, align_corners)
            of_grid = (of_values if curvature is None else of_values + curvature).to(values.dtype)
        return of_output, of_input, of_grid

    return double_backward


def reference_double_backward(reference_backward, constants=0, kernel=None):
    """(setup_context, namespace -> backward) of a sampling op's backward.

    Its arguments: grad_output, input, coordinates, as many constant tensors, mode, padding_mode, align_corners, two
    needs, deterministic.

    kernel: as `double_backward_at_grid`, for where `_library.SECOND_BACKWARD` has one and no third derivative is due.
    """

    def setup_context(ctx, inputs, output):
        mode, padding_mode, align_corners, *ctx.needed, _ = inputs[3 + constants :]
        ctx.options = PADDING_NAMES[padding_mode], align_corners, MODE_NAMES[mode]
        ctx.codes = mode, padding_mode, align_corners
        ctx.save_for_backward(*inputs[: 3 + constants])

    def with_kernel(ctx, namespace, grads):
        grads = [grad if needed else None for grad, needed in zip(grads, ctx.needed, strict=True)]
        needs = ctx.needs_input_grad[:3]
        if ctx.options[-1] == "nearest":  # linear in the image, constant in the coordinates
            needs = (needs[0], False, False)
        second = kernel(namespace, *grads, *ctx.saved_tensors, ctx.codes, needs)
        second = (s if need else None for s, need in zip(second, needs, strict=True))
        return (*second, *[None] * (6 + constants))

    def backward(namespace, ctx, *grads):
        device = ctx.saved_tensors[0].device.type
        if kernel and not torch.is_grad_enabled() and _library.has_second_backward(namespace, device, ctx.options[-1]):
            return with_kernel(ctx, namespace, grads)
        constant = ctx.saved_tensors[3:]
        second = by_autograd(
            lambda *leaves: reference_backward(*leaves, *constant, *ctx.options),
            ctx.saved_tensors[:3],
            grads,
            ctx.needed,
        )
        return (*second, *[None] * (6 + constants))

    return setup_context, lambda namespace: functools.partial(backward, namespace)


def grid_double_backward(reference_backward, constants=0):
    """The same for an op of coordinates alone; its arguments: grad_output, parameters, constants, align_corners."""

    def setup_context(ctx, inputs, output):
        ctx.align_corners = inputs[-1]
        ctx.save_for_backward(*inputs[:-1])

    def backward(ctx, grad):
        constant = ctx.saved_tensors[2:]
        second = by_autograd(
            lambda *leaves: (reference_backward(*leaves, *constant, ctx.align_corners),),
            ctx.saved_tensors[:2],
            [grad],
            [True],
        )
        return (*second, *[None] * (1 + constants))

    return setup_context, lambda namespace: backward
