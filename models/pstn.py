"""Probabilistic spatial transformer networks (Schwöbel, Warburg, Jørgensen, Madsen, Hauberg 2022).

The transformation is a latent variable: theta | lambda ~ N(mu(I), 1 / lambda) with a precision lambda of each image,
lambda ~ Gamma(alpha0, beta0), and q(lambda) = Gamma(alpha, beta(I)). Integrated over lambda, theta is Student-t with
2 alpha degrees of freedom, location mu(I) and scale sqrt(beta(I) / alpha) (Eq. 14).
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import StudentT

from stn_kernels import Tessellation, affine_sample, cpab_transform, grid_sample
from stn_kernels.nn import FAMILIES

from .blocks import Frozen, fully_connected, identity_head, materialized, stage, within_budget


def gamma_divergence(alpha, beta, alpha0, beta0):
    """KL(Gamma(alpha, beta) || Gamma(alpha0, beta0)) with rates beta: the second term of the ELBO (Eq. 10)."""
    alpha, beta, alpha0, beta0 = (torch.as_tensor(x) for x in (alpha, beta, alpha0, beta0))
    return (
        (alpha - alpha0) * torch.digamma(alpha)
        - torch.lgamma(alpha)
        + torch.lgamma(alpha0)
        + alpha0 * (beta.log() - beta0.log())
        + alpha * (beta0 - beta) / beta
    )


class PSTN(nn.Module):
    """A classifier behind S random transformations of each image, sampled without copying the image.

    Args:
        localization: from images (B, C, *in) to features (B, n).
        classifier: from images to logits (B, classes).
        warp: (images, numbers (B, S, d)) -> (B, S, C, *out); zero numbers must be the identity.
        dimension: d, the numbers of a transformation.
        samples: (S in training, S in evaluation).
        alpha: of q(lambda); 1 in the paper, so that theta has two degrees of freedom.
        beta: the mean head's scale at the start: beta(I) before any training.
        frozen: keep the classifier as it is, in evaluation mode (Sec. 5.1).
    """

    def __init__(self, localization, classifier, warp, dimension, samples=(1, 10), alpha=1.0, beta=1e-2, frozen=False):
        super().__init__()
        self.localization, self.warp, self.samples, self.alpha = localization, warp, samples, alpha
        self.classifier = Frozen(classifier) if frozen else classifier
        self.mean, self.spread = identity_head(dimension), identity_head(1)
        self.register_buffer("spread_at_start", torch.tensor(beta).expm1().log())

    def posterior(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """mu (B, d) and beta (B, 1) of q."""
        features = self.localization(image)
        return self.mean(features), F.softplus(self.spread(features) + self.spread_at_start)

    def sample(self, mu: torch.Tensor, beta: torch.Tensor, count: int) -> torch.Tensor:
        """Reparameterised draws of theta: (B, S, d) (Eq. 16)."""
        noise = StudentT(torch.full((), 2 * self.alpha, device=mu.device)).sample((len(mu), count, mu.shape[1]))
        return mu.unsqueeze(1) + (beta / self.alpha).sqrt().unsqueeze(1) * noise

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """log p(y | I): (B, classes), the probability averaged over the samples (Eq. 19)."""
        return self.marginal(image)[0]

    def marginal(self, image):
        """log p(y | I), the samples' log-probabilities (B, S, classes), and q's beta (B, 1)."""
        mu, beta = self.posterior(image)
        count = self.samples[0 if self.training else 1]
        warped = self.warp(image, self.sample(mu, beta, count))
        logits = self.classifier(warped.flatten(0, 1)).unflatten(0, (len(image), count))
        each = logits.log_softmax(-1)
        return each.logsumexp(1) - torch.tensor(float(count)).log(), each, beta

    def loss(self, image, labels, weight: float, alpha0: float = 1.0, beta0: float = 1.0) -> torch.Tensor:
        """The negative ELBO of Eq. 17 a image, its KL-term times `weight`."""
        _, each, beta = self.marginal(image)
        picked = each.gather(-1, labels[:, None, None].expand(-1, each.shape[1], 1))
        divergence = gamma_divergence(self.alpha, beta, alpha0, beta0)
        return -picked.mean() + weight * divergence.mean()


class STN(nn.Module):
    """The deterministic network: the same heads without the spread, one transformation."""

    def __init__(self, localization, classifier, warp, dimension, frozen=False):
        super().__init__()
        self.localization, self.warp = localization, warp
        self.classifier = Frozen(classifier) if frozen else classifier
        self.mean = identity_head(dimension)

    def posterior(self, image):
        """mu (B, d), and no spread."""
        return self.mean(self.localization(image)), None

    def forward(self, image):
        return self.classifier(self.warp(image, self.posterior(image)[0].unsqueeze(1)).flatten(0, 1))


class ImageWarp(nn.Module):
    """Numbers (B, S, d) of a family of `stn_kernels.nn` -> images (B, S, C, *size)."""

    def __init__(self, family: str = "affine", size=None):
        super().__init__()
        self.family, self.size = family, size
        self.dimension = FAMILIES[family].count

    def forward(self, image, numbers):
        return affine_sample(image, FAMILIES[self.family].parameters(numbers), self.size or image.shape[-2:])


class SeriesWarp(nn.Module):
    """Numbers (B, S, d) of a one-dimensional CPAB transformation of time -> series (B, S, C, L)."""

    def __init__(self, cells: int = 16):
        super().__init__()
        self.tessellation = Tessellation((cells,))
        self.dimension = self.tessellation.dim

    def forward(self, series, numbers):
        batch, count, length = len(series), numbers.shape[1], series.shape[-1]
        time = torch.linspace(0, 1, length, device=series.device).unsqueeze(1)
        moved = cpab_transform(time, numbers.flatten(0, 1), self.tessellation)  # (B S, L, 1)
        x = (2 * moved - 1).reshape(batch, count, 1, length, 1)
        grid = torch.cat([x, torch.zeros_like(x)], -1)  # a series is an image one pixel high
        return grid_sample(series.unsqueeze(2), grid, padding_mode="border", align_corners=True).squeeze(3)


def small_network(width: int) -> nn.Sequential:
    """The paper's trunk of localizer and classifier alike (Sec. 5), without the last layer."""
    return nn.Sequential(stage(1, 8, 5), stage(8, 16, 5), *fully_connected(width))


