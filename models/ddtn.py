"""Deep diffeomorphic transformer networks (Skafte Detlefsen, Freifeld, Hauberg 2018).

One classifier behind transformer layers of different families, all with the same number of parameters. A layer is two
lines: `self.transformer = SpatialTransformer(localization, "homography")`, `x = self.transformer(x)`.
"""

import itertools

import torch
from torch import nn

from stn_kernels import Tessellation, cpab_sample
from stn_kernels.nn import SpatialTransformer

from .blocks import classifier, fully_connected, identity_head, materialized, stage, within_budget

LAYERS = ("None", "ST-Affine", "ST-AffineDiff", "ST-Homography", "ST-TPS", "ST-CPAB", "ST-Affine+CPAB")
FAMILIES = {"ST-Affine": "affine", "ST-AffineDiff": "affine_diffeo", "ST-Homography": "homography", "ST-TPS": "tps"}


def localization_network(channels: int = 1, shrink: int = 2) -> nn.Sequential:
    """Two convolutions and one fully connected layer (Sec. 5.3) on the image shrunk so many times."""
    return nn.Sequential(
        nn.AvgPool2d(shrink), stage(channels, 20, 5), stage(20, 20, 3, nn.ReLU()), *fully_connected(20)
    )


class AffineCPABTransformer(nn.Module):
    """ST-Affine+CPAB: an affine transformation, then a CPAB refinement of what it shows (Sec. 4.2).

    The paper interpolates twice and sees the image smoothed; here the second localization network looks at the warped
    image, but both transformations are composed and the original image is sampled once.
    """

    def __init__(self, coarse: nn.Module, fine: nn.Module, tessellation: Tessellation):
        super().__init__()
        self.coarse = SpatialTransformer(coarse)
        self.fine = nn.Sequential(fine, identity_head(tessellation.dim))
        self.tessellation = tessellation

    def forward(self, image):
        affine = self.coarse.parameters_of(image)
        seen = self.coarse(image)
        theta = self.fine(seen)
        return cpab_sample(image, theta, image.shape[-2:], self.tessellation, affine=affine)


def transformer(layer: str, channels: int = 1, shrink: int = 2) -> nn.Module:
    """One of `LAYERS`, its localization networks seeing the image shrunk so many times."""
    if layer not in LAYERS:
        raise ValueError(f"layer must be one of {', '.join(LAYERS)}, got {layer!r}")
    if layer == "None":
        return nn.Identity()
    if layer in FAMILIES:
        return SpatialTransformer(localization_network(channels, shrink), FAMILIES[layer])
    tessellation = Tessellation((4, 4), zero_boundary=False)  # d = 58
    if layer == "ST-CPAB":
        return SpatialTransformer(localization_network(channels, shrink), "cpab", tessellation=tessellation)
    return AffineCPABTransformer(
        localization_network(channels, shrink), localization_network(channels, shrink), tessellation
    )


def features(channels: int, filters: int) -> nn.Sequential:
    """The classifier of Jaderberg et al. (supplement 1.3): 9x9 and 7x7 convolutions, each with 2x2 max-pooling."""
    return nn.Sequential(stage(channels, filters, 9), stage(filters, filters, 7))


def network(layer: str, shape=(1, 28, 28), classes: int = 10, budget: int = 400_000) -> nn.Module:
    """The classifier behind a layer; its filters are as many as the budget leaves (Table 1: 400k, CIFAR 1M)."""
    return within_budget(
        lambda filters: materialized(
            nn.Sequential(transformer(layer, shape[0]), features(shape[0], filters), classifier(classes=classes)),
            *shape,
        ),
        budget,
        range(2, 257),
    )


def shrunk(size: tuple[int, int]) -> int:
    """How many times photographs are shrunk for the localization: to 32 pixels or a little more.

    At half their side its fully connected layer alone would have 1.3M parameters on LFW, where Table 1 has 200k in all.
    """
    return max(2, min(size) // 32)


class Siamese(nn.Module):
    """LFW verification: both pictures (B, 6, H, W) through one transformer and encoder, logits of their distance."""

    def __init__(self, transformer: nn.Module, width: int):
        super().__init__()
        self.transformer = transformer
        stages = [stage(i, o, 5) for i, o in ((3, width), (width, 2 * width), (2 * width, 4 * width))]
        self.encoder = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(4), *fully_connected(64))
        self.decide = nn.Linear(64, 2)

    def forward(self, pairs):
        both = self.transformer(pairs.unflatten(1, (2, 3)).flatten(0, 1))
        first, second = self.encoder(both).unflatten(0, (-1, 2)).unbind(1)
        return self.decide((first - second).abs())


class Attributes(nn.Module):
    """CelebA: 40 binary attributes (B, 40, 2) behind a layer; stages of one convolution, where VGG has two or three."""

    def __init__(self, transformer: nn.Module, width: int):
        super().__init__()
        self.transformer = transformer
        channels = (3, width, 2 * width, 4 * width, 8 * width)
        stages = [stage(i, o, 3, nn.ReLU(), nn.MaxPool2d(2), padding=1) for i, o in itertools.pairwise(channels)]
        self.classify = nn.Sequential(*stages, *classifier(128, classes=80))

    def forward(self, image):
        return self.classify(self.transformer(image)).unflatten(-1, (40, 2))


def face_network(kind: type, layer: str, size: tuple[int, int], budget: int) -> nn.Module:
    """`Siamese` or `Attributes` for pictures (H, W) behind a layer, as wide as the budget leaves."""
    shape = (6 if kind is Siamese else 3, *size)
    return within_budget(lambda width: materialized(kind(transformer(layer, 3, shrunk(size)), width), *shape), budget)


def condition_numbers(theta: torch.Tensor) -> torch.Tensor:
    """Of the linear parts of affine matrices (..., 2, 3): how near they are to destroying the image (Fig. 3)."""
    return torch.linalg.cond(theta[..., :2].double()).to(theta.dtype)


def affine_matrices(layer: SpatialTransformer, image: torch.Tensor) -> torch.Tensor:
    """The matrices of a layer at the image's centre: (B, 2, 3); for a homography its affine part there."""
    theta = layer.parameters_of(image)
    if theta.shape[-2:] == (3, 3):
        scale = theta[..., 2:, 2:]
        linear = theta[..., :2, :2] / scale - theta[..., :2, 2:] * theta[..., 2:, :2] / scale**2
        return torch.cat([linear, theta[..., :2, 2:] / scale], -1)
    return theta
