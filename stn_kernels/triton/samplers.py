"""What a kernel asks of a sampler, by its name: K taps along each axis, and their products.

A sampler has `place`, a point's taps along an axis, and `tap`, one of them. Taps come in rows along x, numbered by
`outer` = ky + K kz.
"""

import triton
import triton.language as tl

from . import bicubic, bilinear, nearest

TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}


@triton.jit
def places(coords, sizes, SAMPLER: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """The taps of points with these pixel coordinates, an entry an axis."""
    result = ()
    for axis in tl.static_range(len(coords)):
        if SAMPLER == "bilinear":
            found = bilinear.place(coords[axis], sizes[axis], PADDING, ALIGN)
        elif SAMPLER == "nearest":
            found = nearest.place(coords[axis], sizes[axis], PADDING, ALIGN)
        else:
            found = bicubic.place(coords[axis], sizes[axis], PADDING, ALIGN)
        result = result + (found,)  # noqa: RUF005 -- no unpacking in Triton
    return result


@triton.jit
def axis_tap(place, size, k, SAMPLER: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """Tap k along an axis: its pixel, whether it exists, its weight, the weight's derivative."""
    if SAMPLER == "bilinear":
        found = bilinear.tap(place[0], place[1], size, k)
    elif SAMPLER == "nearest":
        found = nearest.tap(place[0], place[1], size, k)
    else:
        found = bicubic.tap(place[0], place[1], size, k, PADDING, ALIGN)
    return found


@triton.jit
def row_taps(
    places, sizes, outer, TAPS: tl.constexpr, SAMPLER: tl.constexpr, PADDING: tl.constexpr, ALIGN: tl.constexpr
):
    """A row of taps: its pixel (y[, z]), whether it exists, its weight and the weight's derivatives along (y[, z])."""
    rows = ()
    for axis in tl.static_range(1, len(places)):
        other = outer % TAPS if axis == 1 else outer // TAPS
        rows = rows + (axis_tap(places[axis], sizes[axis], other, SAMPLER, PADDING, ALIGN),)  # noqa: RUF005
    if len(rows) == 0:
        found = (), True, 1.0, ()
    elif len(rows) == 1:
        y, inside, weight, slope = rows[0]
        found = (y,), inside, weight, (slope,)
    else:
        y, inside_y, weight_y, slope_y = rows[0]
        z, inside_z, weight_z, slope_z = rows[1]
        found = (y, z), inside_y & inside_z, weight_y * weight_z, (slope_y * weight_z, weight_y * slope_z)
    return found
