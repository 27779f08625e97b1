"""Sums that do not depend on their order: int64 multiples of a power of two, chosen on the device from the gradient."""

import torch


def scale(grad_output, dtype):
    """The power of two, one an image (B,), with which the sums over all outputs of an image stay below 2^62.

    What is lost is below 2^-61 of the largest gradient times the outputs of an image. NaN if a gradient is not finite:
    then so is the whole image's sum.
    """
    largest = torch.linalg.vector_norm(grad_output, torch.inf, dim=tuple(range(1, grad_output.dim()))).double()
    bits = grad_output[0, :, 0].numel().bit_length()
    limit = 126 if dtype == torch.float32 else 1000  # the scale and its inverse are normal numbers
    exponent = (62 - bits - torch.frexp(largest).exponent).clamp(-limit, limit)
    power = torch.ldexp(torch.ones_like(largest), exponent)
    return torch.where(largest.isfinite(), power, torch.nan).to(dtype)


def to_float(sums, scale):
    """int64 sums (B, C, H, W) -> floating point, in the same memory layout."""
    return sums * (1 / scale).reshape(-1, 1, 1, 1)
