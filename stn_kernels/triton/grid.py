"""The transform that a user already has as coordinates: a grid (N, Ho, Wo, 2), contiguous."""

import triton
import triton.language as tl

from .coords import stored


@triton.jit
def load_points(grid_ptr, n, u, v, exists, out_height, out_width):
    """Normalized (x, y) of the outputs (u, v)."""
    at = grid_ptr + (n * out_height * out_width + v * out_width + u) * 2
    return tl.load(at, mask=exists, other=0.0), tl.load(at + 1, mask=exists, other=0.0)


@triton.jit
def to_pixel(g, size, ALIGN: tl.constexpr, COMPUTE: tl.constexpr):
    scale = (size - ALIGN).to(COMPUTE) * 0.5
    x = (g.to(COMPUTE) + 1) * scale
    return x if ALIGN else x - 0.5


@triton.jit
def store_gradient(grad_grid_ptr, n, u, v, exists, gx, gy, height, width, out_height, out_width, ALIGN: tl.constexpr):
    """Writes the gradient of normalized coordinates from the one of pixel coordinates."""
    at = grad_grid_ptr + (n * out_height * out_width + v * out_width + u) * 2
    gx *= (width - ALIGN).to(gx.dtype) * 0.5
    gy *= (height - ALIGN).to(gy.dtype) * 0.5
    tl.store(at, stored(gx, at.dtype.element_ty), mask=exists)
    tl.store(at + 1, stored(gy, at.dtype.element_ty), mask=exists)
