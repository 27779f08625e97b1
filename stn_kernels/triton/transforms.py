"""What a kernel asks of a transform, by its name."""

import triton
import triton.language as tl

from . import affine, grid, homography, tps
from .coords import centred, lattice_intervals, quotient


@triton.jit
def lattice_points(u, v, out_height, out_width, ALIGN: tl.constexpr, COMPUTE: tl.constexpr):
    """Normalized (x, y) of the outputs (u, v)."""
    two = tl.full([], 2, COMPUTE)
    x = centred(u, out_width, COMPUTE) * quotient(two, lattice_intervals(out_width, ALIGN, COMPUTE))
    y = centred(v, out_height, COMPUTE) * quotient(two, lattice_intervals(out_height, ALIGN, COMPUTE))
    return x, y


@triton.jit
def source_normalized(params_ptr, control_ptr, controls, x, y, TRANSFORM: tl.constexpr):
    """The normalized source of normalized points, under one image's matrix or spline."""
    if TRANSFORM == "homography":
        source_x, source_y, _reciprocal = homography.project(params_ptr, x, y)
    else:
        tl.static_assert(TRANSFORM == "tps")
        source_x, source_y = tps.apply(params_ptr, control_ptr, controls, x, y)
    return source_x, source_y


@triton.jit
def source_pixels(
    params_ptr,  # affine: theta (N, 2, 3); homography: (N, 3, 3); tps: (N, controls + 3, 2); grid: (N, Ho, Wo, 2)
    control_ptr,  # tps: (controls, 2)
    controls,
    n,
    u,
    v,
    exists,
    height,
    width,
    out_height,
    out_width,
    TRANSFORM: tl.constexpr,
    ALIGN: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """The source pixel (x, y) of the outputs (u, v) of image n."""
    if TRANSFORM == "affine":
        u = centred(u, out_width, COMPUTE)
        v = centred(v, out_height, COMPUTE)
        p, q, r = affine.pixel_row(params_ptr + n * 6, width, out_height, out_width, ALIGN, COMPUTE)
        x = affine.apply_row(p, q, r, u, v)
        p, q, r = affine.pixel_row(params_ptr + n * 6 + 3, height, out_height, out_width, ALIGN, COMPUTE)
        y = affine.apply_row(p, q, r, u, v)
    elif TRANSFORM == "homography" or TRANSFORM == "tps":
        u, v = lattice_points(u, v, out_height, out_width, ALIGN, COMPUTE)
        count = 9 if TRANSFORM == "homography" else 2 * (controls + 3)
        x, y = source_normalized(params_ptr + n * count, control_ptr, controls, u, v, TRANSFORM)
        x = x * ((width - ALIGN).to(COMPUTE) * 0.5) + (width - 1).to(COMPUTE) * 0.5
        y = y * ((height - ALIGN).to(COMPUTE) * 0.5) + (height - 1).to(COMPUTE) * 0.5
    else:
        tl.static_assert(TRANSFORM == "grid")
        x, y = grid.load_points(params_ptr, n, u, v, exists, out_height, out_width)
        x = grid.to_pixel(x, width, ALIGN, COMPUTE)
        y = grid.to_pixel(y, height, ALIGN, COMPUTE)
    return x, y


@triton.jit
def no_sums(shape: tl.constexpr, TRANSFORM: tl.constexpr, COMPUTE: tl.constexpr):
    """What a program sums for the parameters' gradient, at the start."""
    zero = tl.zeros(shape, COMPUTE)
    return affine.no_moments(zero) if TRANSFORM == "affine" else (zero,)


@triton.jit
def add_parameter_gradient(
    grad_ptr,  # grid, homography, tps: the gradient of the normalized coordinates, for lattice_backward
    sums,
    n,
    u,
    v,
    exists,
    gx,  # gradient of the source pixel
    gy,
    height,
    width,
    out_height,
    out_width,
    TRANSFORM: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """The parameters' gradient of the outputs (u, v): added to the sums, or stored where every output has its own."""
    if TRANSFORM == "affine":
        u = centred(u, out_width, gx.dtype)
        v = centred(v, out_height, gx.dtype)
        sums = affine.add_moments(sums, gx, gy, u, v)
    else:
        grid.store_gradient(grad_ptr, n, u, v, exists, gx, gy, height, width, out_height, out_width, ALIGN)
    return sums


@triton.jit
def store_sums(
    grad_ptr,  # affine: the moments (N, 6, parts), for affine.theta_gradient
    sums,
    n,
    part,
    parts,
    TRANSFORM: tl.constexpr,
):
    if TRANSFORM == "affine":
        affine.store_moments(grad_ptr, n, part, parts, sums)
