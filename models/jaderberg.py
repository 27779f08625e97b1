"""Spatial transformer networks and their supplement (Jaderberg, Simonyan, Zisserman, Kavukcuoglu 2015)."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from stn_kernels import affine_sample, params
from stn_kernels.nn import SpatialTransformer

from . import finnveden
from .blocks import Frozen, classifier, fully_connected, identity_head, materialized, stage, within_budget


def fcn_localization() -> nn.Sequential:
    """Three hidden layers of 32 units (supplement 1.3)."""
    return fully_connected(32, 32, 32)


def cnn_localization(channels: int = 1) -> nn.Sequential:
    """Two 20-filter 5x5 convolutions on the image at half size, and a fully connected layer of 20 (supplement 1.3)."""
    return nn.Sequential(nn.AvgPool2d(2), stage(channels, 20, 5), stage(20, 20, 5, nn.ReLU()), *fully_connected(20))


class Parallel(nn.Module):
    """N transformers side by side on one input, each warping all channels: (B, C, H, W) -> (B, N C, H, W)."""

    def __init__(self, transformers):
        super().__init__()
        self.transformers = nn.ModuleList(transformers)

    def forward(self, image):
        return torch.cat([transformer(image) for transformer in self.transformers], 1)


DISTORTED_NETWORKS = ("FCN", "CNN", "ST-FCN", "ST-CNN")


def distorted_mnist(
    network: str, transform: str = "affine", shape=(1, 28, 28), classes=10, count=1, halved=False, budget=400_000
) -> nn.Module:
    """FCN, CNN, ST-FCN and ST-CNN of about 400k parameters (supplement 1.1 and 1.3).

    Args:
        transform: a family of `stn_kernels.nn`.
        count: transformers in parallel, 2 for 2xST-FCN.
        halved: average pooling by 2 after the transformers, as on RTS and TC.
    """
    if network not in DISTORTED_NETWORKS:
        raise ValueError(f"network must be one of {', '.join(DISTORTED_NETWORKS)}, got {network!r}")

    def build(width):
        first, channels, side = [], shape[0], shape[-1]
        if network.startswith("ST"):
            see = fcn_localization if network == "ST-FCN" else lambda: cnn_localization(shape[0])
            first = [Parallel(SpatialTransformer(see(), transform) for _ in range(count))]
            channels = count * shape[0]
            if halved:
                first, side = [*first, nn.AvgPool2d(2)], side // 2
        if network.endswith("FCN"):
            last = classifier(width, width, classes=classes)
        else:
            small = 7 if side > 21 else 3  # on RTS a 7x7 kernel does not fit into what is left
            last = nn.Sequential(stage(channels, width, 9), stage(width, width, small), *classifier(classes=classes))
        return materialized(nn.Sequential(*first, last), *shape)

    return within_budget(build, budget)


def addition(network: str, budget: int = 400_000, shrink: int = 1) -> nn.Sequential:
    """MNIST addition (supplement 1.1): "FCN", "CNN", "ST-FCN", "2xST-FCN" on two channels of 42x42, pooled by `shrink`.

    Unless the digits are shrunk the transformers' output is pooled as on RTS: without, two of them leave the classifier
    of 400k parameters 24 units a layer, where the supplement has 128 to 256.
    """
    count, side = 2 if network.startswith("2x") else 1, 42 // shrink
    layers = distorted_mnist(
        network.removeprefix("2x"), shape=(2, side, side), classes=19, count=count, halved=shrink == 1, budget=budget
    )
    return nn.Sequential(nn.AvgPool2d(shrink), *layers)


class Colocalisation(nn.Module):
    """Finds a common object: an attention transformer trained by a triplet hinge (supplement 1.2).

    The fully connected layers have 128 units, with which the localization network has the 100k parameters that the
    paper states; with its 8 units there would be 6k.

    Args:
        encoder: from crops (B, 1, 28, 28) to descriptors (B, n); stays as it is.
        size: of a crop.
    """

    def __init__(self, encoder: nn.Module, size=(28, 28)):
        super().__init__()
        self.encoder, self.size = Frozen(encoder), size
        see = nn.Sequential(nn.Conv2d(1, 8, 9, stride=4), nn.ReLU(), nn.MaxPool2d(2), *fully_connected(128, 128))
        self.localization = nn.Sequential(see, identity_head(3))

    def boxes(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3): half the side and the centre (x, y) of a window inside the image, normalized; at first nearly all."""
        numbers = self.localization(image)
        half = torch.sigmoid(numbers[:, :1] + 2)
        return torch.cat([half, (1 - half) * numbers[:, 1:].tanh()], 1)

    def crop(self, image, boxes):
        """Windows (B, 3) or (B, S, 3) of images (B, 1, H, W): (B[, S], 1, *size)."""
        return affine_sample(image, params.attention(*boxes.unbind(-1)), self.size)

    def forward(self, image):
        return self.crop(image, self.boxes(image))

    def loss(self, image: torch.Tensor, margin: float = 1.0) -> torch.Tensor:
        """The hinge over all pairs of the batch, with a random window of every image (Eq. 1)."""
        found = self.boxes(image)
        share = self.size[0] / image.shape[-1]
        anywhere = torch.cat(
            [
                torch.full_like(found[:, :1], share),
                (2 * torch.rand(len(image), 2, device=image.device) - 1) * (1 - share),
            ],
            1,
        )
        both = self.crop(image, torch.stack([found, anywhere], 1))  # two windows an image, the image not copied
        common, random = self.encoder(both.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
        between = (common[:, None] - common[None]).square().sum(-1)
        to_random = (common - random).square().sum(-1)
        others = ~torch.eye(len(image), dtype=torch.bool, device=image.device)
        return F.relu(between - to_random[:, None] + margin)[others].mean()


class Activations(nn.Module):
    """The encoder of co-localisation: both hidden layers and the logits of a trained `distorted_mnist` "CNN".

    Each layer is scaled to the same length, and the descriptor to length 1. Unscaled, as the paper has it, two digits
    of a class are further apart than the margin: without clutter, empty windows have a smaller loss than the true ones.
    """

    def __init__(self, cnn: nn.Module):
        super().__init__()
        first, second, *last = cnn[-1]
        self.layers = nn.ModuleList([first, second, nn.Sequential(*last)])

    def forward(self, image):
        found = []
        for layer in self.layers:
            image = layer(image)
            found.append(F.normalize(image.flatten(1), dim=1))
        return torch.cat(found, 1) / len(found) ** 0.5


def overlap(boxes: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Area of the intersection over that of the union of squares (B, 3): half side, centre x, centre y."""
    low = torch.maximum(boxes[:, 1:] - boxes[:, :1], truth[:, 1:] - truth[:, :1])
    high = torch.minimum(boxes[:, 1:] + boxes[:, :1], truth[:, 1:] + truth[:, :1])
    shared = (high - low).clamp(min=0).prod(1)
    return shared / (4 * boxes[:, 0] ** 2 + 4 * truth[:, 0] ** 2 - shared)


# --- SVHN (supplement 1.4): 64x64 pictures of house numbers, five digits of eleven classes.

# The supplement's text lists five convolutions; Finnveden et al. (App. A.3), whose networks "exactly correspond", 8.
HOUSE_NUMBERS = {"CNN": {"depths": ()}, "ST-CNN Single": {"large": True}, "ST-CNN Multi": {"depths": (0, 1, 2, 3)}}


def house_numbers(network: str) -> finnveden.STN:
    """One of `HOUSE_NUMBERS`: one transformer on the input, or one before each of the first four convolutions."""
    if network not in HOUSE_NUMBERS:
        raise ValueError(f"network must be one of {', '.join(HOUSE_NUMBERS)}, got {network!r}")
    return finnveden.svhn("C", **HOUSE_NUMBERS[network])


class Birds(nn.Module):
    """Fine-grained classification: N crops of half the image's side, one localization network (supplement 1.5).

    Args:
        trunk: from 224x224 pictures to features (B, C, 7, 7), for the localization.
        describe: makes a stream from a crop (B, 3, 224, 224) to a descriptor (B, n); called N times.
        count: N, 2 or 4.
    """

    def __init__(self, trunk: nn.Module, describe, count: int = 2, classes: int = 200, crop: int = 224):
        super().__init__()
        self.trunk, self.crop = trunk, crop
        self.localization = nn.Sequential(
            nn.LazyConv2d(128, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), identity_head(2 * count)
        )
        self.streams = nn.ModuleList(describe() for _ in range(count))
        self.head = nn.LazyLinear(classes)
        tiles = torch.tensor([[-0.5, -0.5], [0.5, 0.5], [0.5, -0.5], [-0.5, 0.5]])[:count]
        self.register_buffer("tiles", tiles)  # the crops tile the picture at the start

    def windows(self, image):
        """Centres (B, N, 2) of the crops, found on the picture at 224 pixels."""
        small = image if image.shape[-1] == self.crop else F.avg_pool2d(image, image.shape[-1] // self.crop)
        return self.tiles + self.localization(self.trunk(small)).unflatten(-1, (-1, 2))

    def crops(self, image):
        """What the streams see: (B, N, 3, crop, crop)."""
        tx, ty = self.windows(image).unbind(-1)
        return affine_sample(image, params.attention(torch.full_like(tx, 0.5), tx, ty), (self.crop, self.crop))

    def forward(self, image):
        described = [stream(crop) for stream, crop in zip(self.streams, self.crops(image).unbind(1), strict=True)]
        return self.head(torch.cat(described, 1))


BIRD_NETWORKS = ("CNN", "2xST-CNN", "4xST-CNN")


def birds(network: str, crop: int = 224, classes: int = 200, width: int = 32) -> nn.Module:
    """`Birds` or the CNN of one stream, for pictures of twice the side `crop`.

    The paper's streams are Inception networks trained on ImageNet; these are four convolutions of 8 `width` features.
    """
    if network not in BIRD_NETWORKS:
        raise ValueError(f"network must be one of {', '.join(BIRD_NETWORKS)}, got {network!r}")

    def trunk():
        channels = (3, width, 2 * width, 4 * width, 8 * width)
        layers = [
            stage(i, o, 3, nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2), padding=1)
            for i, o in itertools.pairwise(channels)
        ]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7))

    def describe():
        return nn.Sequential(trunk(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    if network == "CNN":
        built = nn.Sequential(nn.AvgPool2d(2), describe(), nn.LazyLinear(classes))
    else:
        built = Birds(trunk(), describe, int(network[0]), classes, crop)
    return materialized(built, 3, 2 * crop, 2 * crop)


def ten_crops(image: torch.Tensor, size: int) -> torch.Tensor:
    """The four corners and the centre, each also mirrored: (B, C, H, W) -> (B, 10, C, size, size)."""
    height, width = image.shape[-2:]
    tops = (0, 0, height - size, height - size, (height - size) // 2)
    lefts = (0, width - size, 0, width - size, (width - size) // 2)
    crops = [image[..., t : t + size, left : left + size] for t, left in zip(tops, lefts, strict=True)]
    return torch.stack([*crops, *(crop.flip(-1) for crop in crops)], 1)


def averaged_over_crops(network: nn.Module, image: torch.Tensor, size: int) -> torch.Tensor:
    """log p(y) with the softmax averaged over `ten_crops` (supplement 1.5)."""
    crops = ten_crops(image, size)
    return network(crops.flatten(0, 1)).softmax(-1).unflatten(0, (-1, 10)).mean(1).log()
