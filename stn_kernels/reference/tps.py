"""Thin-plate spline of an output lattice: the specification of `tps_grid` and `tps_sample`.

The source of an output point x is f(x) = sum_k w_k U(|x - c_k|) + a_0 + a_x x + a_y y with U(r) = r^2 log r^2
(Bookstein 1989; Jaderberg et al. 2015, Sec. 3.2). The coefficients are the rows w_1 ... w_K, a_0, a_x, a_y: (K + 3, 2).
They are a linear function of the points to which the control points c_k map, by the inverse of the interpolation
system.
"""

import torch

from . import sampling
from .affine import homogeneous_base


def radial(squared):
    """U(r) = r^2 log r^2 by the square of r; 0 at 0."""
    return torch.where(squared > 0, squared * torch.where(squared > 0, squared, 1.0).log(), 0.0)


def basis(points, control_points):
    """The functions that the coefficients weight, at points (P, 2): (P, K + 3)."""
    squared = (points.unsqueeze(1) - control_points).square().sum(-1)
    return torch.cat([radial(squared), torch.ones_like(points[:, :1]), points], 1)


def solver(control_points):
    """The matrix (K + 3, K) from the control points' images to the coefficients that interpolate them."""
    count = len(control_points)
    system = control_points.new_zeros(count + 3, count + 3)
    system[:count] = basis(control_points, control_points)
    system[count:, :count] = system[:count, count:].T
    return torch.linalg.inv(system)[:, :count]


def _lattice_basis(control_points, size, align_corners, dtype):
    points = homogeneous_base(size, align_corners, dtype, control_points.device)[..., :2].reshape(-1, 2)
    return basis(points, control_points.to(dtype))


def tps_grid(coefficients, control_points, size, align_corners):
    """coefficients (B[, S], K + 3, 2) -> normalized source coordinates (B[, S], *size, 2), in float32 or better."""
    dtype = sampling.compute_dtype(coefficients)
    grid = _lattice_basis(control_points, size, align_corners, dtype) @ coefficients.to(dtype)
    return grid.reshape(*coefficients.shape[:-2], *size, 2)


def tps_grid_backward(grad_output, coefficients, control_points, align_corners):
    """Gradient of `tps_grid` to the coefficients: grad_output (B[, S], *size, 2) -> (B[, S], K + 3, 2)."""
    size = grad_output.shape[-3:-1]
    functions = _lattice_basis(control_points, size, align_corners, grad_output.dtype)
    return (functions.T @ grad_output.flatten(-3, -2)).to(coefficients.dtype)


def tps_sample(input, coefficients, control_points, size, padding_mode, align_corners, mode="bilinear"):
    """input (B, C, H, W), coefficients (B[, S], K + 3, 2) -> (B[, S], C, *size)."""
    wide = coefficients.to(sampling.compute_dtype(input, coefficients))
    grid = tps_grid(wide, control_points, size, align_corners)
    return sampling.grid_sample(input, grid, padding_mode, align_corners, mode)


def tps_sample_backward(grad_output, input, coefficients, control_points, padding_mode, align_corners, mode="bilinear"):
    """Gradients of `tps_sample` to input and coefficients."""
    wide = coefficients.to(sampling.compute_dtype(input, coefficients))
    grid = tps_grid(wide, control_points, grad_output.shape[-2:], align_corners)
    grad_input, grad_grid = sampling.grid_sample_backward(grad_output, input, grid, padding_mode, align_corners, mode)
    return grad_input, tps_grid_backward(grad_grid, wide, control_points, align_corners).to(coefficients.dtype)
