"""The second backward of a sampling op: autograd through the reference's backward, plain differentiable torch."""

import torch

from .._library import MODE_NAMES, PADDING_NAMES


def reference_double_backward(reference_backward):
    """(setup_context, namespace -> backward) of a sampling op's backward.

    Its arguments: grad_output, input, coordinates, mode, padding_mode, align_corners, two needs, deterministic.
    """

    def setup_context(ctx, inputs, output):
        grad_output, input, coords, mode, padding_mode, align_corners, *ctx.needed, _ = inputs
        ctx.options = PADDING_NAMES[padding_mode], align_corners, MODE_NAMES[mode]
        ctx.save_for_backward(grad_output, input, coords)

    def backward(ctx, *grads):
        with torch.enable_grad():
            tensors = [t.detach().requires_grad_() for t in ctx.saved_tensors]
            first = reference_backward(*tensors, *ctx.options)
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
        return (*second, None, None, None, None, None, None)

    return setup_context, lambda namespace: backward
