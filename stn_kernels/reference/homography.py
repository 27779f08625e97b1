"""Projective transformation of an output lattice: the specification of `homography_grid` and `homography_sample`.

An output point (x, y) has the source (X / w, Y / w) with (X, Y, w) = H (x, y, 1). A point whose w is not at least 2^-60
(below, NaN: at or behind the plane w = 0) has no source: its coordinates are NaN, which every sampler counts as -inf,
and its gradient is 0. So H and -H differ: the points of the output that are to be seen have w > 0, as under the
identity.
"""

import torch

from . import sampling
from .affine import homogeneous_base

SMALLEST_DEPTH = 2.0**-60


def _project(matrix, size, align_corners):
    """matrix (B[, S], 3, 3) -> base (P, 3), source points (N, P, 2) and 1 / w (N, P), 0 where there is no source."""
    dtype = sampling.compute_dtype(matrix)
    base = homogeneous_base(size, align_corners, dtype, matrix.device).reshape(-1, 3)
    homogeneous = (matrix.to(dtype).flatten(0, -3).unsqueeze(1) * base.reshape(1, -1, 1, 3)).sum(-1)
    depth = homogeneous[..., 2]
    front = depth >= SMALLEST_DEPTH
    reciprocal = torch.where(front, 1 / torch.where(front, depth, 1.0), 0.0)
    points = torch.where(front.unsqueeze(-1), homogeneous[..., :2] * reciprocal.unsqueeze(-1), torch.nan)
    return base, points, reciprocal


def homography_grid(matrix, size, align_corners):
    """matrix (B[, S], 3, 3) -> normalized source coordinates (B[, S], *size, 2), in float32 or better."""
    _, points, _ = _project(matrix, size, align_corners)
    return points.reshape(*matrix.shape[:-2], *size, 2)


def homography_grid_backward(grad_output, matrix, align_corners):
    """Gradient of `homography_grid` to matrix: grad_output (B[, S], *size, 2) -> (B[, S], 3, 3)."""
    size = grad_output.shape[-3:-1]
    base, points, reciprocal = _project(matrix, size, align_corners)
    grad = grad_output.reshape(points.shape).to(points.dtype) * reciprocal.unsqueeze(-1)
    grad_depth = -(grad * torch.where(points.isfinite(), points, 0.0)).sum(-1, keepdim=True)
    grad_matrix = torch.einsum("npi,pj->nij", torch.cat([grad, grad_depth], -1), base)
    return grad_matrix.reshape(matrix.shape).to(matrix.dtype)


def homography_sample(input, matrix, size, padding_mode, align_corners, mode="bilinear"):
    """input (B, C, H, W), matrix (B[, S], 3, 3) -> (B[, S], C, *size)."""
    grid = homography_grid(matrix.double(), size, align_corners).to(sampling.compute_dtype(input, matrix))
    return sampling.grid_sample(input, grid, padding_mode, align_corners, mode)


def homography_sample_backward(grad_output, input, matrix, padding_mode, align_corners, mode="bilinear"):
    """Gradients of `homography_sample` to input and matrix."""
    wide = matrix.to(sampling.compute_dtype(input, matrix))
    grid = homography_grid(matrix.double(), grad_output.shape[-2:], align_corners).to(wide.dtype)
    grad_input, grad_grid = sampling.grid_sample_backward(grad_output, input, grid, padding_mode, align_corners, mode)
    return grad_input, homography_grid_backward(grad_grid, wide, align_corners).to(matrix.dtype)
