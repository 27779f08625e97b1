"""Sampling an image at given coordinates, n-dimensional: the specification of every sampler.

A point reads K taps along each axis, K^n in all, and a tap's weight is the product of its weights along the axes. The
rules, stated once (W stands for the size of any one axis, f for the fractional part of a pixel coordinate x):

Normalized to pixel   align_corners=False: x = ((g + 1) W - 1) / 2;  True: x = (g + 1) (W - 1) / 2.
bilinear              K = 2: floor(x) with 1 - f and floor(x) + 1 with f (linear in 1-D, trilinear in 3-D).
nearest               K = 1: x rounded, halves to even.
bicubic               K = 4: floor(x) - 1 to floor(x) + 2 with the cubic convolution of Keys (1981), a = -0.75
                      (cubic in 1-D, tricubic in 3-D).
zeros                 a tap outside [0, W-1] reads 0.
border                x is clamped to [0, W-1]; for bicubic every tap is, after x has got its weights.
reflection            x is reflected about -0.5 and W-0.5 (align_corners=False) or about 0 and W-1 (True), as often as
                      needed, then clamped to [0, W-1]; for bicubic every tap is, after x has got its weights.
NaN                   counts as -inf: 0 under "zeros", the first row or column otherwise.
+-inf and huge        outside under "zeros"; the nearest edge under "border"; under "reflection" a coordinate of
                      2^23 pixels or more has no fractional part left in float32 and counts as -inf.
Gradient              the derivative of the rule; 0 where x is clamped, rounded or replaced.
"""

import functools
import itertools
import operator
from dataclasses import dataclass

import torch

PADDING_MODES = ("zeros", "border", "reflection")
REFLECTION_LIMIT = 2.0**23
CUBIC_A = -0.75


def compute_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """float64 if any tensor is float64, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


@dataclass
class Tap:
    """One tap of every point along one axis."""

    index: torch.Tensor  # pixel, inside the image
    inside: torch.Tensor  # whether it is read; else it counts as 0
    weight: torch.Tensor
    slope: torch.Tensor  # d weight / d normalized coordinate


def to_pixels(coords, size, align_corners):
    """Normalized coordinates of one axis -> (pixel coordinates, pixels in a normalized unit)."""
    scale = (size - 1) / 2 if align_corners else size / 2
    return (coords + 1) * scale if align_corners else ((coords + 1) * size - 1) / 2, scale


def axis_taps(coords, size, mode, padding_mode, align_corners) -> list[Tap]:
    """The K taps along one axis of points with these normalized coordinates."""
    x, scale = to_pixels(coords, size, align_corners)
    slope = torch.full_like(x, scale)
    if mode == "bicubic":
        return _cubic_taps(x, slope, size, padding_mode, align_corners)
    if padding_mode == "reflection":
        x, slope = _reflect(x, slope, size, align_corners)
    # Under "zeros" no tap is read from two pixels outside on; the clamp keeps huge values convertible to integers.
    low, high = (-2, size + 1) if padding_mode == "zeros" else (0, size - 1)
    x, slope = _clamp(x, slope, low, high)
    if mode == "nearest":
        return [_tap(x.detach().round(), size, torch.ones_like(x), torch.zeros_like(x))]
    first = x.detach().floor()
    fraction = x - first
    return [_tap(first, size, 1 - fraction, -slope), _tap(first + 1, size, fraction, slope)]


def _tap(index, size, weight, slope):
    return Tap(index.clamp(0, size - 1).long(), (index >= 0) & (index < size), weight, slope)


def _clamp(x, slope, low, high):
    x = torch.where(x.isnan(), -torch.inf, x)
    inside = (x > low) & (x < high)
    return torch.where(inside, x, x.detach().clamp(low, high)), torch.where(inside, slope, 0.0)


def _reflect(x, slope, size, align_corners):
    low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
    if high == low:  # one pixel, align_corners=True: everything reflects onto it
        return x.detach() * 0.0, slope * 0.0
    finite = x.abs() < REFLECTION_LIMIT
    distance = torch.where(finite, x, 0.0) - low
    sign = torch.where(distance < 0, -1.0, 1.0)
    distance = distance.abs()
    flips = torch.floor(distance.detach() / (high - low))
    rest = distance - flips * (high - low)
    odd = flips % 2 == 1
    reflected = torch.where(odd, high - rest, rest + low)
    slope = slope * sign * torch.where(odd, -1.0, 1.0)
    return torch.where(finite, reflected, -torch.inf), torch.where(finite, slope, 0.0)


def _cubic_taps(x, slope, size, padding_mode, align_corners):
    if padding_mode == "reflection":
        known = x.abs() < REFLECTION_LIMIT
        x, slope = torch.where(known, x, 0.0), torch.where(known, slope, 0.0)
    else:  # from three pixels outside on every tap is outside, or on the edge
        x, slope = _clamp(x, slope, -3, size + 2)
    if size == 1 and padding_mode != "zeros":  # every tap is the one pixel: exactly 0, not a sum that cancels
        slope = torch.zeros_like(slope)
    first = x.detach().floor()
    fraction = x - first
    taps = []
    for offset in (-1, 0, 1, 2):
        weight, derivative = cubic_weight(fraction - offset)
        index = first + offset
        if padding_mode == "reflection":
            index, _ = _reflect(index, index, size, align_corners)
        if padding_mode != "zeros":
            index = index.clamp(0, size - 1)
        taps.append(_tap(index, size, weight, derivative * slope))
    return taps


def cubic_weight(distance):
    """Keys' cubic convolution kernel at a signed distance in (-2, 2), and its derivative."""
    a, sign, d = CUBIC_A, torch.where(distance.detach() < 0, -1.0, 1.0), distance.abs()
    near, near_slope = ((a + 2) * d - (a + 3)) * d * d + 1, (3 * (a + 2) * d - 2 * (a + 3)) * d
    far, far_slope = a * (((d - 5) * d + 8) * d - 4), a * ((3 * d - 10) * d + 8)
    return torch.where(d <= 1, near, far), torch.where(d <= 1, near_slope, far_slope) * sign


