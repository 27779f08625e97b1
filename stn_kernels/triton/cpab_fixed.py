"""CPAB on points in fixed steps, as csrc/common/cpab_fixed.h: in each the affine map of the cell of its start."""

import triton
import triton.language as tl

from .coords import kernel
from .cpab import multiply, read, shape_of
from .cpab_points import add_by_region, load_tuple, owner, transposed


@triton.jit
def cell_of(y, shape):
    """The cell of lattice points, ties as libcpab's; outside the domain that of the nearest square or cube."""
    N: tl.constexpr = len(y)
    number = tl.zeros(y[0].shape, tl.int32)
    cubes = ()
    for i in tl.static_range(N):
        at = tl.floor(y[i])
        cube = tl.where(at > 0, tl.where(at < shape[i] - 1, at, shape[i] - 1), 0.0)
        cubes = cubes + (cube,)  # noqa: RUF005 -- no unpacking in Triton
    for i in tl.static_range(N):
        number = number * shape[N - 1 - i].to(tl.int32) + cubes[N - 1 - i].to(tl.int32)
    if N == 2:
        x = y[0] - cubes[0]
        v = y[1] - cubes[1]
        beyond = x + v > 1  # of the diagonals
        number = 4 * number + tl.where(x > v, tl.where(beyond, 1, 0), tl.where(beyond, 2, 3))
    if N == 3:
        u = ()
        for i in tl.static_range(N):
            local = y[i] - cubes[i]
            u = u + (tl.where(local < 0, 0.0, tl.where(local > 1, 1.0, local)),)  # noqa: RUF005
        total = cubes[0] + cubes[1] + cubes[2]
        odd = total - 2 * tl.floor(total * 0.5) > 0.5
        x = tl.where(odd, u[1], u[0])
        v = tl.where(odd, 1 - u[0], u[1])
        z = u[2]
        t = tl.where(x - v - z >= 0, 4, 0)
        t = tl.where(v - x - z >= 0, 3, t)
        t = tl.where(x + v + z - 2 >= 0, 2, t)
        t = tl.where(z - x - v >= 0, 1, t)
        number = 5 * number + t
    return number


@triton.jit
def first_place(points, geometry_ptr):
    """Lattice coordinates of points in units of the domain."""
    shape, bounded = shape_of(geometry_ptr, len(points))
    y = ()
    for i in tl.static_range(len(points)):
        inside = tl.where(points[i] < 0, 0.0, tl.where(points[i] > 1, 1.0, points[i]))
        y = y + (tl.where(bounded, inside, points[i]) * shape[i],)  # noqa: RUF005
    return y


@triton.jit
def map_of(maps_ptr, n, y, shape, cells, exists):
    """The cells of lattice points, and the maps [E e] of their steps row by row."""
    N: tl.constexpr = len(y)
    cell = cell_of(y, shape)
    at = maps_ptr + (n * cells + cell) * (N * (N + 1))
    return cell, read(at, exists, 0, N * (N + 1))


@triton.jit
def matrix_of(values, N: tl.constexpr):
    """The square part of [E e], row by row."""
    matrix = ()
    for i in tl.static_range(N):
        matrix = matrix + values[i * (N + 1) : i * (N + 1) + N]
    return matrix


@triton.jit
def homogeneous(y):
    return y + (y[0] * 0 + 1,)  # noqa: RUF005


@kernel
def cpab_fixed_forward(
    points_ptr,  # these as in cpab_points.cpab_forward
    maps_ptr,  # (N, cells, n, n + 1)
    geometry_ptr,
    output_ptr,
    points: tl.int32,
    samples: tl.int32,
    cells: tl.int32,
    steps: tl.int32,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(points, BLOCK)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    point = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    exists = point < points
    y = first_place(load_tuple(points_ptr + (owner(n, samples) * points + point) * N, exists, N), geometry_ptr)
    shape, _bounded = shape_of(geometry_ptr, N)
    for _ in range(steps):
        _cell, values = map_of(maps_ptr, n, y, shape, cells, exists)
        y = multiply(values, homogeneous(y))
    for i in tl.static_range(N):
        tl.store(output_ptr + (n * points + point) * N + i, y[i] / shape[i], mask=exists)


@kernel
def cpab_fixed_backward(
    grad_ptr,  # these as in cpab_points.cpab_backward
    points_ptr,
    maps_ptr,
    geometry_ptr,
    grad_points_ptr,
    sums_ptr,  # (N, parts, cells, n (n + 1)): of the maps
    visits_ptr,  # (programs, steps, n, BLOCK): where steps begin
    points: tl.int32,
    parts: tl.int32,
    samples: tl.int32,
    cells: tl.int32,
    steps: tl.int32,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    n = (program // parts).to(tl.int64)
    part = program % parts
    shape, bounded = shape_of(geometry_ptr, N)
    lane = tl.arange(0, BLOCK)
    visits = visits_ptr + program.to(tl.int64) * steps * (N * BLOCK) + lane
    for block in range(part, tl.cdiv(points, BLOCK), parts):
        point = block * BLOCK + lane
        exists = point < points
        at = load_tuple(points_ptr + (owner(n, samples) * points + point) * N, exists, N)
        grads = load_tuple(grad_ptr + (n * points + point) * N, exists, N)
        cotangent = ()
        for i in tl.static_range(N):
            cotangent = cotangent + (grads[i] / shape[i],)  # noqa: RUF005
        y = first_place(at, geometry_ptr)
        for step in range(steps):
            for i in tl.static_range(N):
                tl.store(visits + (step * N + i) * BLOCK, y[i])
            _cell, values = map_of(maps_ptr, n, y, shape, cells, exists)
            y = multiply(values, homogeneous(y))
        tl.debug_barrier()
        for back in range(steps):
            y = load_tuple(visits + (steps - 1 - back) * (N * BLOCK), exists, N, BLOCK)
            cell, values = map_of(maps_ptr, n, y, shape, cells, exists)
            if sums_ptr is not None:
                wide = homogeneous(y)
                gradient = ()
                for i in tl.static_range(N):
                    for j in tl.static_range(N + 1):
                        gradient = gradient + (cotangent[i] * wide[j],)  # noqa: RUF005
                add_by_region(sums_ptr + (n * parts + part) * cells * (N * (N + 1)), cell, gradient, exists)
            cotangent = transposed(matrix_of(values, N), cotangent)
        tl.debug_barrier()
        if grad_points_ptr is not None:
            for i in tl.static_range(N):
                value = cotangent[i] * shape[i]
                value = tl.where(bounded, tl.where((at[i] < 0) | (at[i] > 1), 0.0, value), value)
                tl.store(grad_points_ptr + (n * points + point) * N + i, value, mask=exists)
