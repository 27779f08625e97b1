"""The bilinear sampler (linear in 1-D, trilinear in 3-D): two taps along an axis."""

import triton
import triton.language as tl

from .coords import is_index, pad


@triton.jit
def place(x, size, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """The taps of pixel coordinates along an axis: the first one, the fraction beyond it, the slope of the padding."""
    x, slope = pad(x, size, PADDING, ALIGN)
    low = tl.floor(x)
    return low.to(tl.int32), x - low, slope


@triton.jit
def tap(first, fraction, size, k):
    """Tap k: its pixel, whether it exists, its weight and the weight's derivative."""
    index = first + k
    return index, is_index(index, size), tl.where(k == 0, 1 - fraction, fraction), 2.0 * k - 1.0
