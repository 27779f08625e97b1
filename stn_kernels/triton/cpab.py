"""The flow of a piecewise-affine velocity: csrc/common/cpab.h for a block of points, by the rules of reference/cpab.py.

In a region (`_regions.py`, whose terms are used here) x stands for the coordinates g_1 ... g_n and dx/dt = M x + s;
with v = M x + s the path is x + a_0(t) v + a_1(t) M v + ... + a_(n-1)(t) M^(n-1) v.

A record, of a region of an image: matrix n^2, start n (dx/dt), first n + 1 (dg_0/dt by g), powers n (of the
characteristic polynomial), the longest step, n bounds of a face's fourth derivative / 144; then in lattice units matrix
n^2 and start n, from the vertex of slot 0. The geometry of a region: axes n^2 and origin n (y = origin + axes x), the
n + 1 rows of g on (y, 1), the n + 1 codes of what lies beyond its faces, the n shares in g_0 = 1 - sum share g. Both
have a header: the records of an image an affine matrix n (n + 1), the geometry of a tessellation its shape n and
whether it has walls.
"""

import triton
import triton.language as tl

SEGMENTS = tl.constexpr(1024)  # of one path; then the rest of its time is taken in fixed steps
REST_STEPS = tl.constexpr(50)


@triton.constexpr_function
def terms(dtype):
    """Of the power series, for steps of at most 1 / |M|."""
    return 10 if dtype == tl.float32 else 19


@triton.constexpr_function
def tolerance(dtype):
    """A face is found, and a path may dip behind one, to this part of a cell."""
    return 2e-7 if dtype == tl.float32 else 1e-14


@triton.jit
def record_of(field_ptr, n, region, regions, N: tl.constexpr):
    """Where the record of a region of image n begins."""
    SIZE: tl.constexpr = 2 * N * N + 5 * N + 2
    return field_ptr + n * (N * (N + 1) + regions * SIZE) + N * (N + 1) + region * SIZE


@triton.jit
def geometry_of(geometry_ptr, region, N: tl.constexpr):
    """Where the geometry of a region begins."""
    return geometry_ptr + (N + 1) + region * (2 * N * N + 5 * N + 2)


@triton.jit
def crossing(geometry_ptr, region, slot, exists, N: tl.constexpr):
    """The code of what lies beyond a face."""
    at = geometry_of(geometry_ptr, region, N) + 2 * N * N + 3 * N + 1 + slot
    return tl.load(at, mask=exists, other=-1.0).to(tl.int32)


@triton.jit
def shape_of(geometry_ptr, N: tl.constexpr):
    """The cells along each axis, and whether there are walls."""
    shape = ()
    for i in tl.static_range(N):
        shape = shape + (tl.load(geometry_ptr + i),)  # noqa: RUF005 -- no unpacking in Triton
    return shape, tl.load(geometry_ptr + N) > 0


