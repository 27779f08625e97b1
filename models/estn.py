"""Entropy transformer networks (Shamsolmoali, Zareapoor 2023): norm-preserving convolution, the VAE, classifiers."""

import torch
from torch import nn
from torch.nn.utils import parametrize

from stn_kernels import Linearized, affine_sample, params

from .blocks import fully_connected, identity_head, materialized


def inverse_square_root(matrix: torch.Tensor, most: int = 100) -> torch.Tensor:
    """A^(-1/2) of a symmetric positive definite (..., n, n) by the coupled Newton-Schulz iteration (Eq. 15).

    An eigenvalue far below A's norm grows 2.25-fold a step at first, then its error is squared by every step: A with
    the condition number 10^k takes about 3 k + 6 steps, of which there are at most `most`.
    """
    norm = torch.linalg.matrix_norm(matrix).unsqueeze(-1).unsqueeze(-1)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    y, z = matrix / norm, eye.expand_as(matrix)
    for _ in range(most):
        product = z @ y
        step = (3 * eye - product) / 2
        y, z = y @ step, step @ z
        if (eye - product).detach().abs().max() < 1e-6:  # the step just taken squared that
            break
    return z / norm.sqrt()


class NormPreserving(nn.Module):
    """A parametrization of a kernel (d, c, k, k): all singular values of its backward map are equal (Eq. 11 to 14).

    A position's input gradient is W times the d k k output gradients that it reaches, W being c x d k k. With singular
    values s the expected squared norm is kept if s^2 = d / min(d k k, c), for k = 1 the paper's d / min(d, c).

    In float64: of a square kernel the smallest eigenvalue of W W^T is below float32's rounding of the largest.
    """

    def forward(self, weight):
        d, c = weight.shape[:2]
        matrix = weight.transpose(0, 1).flatten(1).double()  # (c, d k k)
        wide = matrix if c <= matrix.shape[1] else matrix.T
        gram = wide @ wide.T
        ridge = 1e-12 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        equal = inverse_square_root(gram + ridge) @ wide
        equal = equal if wide is matrix else equal.T
        scale = (d / min(matrix.shape)) ** 0.5
        return (scale * equal.unflatten(1, (d, *weight.shape[2:])).transpose(0, 1)).to(weight.dtype)


def convolution(channels_in: int, channels: int, kernel: int = 3, norm: bool = True, padding="same") -> nn.Sequential:
    """A convolution with batch normalization and ReLU; norm-preserving if wanted."""
    layer = nn.Conv2d(channels_in, channels, kernel, padding=padding)
    if norm:
        parametrize.register_parametrization(layer, "weight", NormPreserving())
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU())


# Eq. 9 and 10 leave open what is matched with what; `stn_kernels/reference/linearized.py` has the reading chosen.
SAMPLERS = {
    "STN": "bilinear",
    "L-STN": Linearized(),
    "ESTN": Linearized(weighting="entropic", ridge=0.1),
    "ESTN w/o norm": Linearized(weighting="entropic", ridge=0.1),
    "ESTN w/o ER": Linearized(weighting="distance", ridge=0.1),
}
NETWORKS = ("CNN", *SAMPLERS)


class Transformer(nn.Module):
    """An "EST layer": an affine transformer of a feature map with one of `SAMPLERS`."""

    def __init__(self, mode):
        super().__init__()
        self.localization = nn.Sequential(nn.AdaptiveAvgPool2d(4), *fully_connected(32), identity_head(6))
        self.mode = mode

    def parameters_of(self, x):
        """The matrices (B, 2, 3)."""
        return params.finnveden(self.localization(x))

    def forward(self, x):
        return affine_sample(x, self.parameters_of(x), x.shape[-2:], self.mode, "border")


