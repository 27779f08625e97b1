"""Several processes train the model of one: each takes its share of the batch.

In every process a step draws the random numbers of the whole batch and uses those of its share (`Share`), batch
normalization takes its statistics over all shares, and gradients are averaged. A loss must be a mean over the batch's
examples. Where it is not (`Experiment.joint`), and for networks with a linearized sampler, whose offsets depend on an
item's place in the batch, every process computes all of the batch: that is the same model, but no faster. The results
differ from one process's by rounding: sums are taken in another order. Adam makes steps of it where a gradient is zero
but for rounding, as that of a bias in front of a batch normalization, which changes no output.
"""

import atexit
import os
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.nn  # imported after the group is made, its default arguments would keep it
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stn_kernels import Linearized


def ranks() -> tuple[int, int]:
    """This process's number and how many train together."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def join(device: str) -> None:
    """Joins the processes that torchrun started, if it did."""
    if "RANK" in os.environ and not dist.is_initialized():
        if device.startswith("cuda"):
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        atexit.register(leave)


def leave() -> None:
    """Ends the group's threads, which need Python to free tensors."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Mean(torch.autograd.Function):
    """The mean over the processes; its gradient is the mean of theirs, as that of `average_gradients`."""

    @staticmethod
    def forward(ctx, x):
        return mean(x)

    @staticmethod
    def backward(ctx, grad):
        return mean(grad)


def mean(x: torch.Tensor) -> torch.Tensor:
    """Over the processes, without a gradient."""
    world = ranks()[1]
    if world == 1:
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / world


def gathered(x: torch.Tensor) -> torch.Tensor:
    """The shares of all processes, one after the other along the first dimension."""
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(ranks()[1])]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def has_linearized(network: torch.nn.Module) -> bool:
    """Whether a transformer of the network has the linearized sampler."""
    return any(isinstance(getattr(module, "mode", None), Linearized) for module in network.modules())


def average_gradients(network: torch.nn.Module) -> None:
    """Over the processes, in one message."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    if ranks()[1] == 1 or not gradients:
        return
    flat = mean(torch.cat([g.flatten() for g in gradients]))
    for gradient, average in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(average.view_as(gradient))


def batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """torch's, with the statistics of all processes' shares (B, C, ...) of a batch."""
    if not training:
        return torch.batch_norm(x, weight, bias, running_mean, running_var, False, momentum, eps, False)
    over, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
    center = Mean.apply(x.mean(over))
    centered = x - center.view(shape)
    variance = Mean.apply(centered.square().mean(over))
    if running_mean is not None:
        count = ranks()[1] * x.numel() // x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(center, momentum)
            running_var.lerp_(variance * count / (count - 1), momentum)
    x = centered * (variance + eps).rsqrt().view(shape)
    return x if weight is None else x * weight.view(shape) + bias.view(shape)


class Share(TorchDispatchMode):
    """While it is on, this process's part of a batch sees what one process would have drawn for it.

    Random tensors whose first dimension is a multiple of the share's examples are taken to be of the batch: they are
    drawn for all of it, in every process from the same seed, and this share's rows are kept. Others are drawn alike.

    Args:
        examples: of this share.
    """

    def __init__(self, examples: int, rank: int, world: int):
        super().__init__()
        self.examples, self.rank, self.world = examples, rank, world
        self.normalization = mock.patch.object(F, "batch_norm", batch_norm)

    def __enter__(self):
        self.normalization.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.normalization.stop()
        return super().__exit__(*error)

    def mine(self, whole: torch.Tensor) -> torch.Tensor:
        return whole.chunk(self.world)[self.rank].clone()

    def of_the_batch(self, shape) -> bool:
        return len(shape) > 0 and shape[0] > 0 and shape[0] % self.examples == 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operator is torch.ops.stn_kernels._linearized_sample.default:
            raise NotImplementedError("a linearized sampler in a share of a batch would draw the offsets of another")
        if torch.Tag.nondeterministic_seeded not in operator.tags:
            return operator(*args, **kwargs)
        named = [*zip((a.name for a in operator._schema.arguments), args, strict=False), *kwargs.items()]
        sizes = [value for name, value in named if name == "size"]
        tensors = [value for _, value in named if isinstance(value, torch.Tensor)]
        if not any(map(self.of_the_batch, [*sizes, *(t.shape for t in tensors)])):
            return operator(*args, **kwargs)
        filled = args[0] if operator._schema.is_mutable else None  # its values do not matter

        def widened(name, value):
            if value is filled and filled is not None:
                return filled.new_empty(self.world * len(filled), *filled.shape[1:])
            if isinstance(value, torch.Tensor) and self.of_the_batch(value.shape):
                return gathered(value)
            return [self.world * value[0], *value[1:]] if name == "size" else value

        values = [widened(*pair) for pair in named]
        drawn = operator(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))
        if filled is not None:
            return filled.copy_(self.mine(drawn))
        return tuple(map(self.mine, drawn)) if isinstance(drawn, tuple) else self.mine(drawn)
