"""Seconds a training step takes with our kernels and with torch's grid and sampler: same network, same batches."""

import contextlib
import dataclasses
import statistics
import time
from unittest import mock

import torch
import torch.nn.functional as F

from stn_kernels import affine_sample, nn

from . import ddtn, estn, finnveden, jaderberg, pstn
from .processes import has_linearized
from .training import Run, State, take_step


def torch_sample(grid):
    """A sampler like ours from coordinates `grid(parameters, size, ...)` and torch's grid_sample, S copies an image."""

    def sample(image, parameters, size, mode="bilinear", padding_mode="zeros", align_corners=False, **options):
        options.pop("backend", None)
        coordinates = grid(parameters, size, align_corners, **options)
        if coordinates.dim() == 4:
            return F.grid_sample(image, coordinates, mode, padding_mode, align_corners)
        batch, count = coordinates.shape[:2]
        copies = image.unsqueeze(1).expand(-1, count, -1, -1, -1).flatten(0, 1)
        out = F.grid_sample(copies, coordinates.flatten(0, 1), mode, padding_mode, align_corners)
        return out.unflatten(0, (batch, count))

    return sample


def torch_affine_grid(theta, size, align_corners=False):
    flat = theta.flatten(0, -3)
    grid = F.affine_grid(flat, (len(flat), 1, *size), align_corners)
    return grid.unflatten(0, theta.shape[:-2])


def _points(size, align_corners, like):
    identity = torch.eye(2, 3, dtype=like.dtype, device=like.device)
    return torch_affine_grid(identity.unsqueeze(0), size, align_corners)[0]


def torch_homography_grid(matrix, size, align_corners=False):
    points = F.pad(_points(size, align_corners, matrix), (0, 1), value=1.0)
    mapped = torch.einsum("b...ij,hwj->b...hwi", matrix, points)
    return mapped[..., :2] / mapped[..., 2:]


def torch_tps_grid(points, size, align_corners=False, control_points=None):
    """The spline's linear system solved for the control points, then one matrix product."""
    if control_points is None:
        line = torch.linspace(-1, 1, 4, dtype=points.dtype, device=points.device)
        control_points = torch.cartesian_prod(line, line).flip(-1)

    def basis(x):
        squared = (x.unsqueeze(-2) - control_points).square().sum(-1)
        return torch.cat([squared * (squared + 1e-12).log(), torch.ones_like(x[..., :1]), x], -1)

    count = len(control_points)
    system = basis(control_points)
    constraints = F.pad(system[:, count:].T, (0, 3))
    inverse = torch.linalg.inv(torch.cat([system, constraints]))[:, :count]
    weights = inverse @ points
    return torch.einsum("hwk,b...ki->b...hwi", basis(_points(size, align_corners, points)), weights)


GRIDS = {"homography": torch_homography_grid, "tps": torch_tps_grid}


@contextlib.contextmanager
def torch_sampling():
    """Affine, homography and thin-plate layers run on torch's affine_grid, or its like, and grid_sample meanwhile."""
    families = {
        name: dataclasses.replace(family, sample=torch_sample(GRIDS.get(name, torch_affine_grid)))
        for name, family in nn.FAMILIES.items()
        if family.sample is affine_sample or name in GRIDS
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(nn.FAMILIES, families))
        for module in (finnveden, jaderberg, pstn, ddtn, estn):
            if hasattr(module, "affine_sample"):
                stack.enter_context(mock.patch.object(module, "affine_sample", torch_sample(torch_affine_grid)))
        yield


def torch_can(network) -> bool:
    """Whether torch has samplers for all of the network's transformers: it has none for CPAB and linearized ones."""
    cpab = any(getattr(module, "tessellation", None) for module in network.modules())
    return not (cpab or has_linearized(network))


def seconds_of(run: Run, state: State) -> float:
    began = time.perf_counter()
    take_step(run, state)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def seconds_a_step(started: list[tuple[Run, State]], rounds: int = 9) -> dict[str, dict[str, float]]:
    """The time of a step of every network; call it last, for it trains on.

    In every round each network takes a step that only warms the caches, one with our kernels and one with torch's.
    Ratios are taken within a round, so that other work on the machine slows both of their sides.

    Args:
        started: the runs of one experiment, a network each.

    Returns:
        For every network the medians over the rounds: "seconds", "seconds_torch" and "ratio", torch's to ours, where
        torch has the samplers, and "cost", against the experiment's `unit`.
    """
    ours = {run.network: [] for run, _ in started}
    theirs = {run.network: [] for run, state in started if torch_can(state.network)}
    for _ in range(rounds + 1):
        for run, state in started:
            take_step(run, state)
            ours[run.network].append(seconds_of(run, state))
            if run.network in theirs:
                with torch_sampling():
                    theirs[run.network].append(seconds_of(run, state))

    def median_ratio(above, below):
        return statistics.median(a / b for a, b in zip(above[1:], below[1:], strict=True))

    unit = started[0][0].experiment.unit
    result = {}
    for name, seconds in ours.items():
        row = result[name] = {"seconds": statistics.median(seconds[1:])}
        if name in theirs:
            row["seconds_torch"] = statistics.median(theirs[name][1:])
            row["ratio"] = median_ratio(theirs[name], seconds)
        if unit in ours:
            row["cost"] = median_ratio(seconds, ours[unit])
    return result