def _product(factors):
    return functools.reduce(operator.mul, factors)


def _point_taps(points, sizes, mode, padding_mode, align_corners):
    """The K^n taps of points (B, P, n): yields flat index (B, P), inside, weight, d weight / d coordinate per axis."""
    n = len(sizes)
    axes = [  # x, y, z
        axis_taps(points[..., axis], sizes[n - 1 - axis], mode, padding_mode, align_corners) for axis in range(n)
    ]
    strides = [sizes[n - axis :].numel() for axis in range(n)]
    for taps in itertools.product(*axes):
        index = sum(tap.index * stride for tap, stride in zip(taps, strides, strict=True))
        inside = _product([tap.inside for tap in taps])
        weight = _product([tap.weight for tap in taps])
        slopes = [
            _product([tap.slope if other == axis else tap.weight for other, tap in enumerate(taps)])
            for axis in range(n)
        ]
        yield index, inside, weight, slopes


def _flatten(input, grid):
    """(B, C, *in), (B[, S], *out, n) -> (B, C, I) values and (B, P, n) points in the compute dtype."""
    dtype = compute_dtype(input, grid)
    return input.flatten(2).to(dtype), grid.flatten(1, -2).to(dtype)


def _read(values, index, inside):
    taps = values.gather(2, index.unsqueeze(1).expand(-1, values.shape[1], -1))
    return torch.where(inside.unsqueeze(1), taps, 0.0)


def grid_sample(input, grid, padding_mode, align_corners, mode="bilinear"):
    """input (B, C, *in) at grid (B[, S], *out, n): returns (B[, S], C, *out)."""
    n = grid.shape[-1]
    has_samples = grid.dim() == n + 3
    values, points = _flatten(input, grid)
    output = values.new_zeros(values.shape[0], values.shape[1], points.shape[1])
    if input.numel() > 0:
        for index, inside, weight, _ in _point_taps(points, input.shape[2:], mode, padding_mode, align_corners):
            output = output + weight.unsqueeze(1) * _read(values, index, inside)
    output = output.unflatten(2, grid.shape[1:-1]).to(input.dtype)
    return output.movedim(2, 1) if has_samples else output


