"""Warps a photograph and a time series with several transformations: `stn-kernels demo`."""

import math
import pathlib

import torch

from . import Tessellation, affine_sample, cpab_sample, data, plot


def rotation(degrees: float, zoom: float = 1.0) -> list[list[float]]:
    c, s = zoom * math.cos(math.radians(degrees)), zoom * math.sin(math.radians(degrees))
    return [[c, -s, 0.0], [s, c, 0.0]]


# title, matrix, padding
PANELS = (
    ("identity", rotation(0), "zeros"),
    ("rotation 30 degrees", rotation(30), "zeros"),
    ("zoom in 2.5x", rotation(0, 0.4), "zeros"),
    ("shear, border", [[1.0, 0.6, 0.0], [0.0, 1.0, 0.0]], "border"),
    ("zoom out 2x, zeros", rotation(0, 2.0), "zeros"),
    ("zoom out 2x, border", rotation(0, 2.0), "border"),
    ("zoom out 2x, reflection", rotation(15, 2.0), "reflection"),
    ("mirror and squeeze", [[-1.5, 0.0, 0.0], [0.0, 1.0, 0.0]], "zeros"),
)


def warped(backend: str | None = None) -> torch.Tensor:
    """The panels (K, 3, 256, 256): S transformations of one photograph in one call a padding mode."""
    photograph = next(iter(data.photographs().values())).unsqueeze(0)
    result = torch.empty(len(PANELS), 3, 256, 256)
    for padding in dict.fromkeys(p for _, _, p in PANELS):
        which = [i for i, panel in enumerate(PANELS) if panel[2] == padding]
        theta = torch.tensor([PANELS[i][1] for i in which]).unsqueeze(0)
        result[which] = affine_sample(photograph, theta, (256, 256), padding_mode=padding, backend=backend)[0]
    return result


def affine_sheet(figure, backend: str | None = None) -> None:
    """Draws the panels, titled."""
    figure.set_size_inches(12, 6.4)
    images = warped(backend).movedim(1, -1).clamp(0, 1).numpy()
    for axis, image, (title, *_) in zip(figure.subplots(2, len(PANELS) // 2).flat, images, PANELS, strict=True):
        axis.imshow(image)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()


def cpab_sheet(figure, backend: str | None = None) -> None:
    """Draws a photograph under three CPAB transformations with their fields and grids, and a time series under one."""
    figure.set_size_inches(12, 12)
    rows = figure.subfigures(4, 1)
    photograph = next(iter(data.photographs().values())).unsqueeze(0)
    kinds = (
        ("zero boundary", 0.6, Tessellation((4, 4))),
        ("free boundary", 0.15, Tessellation((2, 2), zero_boundary=False)),
        ("volume-preserving", 0.6, Tessellation((4, 4), volume_preserving=True)),
    )
    for row, (title, strength, cells) in zip(rows, kinds, strict=False):
        theta = cells.sample_prior(1, 0.3, strength, torch.Generator().manual_seed(1))
        image = cpab_sample(photograph, theta, (256, 256), cells, backend=backend)
        back = cpab_sample(image, -theta, (256, 256), cells, backend=backend)
        panels = row.subplots(1, 4)
        plot.velocity(cells, theta, plot.tessellation(cells, panels[0]))
        plot.deformed_grid(cells, theta, panels[1], backend=backend)
        for axis, picture in zip(panels[2:], (image, back), strict=True):
            axis.imshow(picture[0].movedim(0, -1).clamp(0, 1).numpy())
            axis.set_axis_off()
        names = f"velocity, {title}", "deformed grid", "photograph", "and back, theta negated"
        for axis, name in zip(panels, names, strict=True):
            axis.set_title(name, fontsize=9)
    cells, series = Tessellation((8,)), data.time_series()[:1].unsqueeze(0)
    theta = cells.sample_prior(1, 0.3, 1.0, torch.Generator().manual_seed(2))
    moved = cpab_sample(series, theta, series.shape[2:], cells, backend=backend)
    panels = rows[3].subplots(1, 3)
    plot.velocity(cells, theta, plot.tessellation(cells, panels[0]))
    plot.deformed_grid(cells, theta, plot.tessellation(cells, panels[1]), backend=backend)
    for signal, name in ((series, "recorded"), (moved, "warped")):
        panels[2].plot(signal[0, 0], linewidth=0.8, label=name)
    panels[2].legend(fontsize=8)
    for axis, name in zip(panels, ("velocity, 8 intervals", "transformation of time", "a time series"), strict=True):
        axis.set_title(name, fontsize=9)


SHEETS = {"affine": affine_sheet, "cpab": cpab_sheet}


def contact_sheet(path: str, backend: str | None = None, family: str = "affine") -> pathlib.Path:
    """Writes the sheet of a family, one of SHEETS, as PNG; returns where.

    Raises:
        ImportError: matplotlib or the photographs' package is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("the demo draws with matplotlib: run `pip install matplotlib`") from None

    figure = Figure(layout="constrained")
    SHEETS[family](figure, backend)
    figure.savefig(path)
    return pathlib.Path(path).resolve()
