"""Pictures of CPAB transformations with matplotlib: cells, velocity fields, deformed grids. In one or two dimensions.

Every function draws into `axes` (None: those of a new figure), in units of the domain with y down as in images, and
returns the axes.
"""

import torch

from .ops._cpab import check_tessellation
from .ops.cpab_transform import cpab_transform
from .tessellation import Tessellation, check_theta


def tessellation(tessellation: Tessellation, axes=None, **style):
    """The cells: edges of triangles, or the ends of intervals.

    Args:
        tessellation: in one or two dimensions.
        axes: matplotlib axes.
        style: of the lines, as `Axes.plot` takes it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or dimension; the message names it.
        ImportError: matplotlib is missing.
    """
    axes = _axes(axes, tessellation)
    style = {"color": "0.5", "linewidth": 0.8, **style}
    complex_ = tessellation._complex
    corners = (complex_.vertices / torch.tensor(tessellation.shape, dtype=torch.float64))[complex_.cells]
    if tessellation.n == 1:
        for x in corners.unique().tolist():
            axes.axvline(x, **style)
    else:
        axes.plot(*_broken(corners[:, [0, 1, 2, 0]]).T, **style)
    return axes


def velocity(tessellation: Tessellation, theta, axes=None, *, count=20, **style):
    """The velocity field: arrows at count x count points, in 1-D its graph.

    Args:
        tessellation, axes: as above.
        theta: parameters (d,) or (1, d).
        count: points an axis.
        style: as `Axes.quiver` takes it, or `Axes.plot`.

    Raises:
        TypeError, ValueError, ImportError: as above.
    """
    axes, theta = _axes(axes, tessellation), _one(theta, tessellation)
    if tessellation.n == 1:
        points = torch.linspace(0, 1, 20 * count, dtype=torch.float64).unsqueeze(1)
        axes.plot(points, tessellation.velocity(points, theta)[0], **style)
        return axes
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    points = torch.cartesian_prod(centres, centres)
    arrows = tessellation.velocity(points, theta)[0]
    axes.quiver(*points.T, *arrows.T, **{"angles": "xy", "width": 0.003, **style})
    return axes


def deformed_grid(tessellation: Tessellation, theta, axes=None, *, lines=17, inverse=False, backend=None, **style):
    """What a transformation makes of a regular grid of lines; in 1-D its graph.

    `cpab_sample` reads an image at the transformed points: its picture moves the way of `inverse=True`.

    Args:
        tessellation, axes: as above.
        theta: parameters (d,) or (1, d).
        lines: how many, an axis.
        inverse, backend: as in `cpab_transform`.
        style: of the lines, as `Axes.plot` takes it.

    Raises:
        TypeError, ValueError, ImportError: as above.
    """
    axes, theta = _axes(axes, tessellation), _one(theta, tessellation)
    style = {"color": "tab:blue", "linewidth": 0.8, **style}

    def move(points):
        return cpab_transform(points, theta, tessellation, inverse=inverse, backend=backend)[0]

    along = torch.linspace(0, 1, 201, dtype=torch.float64)
    if tessellation.n == 1:
        axes.plot(along, move(along.unsqueeze(1))[:, 0], **style)
        return axes
    across = torch.linspace(0, 1, lines, dtype=torch.float64)
    ways = torch.cartesian_prod(across, along).unflatten(0, (lines, -1))
    for points in (ways, ways.flip(-1)):
        axes.plot(*_broken(move(points.flatten(0, 1)).unflatten(0, (lines, -1))).T, **style)
    return axes


def _broken(polylines):
    """(K, P, 2) -> (K (P + 1), 2): one line, interrupted by NaN."""
    return torch.cat([polylines, torch.full_like(polylines[:, :1], torch.nan)], 1).flatten(0, 1)


def _one(theta, tessellation):
    """theta (1, d) in float64 on the CPU."""
    if isinstance(theta, torch.Tensor) and theta.dim() == 1:
        theta = theta.unsqueeze(0)
    check_theta(theta, tessellation)
    if theta.shape[:-1] != (1,):
        raise ValueError(f"theta must be (d,) or (1, d), got shape {tuple(theta.shape)}: draw one transformation")
    return theta.detach().cpu().double()


def _axes(axes, tessellation):
    check_tessellation(tessellation)
    if tessellation.n > 2:
        raise ValueError(f"tessellation must have one or two dimensions to be drawn, got {tessellation}")
    if axes is None:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("pictures are drawn with matplotlib: run `pip install matplotlib`") from None
        axes = Figure(figsize=(4, 4)).subplots()
    if tessellation.n == 2:
        axes.set(xlim=(-0.02, 1.02), ylim=(1.02, -0.02), aspect="equal")
    return axes
