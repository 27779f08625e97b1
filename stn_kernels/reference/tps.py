"""Thin-plate spline of an output lattice: the specification of `tps_grid` and `tps_sample`.

The source of an output point x is f(x) = sum_k w_k U(|x - c_k|) + a_0 + a_x x + a_y y (+ a_z z) with U(r) = r^2 log r^2
in two dimensions (Bookstein 1989; Jaderberg et al. 2015, Sec. 3.2) and U(r) = r in three: what bends least in either
(Duchon 1977; Wahba 1990, Sec. 2.4). The coefficients are the rows w_1 ... w_K, a_0, a_x, a_y (, a_z): (K + n + 1, n).
They are a linear function of the points to which the control points c_k map, by the inverse of the interpolation
system: large numbers of either sign, whose sums are taken in float64 and rounded once.
"""

import torch

from . import sampling
from .affine import homogeneous_base


def radial(squared, n):
    """U(r) in n dimensions by the square of r: r^2 log r^2, 0 at 0, or r."""
    if n == 3:
        return squared.sqrt()
    return torch.where(squared > 0, squared * torch.where(squared > 0, squared, 1.0).log(), 0.0)


def basis(points, control_points):
    """The functions that the coefficients weight, at points (P, n): (P, K + n + 1)."""
    squared = (points.unsqueeze(1) - control_points).square().sum(-1)
    return torch.cat([radial(squared, points.shape[-1]), torch.ones_like(points[:, :1]), points], 1)


def solver(control_points):
    """The matrix (K + n + 1, K) from the control points' images to the coefficients that interpolate them."""
    count, n = control_points.shape
    system = control_points.new_zeros(count + n + 1, count + n + 1)
    system[:count] = basis(control_points, control_points)
    system[count:, :count] = system[:count, count:].T
    return torch.linalg.inv(system)[:, :count]


def _lattice_basis(control_points, size, align_corners):
    n = len(size)
    points = homogeneous_base(size, align_corners, torch.float64, control_points.device)[..., :n].reshape(-1, n)
    return basis(points, control_points.double())


def tps_grid(coefficients, control_points, size, align_corners):
    """coefficients (B[, S], K + n + 1, n) -> normalized source coordinates (B[, S], *size, n), in float32 or better."""
    grid = _lattice_basis(control_points, size, align_corners) @ coefficients.double()
    return grid.to(sampling.compute_dtype(coefficients)).reshape(*coefficients.shape[:-2], *size, len(size))


def tps_grid_backward(grad_output, coefficients, control_points, align_corners):
    """Gradient of `tps_grid` to the coefficients: grad_output (B[, S], *size, n) -> (B[, S], K + n + 1, n)."""
    n = coefficients.shape[-1]
    size = grad_output.shape[-n - 1 : -1]
    functions = _lattice_basis(control_points, size, align_corners)
    return (functions.T @ grad_output.flatten(-n - 1, -2).double()).to(coefficients.dtype)


def tps_sample(input, coefficients, control_points, size, padding_mode, align_corners, mode="bilinear"):
    """input (B, C, *in), coefficients (B[, S], K + n + 1, n) -> (B[, S], C, *size)."""
    wide = coefficients.to(sampling.compute_dtype(input, coefficients))
    grid = tps_grid(wide, control_points, size, align_corners)
    return sampling.grid_sample(input, grid, padding_mode, align_corners, mode)


def tps_sample_backward(grad_output, input, coefficients, control_points, padding_mode, align_corners, mode="bilinear"):
    """Gradients of `tps_sample` to input and coefficients."""
    wide = coefficients.to(sampling.compute_dtype(input, coefficients))
    grid = tps_grid(wide, control_points, grad_output.shape[-wide.shape[-1] :], align_corners)
    grad_input, grad_grid = sampling.grid_sample_backward(grad_output, input, grid, padding_mode, align_corners, mode)
    return grad_input, tps_grid_backward(grad_grid, wide, control_points, align_corners).to(coefficients.dtype)
