"""The sampler that reads the nearest pixel: one tap along an axis."""

import triton
import triton.language as tl

from .coords import is_index, pad


@triton.jit
def place(x, size, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """The pixel nearest to pixel coordinates along an axis, halves to even; no fraction, no slope."""
    x, slope = pad(x, size, PADDING, ALIGN)
    low = tl.floor(x)
    first = low.to(tl.int32)
    odd = low - 2.0 * tl.floor(low * 0.5)
    up = (x - low > 0.5) | ((x - low == 0.5) & (odd > 0.5))
    return first + up.to(tl.int32), x * 0, slope * 0


@triton.jit
def tap(first, fraction, size, k):
    """The tap: its pixel, whether it exists, its weight and the weight's derivative."""
    return first, is_index(first, size), 1.0, 0.0
