"""The coordinates of a transform alone, and the gradient of its parameters from theirs."""

import triton.language as tl

from .coords import axes_of, kernel, point_of, program_share, row_count, tile_points
from .grid import load_points
from .transforms import add_parameter_gradient, no_sums, normalized, source_normalized, store_sums


@kernel
def lattice_forward(
    params_ptr,  # of a homography or a spline: see transforms.py
    control_ptr,
    grid_ptr,  # (N, *out, n)
    controls: tl.int32,
    out_width: tl.int32,
    out_height: tl.int32,
    out_depth: tl.int32,
    N: tl.constexpr,
    TRANSFORM: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    COMPUTE: tl.constexpr = grid_ptr.dtype.element_ty
    sizes = axes_of(out_width, out_height, out_depth, N)
    size = out_width * row_count(sizes)
    blocks = tl.cdiv(size, BLOCK)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    number = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    coords = normalized(point_of(number % out_width, number // out_width, sizes), sizes, ALIGN, COMPUTE)
    source = source_normalized(params_ptr, control_ptr, controls, n, coords, TRANSFORM)
    at = grid_ptr + (n * size + number) * N
    for axis in tl.static_range(N):
        tl.store(at + axis, source[axis], mask=number < size)


@kernel
def lattice_backward(
    params_ptr,  # of a homography, else None: the others are linear
    control_ptr,
    grad_grid_ptr,  # (N, *out, n), contiguous
    partial_ptr,  # (N, count, parts)
    controls: tl.int32,
    out_width: tl.int32,
    out_height: tl.int32,
    out_depth: tl.int32,
    tile_rows: tl.int32,
    N: tl.constexpr,
    TRANSFORM: tl.constexpr,
    ALIGN: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    COMPUTE: tl.constexpr = partial_ptr.dtype.element_ty
    sizes = axes_of(out_width, out_height, out_depth, N)
    rows = row_count(sizes)
    tiles = tl.cdiv(out_width, TILE_W) * tl.cdiv(rows, tile_rows)
    n, _chunk, tile = program_share(tiles, 1)
    x, first_row = tile_points(tile, out_width, tile_rows, TILE_H, TILE_W, False)
    steps = tile_rows // TILE_H
    sums = no_sums(tl.zeros(x.shape, COMPUTE), N, TRANSFORM)
    for step in range(0, steps):
        row = first_row + step * TILE_H
        exists = (x < out_width) & (row < rows)
        point = point_of(x, row, sizes)
        grads = load_points(grad_grid_ptr, n, point, exists, sizes)
        wide = ()
        for axis in tl.static_range(N):
            wide = wide + (grads[axis].to(COMPUTE),)  # noqa: RUF005
        sums = add_parameter_gradient(
            partial_ptr, sums, params_ptr, control_ptr, controls, n, tile * steps + step, tiles * steps,
            point, exists, wide, sizes, TRANSFORM, ALIGN,
        )  # fmt: skip
    if TRANSFORM != "tps":
        store_sums(partial_ptr, sums, n, tile, tiles)
