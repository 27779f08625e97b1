"""Entropy transformer networks (Shamsolmoali, Zareapoor 2023): norm-preserving convolution, the VAE, classifiers."""

import torch
from torch import nn
from torch.nn.utils import parametrize


def inverse_square_root(matrix: torch.Tensor, iterations: int = 20) -> torch.Tensor:
    """A^(-1/2) of a symmetric positive definite (..., n, n) by the coupled Newton-Schulz iteration (Eq. 15)."""
    norm = torch.linalg.matrix_norm(matrix).unsqueeze(-1).unsqueeze(-1)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    y, z = matrix / norm, eye
    for _ in range(iterations):
        step = (3 * eye - z @ y) / 2
        y, z = y @ step, step @ z
    return z / norm.sqrt()


class NormPreserving(nn.Module):
    """A parametrization of a kernel (d, c, k, k): all singular values of its backward map are equal (Eq. 11 to 14).

    A position's input gradient is W times the d k k output gradients that it reaches, W being c x d k k. With singular
    values s the expected squared norm is kept if s^2 = d / min(d k k, c), for k = 1 the paper's d / min(d, c).
    """

    def __init__(self, iterations: int = 20):
        super().__init__()
        self.iterations = iterations

    def forward(self, weight):
        d, c = weight.shape[:2]
        matrix = weight.transpose(0, 1).flatten(1)  # (c, d k k)
        wide = matrix if c <= matrix.shape[1] else matrix.T
        gram = wide @ wide.T
        ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=weight.dtype, device=weight.device)
        equal = inverse_square_root(gram + ridge, self.iterations) @ wide
        equal = equal if wide is matrix else equal.T
        scale = (d / min(matrix.shape)) ** 0.5
        return scale * equal.unflatten(1, (d, *weight.shape[2:])).transpose(0, 1)


def convolution(channels_in: int, channels: int, kernel: int = 3, norm: bool = True) -> nn.Sequential:
    """A convolution that keeps the size, with batch normalization and ReLU; norm-preserving if wanted."""
    layer = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2)
    if norm:
        parametrize.register_parametrization(layer, "weight", NormPreserving())
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU())


class VAE(nn.Module):
    """The variational auto-encoder of Sec. 4 for 28x28 images, 8 latent numbers at each of 7x7 places.

    Encoder: kernels 5, 4, 3, 5 and strides 1, 2, 2, 1 to 2 x 8 channels (means and log-variances); decoder: kernels 4,
    5, 5, 3 with the strides undone. The latent's tangent is where ESTN takes its directions from.
    """

    def __init__(self, latent: int = 8):
        super().__init__()

        def block(layer, channels):
            return [layer, nn.BatchNorm2d(channels), nn.ReLU()]

        self.encoder = nn.Sequential(
            *block(nn.Conv2d(1, 32, 5, 1, 2), 32),
            *block(nn.Conv2d(32, 32, 4, 2, 1), 32),
            *block(nn.Conv2d(32, 64, 3, 2, 1), 64),
            nn.Conv2d(64, 2 * latent, 5, 1, 2),
        )
        self.decoder = nn.Sequential(
            nn.ZeroPad2d((1, 2, 1, 2)),
            *block(nn.Conv2d(latent, 32, 4), 32),
            *block(nn.ConvTranspose2d(32, 16, 5, 2, 2, 1), 16),
            *block(nn.ConvTranspose2d(16, 16, 5, 2, 2, 1), 16),
            nn.Conv2d(16, 1, 3, 1, 1),
            nn.Sigmoid(),
        )

    def posterior(self, image):
        """Mean and log-variance of the latent: each (B, 8, 7, 7)."""
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

    def tangent(self, latent: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The decoded image and its derivative along a latent direction: a vector of the manifold's tangent space."""
        return torch.func.jvp(self.decoder, (latent,), (direction,))