def classifier(network: str, shape=(1, 32, 32), width: int = 32, last=None, classes: int = 10) -> nn.Sequential:
    """Table 3: one of `NETWORKS`.

    Args:
        width: filters at the start: 32 for Fashion-MNIST, 64 for SVHN, 128 for CelebA.
        last: filters of the last three convolutions, (512, 256, 128) for CelebA; None: twice `width` each.
    """
    if network not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {network!r}")
    norm = network in ("ESTN", "ESTN w/o ER")

    def conv(i, o, kernel=3, padding="same"):
        return convolution(i, o, kernel, norm, padding)

    def transformer():
        return Transformer(SAMPLERS[network]) if network != "CNN" else nn.Identity()

    def pool():
        return nn.Sequential(nn.MaxPool2d(2), nn.Dropout(0.2))

    w = width
    layers = [conv(shape[0], w), conv(w, w), transformer(), conv(w, w), pool()]
    layers += [conv(w, 2 * w), conv(2 * w, 2 * w), transformer(), conv(2 * w, 2 * w), pool()]
    first, second, third = last or (2 * w,) * 3
    layers += [conv(2 * w, first, 3, "valid"), conv(first, second, 1), transformer(), conv(second, third, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(third, classes)]
    return materialized(nn.Sequential(*layers), *shape)


class Registration(nn.Module):
    """Shifts (N, 2) of N images, found by descent: what L-STN's gradients are for (Jiang et al. 2019, Sec. 4).

    Args:
        images: (N, C, H, W).
        truth: (N, 2), normalized shifts to be found; the targets are the images there at `size`.
        size: of what is compared, far smaller than the images.
        mode: a sampler for the images that move.
    """

    def __init__(self, images, truth, size, mode):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(truth))
        self.size, self.mode = size, mode
        self.register_buffer("images", images)
        self.register_buffer("truth", truth)
        self.register_buffer("target", self.sample(truth, "bilinear"))

    def sample(self, shift, mode):
        window = params.attention(0.5, *shift.unbind(-1))
        return affine_sample(self.images, window, self.size, mode, "border")

    def forward(self):
        """The squared difference of each image (N,)."""
        return (self.sample(self.shift, self.mode) - self.target).square().mean((1, 2, 3))

    def distance(self) -> torch.Tensor:
        """How far the shifts are from the truth, in pixels of the small image: (N,)."""
        pixel = 2 * 0.5 / torch.tensor(self.size[::-1])
        return ((self.shift - self.truth) / pixel.to(self.shift)).norm(dim=1)


class VAE(nn.Module):
    """The variational auto-encoder of Sec. 4 for 28x28 images, 8 latent numbers; no padding, as in Schott et al. 2018.

    Encoder: kernels 5, 4, 3, 5 and strides 1, 2, 2, 1 to 2 x 8 channels (means and log-variances) at one place;
    decoder: transposed kernels 4, 5, 5, 3 and strides 1, 2, 2, 1. These layers have 85,249 parameters; Table 1 states
    210 thousand and does not say of what.
    """

    def __init__(self, latent: int = 8):
        super().__init__()

        def block(layer, channels):
            return [layer, nn.BatchNorm2d(channels), nn.ReLU()]

        self.encoder = nn.Sequential(
            *block(nn.Conv2d(1, 32, 5), 32),
            *block(nn.Conv2d(32, 32, 4, 2), 32),
            *block(nn.Conv2d(32, 64, 3, 2), 64),
            nn.Conv2d(64, 2 * latent, 5),
        )
        self.decoder = nn.Sequential(
            *block(nn.ConvTranspose2d(latent, 32, 4), 32),
            *block(nn.ConvTranspose2d(32, 16, 5, 2), 16),
            *block(nn.ConvTranspose2d(16, 16, 5, 2, output_padding=1), 16),
            nn.ConvTranspose2d(16, 1, 3),
            nn.Sigmoid(),
        )

    def posterior(self, image):
        """Mean and log-variance of the latent: each (B, 8, 1, 1)."""
        return self.encoder(image).chunk(2, 1)

    def forward(self, image):
        mean, log_variance = self.posterior(image)
        return self.decoder(mean + (log_variance / 2).exp() * torch.randn_like(mean)), mean, log_variance

    def loss(self, image):
        """The negative evidence lower bound a pixel: Bernoulli reconstruction and KL to the standard normal."""
        output, mean, log_variance = self(image)
        reconstruction = nn.functional.binary_cross_entropy(output, image, reduction="sum")
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        return (reconstruction + divergence) / image.numel()

    def tangents(self, image: torch.Tensor) -> torch.Tensor:
        """A basis of the data manifold's tangent space at each image: (B, 8, 1, H, W), the decoder's derivatives."""
        mean = self.posterior(image)[0]
        directions = torch.eye(mean.shape[1]).to(mean).unsqueeze(-1).unsqueeze(-1)
        along = [torch.func.jvp(self.decoder, (mean,), (d.expand_as(mean),))[1] for d in directions]
        return torch.stack(along, 1)

    def share_in_tangent_space(self, image: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """How much of the square of a change (B, 1, H, W) to each image lies in its tangent space: (B,), 0 to 1."""
        basis = torch.linalg.qr(self.tangents(image).flatten(2).mT)[0]
        along = basis.mT @ change.flatten(1).unsqueeze(-1)
        return along.square().sum((1, 2)) / change.square().sum((1, 2, 3))
