"""Counter-based normal numbers: the specification of what linearized sampling draws, bit for bit on every backend.

Philox4x32-10 (Salmon et al. 2011) turns a counter of four 32-bit words and a key of two into four random words, without
state. A pair of words gives two normal numbers by the transform of Box and Muller. Everything is integer arithmetic or
IEEE float32 products, sums and square roots, each rounded by itself: a kernel may not fuse a product with a sum.
"""

import torch

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
WORD = 0xFFFFFFFF

# log(1 + f) = f - f^2 / 2 + f^3 LOG(f) for sqrt(1/2) <= 1 + f < sqrt(2); sin a = a + a^3 SIN(a^2) and
# cos a = 1 - a^2 / 2 + a^4 COS(a^2) for |a| <= pi / 4: Chebyshev interpolation, lowest degree first.
LOG = (0.33333328, -0.25000298, 0.20001468, -0.16642247, 0.14202173, -0.12972239, 0.12712307, -0.08101558)
SIN = (-0.16666665, 0.0083327485, -0.00019587925)
COS = (0.041666664, -0.0013888303, 0.000024547966)
LOG2 = 0.6931472
HALF_PI = 1.5707964
SQRT_HALF_BITS = 0x3F3504F3


def philox(counter, key):
    """counter: four, key: two int64 tensors or integers that hold 32-bit words; returns four tensors of words."""
    a, b, c, d = counter
    low, high = key
    for _ in range(ROUNDS):
        # The product has 64 bits and wraps like int64: its bits are right, its sign is not.
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b = ((second >> 32) & WORD) ^ b ^ low, second & WORD
        c, d = ((first >> 32) & WORD) ^ d ^ high, first & WORD
        low, high = (low + KEY_STEPS[0]) & WORD, (high + KEY_STEPS[1]) & WORD
    return a, b, c, d


def _polynomial(x, coefficients):
    value = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def normal_pair(first, second):
    """Two words -> two independent standard normal float32 numbers, at most 5.8 in magnitude."""
    # A uniform number J 2^-24 with odd J, as 2^e (1 + f) times 2^-24.
    uniform = ((first >> 9) * 2 + 1).to(torch.float32)
    bits = uniform.view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    f = (bits - (exponent << 23)).view(torch.float32) - 1
    square = f * f
    log = (f - square * 0.5) + (square * f) * _polynomial(f, LOG)
    log = (exponent - 24).to(torch.float32) * LOG2 + log
    radius = (log * -2).double().sqrt().float()  # rounded as IEEE wants it: torch's float32 one is not
    # An angle: a quarter turn by two bits of the word, and a part of one in (-1/2, 1/2).
    quarter = second >> 30
    part = ((second >> 6) & 0xFFFFFF).to(torch.float32) * 2**-24 + (2**-25 - 0.5)
    angle = part * HALF_PI
    square = angle * angle
    sine = angle + (square * angle) * _polynomial(square, SIN)
    cosine = (1 - square * 0.5) + (square * square) * _polynomial(square, COS)
    swapped = quarter % 2 == 1
    x, y = torch.where(swapped, sine, cosine), torch.where(swapped, cosine, sine)
    x = torch.where((quarter == 1) | (quarter == 2), -x, x)
    y = torch.where(quarter >= 2, -y, y)
    return radius * x, radius * y


def normals(seed, items, points, count):
    """`count` standard normal numbers for each point of each item: (items, points, count) float32.

    Number q of a point comes from word pair q / 2 % 2 of the block with the counter (point, item, q / 4, point / 2^32)
    under the key `seed`, whatever the shape of the call.

    Args:
        seed: int64 tensor without dimensions; its device is the result's.
        items: of the transformed images, b * samples + s.
        points: of an item's output, in order.
        count: numbers a point.
    """
    device = seed.device
    item = torch.arange(items, device=device).reshape(-1, 1, 1)
    point = torch.arange(points, device=device).reshape(1, -1, 1)
    block = torch.arange((count + 3) // 4, device=device).reshape(1, 1, -1)
    words = philox((point & WORD, item, block, point >> 32), (seed & WORD, (seed >> 32) & WORD))
    numbers = [n for pair in (words[:2], words[2:]) for n in normal_pair(*pair)]
    return torch.stack(torch.broadcast_tensors(*numbers), -1).flatten(-2)[..., :count]
