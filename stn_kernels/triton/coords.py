"""Which points a program works on, and what lies outside an image: the rules of reference/sampling.py."""

import inspect

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def kernel(function):
    """triton.jit without specialising integers on their values: a new image size compiles nothing."""
    integers = (tl.int32, tl.int64)
    parameters = inspect.signature(function).parameters.values()
    return triton.jit(function, do_not_specialize=[p.name for p in parameters if p.annotation in integers])


@triton.jit
def program_share(tiles, chunks):
    """This program's (image, chunk of channels, tile of points); the tile runs fastest."""
    program = tl.program_id(0)
    image = program // tiles
    tile = program - image * tiles
    chunk = 0
    if chunks > 1:  # a branch is cheaper than a division
        chunk = image % chunks
        image = image // chunks
    return image.to(tl.int64), chunk, tile


@triton.jit
def batch_and_sample(n, samples):
    sample = n * 0
    if samples > 1:
        sample = n % samples
        n = n // samples
    return n, sample


@triton.jit
def tile_points(tile, width, rows, TILE_H: tl.constexpr, TILE_W: tl.constexpr, C_LAST: tl.constexpr):
    """The (column, row) of a tile's first TILE_H of `rows` rows: along the block's columns if C_LAST, else its rows."""
    columns = tl.cdiv(width, TILE_W)
    row = tile // columns
    p = tl.arange(0, TILE_H * TILE_W)
    p = p[:, None] if C_LAST else p[None, :]
    return (tile - row * columns) * TILE_W + p % TILE_W, row * rows + p // TILE_W


@triton.jit
def point_of(column, row, sizes):
    """The pixel (x[, y[, z]]) of a lattice with these sizes; rows of all its planes are counted on."""
    if len(sizes) == 1:
        point = (column,)
    elif len(sizes) == 2:
        point = column, row
    else:
        plane = row // sizes[1]
        point = column, row - plane * sizes[1], plane
    return point


@triton.jit
def row_count(sizes):
    """The rows of a lattice, in all its planes."""
    rows = 1
    for axis in tl.static_range(1, len(sizes)):
        rows = rows * sizes[axis]
    return rows


@triton.jit
def row_offset(row, steps, INDEX: tl.constexpr):
    """Where the row (y[, z]) lies in an image with these steps along its axes (x, y[, z])."""
    if len(row) == 0:
        total = 0
    elif len(row) == 1:
        total = row[0].to(INDEX) * steps[1]
    else:
        total = row[0].to(INDEX) * steps[1] + row[1].to(INDEX) * steps[2]
    return total


@triton.jit
def offset(point, steps, INDEX: tl.constexpr):
    """Where a pixel lies in an image with these steps along its axes."""
    total = point[0].to(INDEX) * steps[0]
    for axis in tl.static_range(1, len(point)):
        total += point[axis].to(INDEX) * steps[axis]
    return total


@triton.jit
def pixel_steps(x, y, z, N: tl.constexpr, VECTOR: tl.constexpr, X_UNIT: tl.constexpr, INDEX: tl.constexpr):
    """An image's strides along its axes, as offsets of type INDEX that are known multiples of VECTOR."""
    first = 1 if X_UNIT else known_multiple(x, VECTOR, INDEX)
    return axes_of(first, known_multiple(y, VECTOR, INDEX), known_multiple(z, VECTOR, INDEX), N)


@triton.jit
def axes_of(x, y, z, N: tl.constexpr):
    """The first N of three."""
    if N == 1:
        axes = (x,)
    elif N == 2:
        axes = x, y
    else:
        axes = x, y, z
    return axes


@triton.jit
def zeros(shape: tl.constexpr, dtype: tl.constexpr, LENGTH: tl.constexpr):
    """A tuple of LENGTH blocks."""
    blocks = ()
    for _ in tl.static_range(LENGTH):
        blocks = blocks + (tl.zeros(shape, dtype),)  # noqa: RUF005 -- no unpacking in Triton
    return blocks


@triton.jit
def is_index(i, size):
    """0 <= i < size, in one comparison."""
    return i.to(tl.uint32, bitcast=True) < size.to(tl.uint32, bitcast=True)


@triton.jit
def channel_range(BLOCK_C: tl.constexpr, C_LAST: tl.constexpr):
    """0 ... BLOCK_C - 1 along the program's block."""
    c = tl.arange(0, BLOCK_C)
    return c[None, :] if C_LAST else c[:, None]


@triton.jit
def stored(value, dtype: tl.constexpr):
    """value as dtype, rounded to nearest even; the interpreter would cut bfloat16 off."""
    if INTERPRETED and dtype == tl.bfloat16:
        value = value.to(tl.float32)
        scaled = value * 65537.0  # splits the upper 8 of 24 bits off (Dekker 1971)
        value = tl.where(tl.abs(value) < 1e33, scaled - (scaled - value), value)
    return value.to(dtype)


@triton.jit
def known_multiple(value, VECTOR: tl.constexpr, INDEX: tl.constexpr):
    """value as an offset of type INDEX; the compiler sees that it is a multiple of VECTOR."""
    return value.to(INDEX) // VECTOR * VECTOR


@triton.jit
def quotient(a, b):
    """a / b, correctly rounded: equal sizes must give the ratio 1."""
    return tl.div_rn(a, b) if a.dtype == tl.float32 else a / b


@triton.jit
def lattice_intervals(size, ALIGN: tl.constexpr, COMPUTE: tl.constexpr):
    """How many pixel distances lie between normalized -1 and 1; 1 for a single pixel, which sits at 0."""
    return tl.maximum(size - ALIGN, 1).to(COMPUTE)


@triton.jit
def centred(i, size, COMPUTE: tl.constexpr):
    """A pixel's distance from the middle of its axis, exact in every type."""
    return i.to(COMPUTE) - (size - 1).to(COMPUTE) * 0.5


@triton.jit
def reflect(x, size, ALIGN: tl.constexpr):
    """A pixel coordinate reflected about the edges, and its derivative by the one before; 0, 0 for NaN and huge."""
    low = 0.0 if ALIGN else -0.5
    span = (size - ALIGN).to(x.dtype)
    usable = (tl.abs(x) < 8388608.0) & (size > ALIGN)  # 2^23: no fractional part left in float32
    signed_distance = tl.where(usable, x - low, 0.0)
    distance = tl.abs(signed_distance)
    flips = tl.floor(distance * quotient(tl.full([], 1, x.dtype), tl.maximum(span, 1.0)))
    rest = distance - flips * span
    odd = flips - 2.0 * tl.floor(flips * 0.5) > 0.5
    slope = tl.where(usable, tl.where(odd == (signed_distance < 0), 1.0, -1.0), 0.0).to(x.dtype)
    return tl.where(usable, tl.where(odd, span - rest, rest) + low, 0.0), slope


@triton.jit
def pad(x, size, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """A pixel coordinate -> (the coordinate after padding, its derivative by the one before)."""
    slope = tl.full(x.shape, 1.0, x.dtype)
    if PADDING == "reflection":
        x, slope = reflect(x, size, ALIGN)
    # Under zeros no tap is read from two pixels outside on: there the slope does not matter. NaN becomes the low end.
    first = -2.0 if PADDING == "zeros" else 0.0
    last = (size + 1 if PADDING == "zeros" else size - 1).to(x.dtype)
    if PADDING != "zeros":
        slope = tl.where((x > first) & (x < last), slope, 0.0)
    return tl.minimum(tl.maximum(x, first), last), slope
