"""The coordinates of a projective transform or a spline alone, and the gradient of its parameters from theirs."""

import triton
import triton.language as tl

from . import homography, tps
from .coords import kernel
from .transforms import lattice_points, source_normalized


@triton.jit
def block_points(blocks, out_height, out_width, ALIGN: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr):
    """This program's image, its block, the numbers of its points, which of them exist, and where they lie."""
    n = (tl.program_id(0) // blocks).to(tl.int64)
    part = tl.program_id(0) % blocks
    point = part * BLOCK + tl.arange(0, BLOCK)
    x, y = lattice_points(point % out_width, point // out_width, out_height, out_width, ALIGN, COMPUTE)
    return n, part, point, point < out_height * out_width, x, y


@kernel
def lattice_forward(
    params_ptr,  # (N, count)
    control_ptr,  # (controls, 2) of a spline, else None
    grid_ptr,  # (N, Ho, Wo, 2)
    controls: tl.int32,
    count: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    TRANSFORM: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    COMPUTE: tl.constexpr = grid_ptr.dtype.element_ty
    size = out_height * out_width
    n, _, point, exists, x, y = block_points(tl.cdiv(size, BLOCK), out_height, out_width, ALIGN, COMPUTE, BLOCK)
    source_x, source_y = source_normalized(params_ptr + n * count, control_ptr, controls, x, y, TRANSFORM)
    at = grid_ptr + (n * size + point) * 2
    tl.store(at, source_x, mask=exists)
    tl.store(at + 1, source_y, mask=exists)


@kernel
def lattice_backward(
    params_ptr,
    control_ptr,
    grad_grid_ptr,  # (N, Ho, Wo, 2), contiguous
    partial_ptr,  # (N, parts, count): a program's sums
    controls: tl.int32,
    count: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    TRANSFORM: tl.constexpr,
    ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    COMPUTE: tl.constexpr = partial_ptr.dtype.element_ty
    size = out_height * out_width
    parts = tl.cdiv(size, BLOCK)
    n, part, point, exists, x, y = block_points(parts, out_height, out_width, ALIGN, COMPUTE, BLOCK)
    at = grad_grid_ptr + (n * size + point) * 2
    grad_x = tl.load(at, mask=exists, other=0.0).to(COMPUTE)
    grad_y = tl.load(at + 1, mask=exists, other=0.0).to(COMPUTE)
    sums = partial_ptr + (n * parts + part) * count
    if TRANSFORM == "homography":
        source_x, source_y, reciprocal = homography.project(params_ptr + n * count, x, y)
        grads = homography.project_vjp(source_x, source_y, reciprocal, grad_x, grad_y)
        for row in tl.static_range(3):
            tl.store(sums + 3 * row, tl.sum(grads[row] * x, 0))
            tl.store(sums + 3 * row + 1, tl.sum(grads[row] * y, 0))
            tl.store(sums + 3 * row + 2, tl.sum(grads[row], 0))
    else:
        for k in range(controls):
            value = tps.radial(control_ptr, k, x, y)
            tl.store(sums + 2 * k, tl.sum(grad_x * value, 0))
            tl.store(sums + 2 * k + 1, tl.sum(grad_y * value, 0))
        affine = sums + 2 * controls
        tl.store(affine, tl.sum(grad_x, 0))
        tl.store(affine + 1, tl.sum(grad_y, 0))
        tl.store(affine + 2, tl.sum(grad_x * x, 0))
        tl.store(affine + 3, tl.sum(grad_y * x, 0))
        tl.store(affine + 4, tl.sum(grad_x * y, 0))
        tl.store(affine + 5, tl.sum(grad_y * y, 0))
