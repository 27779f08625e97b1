"""Sums that do not depend on their order: int64 multiples of a power of two, chosen on the device from the gradient."""

import torch


def largest(values):
    """The largest absolute value of an image (B,), in float64."""
    return torch.linalg.vector_norm(values, torch.inf, dim=tuple(range(1, values.dim()))).double()


def scale(largest, outputs, dtype):
    """The power of two, one an image (B,), with which sums of outputs, each at most `largest`, stay below 2^61.

    They stay below 2^63 with the weights of bicubic, whose absolute values sum up to 1.375 along an axis. What is lost
    is below 2^-60 of the sum's bound. NaN if a bound is not finite: then so is the whole image's sum.
    """
    limit = 126 if dtype == torch.float32 else 1000  # the scale and its inverse are normal numbers
    exponent = (61 - outputs.bit_length() - torch.frexp(largest).exponent).clamp(-limit, limit)
    power = torch.ldexp(torch.ones_like(largest), exponent)
    return torch.where(largest.isfinite(), power, torch.nan).to(dtype)


def to_float(sums, scale):
    """int64 sums (B, C, *in) -> floating point, in the same memory layout."""
    return sums * (1 / scale).reshape(-1, *[1] * (sums.dim() - 1))
