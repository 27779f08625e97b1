"""Linearized multi-sampling: the specification of the sampler `Linearized` (Jiang et al. 2019; Eq. 4 to 10 of ESTN).

Around a source point x the image is read, bilinearly, at K points x + d_k: I_k, of which d_0 = 0 is the centre. A
plane is fitted to the differences I_k - I_0 by weighted least squares: with rows [d_k, 1], k > 0, in X, and weights W,

    [g, b] = (X^T W X + ridge 1)^-1 X^T W [I_k - I_0],   output = I_0 + b, or I_0 if fixed_bias,

and its slope g is the gradient to the source point. The rules, stated once:

Units        offsets are normalized coordinates; in the fit, and so for `ridge`, they count in pixels of the input.
Drawn        offset = N(0, 1) times a spread per axis, ((noise / out_size)^2 + (2 / size)^2)^(1/2), the second term only
             with push_away: the sum of the two independent draws that were published. The numbers are
             `philox.normals(seed, ...)`, the axes of sample 1 first, then those of sample 2.
Far          a sample whose offset is beyond [-1, 1] along any axis, or NaN, has weight 0.
uniform      w = 1.
distance     w = max(0, 1 + r sqrt(r) - |d|) / (r sqrt(r)), Eq. 5 of ESTN with d in pixels and r = (N - 1) / 2, half the
             side of its neighbourhood: two spreads of the widest axis, at least 2 pixels.
entropic     w_k = (K - 1) P(k | 0), how much more than evenly the point itself is matched with sample k, where P is the
             plan of entropic optimal transport between the samples and the 3^n pixels p_j around the point, p_0 = 0,
             both of uniform mass: argmin sum P_kj |t_k - p_j|^2 + sum P_kj log P_kj, after SINKHORN_ROUNDS rounds. In
             it lengths are in spreads of their axis, at least one pixel, and t_k, the offset, is clamped to [-4, 4].
             That is our reading of Eq. 10 of ESTN, which regularizes a matching by its entropy and calls an element
             "the probability that sample point i matches j".
Singular     where the samples do not span a plane, no slope and no bias: output = I_0, gradient 0. By elimination:
             where the total weight is 0, or the pivot of an axis is not above 64 eps times sum_k w_k d_k^2.
Gradient     of the source point: g, where it stands, even where a coordinate is clamped. g and b are constants
             otherwise, so that the input's gradient is that of I_0; with through_samples also that of b.
"""

import itertools
import math
from dataclasses import dataclass

import torch

from . import affine, homography, philox, sampling, tps

SINKHORN_ROUNDS = 8
SINKHORN_REACH = 4.0
WEIGHTINGS = ("uniform", "distance", "entropic")


@dataclass(frozen=True)
class Options:
    """What a call needs besides its tensors."""

    samples: int
    noise: float
    push_away: bool
    fixed_bias: bool
    weighting: str
    ridge: float
    through_samples: bool


@dataclass
class Fit:
    """The plane at every point as sums over samples: slope g = sum_k slopes_k I_k and bias b = sum_k biases_k I_k."""

    offsets: torch.Tensor  # (N, K, P, n) normalized; 0 for samples that do not count
    slopes: torch.Tensor  # (N, K, P, n), by normalized coordinates
    biases: torch.Tensor  # (N, K, P)


def spreads(options, size, out_size):
    """Standard deviations of the offsets, normalized: n numbers, x first."""
    push = 2.0 if options.push_away else 0.0
    return [math.hypot(options.noise / o, push / s) for s, o in zip(size[::-1], out_size[::-1], strict=True)]


def drawn_offsets(seed, options, size, out_size, items, dtype):
    """Offsets of the samples 1 to K - 1 of every point of every item: (N, K - 1, P, n)."""
    n, points = len(size), math.prod(out_size)
    numbers = philox.normals(seed, items, points, (options.samples - 1) * n).to(dtype)
    spread = torch.tensor(spreads(options, size, out_size), dtype=dtype, device=seed.device)
    return numbers.unflatten(-1, (options.samples - 1, n)).movedim(2, 1) * spread


