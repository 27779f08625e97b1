"""What a kernel asks of a transform, by its name."""

import triton
import triton.language as tl

from . import affine, grid
from .coords import centred


@triton.jit
def source_pixels(
    params_ptr,  # affine: theta (N, 2, 3); grid: (N, Ho, Wo, 2)
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
    grad_ptr,  # grid: the gradient of the grid
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
        tl.static_assert(TRANSFORM == "grid")
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
