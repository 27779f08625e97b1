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
def store_parameter_gradient(
    grad_ptr,  # affine: the moments (N, 6, parts), for affine.theta_gradient; grid: the gradient of the grid
    n,
    part,
    parts,
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
    if TRANSFORM == "affine":
        u = centred(u, out_width, gx.dtype)
        v = centred(v, out_height, gx.dtype)
        affine.store_moments(grad_ptr, n, part, parts, gx, gy, u, v)
    else:
        tl.static_assert(TRANSFORM == "grid")
        grid.store_gradient(grad_ptr, n, u, v, exists, gx, gy, height, width, out_height, out_width, ALIGN)
