"""Real images and time series that come with installed packages: for the demo and the benchmarks."""

import functools
import importlib.util

import numpy as np
import torch

SCIKIT_IMAGE = ("astronaut", "coffee", "chelsea", "rocket", "retina", "immunohistochemistry")


@functools.cache
def photographs() -> dict[str, torch.Tensor]:
    """name -> (3, H, W) float32 in [0, 1], from scikit-image, else from scikit-learn.

    Raises:
        ImportError: neither is installed.
    """
    if importlib.util.find_spec("skimage"):
        import skimage.data

        arrays = {name: getattr(skimage.data, name)() for name in SCIKIT_IMAGE}
    elif importlib.util.find_spec("sklearn"):
        import sklearn.datasets

        sample = sklearn.datasets.load_sample_images()
        arrays = dict(zip(("china", "flower"), sample.images, strict=True))
    else:
        raise ImportError("photographs come from scikit-image: run `pip install scikit-image`")
    return {name: torch.from_numpy(np.ascontiguousarray(a)).movedim(2, 0).float() / 255 for name, a in arrays.items()}


@functools.cache
def time_series() -> torch.Tensor:
    """Electroencephalograms that come with matplotlib: (4, 800) float32, each from its mean, in standard deviations.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib import cbook
    except ImportError:
        raise ImportError("the time series comes with matplotlib: run `pip install matplotlib`") from None
    with cbook.get_sample_data("eeg.dat") as file:
        series = torch.from_numpy(np.frombuffer(file.read(), dtype="<f8").reshape(800, 4).T.copy()).float()
    return (series - series.mean(1, keepdim=True)) / series.std(1, keepdim=True)


def crops(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    """(batch, channels, height, width) float32 in [0, 1]: every plane a patch of a photograph, deterministic.

    Small patches are cut from half-size photographs, those larger than a photograph from an enlarged one. 1 channel is
    grey, 3 are colours, more are planes of different patches.
    """
    pictures = list(photographs().values())
    generator = torch.Generator().manual_seed(0)
    per_image = 1 if channels in (1, 3) else -(-channels // 3)
    patches = [
        _patch(pictures[i % len(pictures)], height, width, generator) for i in range(batch * per_image)
    ]  # each (3, height, width)
    images = torch.stack(patches).reshape(batch, 3 * per_image, height, width)
    return images.mean(1, keepdim=True) if channels == 1 else images[:, :channels].contiguous()


def _patch(picture, height, width, generator):
    scale = max(height / picture.shape[1], width / picture.shape[2], 0.5)
    scaled = torch.nn.functional.interpolate(
        picture.unsqueeze(0), scale_factor=scale * 1.001, mode="bilinear", align_corners=False, antialias=True
    )[0]
    top, left = (
        int(torch.randint(0, have - want + 1, (1,), generator=generator))
        for have, want in zip(scaled.shape[1:], (height, width), strict=True)
    )
    return scaled[:, top : top + height, left : left + width]