def _entropic(units, counts):
    """Weights (N, K, P) of samples at `units` (N, K, P, n), lengths in spreads, of which `counts` take part."""
    places = units.new_tensor(list(itertools.product((0.0, -1.0, 1.0), repeat=units.shape[-1])))  # the point first
    cost = (units.clamp(-SINKHORN_REACH, SINKHORN_REACH).unsqueeze(-2) - places).square().sum(-1)  # (N, K, P, 3^n)
    kernel = torch.where(counts.unsqueeze(-1), (cost.amin(-1, keepdim=True) - cost).exp(), 0.0)
    of_places = torch.ones_like(kernel[:, :1])
    for _ in range(SINKHORN_ROUNDS):
        of_samples = torch.where(counts, 1 / (kernel * of_places).sum(-1), 0.0)
        mass = (kernel * of_samples.unsqueeze(-1)).sum(1, keepdim=True)
        of_places = torch.where(mass > 0, 1 / mass, 0.0)
    return counts.sum(1, keepdim=True) * of_samples * (kernel * of_places)[..., 0]


def weights(offsets, counts, options, spread):
    """(N, K, P): of samples at offsets (N, K, P, n), in pixels with standard deviations `spread`; 0 unless `counts`."""
    if options.weighting == "distance":
        half = max(2.0, 2 * max(spread))
        reach = half * math.sqrt(half)
        return torch.where(counts, ((1 + reach - offsets.square().sum(-1).sqrt()) / reach).clamp(min=0), 0.0)
    if options.weighting == "entropic":
        unit = offsets.new_tensor([max(1.0, s) for s in spread])
        return _entropic(offsets / unit, counts)
    return counts.to(offsets.dtype)


def solve(offsets, weight, ridge):
    """Least squares at every point: offsets (N, K, P, n) and weights (N, K, P) -> slopes, biases, solvable (N, P).

    The bias is eliminated first, so that the other unknowns see offsets from their mean; then L D L^T.
    """
    n = offsets.shape[-1]
    total = weight.sum(1) + ridge  # (N, P)
    heavy = total > 0
    mean = (weight.unsqueeze(-1) * offsets).sum(1) / torch.where(heavy, total, 1.0).unsqueeze(-1)  # (N, P, n)
    centred = offsets - mean.unsqueeze(1)
    covariance = torch.einsum("nkp,nkpa,nkpb->npab", weight, centred, centred)
    covariance = covariance + ridge * (mean.unsqueeze(-1) * mean.unsqueeze(-2) + torch.eye(n).to(mean))
    moment = (weight.unsqueeze(-1) * offsets.square()).sum(1)
    smallest = 64 * torch.finfo(offsets.dtype).eps * moment
    solvable, lower, pivots = heavy, torch.zeros_like(covariance), []
    for a in range(n):
        pivot = covariance[..., a, a] - sum(lower[..., a, c].square() * pivots[c] for c in range(a))
        solvable = solvable & (pivot > smallest[..., a])
        pivots.append(torch.where(solvable, pivot, 1.0))
        for b in range(a + 1, n):
            rest = covariance[..., b, a] - sum(lower[..., b, c] * lower[..., a, c] * pivots[c] for c in range(a))
            lower[..., b, a] = rest / pivots[a]
    slopes = [weight * centred[..., a] for a in range(n)]  # (N, K, P) each
    for a in range(n):
        slopes[a] = slopes[a] - sum(lower[..., a, c].unsqueeze(1) * slopes[c] for c in range(a))
    for a in reversed(range(n)):
        known = sum(lower[..., c, a].unsqueeze(1) * slopes[c] for c in range(a + 1, n))
        slopes[a] = slopes[a] / pivots[a].unsqueeze(1) - known
    slopes = torch.stack(slopes, -1)
    biases = weight / torch.where(heavy, total, 1.0).unsqueeze(1) - (slopes * mean.unsqueeze(1)).sum(-1)
    here = solvable.unsqueeze(1)
    return torch.where(here.unsqueeze(-1), slopes, 0.0), torch.where(here, biases, 0.0), solvable


def fit(seed, offsets, options, size, out_size, align_corners, lead, dtype):
    """The planes of a call with items `lead` (B[, S]); offsets (B[, S], K, *out, n), or None to draw them from seed."""
    n, items = len(size), math.prod(lead)
    if offsets is None:
        others = drawn_offsets(seed, options, size, out_size, items, dtype)
    else:
        others = offsets.to(dtype).reshape(items, options.samples, math.prod(out_size), n)[:, 1:]
    scale = others.new_tensor([(s - 1) / 2 if align_corners else s / 2 for s in size[::-1]])
    counts = (others.abs() <= 1).all(-1)
    others = torch.where(counts.unsqueeze(-1), others, 0.0)
    spread = [s * k for s, k in zip(spreads(options, size, out_size), scale.tolist(), strict=True)]
    pixels = others * scale
    slopes, biases, solvable = solve(pixels, weights(pixels, counts, options, spread), options.ridge)
    slopes, others = slopes * scale, torch.where(solvable[:, None, :, None], others, 0.0)

    def with_centre(values, centre):
        return torch.cat([centre.unsqueeze(1), values], 1)

    return Fit(
        with_centre(others, torch.zeros_like(others[:, 0])),
        with_centre(slopes, -slopes.sum(1)),
        with_centre(biases, -biases.sum(1)),
    )


