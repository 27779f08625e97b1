"""Affine transformation of an output lattice: the specification of `affine_grid` and `affine_sample`."""

import torch

from . import sampling


def base_coordinates(size, align_corners, dtype, device):
    """Normalized pixel centres of one axis: (2 i + 1) / size - 1, or -1 + 2 i / (size - 1) for align_corners."""
    index = torch.arange(size, dtype=dtype, device=device)
    if not align_corners:
        return (2 * index + 1) / size - 1
    return 2 * index / (size - 1) - 1 if size > 1 else torch.zeros_like(index)


def homogeneous_base(size, align_corners, dtype, device):
    """The output lattice in homogeneous coordinates (x, y, z, 1): (*size, n + 1)."""
    axes = [base_coordinates(s, align_corners, dtype, device) for s in size]
    mesh = torch.meshgrid(*axes, indexing="ij")[::-1]
    return torch.stack([*mesh, torch.ones(tuple(size), dtype=dtype, device=device)], dim=-1)


def affine_grid(theta, size, align_corners):
    """theta (B[, S], n, n+1) -> normalized source coordinates (B[, S], *size, n), in float32 or better."""
    dtype = sampling.compute_dtype(theta)
    base = homogeneous_base(size, align_corners, dtype, theta.device)
    grid = (theta.to(dtype).flatten(0, -3).unsqueeze(1) * base.reshape(1, -1, 1, base.shape[-1])).sum(-1)
    return grid.reshape(*theta.shape[:-2], *size, theta.shape[-2])


def affine_grid_backward(grad_output, align_corners):
    """Gradient of `affine_grid` to theta: grad_output (B[, S], *size, n) -> (B[, S], n, n+1)."""
    n = grad_output.shape[-1]
    lead, size = grad_output.shape[: -n - 1], grad_output.shape[-n - 1 : -1]
    base = homogeneous_base(size, align_corners, grad_output.dtype, grad_output.device)
    grad = grad_output.reshape(-1, base.shape[:-1].numel(), n)
    grad_theta = torch.einsum("bpi,pj->bij", grad, base.reshape(-1, n + 1))
    return grad_theta.reshape(*lead, n, n + 1)


def affine_sample(input, theta, size, padding_mode, align_corners, mode="bilinear"):
    """input (B, C, *in), theta (B[, S], n, n+1) -> (B[, S], C, *size)."""
    grid = affine_grid(theta.double(), size, align_corners).to(sampling.compute_dtype(input, theta))
    return sampling.grid_sample(input, grid, padding_mode, align_corners, mode)


def affine_sample_backward(grad_output, input, theta, padding_mode, align_corners, mode="bilinear"):
    """Gradients of `affine_sample` to input and theta."""
    size = grad_output.shape[theta.dim() - 1 :]
    grid = affine_grid(theta.double(), size, align_corners).to(sampling.compute_dtype(input, theta))
    grad_input, grad_grid = sampling.grid_sample_backward(grad_output, input, grid, padding_mode, align_corners, mode)
    return grad_input, affine_grid_backward(grad_grid, align_corners).to(theta.dtype)