def grid_sample_backward(grad_output, input, grid, padding_mode, align_corners, mode="bilinear"):
    """Gradients of `grid_sample` to input and grid, as differentiable torch operations."""
    n = grid.shape[-1]
    values, points = _flatten(input, grid)
    grad = (grad_output.movedim(1, 2) if grid.dim() == n + 3 else grad_output).flatten(2).to(values.dtype)
    grad_values = torch.zeros_like(values)
    grad_points = [torch.zeros_like(points[..., 0]) for _ in range(n)]
    if input.numel() > 0:
        for index, inside, weight, slopes in _point_taps(points, input.shape[2:], mode, padding_mode, align_corners):
            tap_grad = torch.where(inside.unsqueeze(1), grad * weight.unsqueeze(1), 0.0)
            grad_values = grad_values.scatter_add(2, index.unsqueeze(1).expand_as(tap_grad), tap_grad)
            along = (grad * _read(values, index, inside)).sum(1)
            grad_points = [total + along * slope for total, slope in zip(grad_points, slopes, strict=True)]
    grad_input = grad_values.reshape(input.shape).to(input.dtype)
    grad_grid = torch.stack(grad_points, dim=-1).reshape(grid.shape).to(grid.dtype)
    return grad_input, grad_grid


def grid_sample_double_backward(gg_input, gg_grid, grad_output, input, grid, padding_mode, align_corners, mode):
    """Gradients of <gg_input, grad_input> + <gg_grid, grad_grid> of the backward to grad_output, input and grid.

    Bilinear and nearest, whose weights have no curvature along an axis; a cotangent may be None.
    """
    n = grid.shape[-1]
    values, points = _flatten(input, grid)
    dtype, has_samples = values.dtype, grid.dim() == n + 3
    grad = (grad_output.movedim(1, 2) if has_samples else grad_output).flatten(2).to(dtype)
    other = torch.zeros_like(values) if gg_input is None else gg_input.flatten(2).to(dtype)
    along = torch.zeros_like(points) if gg_grid is None else gg_grid.flatten(1, -2).to(dtype)
    of_grad, of_values, of_points = torch.zeros_like(grad), torch.zeros_like(values), torch.zeros_like(points)
    axes = [
        axis_taps(points[..., a], input.shape[1 + n - a], mode, padding_mode, align_corners) for a in range(n)
    ]  # x, y, z
    strides = [input.shape[2 + n - a :].numel() for a in range(n)]
    for taps in itertools.product(*axes) if input.numel() > 0 else ():

        def weight(*slopes, taps=taps):
            """The product of the axes' weights, of their derivatives along some."""
            return _product([tap.slope if a in slopes else tap.weight for a, tap in enumerate(taps)])

        index = sum(tap.index * stride for tap, stride in zip(taps, strides, strict=True))
        inside = _product([tap.inside for tap in taps])
        directional = sum(along[..., a] * weight(a) for a in range(n)).unsqueeze(1)
        image, cotangent = _read(values, index, inside), _read(other, index, inside)
        of_grad += weight().unsqueeze(1) * cotangent + directional * image
        tap_grad = torch.where(inside.unsqueeze(1), grad * directional, 0.0)
        of_values.scatter_add_(2, index.unsqueeze(1).expand_as(tap_grad), tap_grad)
        for a in range(n):
            mixed = sum(along[..., b] * weight(a, b) for b in range(n) if b != a)
            of_points[..., a] += (grad * cotangent).sum(1) * weight(a) + (grad * image).sum(1) * mixed
    of_output = of_grad.unflatten(2, grid.shape[1:-1]).to(grad_output.dtype)
    of_output = of_output.movedim(2, 1) if has_samples else of_output
    return of_output, of_values.reshape(input.shape).to(input.dtype), of_points.reshape(grid.shape).to(grid.dtype)
