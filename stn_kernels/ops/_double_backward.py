"""The second backward of an operator: autograd through the reference's backward, plain differentiable torch."""

import torch

from .._library import MODE_NAMES, PADDING_NAMES


def reference_double_backward(reference_backward, constants=0):
    """(setup_context, namespace -> backward) of a sampling op's backward.

    Its arguments: grad_output, input, coordinates, as many constant tensors, mode, padding_mode, align_corners, two
    needs, deterministic.
    """

    def setup_context(ctx, inputs, output):
        mode, padding_mode, align_corners, *ctx.needed, _ = inputs[3 + constants :]
        ctx.options = PADDING_NAMES[padding_mode], align_corners, MODE_NAMES[mode]
        ctx.save_for_backward(*inputs[: 3 + constants])

    def backward(ctx, *grads):
        with torch.enable_grad():
            tensors = [t.detach().requires_grad_() for t in ctx.saved_tensors[:3]]
            first = reference_backward(*tensors, *ctx.saved_tensors[3:], *ctx.options)
        # A gradient that is 0 everywhere, as nearest's to the coordinates, is not connected to anything.
        wanted = [
            i for i, needed in enumerate(ctx.needed) if needed and grads[i] is not None and first[i].requires_grad
        ]
        second = torch.autograd.grad(
            [first[i] for i in wanted],
            tensors,
            [grads[i] for i in wanted],
            allow_unused=True,
            create_graph=torch.is_grad_enabled(),
        )
        return (*second, *[None] * (6 + constants))

    return setup_context, lambda namespace: backward


def grid_double_backward(reference_backward, constants=0):
    """The same for an op of coordinates alone; its arguments: grad_output, parameters, constants, align_corners."""

    def setup_context(ctx, inputs, output):
        ctx.align_corners = inputs[-1]
        ctx.save_for_backward(*inputs[:-1])

    def backward(ctx, grad):
        with torch.enable_grad():
            tensors = [t.detach().requires_grad_() for t in ctx.saved_tensors[:2]]
            first = reference_backward(*tensors, *ctx.saved_tensors[2:], ctx.align_corners)
        second = torch.autograd.grad(
            first, tensors, grad, allow_unused=True, create_graph=torch.is_grad_enabled(), materialize_grads=True
        )
        return (*second, *[None] * (1 + constants))

    return setup_context, lambda namespace: backward
