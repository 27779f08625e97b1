"""The bicubic sampler (cubic in 1-D, tricubic in 3-D): four taps along an axis, weights of Keys (1981), a = -0.75."""

import triton
import triton.language as tl

from .coords import is_index, reflect


@triton.jit
def place(x, size, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """The taps of pixel coordinates along an axis: the first one, the fraction, the slope of the clamp."""
    if PADDING == "reflection":
        known = tl.abs(x) < 8388608.0  # as in coords.reflect
        x = tl.where(known, x, 0.0)
    else:  # from three pixels outside on every tap is outside, or on the edge; NaN becomes the low end
        last = (size + 2).to(x.dtype)
        known = (x > -3.0) & (x < last)
        x = tl.minimum(tl.maximum(x, -3.0), last)
    if PADDING != "zeros":  # every tap is the one pixel: exactly 0, not a sum that cancels
        known = known & (size > 1)
    low = tl.floor(x)
    return low.to(tl.int32) - 1, x - low, tl.where(known, 1.0, 0.0).to(x.dtype)


@triton.jit
def tap(first, fraction, size, k, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """Tap k: its pixel, whether it exists, its weight and the weight's derivative."""
    index = first + k
    if PADDING == "reflection":
        index = reflect(index.to(tl.float32), size, ALIGN)[0].to(tl.int32)
    if PADDING != "zeros":
        index = tl.minimum(tl.maximum(index, 0), size - 1)
    distance = fraction + 1 - k
    sign = tl.where(distance < 0, -1.0, 1.0)
    d = tl.abs(distance)
    near = (1.25 * d - 2.25) * d * d + 1
    far = -0.75 * (((d - 5) * d + 8) * d - 4)
    near_slope = (3.75 * d - 4.5) * d
    far_slope = -0.75 * ((3 * d - 10) * d + 8)
    is_near = d <= 1
    weight = tl.where(is_near, near, far)
    return index, is_index(index, size), weight, tl.where(is_near, near_slope, far_slope) * sign