def _grids(fit, grid, options):
    """The grid of every sample, and the fit in its shape: (B, S K, *out, n), (B, S, K, 1, *out[, n])."""
    n = grid.shape[-1]
    lead, out = (grid.shape[0], grid.shape[1 : -n - 1].numel(), options.samples), grid.shape[-n - 1 : -1]
    offsets, slopes = fit.offsets.reshape(*lead, *out, n), fit.slopes.reshape(*lead, 1, *out, n)
    grids = grid.reshape(lead[0], lead[1], 1, *out, n) + offsets
    return grids.flatten(1, 2), slopes, fit.biases.reshape(*lead, 1, *out)


def sample(input, grid, fit, options, padding_mode, align_corners):
    """input (B, C, *in) at grid (B[, S], *out, n): returns (B[, S], C, *out)."""
    wide = input.to(sampling.compute_dtype(input, grid))
    output = sampling.grid_sample(wide, grid, padding_mode, align_corners)
    if not options.fixed_bias:
        grids, _, biases = _grids(fit, grid, options)
        values = sampling.grid_sample(wide, grids, padding_mode, align_corners)
        bias = (biases * values.unflatten(1, biases.shape[1:3])).sum(2)
        output = output + bias.reshape(output.shape)
    return output.to(input.dtype)


def slopes(input, grid, fit, options, padding_mode, align_corners):
    """The planes' slopes to normalized coordinates, axis by axis: (B[, S], n C, *out)."""
    wide = input.to(sampling.compute_dtype(input, grid))
    grids, slopes, _ = _grids(fit, grid, options)
    values = sampling.grid_sample(wide, grids, padding_mode, align_corners).unflatten(1, slopes.shape[1:3])
    n, channels = grid.shape[-1], input.shape[1]
    by_axis = [(slopes[..., a] * values).sum(2) for a in range(n)]  # (B, S, C, *out) each
    return torch.cat(by_axis, 2).reshape(*grid.shape[: -n - 1], n * channels, *grid.shape[-n - 1 : -1])


def sample_backward(grad_output, input, grid, fit, options, padding_mode, align_corners):
    """The gradients to input and grid that stand for those of `sample`, as differentiable torch operations."""
    wide = input.to(sampling.compute_dtype(input, grid))
    grad = grad_output.to(wide.dtype)
    grids, slopes, biases = _grids(fit, grid, options)
    values = sampling.grid_sample(wide, grids, padding_mode, align_corners).unflatten(1, biases.shape[1:3])
    along = (grad.reshape(values[:, :, :1].shape) * values).sum(3, keepdim=True)  # (B, S, K, 1, *out)
    grad_grid = (slopes * along.unsqueeze(-1)).sum((2, 3)).reshape(grid.shape).to(grid.dtype)
    grad_input, _ = sampling.grid_sample_backward(grad, wide, grid, padding_mode, align_corners)
    if options.through_samples and not options.fixed_bias:
        of_samples = (biases * grad.reshape(values[:, :, :1].shape)).flatten(1, 2)
        grad_input = grad_input + sampling.grid_sample_backward(of_samples, wide, grids, padding_mode, align_corners)[0]
    return grad_input.to(input.dtype), grad_grid


def transform_grid(transform, parameters, control_points, size, align_corners, dtype):
    """Where a transform with parameters (B[, S], ...) reads: (B[, S], *size, n) in dtype."""
    if transform == "grid":
        return parameters.to(dtype)
    if transform == "affine":
        return affine.affine_grid(parameters.double(), size, align_corners).to(dtype)
    if transform == "homography":
        return homography.homography_grid(parameters.double(), size, align_corners).to(dtype)
    return tps.tps_grid(parameters.to(dtype), control_points, size, align_corners)


def transform_grid_backward(grad_grid, transform, parameters, control_points, align_corners):
    """The gradient of `transform_grid` to the parameters."""
    if transform == "grid":
        return grad_grid
    if transform == "affine":
        return affine.affine_grid_backward(grad_grid, align_corners)
    wide = parameters.to(grad_grid.dtype)
    if transform == "homography":
        return homography.homography_grid_backward(grad_grid, wide, align_corners)
    return tps.tps_grid_backward(grad_grid, wide, control_points, align_corners)
