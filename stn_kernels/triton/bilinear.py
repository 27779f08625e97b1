"""The bilinear sampler: four taps a point."""

import triton
import triton.language as tl

from .coords import is_index, pad


@triton.jit
def corner(x, y, valid, height, width, PADDING: tl.constexpr, ALIGN: tl.constexpr):
    """The taps of a point: low corner, fractions, which rows and columns exist, slopes of the padding."""
    x, slope_x = pad(x, width, PADDING, ALIGN)
    y, slope_y = pad(y, height, PADDING, ALIGN)
    low_x = tl.floor(x)
    low_y = tl.floor(y)
    x0 = low_x.to(tl.int32)
    y0 = low_y.to(tl.int32)
    left = is_index(x0, width) & valid
    right = is_index(x0 + 1, width) & valid
    top = is_index(y0, height)
    bottom = is_index(y0 + 1, height)
    return x0, y0, x - low_x, y - low_y, left, right, top, bottom, slope_x, slope_y


@triton.jit
def weights(fx, fy):
    """Of the taps top left, top right, bottom left, bottom right."""
    return (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy


@triton.jit
def load_taps(at, stride_x, stride_y, left, right, top, bottom, exists, COMPUTE: tl.constexpr):
    """The values of the four taps, 0 where there is none; at points to the low corner's channels."""
    below = at + stride_y
    v00 = tl.load(at, mask=left & top & exists, other=0.0).to(COMPUTE)
    v01 = tl.load(at + stride_x, mask=right & top & exists, other=0.0).to(COMPUTE)
    v10 = tl.load(below, mask=left & bottom & exists, other=0.0).to(COMPUTE)
    v11 = tl.load(below + stride_x, mask=right & bottom & exists, other=0.0).to(COMPUTE)
    return v00, v01, v10, v11


@triton.jit
def point_gradient(grad, v00, v01, v10, v11, fx, fy):
    """d(grad . value) / d(x, y), in pixels."""
    along_x = (v01 - v00) * (1 - fy) + (v11 - v10) * fy
    along_y = (v10 - v00) * (1 - fx) + (v11 - v01) * fx
    return grad * along_x, grad * along_y


@triton.jit
def scatter(at, stride_x, stride_y, grad, fx, fy, left, right, top, bottom, exists, fixed_scale):
    """Adds grad times the taps' weights to the gradient of the image; int64 accumulators hold value * fixed_scale."""
    w00, w01, w10, w11 = weights(fx, fy)
    below = at + stride_y
    add(at, w00 * grad, left & top & exists, fixed_scale)
    add(at + stride_x, w01 * grad, right & top & exists, fixed_scale)
    add(below, w10 * grad, left & bottom & exists, fixed_scale)
    add(below + stride_x, w11 * grad, right & bottom & exists, fixed_scale)


@triton.jit
def add(at, value, mask, fixed_scale):
    if at.dtype.element_ty == tl.int64:
        value = tl.floor(tl.where(mask, value * fixed_scale, 0.0) + 0.5)
    tl.atomic_add(at, value.to(at.dtype.element_ty), mask=mask, sem="relaxed")
