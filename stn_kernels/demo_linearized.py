"""What linearized multi-sampling is for: aligning photographs that are seen at a low resolution.

A window of half a photograph's width is sampled at 1/4 to 1/16 of its resolution, without smoothing, as a spatial
transformer does. Its translation is to be found again by gradient descent from a wrong one (Jiang et al. 2019, Sec. 4).
"""

import math
import pathlib
from dataclasses import dataclass

import torch

from . import Linearized, affine_sample, data

SIDE = 256  # of the photographs, in pixels; the window has half of it
ZOOM = 0.5
FACTORS = (4, 8, 16)
OFFSETS = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the window's centre, in half widths of the photograph
DIRECTIONS = 16
STEPS = 150
RATES = 0.03, 0.002  # of Adam, from the first step to the last
SAMPLERS = {
    "bilinear": "bilinear",
    "linearized, uniform": Linearized(),
    "linearized, distance": Linearized(weighting="distance"),
    "linearized, entropic": Linearized(weighting="entropic"),
}


@dataclass(frozen=True)
class Alignment:
    """One row of the table."""

    sampler: str
    factor: int  # of the down-sampling
    offset: float
    success: float  # share of the starts from which the window came back to within half an output pixel


def photographs() -> torch.Tensor:
    """(B, 3, SIDE, SIDE): the middle of each photograph."""
    squares = []
    for picture in data.photographs().values():
        side = min(picture.shape[1:])
        top, left = (picture.shape[1] - side) // 2, (picture.shape[2] - side) // 2
        square = picture[:, top : top + side, left : left + side].unsqueeze(0)
        squares.append(torch.nn.functional.interpolate(square, SIDE, mode="bilinear", antialias=True))
    return torch.cat(squares)


def window(images, shift, factor, mode, backend=None):
    """Windows whose centres are at shift (B, S, 2), each of SIDE / 2 / factor pixels a side: (B, S, 3, h, w)."""
    scale = ZOOM * torch.eye(2).expand(*shift.shape[:2], 2, 2)
    size = [int(ZOOM * SIDE) // factor] * 2
    return affine_sample(images, torch.cat([scale, shift.unsqueeze(-1)], -1), size, mode, "border", backend=backend)


def _loss_gradient(images, shift, target, factor, mode, backend):
    """The gradient (B, S, 2) of every window's mean squared difference to its image's target."""
    shift = shift.detach().requires_grad_()
    loss = (window(images, shift, factor, mode, backend) - target).square().mean((2, 3, 4)).sum()
    return torch.autograd.grad(loss, shift)[0]


def _target(images, factor, backend):
    return window(images, torch.zeros(len(images), 1, 2), factor, "bilinear", backend)


def success(images, offset, factor, mode, backend, steps) -> float:
    """The share of starts at a distance `offset`, in all directions, from which Adam finds the window again."""
    angle = 2 * math.pi * torch.arange(DIRECTIONS) / DIRECTIONS
    shift = offset * torch.stack([angle.cos(), angle.sin()], -1).expand(len(images), -1, -1).clone()
    target = _target(images, factor, backend)
    optimizer = torch.optim.Adam([shift], RATES[0])
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, (RATES[1] / RATES[0]) ** (1 / steps))
    for _ in range(steps):
        shift.grad = _loss_gradient(images, shift, target, factor, mode, backend)
        optimizer.step()
        schedule.step()
    half_pixel = factor / SIDE  # of the output, in normalized coordinates of the photograph
    return (shift.norm(dim=-1) < half_pixel).float().mean().item()


def direction_map(image, factor, mode, backend=None, reach=0.5, count=25) -> torch.Tensor:
    """(count, count): cosine between the descent direction and the way home, at shifts of [-reach, reach]^2."""
    axis = torch.linspace(-reach, reach, count)
    shift = torch.cartesian_prod(axis, axis).flip(-1).unsqueeze(0)
    images = image.unsqueeze(0)
    gradient = _loss_gradient(images, shift, _target(images, factor, backend), factor, mode, backend)
    return torch.nn.functional.cosine_similarity(gradient, shift, dim=-1).reshape(count, count)


def study(backend=None, progress=None) -> list[Alignment]:
    """The whole table; progress is called with a description after each of its rows.

    Raises:
        ImportError: the photographs' package is missing.
    """
    torch.manual_seed(0)
    images = photographs()
    rows = []
    for factor in FACTORS:
        for offset in OFFSETS:
            for name, mode in SAMPLERS.items():
                share = success(images, offset, factor, mode, backend, STEPS)
                rows.append(Alignment(name, factor, offset, share))
                if progress:
                    progress(f"1/{factor}, offset {offset}, {name}")
    return rows


def plot(rows: list[Alignment], path: str, backend=None) -> pathlib.Path:
    """Writes the direction maps of a photograph and the success rates as one PNG; returns where.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("the demo draws with matplotlib: run `pip install matplotlib`") from None

    torch.manual_seed(0)
    image = photographs()[0]
    figure = Figure(figsize=(13, 13))
    grid = figure.subplots(len(FACTORS) + 1, len(SAMPLERS), squeeze=False)
    for line, factor in zip(grid, FACTORS, strict=False):
        for axis, (name, mode) in zip(line, SAMPLERS.items(), strict=True):
            cosine = direction_map(image, factor, mode, backend)
            shown = axis.imshow(cosine.numpy(), vmin=-1, vmax=1, cmap="RdYlGn", extent=(-0.5, 0.5, 0.5, -0.5))
            axis.set_title(f"1/{factor}, {name}\n{100 * (cosine > 0).float().mean():.0f} % point home", fontsize=8)
    figure.colorbar(shown, ax=grid[:-1], label="cosine of the descent direction and the way home", shrink=0.6)
    for axis, factor in zip(grid[-1], FACTORS, strict=False):
        for name in SAMPLERS:
            chosen = [r for r in rows if (r.sampler, r.factor) == (name, factor)]
            axis.plot([r.offset for r in chosen], [100 * r.success for r in chosen], marker="o", label=name)
        axis.set_title(f"aligned at 1/{factor} (%), by the offset", fontsize=8)
        axis.set_ylim(-5, 105)
    grid[-1][len(FACTORS) - 1].legend(fontsize=7)
    for axis in grid[-1][len(FACTORS) :]:
        axis.set_axis_off()
    figure.savefig(path)
    return pathlib.Path(path).resolve()
