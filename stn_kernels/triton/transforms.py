"""What a kernel asks of a transform, by its name.

Parameters: affine (N, n, n + 1), homography (N, 3, 3), tps (N, controls + n + 1, n) with control points (controls, n),
grid (N, *out, n), cpab (forward alone) field and geometry of cpab.py. Their gradient: of a grid the coordinates' own;
else a program's sums (N, count, parts), where a spline has a part for every step of a program.
"""

import triton
import triton.language as tl

from . import affine, cpab, grid, homography, tps
from .coords import centred, lattice_intervals, quotient


@triton.jit
def normalized(point, sizes, ALIGN: tl.constexpr, COMPUTE: tl.constexpr):
    """Normalized coordinates of output pixels."""
    two = tl.full([], 2, COMPUTE)
    coords = ()
    for axis in tl.static_range(len(sizes)):
        unit = quotient(two, lattice_intervals(sizes[axis], ALIGN, COMPUTE))
        coords = coords + (centred(point[axis], sizes[axis], COMPUTE) * unit,)  # noqa: RUF005
    return coords


@triton.jit
def pixels_of(coords, sizes, ALIGN: tl.constexpr, COMPUTE: tl.constexpr):
    """Normalized coordinates of computed points -> pixels."""
    pixels = ()
    for axis in tl.static_range(len(sizes)):
        scale = (sizes[axis] - ALIGN).to(COMPUTE) * 0.5
        pixels = pixels + (coords[axis] * scale + (sizes[axis] - 1).to(COMPUTE) * 0.5,)  # noqa: RUF005
    return pixels


@triton.jit
def source_normalized(params_ptr, control_ptr, controls, n, coords, TRANSFORM: tl.constexpr):
    """The normalized source of normalized points under the matrix or the spline of image n."""
    if TRANSFORM == "homography":
        x, y, _reciprocal = homography.project(params_ptr + n * 9, coords[0], coords[1])
        source = (x, y)
    else:
        tl.static_assert(TRANSFORM == "tps")
        N: tl.constexpr = len(coords)
        wide = ()  # in float64: the terms of a spline cancel
        for axis in tl.static_range(N):
            wide = wide + (coords[axis].to(tl.float64),)  # noqa: RUF005
        wide = tps.apply(params_ptr + n * N * (controls + N + 1), control_ptr, controls, wide)
        source = ()
        for axis in tl.static_range(N):
            source = source + (wide[axis].to(coords[0].dtype),)  # noqa: RUF005
    return source


@triton.jit
def source_pixels(
    params_ptr, control_ptr, controls, n, point, exists, sizes, out_sizes,
    TRANSFORM: tl.constexpr, ALIGN: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The source pixel of the output pixels `point` of image n."""
    N: tl.constexpr = len(sizes)
    if TRANSFORM == "affine":
        distances = affine.from_middle(point, out_sizes, COMPUTE)
        source = ()
        for axis in tl.static_range(N):
            row_ptr = params_ptr + (n * N + axis) * (N + 1)
            row = affine.pixel_row(row_ptr, sizes[axis], out_sizes, ALIGN, COMPUTE)
            source = source + (affine.apply_row(row, distances),)  # noqa: RUF005
    elif TRANSFORM == "grid":
        coords = grid.load_points(params_ptr, n, point, exists, out_sizes)
        source = ()
        for axis in tl.static_range(N):
            source = source + (grid.to_pixel(coords[axis], sizes[axis], ALIGN, COMPUTE),)  # noqa: RUF005
    elif TRANSFORM == "cpab":
        coords = normalized(point, out_sizes, ALIGN, COMPUTE)
        source = pixels_of(cpab.warp(coords, params_ptr, control_ptr, n, controls, exists), sizes, ALIGN, COMPUTE)
    else:
        coords = normalized(point, out_sizes, ALIGN, COMPUTE)
        coords = source_normalized(params_ptr, control_ptr, controls, n, coords, TRANSFORM)
        source = pixels_of(coords, sizes, ALIGN, COMPUTE)
    return source


@triton.jit
def no_sums(zero, N: tl.constexpr, TRANSFORM: tl.constexpr):
    """What a program sums for the parameters' gradient, at the start."""
    COUNT: tl.constexpr = N * (N + 1) if TRANSFORM == "affine" else 9 if TRANSFORM == "homography" else 0
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (zero,)  # noqa: RUF005
    return sums


@triton.jit
def normalized_gradient(grads, sizes, ALIGN: tl.constexpr):
    """The gradient of normalized coordinates from that of pixel coordinates."""
    scaled = ()
    for axis in tl.static_range(len(sizes)):
        scaled = scaled + (grads[axis] * ((sizes[axis] - ALIGN).to(grads[axis].dtype) * 0.5),)  # noqa: RUF005
    return scaled


@triton.jit
def add_parameter_gradient(
    grad_ptr, sums, params_ptr, control_ptr, controls, n, part, parts, point, exists, grads, out_sizes,
    TRANSFORM: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """The parameters' gradient of output pixels: added to the sums, or stored where every part or point has its own.

    grads: of their source, in pixels for "affine", else normalized. exists: where not, they are 0.
    """
    COMPUTE: tl.constexpr = grads[0].dtype
    if TRANSFORM == "affine":
        sums = affine.add_moments(sums, grads, affine.from_middle(point, out_sizes, COMPUTE))
    elif TRANSFORM == "grid":
        grid.store_gradient(grad_ptr, n, point, exists, grads, out_sizes)
    else:
        coords = normalized(point, out_sizes, ALIGN, COMPUTE)
        if TRANSFORM == "homography":
            sums = homography.add_sums(sums, params_ptr + n * 9, coords[0], coords[1], grads[0], grads[1])
        else:
            at = grad_ptr + n * (len(coords) * (controls + len(coords) + 1)) * parts + part
            tps.store_gradient(at, parts, control_ptr, controls, coords, grads)
    return sums


@triton.jit
def store_sums(grad_ptr, sums, n, part, parts):
    """Writes a program's sums to column `part` of image n."""
    at = grad_ptr + n * len(sums) * parts + part
    for k in tl.static_range(len(sums)):
        tl.store(at + k * parts, tl.sum(tl.sum(sums[k], 1), 0))
