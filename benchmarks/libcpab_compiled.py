"""libcpab's own compiled code as a peer: the extension of a checkout of its repository at $LIBCPAB_DIR.

The package on PyPI has none of it, and the checkout's Python does not import beside a current SciPy: what calls the
extension is here. It knows the gradient to theta alone.
"""

import functools
import os
import pathlib
from collections.abc import Callable

import torch

from .cases import Case

ENVIRONMENT = "LIBCPAB_DIR"
NAME = "libcpab compiled"
STEPS = 50  # its default


def available() -> bool:
    return ENVIRONMENT in os.environ


@functools.cache
def extension(device: str):
    """Its module for "cpu" or "cuda" tensors, with forward and backward; compiled at the first call (a minute)."""
    from torch.utils.cpp_extension import load

    folder = pathlib.Path(os.environ[ENVIRONMENT]) / "libcpab"
    names = {
        "cpu": ("pytorch/transformer.cpp", "core/cpab_ops.cpp"),
        "cuda": ("pytorch/transformer_cuda.cpp", "pytorch/transformer_cuda.cu", "core/cpab_ops.cu"),
    }[device]
    sources = [str(folder / name) for name in names]
    return load(f"libcpab_{device}", sources, extra_cflags=["-O3"], with_cuda=device == "cuda")


class _Transform(torch.autograd.Function):
    """points (n, P), constants; generators (B, cells, n, n + 1), linear in theta by the basis (d, cells, n, n + 1)."""

    @staticmethod
    def forward(ctx, points, theta, basis, shape):
        n = len(points)
        generators = (theta @ basis.flatten(1)).unflatten(1, basis.shape[1:])
        square = torch.cat([generators, torch.zeros_like(generators[..., :1, :])], -2)
        maps = torch.linalg.matrix_exp(square / STEPS)[..., :n, :].contiguous()
        sizes = torch.tensor(STEPS, dtype=torch.int32), torch.tensor(shape, dtype=torch.int32)
        steps, shape = (size.to(points.device) for size in sizes)
        ctx.save_for_backward(points, generators.contiguous(), basis, steps, shape)
        return extension(points.device.type).forward(points, maps, steps, shape)

    @staticmethod
    def backward(ctx, grad):
        jacobian = extension(grad.device.type).backward(*ctx.saved_tensors)  # (d, B, n, P)
        return None, jacobian.mul_(grad).sum((2, 3)).T, None, None


def transform(case: Case) -> Callable:
    """(points (P, n), theta (B, d)) -> (B, P, n)."""
    tessellation = case.tessellation
    n = tessellation.n
    basis = tessellation.basis.T.float().unflatten(1, (tessellation.cells, n, n + 1)).contiguous()

    def run(points, theta):
        return _Transform.apply(points.T.contiguous(), theta, basis.to(theta.device), tessellation.shape).mT

    return run
