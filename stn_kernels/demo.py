"""Warps a photograph with several transformations: `stn-kernels demo`."""

import math
import pathlib

import torch

from . import affine_sample, data


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


def contact_sheet(path: str, backend: str | None = None) -> pathlib.Path:
    """Writes the panels, titled, as one PNG; returns where.

    Raises:
        ImportError: matplotlib or the photographs' package is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("the demo draws with matplotlib: run `pip install matplotlib`") from None

    images = warped(backend).movedim(1, -1).clamp(0, 1).numpy()
    figure = Figure(figsize=(12, 6.4))
    for axis, image, (title, *_) in zip(figure.subplots(2, len(PANELS) // 2).flat, images, PANELS, strict=True):
        axis.imshow(image)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(path)
    return pathlib.Path(path).resolve()