@triton.jit
def read(at, exists, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """Numbers FIRST ... of the records at these addresses."""
    values = ()
    for k in tl.static_range(COUNT):
        values = values + (tl.load(at + FIRST + k, mask=exists, other=0.0),)  # noqa: RUF005 -- no unpacking in Triton
    return values


@triton.jit
def coefficients(powers, TERMS: tl.constexpr):
    """The power series of a_l(t) / t: TERMS rows of n."""
    one = powers[0] * 0 + 1
    row = (one,)
    for _ in tl.static_range(1, len(powers)):
        row = row + (one - 1,)  # noqa: RUF005
    table = (row,)
    for k in tl.static_range(1, TERMS):
        last = row[len(powers) - 1] * (1.0 / (k + 1))
        following = (powers[0] * last,)
        for i in tl.static_range(1, len(powers)):
            following = following + (row[i - 1] * (1.0 / (k + 1)) + powers[i] * last,)  # noqa: RUF005
        row = following
        table = table + (row,)  # noqa: RUF005
    return table


@triton.jit
def series(table, t):
    """(a_0(t), ..., a_(n-1)(t))."""
    values = ()
    for i in tl.static_range(len(table[0])):
        total = table[len(table) - 1][i]
        for k in tl.static_range(1, len(table)):
            total = total * t + table[len(table) - 1 - k][i]
        values = values + (total * t,)  # noqa: RUF005
    return values


@triton.jit
def slopes(powers, a):
    """da_l/dt, from a_l."""
    values = (powers[0] * a[len(a) - 1] + 1,)
    for i in tl.static_range(1, len(a)):
        values = values + (a[i - 1] + powers[i] * a[len(a) - 1],)  # noqa: RUF005
    return values


@triton.jit
def dot(a, b, FIRST: tl.constexpr):
    """sum_i a[FIRST + i] b[i]."""
    total = a[FIRST] * b[0]
    for i in tl.static_range(1, len(b)):
        total += a[FIRST + i] * b[i]
    return total


@triton.jit
def multiply(matrix, x):
    """A matrix of len(x) columns, row after row, times x."""
    values = ()
    for i in tl.static_range(len(matrix) // len(x)):
        values = values + (dot(matrix, x, i * len(x)),)  # noqa: RUF005
    return values


@triton.jit
def add(a, b):
    values = ()
    for i in tl.static_range(len(a)):
        values = values + (a[i] + b[i],)  # noqa: RUF005
    return values


@triton.jit
def choose(mask, a, b):
    """a where mask, else b, of tuples."""
    values = ()
    for i in tl.static_range(len(a)):
        values = values + (tl.where(mask, a[i], b[i]),)  # noqa: RUF005
    return values


@triton.jit
def any_of(mask):
    return tl.max(mask.to(tl.int32)) > 0


@triton.jit
def derivatives(matrix, start, first, g):
    """Of the coordinates g: (dg/dt, M dg/dt, ..., M^(n-1) dg/dt), n + 1 numbers each."""
    x = g[1:]
    result = ((dot(first, g, 0),) + add(multiply(matrix, x), start),)  # noqa: RUF005
    for level in tl.static_range(1, len(x)):
        before = result[level - 1]
        result = result + ((dot(first, before, 0),) + multiply(matrix, before[1:]),)  # noqa: RUF005
    return result


@triton.jit
def along(start, a, derivs, j):
    """Coordinate j after a time with the series a."""
    for i in tl.static_range(len(a)):
        start += a[i] * derivs[i][j]
    return start


@triton.jit
def root(table, powers, from_value, to_value, d, high, guess, todo, TOLERANCE: tl.constexpr, TRIES: tl.constexpr):
    """Where from_value + sum a_l(t) d_l, > 0 before and < 0 after, vanishes in [0, high]: Newton in its bracket."""
    low = high * 0
    # The parabola through both ends with the slope at the first is a far better guess than the chord: from the end if
    # the path first goes away from the face, which it may have started on.
    bend = to_value - from_value - d[0] * high
    s = tl.where(d[0] > 0, 1.0, guess)
    for _ in tl.static_range(2):
        s = s - (from_value + s * (d[0] * high + s * bend)) / (d[0] * high + 2 * s * bend)
    at = tl.where((s > 0) & (s < 1), s * high, tl.where(d[0] > 0, high, high * guess))
    tries = 0
    while any_of(todo) & (tries < TRIES):
        a = series(table, at)
        value = from_value + dot(a, d, 0)
        rate = dot(slopes(powers, a), d, 0)
        low = tl.where(todo & (value > 0), at, low)
        high = tl.where(todo & ~(value > 0), at, high)
        following = at - value / rate
        inside = tl.where((following > low) & (following < high), following, 0.5 * (low + high))
        moves = tl.abs(inside - at) > (2e-16 if TRIES > 30 else 1e-7) * at
        todo = todo & (tl.abs(value) > 0.5 * TOLERANCE) & moves
        tries += 1
        at = tl.where(todo, inside, at)
    return at


@triton.jit
def settle(share, g):
    """Takes off the largest coordinate what roundings brought in: there is one more of them than needed."""
    excess = g[0] - 1
    largest = tl.abs(g[0])
    for j in tl.static_range(1, len(g)):
        excess += share[j - 1] * g[j]
        largest = tl.maximum(largest, tl.abs(share[j - 1] * g[j]))
    free = tl.abs(g[0]) < largest
    settled = (tl.where(free, g[0], tl.maximum(g[0] - excess, 0.0)),)
    for j in tl.static_range(1, len(g)):
        it = free & (tl.abs(share[j - 1] * g[j]) == largest)
        settled = settled + (tl.where(it, tl.maximum(g[j] - excess / share[j - 1], 0.0), g[j]),)  # noqa: RUF005
        free = free & ~it
    return settled


@triton.jit
def segment(record, share_ptr, g, entry, active, rest, TERMS: tl.constexpr, TOLERANCE: tl.constexpr):
    """A path in its region, as far as the region reaches, or the longest step, or the time that is left.

    Returns the time, the coordinates at its end, and the slot of the face left by, else -1. A face behind which the
    path is at the end is crossed before. One in front of it may have been crossed twice; the Bernstein coefficients of
    the cubic through both ends, less what the fourth derivative can add, tell that it was not. Else half the step.
    """
    N: tl.constexpr = len(g) - 1
    SQUARE: tl.constexpr = N * N
    matrix = read(record, active, 0, SQUARE)
    start = read(record, active, SQUARE, N)
    first = read(record, active, SQUARE + N, N + 1)
    powers = read(record, active, SQUARE + 2 * N + 1, N)
    limit = tl.load(record + SQUARE + 3 * N + 1, mask=active, other=0.0)
    remainder = read(record, active, SQUARE + 3 * N + 2, N)
    derivs = derivatives(matrix, start, first, g)
    table = coefficients(powers, TERMS)
    speed = tl.abs(derivs[0][0])
    extent = tl.abs(g[0])  # 1 inside the domain, where roundings are that of 1
    for j in tl.static_range(1, N + 1):
        speed += tl.abs(derivs[0][j])
        extent += tl.abs(g[j])
    slot = tl.full(entry.shape, -1, tl.int32)
    for j in tl.static_range(N + 1):
        at_once = active & (slot < 0) & (g[j] <= 0) & (derivs[0][j] < 0) & (entry != j)
        slot = tl.where(at_once, j, slot)
    unsettled = active & (slot < 0)
    time = tl.where(unsettled, tl.minimum(rest, limit, propagate_nan=tl.PropagateNan.ALL), 0.0)
    # Rounding may see a path along the face it came in through leave on both sides: let it pass that far behind.
    allowed = -4 * TOLERANCE * (extent + speed * time)
    rounds = 0
    while any_of(unsettled) & (rounds < 60):
        a = series(table, time)
        behind = entry != entry
        which = tl.full(entry.shape, -1, tl.int32)
        guess = tl.full(time.shape, 2, time.dtype)
        from_value = time * 0
        to_value = from_value - TOLERANCE
        d = ()
        for _ in tl.static_range(N):
            d = d + (from_value,)  # noqa: RUF005
        # The face that the chord meets first; the others are looked at again from its root.
        for j in tl.static_range(N + 1):
            end = along(g[j], a, derivs, j)
            slack = tl.where((entry == j) & (derivs[0][j] < 0), allowed, 0.0)
            out = unsettled & (end < slack) & (slot != j)
            behind = behind | out
            chord = g[j] / (g[j] - end)
            nearer = out & (chord < guess)
            which = tl.where(nearer, j, which)
            guess = tl.where(nearer, chord, guess)
            from_value = tl.where(nearer, g[j], from_value)
            to_value = tl.where(nearer, end, to_value)
            faces = ()
            for i in tl.static_range(N):
                faces = faces + (tl.where(nearer, derivs[i][j], d[i]),)  # noqa: RUF005
            d = faces
        ahead = unsettled & ~behind
        if any_of(behind):
            found = root(
                table, powers, from_value, to_value, d, time, guess, behind, TOLERANCE, 60 if TERMS > 10 else 30
            )
            time = tl.where(behind, found, time)
            slot = tl.where(behind, which, slot)
        if any_of(ahead):
            rates = slopes(powers, a)
            unsure = entry != entry
            for j in tl.static_range(N + 1):
                slack = tl.where((entry == j) & (derivs[0][j] < 0), allowed, 0.0)
                end = along(g[j], a, derivs, j)
                end_slope = time * 0
                bound = time * 0
                for i in tl.static_range(N):
                    end_slope += rates[i] * derivs[i][j]
                    bound += remainder[i] * tl.abs(derivs[i][j])
                quarter = 0.25 * time
                third = end - quarter * end_slope
                middle = 0.5 * (g[j] + end) + time * (1.0 / 6) * (derivs[0][j] - end_slope)
                middle -= time * time * time * time * bound
                least = tl.minimum(tl.minimum(g[j] + quarter * derivs[0][j], third), middle)
                unsure = unsure | (ahead & (least < slack - TOLERANCE * extent))
            time = tl.where(unsure, 0.5 * time, time)
            slot = tl.where(unsure, -1, slot)
            unsettled = unsettled & (behind | unsure)
        rounds += 1
    a = series(table, time)
    ends = ()
    for j in tl.static_range(N + 1):
        # The face is met exactly, and no rounding leaves a point behind another.
        end = along(g[j], a, derivs, j)
        end = tl.where(end < 0, 0.0, end)
        ends = ends + (tl.where(slot == j, 0.0, end),)  # noqa: RUF005
    # In strong fields and far outside the domain roundings would grow exponentially.
    drifts = active & ((extent > 1.5) | (limit < 0.2))
    if any_of(drifts):
        ends = choose(drifts, settle(read(share_ptr, active, 0, N), ends), ends)
    return time, ends, slot


@triton.jit
def coordinates(rows, y):
    """g of lattice points y, from the rows of g."""
    values = ()
    for j in tl.static_range(len(y) + 1):
        values = values + (dot(rows, y, j * (len(y) + 1)) + rows[j * (len(y) + 1) + len(y)],)  # noqa: RUF005
    return values


@triton.jit
def locate(y, geometry_ptr, shape, exists):
    """The region of lattice points and their coordinates there: from the nearest cube's first cell on, across faces."""
    N: tl.constexpr = len(y)
    cube = tl.zeros(y[0].shape, tl.int32)
    for i in tl.static_range(N):
        size = shape[N - 1 - i]
        at = tl.floor(y[N - 1 - i])
        at = tl.where(at > 0, tl.where(at < size - 1, at, size - 1), 0.0)
        cube = cube * size.to(tl.int32) + at.to(tl.int32)
    region = cube * (1 if N == 1 else 4 if N == 2 else 5)
    searching = exists
    walks = 0
    while any_of(searching) & (walks < 4 * N + 4):
        g = coordinates(read(geometry_of(geometry_ptr, region, N), exists, N * N + N, (N + 1) * (N + 1)), y)
        least = g[0]
        slot = tl.zeros(region.shape, tl.int32)
        for j in tl.static_range(1, N + 1):
            slot = tl.where(g[j] < least, j, slot)
            least = tl.minimum(g[j], least)
        code = crossing(geometry_ptr, region, slot, searching & (least < 0), N)
        searching = searching & (least < 0) & (code >= 0)
        region = tl.where(searching, code >> 3, region)
        walks += 1
    g = coordinates(read(geometry_of(geometry_ptr, region, N), exists, N * N + N, (N + 1) * (N + 1)), y)
    clipped = ()
    for j in tl.static_range(N + 1):
        clipped = clipped + (tl.where(g[j] < 0, 0.0, g[j]),)  # noqa: RUF005
    return region, clipped


@triton.jit
def lattice_position(geometry_ptr, region, x, exists):
    """Lattice coordinates of x = g_1 ... g_n in regions."""
    N: tl.constexpr = len(x)
    at = geometry_of(geometry_ptr, region, N)
    return add(multiply(read(at, exists, 0, N * N), x), read(at, exists, N * N, N))


@triton.jit
def starts(points, geometry_ptr, exists):
    """Region, coordinates and time to go of points in units of the domain; NaN to go for one that is not finite."""
    shape, bounded = shape_of(geometry_ptr, len(points))
    total = points[0]
    for i in tl.static_range(1, len(points)):
        total += points[i]
    finite = total - total == 0
    y = ()
    for i in tl.static_range(len(points)):
        inside = tl.where(points[i] < 0, 0.0, tl.where(points[i] > 1, 1.0, points[i]))
        x = tl.where(finite, tl.where(bounded, inside, points[i]), 0.0)
        y = y + (x * shape[i],)  # noqa: RUF005
    region, g = locate(y, geometry_ptr, shape, exists)
    rest = tl.where(finite, 1.0, float("nan")).to(points[0].dtype)
    return region, g, tl.where(exists, rest, 0.0)


@triton.jit
def cross(region, g, slot, crosses, geometry_ptr):
    """Where paths that leave by the faces `slot` go on: region, coordinates, the slot they enter by, else -1."""
    N: tl.constexpr = len(g) - 1
    code = crossing(geometry_ptr, region, slot, crosses, N)
    beyond = tl.where(crosses, code >> 3, region)
    entry = tl.where(crosses, (code >> 1) & 3, -1)
    changes = crosses & ((code & 1) == 1)
    if any_of(changes):
        y = lattice_position(geometry_ptr, region, g[1:], changes)
        rows = read(geometry_of(geometry_ptr, beyond, N), changes, N * N + N, (N + 1) * (N + 1))
        other = coordinates(rows, y)
        changed = ()
        for j in tl.static_range(N + 1):
            value = tl.where((other[j] > 0) & (entry != j), other[j], 0.0)
            changed = changed + (tl.where(changes, value, g[j]),)  # noqa: RUF005
        g = changed
    return beyond, g, entry


@triton.jit
def advance(
    field_ptr, geometry_ptr, n, regions, region, g, entry, rest, left, number,
    TERMS: tl.constexpr, TOLERANCE: tl.constexpr,
):  # fmt: skip
    """One step of every path that has time to go; `number` steps have been taken.

    After SEGMENTS of them the rest goes in REST_STEPS equal parts, each in the region of its start; left: a part, and
    what is left of it. Returns the time the step takes and the state after it.
    """
    N: tl.constexpr = len(g) - 1
    active = rest > 0
    record = record_of(field_ptr, n, region, regions, N)
    if number < SEGMENTS:
        share_ptr = geometry_of(geometry_ptr, region, N) + 2 * N * N + 4 * N + 2
        time, ends, slot = segment(record, share_ptr, g, entry, active, rest, TERMS, TOLERANCE)
    else:
        size = left[0]
        if number == SEGMENTS:
            size = rest * (1.0 / REST_STEPS)
        part = tl.minimum(tl.where(left[1] > 0, left[1], size), rest)
        limit = tl.load(record + N * N + 3 * N + 1, mask=active, other=0.0)
        time = tl.where(active, tl.minimum(part, tl.maximum(limit, size * 0.001)), 0.0)
        left = (size, part - time)
        matrix = read(record, active, 0, N * N)
        start = read(record, active, N * N, N)
        first = read(record, active, N * N + N, N + 1)
        powers = read(record, active, N * N + 2 * N + 1, N)
        derivs = derivatives(matrix, start, first, g)
        a = series(coefficients(powers, TERMS), time)
        ends = ()
        for j in tl.static_range(N + 1):
            ends = ends + (along(g[j], a, derivs, j),)  # noqa: RUF005
        slot = tl.full(entry.shape, -1, tl.int32)
    remains = tl.where(time == rest, 0.0, rest - time)
    rest = tl.where(active, remains, rest)
    g = choose(active, ends, g)
    region, g, entry = cross(region, g, slot, active & (slot >= 0), geometry_ptr)
    if number >= SEGMENTS:
        ended = active & (left[1] <= 0)
        y = lattice_position(geometry_ptr, region, g[1:], ended)
        found, anew = locate(y, geometry_ptr, shape_of(geometry_ptr, N)[0], ended)
        region = tl.where(ended, found, region)
        g = choose(ended, anew, g)
    return tl.where(active, time, 0.0), region, g, entry, rest, left


@triton.jit
def flow(points, field_ptr, geometry_ptr, n, regions, exists):
    """Where the flow of image n takes points, in units of the domain; NaN if what it meets is not finite."""
    TERMS: tl.constexpr = terms(points[0].dtype)
    TOLERANCE: tl.constexpr = tolerance(points[0].dtype)
    region, g, rest = starts(points, geometry_ptr, exists)
    entry = tl.full(region.shape, -1, tl.int32)
    left = (rest * 0, rest * 0)
    number = 0
    while any_of(rest > 0):
        _time, region, g, entry, rest, left = advance(
            field_ptr, geometry_ptr, n, regions, region, g, entry, rest, left, number, TERMS, TOLERANCE
        )
        number += 1
    y = lattice_position(geometry_ptr, region, g[1:], exists)
    shape, _bounded = shape_of(geometry_ptr, len(points))
    result = ()
    for i in tl.static_range(len(points)):
        result = result + (tl.where(rest == rest, y[i], rest) / shape[i],)  # noqa: RUF005
    return result


@triton.jit
def warp(coords, field_ptr, geometry_ptr, n, regions, exists):
    """Where the flow and then the affine map of image n take normalized points."""
    N: tl.constexpr = len(coords)
    points = ()
    for i in tl.static_range(N):
        points = points + (coords[i] * 0.5 + 0.5,)  # noqa: RUF005
    moved = flow(points, field_ptr, geometry_ptr, n, regions, exists)
    affine = record_of(field_ptr, n, 0, regions, N) - N * (N + 1)
    source = ()
    for i in tl.static_range(N):
        total = tl.load(affine + i * (N + 1) + N)
        for j in tl.static_range(N):
            total = tl.load(affine + i * (N + 1) + j) * (2 * moved[j] - 1) + total
        source = source + (total,)  # noqa: RUF005
    return source