def mnist(network: str, budget: int = 28_000, samples=(1, 10), family: str = "affine", size: int = 28) -> nn.Module:
    """ "CNN", "STN" or "P-STN" with as many parameters as the budget says (Sec. 5.2.1)."""
    warp = ImageWarp(family)

    def build(width):
        classify = nn.Sequential(*small_network(width), nn.LazyLinear(10))
        if network == "CNN":
            return materialized(classify, 1, size, size)
        if network not in ("STN", "P-STN"):
            raise ValueError(f"network must be 'CNN', 'STN' or 'P-STN', got {network!r}")
        more = {"samples": samples} if network == "P-STN" else {}
        kind = PSTN if network == "P-STN" else STN
        return materialized(kind(small_network(width), classify, warp, warp.dimension, **more), 1, size, size)

    return within_budget(build, budget)


def on_frozen(network: str, trained: nn.Module, family: str, budget: int, samples=(10, 10), size=28, beta=1e-2):
    """An "STN" or "P-STN" around a trained classifier that stays as it is; the budget is the localizer's (Sec. 5.1)."""
    warp = ImageWarp(family, (28, 28))

    def build(width):
        more = {"samples": samples, "beta": beta} if network == "P-STN" else {}
        kind = PSTN if network == "P-STN" else STN
        return materialized(
            kind(small_network(width), trained, warp, warp.dimension, frozen=True, **more), 1, size, size
        )

    return within_budget(build, budget, range(2, 4097))


def time_series(network: str, length: int, classes: int, budget: int = 1_000_000, samples=(10, 10), cells: int = 16):
    """The networks of Sec. 5.2.2 for series (B, 1, length): about a million parameters, 1-D CPAB."""
    warp = SeriesWarp(cells)

    def trunk(width):
        layers = [nn.Conv1d(1, 16, 8, padding=4), nn.MaxPool1d(2), nn.ReLU()]
        layers += [nn.Conv1d(16, 32, 5, padding=2), nn.MaxPool1d(2), nn.ReLU()]
        return nn.Sequential(*layers, *fully_connected(width))

    def build(width):
        classify = nn.Sequential(*trunk(width), nn.LazyLinear(classes))
        if network == "CNN":
            return materialized(classify, 1, length)
        more = {"samples": samples} if network == "P-STN" else {}
        kind = PSTN if network == "P-STN" else STN
        return materialized(kind(trunk(width), classify, warp, warp.dimension, **more), 1, length)

    return within_budget(build, budget, range(2, 4097))


def plain_localizer(network: str, depth: int, warp: ImageWarp, samples=(1, 10)) -> nn.Module:
    """Sec. 5.4: an "STN" or "P-STN" whose classifier is `depth` layers of [Linear, ReLU, Dropout]."""
    layers = [layer for _ in range(depth) for layer in (nn.LazyLinear(128), nn.ReLU(), nn.Dropout(0.2))]
    classify = nn.Sequential(nn.Flatten(), *layers, nn.LazyLinear(10))
    more = {"samples": samples} if network == "P-STN" else {}
    kind = PSTN if network == "P-STN" else STN
    return materialized(kind(small_network(32), classify, warp, warp.dimension, **more), 1, 28, 28)


class Aligner(nn.Module):
    """Moves series (B, 1, L) in time; returns them with the numbers of the transformations (B, d)."""

    def __init__(self, localization: nn.Module, warp: SeriesWarp, active: bool = True):
        super().__init__()
        self.localization, self.warp, self.active = (
            nn.Sequential(localization, identity_head(warp.dimension)),
            warp,
            active,
        )

    def forward(self, series):
        numbers = self.localization(series) * self.active
        return self.warp(series, numbers.unsqueeze(1)).squeeze(1), numbers


def series_aligner(length: int, cells: int = 8, width: int = 64) -> Aligner:
    """An aligner with a small convolutional localization network."""
    layers = [nn.Conv1d(1, 16, 5, padding=2), nn.ReLU(), *fully_connected(width)]
    return materialized(Aligner(nn.Sequential(*layers), SeriesWarp(cells)), 1, length)
