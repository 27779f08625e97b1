"""What the papers' networks are put together from."""

import copy
from collections.abc import Callable

import torch
from torch import nn


def stage(channels_in: int, channels: int, kernel: int, *more: nn.Module, padding: int = 0, bias: bool = True):
    """A convolution with what follows it: by default 2x2 max-pooling and ReLU."""
    following = more or (nn.MaxPool2d(2), nn.ReLU())
    return nn.Sequential(nn.Conv2d(channels_in, channels, kernel, padding=padding, bias=bias), *following)


def fully_connected(*widths: int) -> nn.Sequential:
    """Flattens, then a linear layer and ReLU a width; the number of inputs is found at the first call."""
    layers = [layer for width in widths for layer in (nn.LazyLinear(width), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers)


def classifier(*widths: int, classes: int = 10) -> nn.Sequential:
    """`fully_connected` and the logits of the classes."""
    return nn.Sequential(*fully_connected(*widths), nn.LazyLinear(classes))


def identity_head(numbers: int) -> nn.LazyLinear:
    """The last layer of a localization network; `materialized` sets it to zero, which is the identity."""
    head = nn.LazyLinear(numbers)
    head.starts_at_identity = True
    return head


def materialized(network: nn.Module, *shape: int) -> nn.Module:
    """The network after one call on zeros (1, *shape): layers know their sizes, localization heads are zero."""
    training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, *shape))
        for module in network.modules():
            if getattr(module, "starts_at_identity", False):
                module.weight.zero_()
                module.bias.zero_()
    return network.train(training)


class Frozen(nn.Module):
    """A trained network that stays as it is: without gradients of its own, in evaluation mode whatever its parent's."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True):
        return super().train(False)

    def forward(self, x):
        return self.network(x)


def fresh_copy(module: nn.Module) -> nn.Module:
    """The same layers with weights of their own."""
    result = copy.deepcopy(module)
    for layer in result.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return result


def parameter_count(network: nn.Module) -> int:
    """The number of trainable numbers."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def within_budget(build: Callable[[int], nn.Module], budget: int, widths=range(2, 513)) -> nn.Module:
    """build(width) with the width whose number of parameters is nearest to the budget; counts must grow with it.

    Raises:
        ValueError: the nearest is more than 5 % away.
    """
    low, high = 0, len(widths) - 1
    while low < high:
        middle = (low + high) // 2
        if parameter_count(build(widths[middle])) < budget:
            low = middle + 1
        else:
            high = middle
    near = [widths[i] for i in (low - 1, low) if i >= 0]
    found = min((build(width) for width in near), key=lambda network: abs(parameter_count(network) - budget))
    if abs(parameter_count(found) - budget) > 0.05 * budget:
        raise ValueError(
            f"no width from {widths[0]} to {widths[-1]} gives about {budget:,} parameters, "
            f"the nearest {parameter_count(found):,}"
        )
    return found
