"""Counter-based normal numbers, to the bit those of reference/philox.py."""

import operator

import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice

from .coords import INTERPRETED

# a * b rounded by itself, whatever it is added to. No jitted function: the interpreter takes milliseconds to call one.
product = operator.mul if INTERPRETED else libdevice.mul_rn


@triton.jit
def logarithm_of(f):
    """log(1 + f) for sqrt(1/2) <= 1 + f < sqrt(2)."""
    value = product(tl.full(f.shape, -0.08101558, tl.float32), f) + 0.12712307
    value = product(value, f) - 0.12972239
    value = product(value, f) + 0.14202173
    value = product(value, f) - 0.16642247
    value = product(value, f) + 0.20001468
    value = product(value, f) - 0.25000298
    value = product(value, f) + 0.33333328
    square = product(f, f)
    return (f - square * 0.5) + product(product(square, f), value)


@triton.jit
def normal_pair(first, second):
    """Two words -> two independent standard normal numbers, by Box and Muller."""
    bits = ((first >> 9) * 2 + 1).to(tl.float32).to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    halves = tl.full(f.shape, 0.6931472, tl.float32)
    radius = tl.sqrt_rn((product((exponent - 24).to(tl.float32), halves) + logarithm_of(f)) * -2.0)

    quarter = second >> 30
    part = ((second >> 6) & 0xFFFFFF).to(tl.float32) * 5.9604644775390625e-08 - 0.4999999701976776  # 2^-25 - 1/2
    angle = product(part, tl.full(part.shape, 1.5707964, tl.float32))
    square = product(angle, angle)
    tail = product(tl.full(square.shape, -0.00019587925, tl.float32), square) + 0.0083327485
    tail = product(tail, square) - 0.16666665
    sine = angle + product(product(square, angle), tail)
    tail = product(tl.full(square.shape, 0.000024547966, tl.float32), square) - 0.0013888303
    tail = product(tail, square) + 0.041666664
    cosine = (1.0 - square * 0.5) + product(product(square, square), tail)
    swapped = (quarter & 1) == 1
    x = tl.where(swapped, sine, cosine)
    y = tl.where(swapped, cosine, sine)
    x = tl.where((quarter == 1) | (quarter == 2), -x, x)
    y = tl.where(quarter >= 2, -y, y)
    return product(radius, x), product(radius, y)


@triton.jit
def normal_block(seed, item, point, block):
    """Numbers 4 block to 4 block + 3 of points (int64) of an item."""
    words = tl.philox(seed, point.to(tl.uint32), item.to(tl.uint32), block, (point >> 32).to(tl.uint32))
    return normal_pair(words[0], words[1]) + normal_pair(words[2], words[3])
