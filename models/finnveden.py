"""Understanding when spatial transformer networks do not support invariance (Finnveden, Jansson, Lindeberg 2020).

Where a transformer sits and what its localization network sees:

- STN-C0: it warps the input and looks at it.
- STN-CX: it warps the feature map after X layers. Only translations can be undone there (Sec. II).
- STN-DLX: it warps the input and looks at features of X layers of its own, deeper localization.
- STN-SLX: the same with the classifier's first X layers, shared localization.

Every one may iterate and sit at several depths. Those that warp the input compose what they predict and always sample
the original image (Sec. III-A).
"""

import torch
from torch import nn

from stn_kernels import affine_sample, params

from .blocks import classifier, fresh_copy, fully_connected, identity_head, materialized, stage


class STN(nn.Module):
    """A classifier of layers and a head with transformers at some depths.

    Args:
        layers: the classifier's stages, each a convolution with what follows it.
        head: from the last stage's output to what `forward` returns.
        localizations: depth -> localization network, from the features after so many layers to six numbers.
        kind: "C" warps the features, "SL" and "DL" the input; at depth 0 all are one.
        size: of the warped input or feature map (H, W); None keeps it.
        iterations: transformers in a row at every depth, sharing the localization network.
        padding_mode, align_corners: as in `affine_sample`.
    """

    def __init__(
        self, layers, head, localizations, kind="C", size=None, iterations=1, padding_mode="border", align_corners=True
    ):
        super().__init__()
        if kind not in ("C", "DL", "SL"):
            raise ValueError(f"kind must be 'C', 'DL' or 'SL', got {kind!r}")
        self.layers, self.head = nn.ModuleList(layers), head
        self.localizations = nn.ModuleDict({str(depth): network for depth, network in localizations.items()})
        self.kind, self.size, self.iterations = kind, size, iterations
        self.sampling = {"padding_mode": padding_mode, "align_corners": align_corners}
        copies = {depth: fresh_copy(self.layers[: int(depth)]) for depth in self.localizations if kind == "DL"}
        self.copies = nn.ModuleDict(copies)

    @property
    def depths(self) -> list[int]:
        return sorted(int(depth) for depth in self.localizations)

    @property
    def warps_input(self) -> bool:
        return self.kind != "C" or self.depths == [0]

    def localization_parameters(self):
        """Those that the papers train at a rate of their own: not the layers shared with the classifier."""
        return [*self.localizations.parameters(), *self.copies.parameters()]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.predict(image)[0]

    def predict(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The head's output, and the matrices (B, 2, 3) that the last transformer used (None without one)."""
        if self.localizations and self.warps_input:
            theta = self.align(image)
            image = affine_sample(image, theta, self.size or image.shape[-2:], **self.sampling)
            return self.head(run(self.layers, image)), theta
        theta = None
        for depth in range(len(self.layers) + 1):
            for _ in range(self.iterations if depth in self.depths else 0):
                theta = params.finnveden(self.localizations[str(depth)](image))
                image = affine_sample(image, theta, self.size or image.shape[-2:], **self.sampling)
            image = run(self.layers[depth : depth + 1], image)
        return self.head(image), theta

    def align(self, image: torch.Tensor) -> torch.Tensor:
        """The composition (B, 2, 3) of all that is predicted, each from the original image warped so far."""
        theta, warped = None, image
        for depth in self.depths:
            features = self.copies[str(depth)] if self.kind == "DL" else self.layers[:depth]
            for _ in range(self.iterations):
                if theta is not None:
                    warped = affine_sample(image, theta, image.shape[-2:], **self.sampling)
                update = params.finnveden(self.localizations[str(depth)](run(features, warped)))
                theta = update if theta is None else params.compose(theta, update)
        return theta


def run(layers, x: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        x = layer(x)
    return x


def final_pose(perturbation: torch.Tensor, compensation: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How far from one pose the images of a class end: the measure of Table I, averaged over the classes (App. A.2).

    Args:
        perturbation: what was done to each image, (B,) or (B, n): an angle, log2 of the area's factor, or a shift.
        compensation: what the transformer did, in the same unit and direction.
        labels: (B,).

    Returns:
        The standard deviation of the sum within a class, for n > 1 the root of the mean squared distance; a scalar.
    """
    final = (perturbation + compensation).reshape(len(labels), -1)
    deviations = []
    for label in labels.unique():
        pose = final[labels == label]
        deviations.append((pose - pose.mean(0)).square().sum(1).mean().sqrt())
    return torch.stack(deviations).mean()


# --- MNIST: Table VI. The classifier's filters, and the localization network on (R), (T) and (S).

SIZES = {"R": 28, "T": 60, "S": 112}
WIDTHS = {"CNN": {"R": (32, 32), "T": (21, 32), "S": (23, 21)}, "STN": {"R": (16, 32), "T": (16, 32), "S": (16, 16)}}
MNIST_NETWORKS = ("CNN", "STN-C0", "STN-C1", "STN-DL1", "STN-SL1")


def mnist(network: str, data: str) -> nn.Module:
    """One of `MNIST_NETWORKS` with Table VI's widths, for rotated ("R"), translated ("T") or scaled ("S") digits."""
    if network not in MNIST_NETWORKS or data not in SIZES:
        raise ValueError(f"network must be one of {MNIST_NETWORKS} on R, T or S, got {network!r} on {data!r}")
    first, second = WIDTHS["CNN" if network == "CNN" else "STN"][data]
    layers, head = [stage(1, first, 9), stage(first, second, 7)], classifier()
    if network == "CNN":
        return materialized(STN(layers, head, {}), 1, SIZES[data], SIZES[data])
    depth = int(network[-1])
    size = None if data != "T" else (13, 13) if network == "STN-C1" else (30, 30)
    localization = nn.Sequential(*mnist_localization(data, depth), identity_head(6))
    stn = STN(layers, head, {depth: localization}, network[4:-1], size)
    return materialized(stn, 1, SIZES[data], SIZES[data])


def mnist_localization(data: str, depth: int) -> nn.Sequential:
    """Localization networks of Table VI without the copied layer and the last linear one."""
    if data == "R":
        return fully_connected(16 if depth else 32, 16, 16)
    if data == "S":
        shrink = [] if depth else [nn.AvgPool2d(2)]
        return nn.Sequential(*shrink, stage(16 if depth else 1, 16, 5), stage(16, 16, 5), *fully_connected(16))
    if depth == 0:
        return nn.Sequential(stage(1, 20, 5), stage(20, 20, 5), *fully_connected(10))
    # Table VI counts 20 parameters less on (T) than its text gives: the bias of the convolution without pooling.
    return nn.Sequential(stage(16, 20, 5), stage(20, 20, 5, nn.ReLU(), bias=False), *fully_connected(20))


# --- SVHN (App. A.3): five digits of eleven classes, 64x64.

SVHN_FILTERS = (48, 64, 128, 160, 192, 192, 192, 192)
SVHN_POOLED = (0, 2, 4, 6)


class Digits(nn.Module):
    """Five parallel softmax layers: (B, 5, 11)."""

    def __init__(self, count: int = 5, classes: int = 11):
        super().__init__()
        self.count, self.linear = count, nn.LazyLinear(count * classes)

    def forward(self, x):
        return self.linear(x).unflatten(-1, (self.count, -1))


def svhn(kind: str = "SL", depths=(0, 1, 2, 3), iterations: int = 1, large: bool = False) -> STN:
    """The SVHN networks: CNN with depths=(), STN-C0-large with large=True, STN-C0123, STN-SL0123, STN-SL8, ..."""
    layers, channels = [], 3
    for index, filters in enumerate(SVHN_FILTERS):
        more = [nn.ReLU()] + [nn.MaxPool2d(2)] * (index in SVHN_POOLED) + [nn.Dropout(0.5)] * (index > 0)
        layers.append(stage(channels, filters, 5, *more, padding=2))
        channels = filters
    dense = [part for _ in range(3) for part in (nn.LazyLinear(3072), nn.ReLU(), nn.Dropout(0.5))]
    head = nn.Sequential(nn.Flatten(), *dense, Digits())
    localizations = {depth: nn.Sequential(*fully_connected(32, 32), identity_head(6)) for depth in depths}
    if large:
        eyes = stage(3, 32, 5, nn.ReLU(), nn.MaxPool2d(2), padding=2), stage(32, 32, 5, nn.ReLU(), padding=2)
        localizations = {0: nn.Sequential(*eyes, *fully_connected(32, 32), identity_head(6))}
    return materialized(STN(layers, head, localizations, kind, None, iterations, "zeros"), 3, 64, 64)


# --- PlanktonSet (App. A.4): 121 classes, 95x95.

PLANKTON_FILTERS = (32, 32, 64, 64, 128, 128, 128, 256, 256, 256)
PLANKTON_POOLED = (1, 3, 6, 9)


def plankton(kind: str = "SL", depths=(2,), iterations: int = 1) -> STN:
    """The PlanktonSet networks: STN-C0, -C2, -C4, -C7, -C10, -DLX, -SLX, and the CNN with depths=()."""
    layers, channels = [], 1
    for index, filters in enumerate(PLANKTON_FILTERS):
        more = [nn.LeakyReLU(1 / 3)] + [nn.MaxPool2d(3, 2)] * (index in PLANKTON_POOLED)
        layers.append(stage(channels, filters, 3, *more, padding=1))
        channels = filters
    dense = [part for _ in range(2) for part in (nn.Dropout(0.5), nn.LazyLinear(512), nn.LeakyReLU(1 / 3))]
    head = nn.Sequential(nn.Flatten(), *dense, nn.Dropout(0.5), nn.LazyLinear(121))
    localizations = {depth: nn.Sequential(*fully_connected(64, 64), identity_head(6)) for depth in depths}
    return materialized(STN(layers, head, localizations, kind, None, iterations), 1, 95, 95)
