"""CPAB on points: the flow and its transpose, points x images in parallel.

The transpose needs the steps of a path, last first. A program keeps the last SLOTS of them in memory of its own and
takes the path again for those before. Its sums of gradients, by region, are a part; parts are added afterwards.
"""

import triton
import triton.language as tl

from .coords import kernel
from .cpab import (
    add,
    advance,
    any_of,
    flow,
    geometry_of,
    multiply,
    read,
    record_of,
    shape_of,
    slopes,
    starts,
    terms,
    tolerance,
)


@triton.jit
def load_tuple(at, exists, N: tl.constexpr, STEP: tl.constexpr = 1):
    values = ()
    for i in tl.static_range(N):
        values = values + (tl.load(at + i * STEP, mask=exists, other=0.0),)  # noqa: RUF005 -- no unpacking in Triton
    return values


@triton.jit
def owner(n, samples):
    """Whose points image n has; samples: the images that share them, 0 if all do."""
    own = n * 0
    if samples > 0:
        own = n // samples
    return own


@kernel
def cpab_forward(
    points_ptr,  # (P, n), or (B, P, n)
    field_ptr,  # see cpab.py
    geometry_ptr,
    output_ptr,  # (N, P, n)
    points: tl.int32,
    samples: tl.int32,  # images that share their points; 0: all do
    regions: tl.int32,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(points, BLOCK)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    point = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    exists = point < points
    at = load_tuple(points_ptr + (owner(n, samples) * points + point) * N, exists, N)
    moved = flow(at, field_ptr, geometry_ptr, n, regions, exists)
    for i in tl.static_range(N):
        tl.store(output_ptr + (n * points + point) * N + i, moved[i], mask=exists)


@triton.jit
def add_shifted(sums, before, weight):
    """sums[i] + weight * before[i]."""
    values = ()
    for i in tl.static_range(len(sums)):
        values = values + (sums[i] + weight * before[i],)  # noqa: RUF005
    return values


@triton.jit
def transposed(matrix, x):
    """The transpose of a square matrix times x."""
    values = ()
    for j in tl.static_range(len(x)):
        total = matrix[j] * x[0]
        for i in tl.static_range(1, len(x)):
            total += matrix[i * len(x) + j] * x[i]
        values = values + (total,)  # noqa: RUF005
    return values


@triton.jit
def step_adjoint(matrix, start, powers, u, t, cotangent, TERMS: tl.constexpr):
    """The transpose of a step of length t from offset u: (the cotangent before it, dL/d[matrix start] row by row)."""
    N: tl.constexpr = len(u)
    COUNT: tl.constexpr = TERMS + (1 if N == 3 else 0)
    one = t * 0 + 1
    zero = t * 0
    # h_k: complete homogeneous sums of the matrix's eigenvalues; r_k of each of them twice. U_m = sum t^(k+1)/(k+1)!
    # h_(k-m), R_m = sum t^(k+2)/(k+2)! r_(k-m).
    h = (one,)
    U = (zero,)
    for _ in tl.static_range(1, N):
        h = h + (zero,)  # noqa: RUF005
        U = U + (zero,)  # noqa: RUF005
    r = (one,)
    R = (zero,)
    for _ in tl.static_range(1, 2 * N - 1):
        r = r + (zero,)  # noqa: RUF005
        R = R + (zero,)  # noqa: RUF005
    weight = t
    for k in tl.static_range(COUNT):
        next_weight = weight * t * (1.0 / (k + 2))
        U = add_shifted(U, h, weight)
        R = add_shifted(R, r, next_weight)
        following = powers[N - 1] * h[0]
        doubled = powers[N - 1] * r[0]
        for i in tl.static_range(1, N):
            following += powers[N - 1 - i] * h[i]
            doubled += powers[N - 1 - i] * r[i]
        h = (following,) + h[: N - 1]  # noqa: RUF005
        r = (doubled + following,) + r[: 2 * N - 2]  # noqa: RUF005
        weight = next_weight
    # a_l = sum of U's with the polynomial's coefficients, as J_ij of R's.
    p = powers[N - 1]
    if N == 1:
        a = (U[0],)
        J = (R[0],)
    elif N == 2:
        a = (U[0] - p * U[1], U[1])
        J01 = R[1] - p * R[2]
        J = (R[0] - 2 * p * R[1] + p * p * R[2], J01, J01, R[2])
    else:
        q = -powers[N - 2]
        a = (U[0] - p * U[1] + q * U[2], U[1] - p * U[2], U[2])
        J02 = R[2] - p * R[3] + q * R[4]
        J12 = R[3] - p * R[4]
        J01 = R[1] - 2 * p * R[2] + (p * p + q) * R[3] - p * q * R[4]
        J11 = R[2] - 2 * p * R[3] + p * p * R[4]
        J00 = R[0] - 2 * p * R[1] + (p * p + 2 * q) * R[2] - 2 * p * q * R[3] + q * q * R[4]
        J = (J00, J01, J02, J01, J11, J12, J02, J12, R[4])
    rates = slopes(powers, a)
    v = (add(multiply(matrix, u), start),)  # M^l v, and k: (M^T)^l cotangent
    k = (cotangent,)
    for i in tl.static_range(1, N):
        v = v + (multiply(matrix, v[i - 1]),)  # noqa: RUF005
        k = k + (transposed(matrix, k[i - 1]),)  # noqa: RUF005
    y = ()
    for i in tl.static_range(N):
        column = ()
        for j in tl.static_range(N):
            total = J[i * N] * v[0][j]
            for m in tl.static_range(1, N):
                total += J[i * N + m] * v[m][j]
            column = column + (total,)  # noqa: RUF005
        y = y + (column,)  # noqa: RUF005
    gradient = ()
    before = ()
    for i in tl.static_range(N):
        total = a[0] * k[0][i]
        back = rates[0] * k[0][i]
        for m in tl.static_range(1, N):
            total += a[m] * k[m][i]
            back += rates[m] * k[m][i]
        for j in tl.static_range(N):
            entry = total * u[j]
            for m in tl.static_range(N):
                entry += k[m][i] * y[m][j]
            gradient = gradient + (entry,)  # noqa: RUF005
        gradient = gradient + (total,)  # noqa: RUF005
        before = before + (back,)  # noqa: RUF005
    return before, gradient


@triton.jit
def add_by_region(sums_ptr, region, values, valid):
    """Adds the values of a block's points to their regions' sums, one region after another: in a fixed order."""
    left = valid
    while any_of(left):
        one = tl.min(tl.where(left, region, 2147483647), 0)
        mine = left & (region == one)
        for i in tl.static_range(len(values)):
            total = tl.sum(tl.where(mine, values[i], 0.0), 0)
            tl.atomic_add(sums_ptr + one * len(values) + i, total, sem="relaxed")  # this program's own
        left = left & (region != one)


@kernel
def cpab_backward(
    grad_ptr,  # (N, P, n), of the output
    points_ptr,  # as in cpab_forward
    field_ptr,
    geometry_ptr,
    grad_points_ptr,  # (N, P, n); None: not needed
    sums_ptr,  # (N, parts, R, n (n + 1)), zero before; None: not needed
    visits_ptr,  # (programs, SLOTS, n + 1, BLOCK): time and place of steps
    visited_ptr,  # (programs, SLOTS, BLOCK): their regions
    points: tl.int32,
    parts: tl.int32,  # programs of an image
    samples: tl.int32,
    regions: tl.int32,
    N: tl.constexpr,
    PER_POINT: tl.constexpr,  # sums_ptr is (N, P, R, n (n + 1)): a point's own
    SLOTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    SQUARE: tl.constexpr = N * N
    COMPUTE: tl.constexpr = visits_ptr.dtype.element_ty
    TERMS: tl.constexpr = terms(COMPUTE)
    TOLERANCE: tl.constexpr = tolerance(COMPUTE)
    program = tl.program_id(0)
    n = (program // parts).to(tl.int64)
    part = program % parts
    shape, bounded = shape_of(geometry_ptr, N)
    lane = tl.arange(0, BLOCK)
    visits = visits_ptr + program.to(tl.int64) * (SLOTS * (N + 1) * BLOCK) + lane
    visited = visited_ptr + program.to(tl.int64) * (SLOTS * BLOCK) + lane
    for block in range(part, tl.cdiv(points, BLOCK), parts):
        point = block * BLOCK + lane
        exists = point < points
        at = load_tuple(points_ptr + (owner(n, samples) * points + point) * N, exists, N)
        grads = load_tuple(grad_ptr + (n * points + point) * N, exists, N)
        cotangent = ()
        for i in tl.static_range(N):
            cotangent = cotangent + (grads[i] / shape[i],)  # noqa: RUF005
        most = 2147483647
        while most > 0:
            region, g, rest = starts(at, geometry_ptr, exists)
            entry = tl.full(region.shape, -1, tl.int32)
            left = (rest * 0, rest * 0)
            number = 0
            while any_of(rest > 0) & (number < most):
                slot = number % SLOTS
                tl.store(visited + slot * BLOCK, region)
                for i in tl.static_range(N):
                    tl.store(visits + (slot * (N + 1) + 1 + i) * BLOCK, g[i + 1])
                time, region, g, entry, rest, left = advance(
                    field_ptr, geometry_ptr, n, regions, region, g, entry, rest, left, number, TERMS, TOLERANCE
                )
                tl.store(visits + slot * (N + 1) * BLOCK, time)
                number += 1
            tl.debug_barrier()
            most = tl.maximum(number - 1, 0) // SLOTS * SLOTS
            while number > most:
                number -= 1
                slot = number % SLOTS
                where = tl.load(visited + slot * BLOCK)
                time = tl.load(visits + slot * (N + 1) * BLOCK)
                x = ()
                for i in tl.static_range(N):
                    x = x + (tl.load(visits + (slot * (N + 1) + 1 + i) * BLOCK),)  # noqa: RUF005
                valid = time > 0
                record = record_of(field_ptr, n, where, regions, N)
                matrix = read(record, valid, SQUARE + 4 * N + 2, SQUARE)
                start = read(record, valid, 2 * SQUARE + 4 * N + 2, N)
                powers = read(record, valid, SQUARE + 2 * N + 1, N)
                u = multiply(read(geometry_of(geometry_ptr, where, N), valid, 0, SQUARE), x)
                before, gradient = step_adjoint(matrix, start, powers, u, time, cotangent, TERMS)
                pulled = ()
                for i in tl.static_range(N):
                    pulled = pulled + (tl.where(valid, before[i], cotangent[i]),)  # noqa: RUF005
                cotangent = pulled
                if sums_ptr is not None:
                    if PER_POINT:
                        to = sums_ptr + ((n * points + point) * regions + where) * (N * (N + 1))
                        for i in tl.static_range(N * (N + 1)):
                            tl.atomic_add(to + i, gradient[i], mask=valid, sem="relaxed")
                    else:
                        own_sums = sums_ptr + (n * parts + part) * regions * (N * (N + 1))
                        add_by_region(own_sums, where, gradient, valid)
            tl.debug_barrier()
        if grad_points_ptr is not None:
            for i in tl.static_range(N):
                value = cotangent[i] * shape[i]
                value = tl.where(bounded, tl.where((at[i] < 0) | (at[i] > 1), 0.0, value), value)
                tl.store(grad_points_ptr + (n * points + point) * N + i, value, mask=exists)
