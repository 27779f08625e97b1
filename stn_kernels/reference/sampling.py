"""Sampling an image at given coordinates, n-dimensional: the specification of every sampler.

The rules, stated once (W stands for the size of any one axis):

Normalized to pixel   align_corners=False: x = ((g + 1) W - 1) / 2;  True: x = (g + 1) (W - 1) / 2.
zeros                 a tap outside [0, W-1] reads 0.
border                x is clamped to [0, W-1].
reflection            x is reflected about -0.5 and W-0.5 (align_corners=False) or about 0 and W-1 (True),
                      as often as needed, then clamped to [0, W-1].
NaN                   counts as -inf: 0 under "zeros", the first row or column otherwise.
+-inf and huge        outside under "zeros"; the nearest edge under "border"; under "reflection" a coordinate of
                      2^23 pixels or more has no fractional part left in float32 and counts as -inf.
Gradient              the derivative of the rule; 0 where x is clamped or replaced.
"""

import itertools

import torch

PADDING_MODES = ("zeros", "border", "reflection")
REFLECTION_LIMIT = 2.0**23


def compute_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """float64 if any tensor is float64, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def pixel_coordinates(coords, size, padding_mode, align_corners):
    """Normalized coordinates of one axis -> (pixel coordinate after padding, its derivative by the normalized one)."""
    scale = (size - 1) / 2 if align_corners else size / 2
    x = (coords + 1) * scale if align_corners else ((coords + 1) * size - 1) / 2
    slope = torch.full_like(x, scale)
    if padding_mode == "reflection":
        x, slope = _reflect(x, slope, size, align_corners)
    x = torch.where(x.isnan(), -torch.inf, x)
    # Under "zeros" no tap is read from two pixels outside on; the clamp keeps huge values convertible to integers.
    low, high = (-2, size + 1) if padding_mode == "zeros" else (0, size - 1)
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


def _corners(points, sizes, padding_mode, align_corners):
    """The 2^n taps of a point: yields flat index (B, P), in-bounds mask, weight, d weight / d coordinate per axis."""
    n = len(sizes)
    axes = []  # x, y, z
    for axis in range(n):
        size = sizes[n - 1 - axis]
        x, slope = pixel_coordinates(points[..., axis], size, padding_mode, align_corners)
        low = x.detach().floor()
        axes.append((size, low.long(), x - low, slope))
    for corner in itertools.product((0, 1), repeat=n):
        index, stride, inside, weights, signs = 0, 1, True, [], []
        for bit, (size, low, fraction, slope) in zip(corner, axes, strict=True):
            tap = low + bit
            inside = ((tap >= 0) & (tap < size)) & inside
            index = index + tap.clamp(0, size - 1) * stride
            stride *= size
            weights.append(fraction if bit else 1 - fraction)
            signs.append(slope if bit else -slope)
        weight = torch.stack(weights).prod(0)
        slopes = [
            signs[axis] * torch.stack([torch.ones_like(weight), *weights[:axis], *weights[axis + 1 :]]).prod(0)
            for axis in range(n)
        ]
        yield index, inside, weight, slopes


def _flatten(input, grid):
    """(B, C, *in), (B[, S], *out, n) -> (B, C, I) values and (B, P, n) points in the compute dtype."""
    dtype = compute_dtype(input, grid)
    return input.flatten(2).to(dtype), grid.flatten(1, -2).to(dtype)


def _taps(values, index, inside):
    taps = values.gather(2, index.unsqueeze(1).expand(-1, values.shape[1], -1))
    return torch.where(inside.unsqueeze(1), taps, 0.0)


def grid_sample(input, grid, padding_mode, align_corners):
    """Linear interpolation of input (B, C, *in) at grid (B[, S], *out, n): returns (B[, S], C, *out)."""
    n = grid.shape[-1]
    has_samples = grid.dim() == n + 3
    values, points = _flatten(input, grid)
    output = values.new_zeros(values.shape[0], values.shape[1], points.shape[1])
    if input.numel() > 0:
        for index, inside, weight, _ in _corners(points, input.shape[2:], padding_mode, align_corners):
            output = output + weight.unsqueeze(1) * _taps(values, index, inside)
    output = output.unflatten(2, grid.shape[1:-1]).to(input.dtype)
    return output.movedim(2, 1) if has_samples else output


def grid_sample_backward(grad_output, input, grid, padding_mode, align_corners):
    """Gradients of `grid_sample` to input and grid, as differentiable torch operations."""
    n = grid.shape[-1]
    values, points = _flatten(input, grid)
    grad = (grad_output.movedim(1, 2) if grid.dim() == n + 3 else grad_output).flatten(2).to(values.dtype)
    grad_values = torch.zeros_like(values)
    grad_points = [torch.zeros_like(points[..., 0]) for _ in range(n)]
    if input.numel() > 0:
        for index, inside, weight, slopes in _corners(points, input.shape[2:], padding_mode, align_corners):
            tap_grad = torch.where(inside.unsqueeze(1), grad * weight.unsqueeze(1), 0.0)
            grad_values = grad_values.scatter_add(2, index.unsqueeze(1).expand_as(tap_grad), tap_grad)
            along = (grad * _taps(values, index, inside)).sum(1)
            grad_points = [total + along * slope for total, slope in zip(grad_points, slopes, strict=True)]
    grad_input = grad_values.reshape(input.shape).to(input.dtype)
    grad_grid = torch.stack(grad_points, dim=-1).reshape(grid.shape).to(grid.dtype)
    return grad_input, grad_grid
