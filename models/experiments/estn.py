"""Shamsolmoali and Zareapoor 2023, and the linearized sampler that it builds on (Jiang et al. 2019)."""

import math

import torch
import torch.nn.functional as F

from stn_kernels import Linearized, affine_sample, params
from stn_kernels.data import photographs

from .. import data, distortions
from ..data import Examples
from ..estn import NETWORKS, VAE, Registration, Transformer, classifier
from .base import Claim, Experiment, Preset, Split

PAPER = "Shamsolmoali et al. 2023"


def padded(examples: Examples) -> Examples:
    """28x28 in [0, 1] to 32x32 in [-1, 1], as the paper feeds them."""
    return Examples(F.pad(examples.inputs, (2, 2, 2, 2)) * 2 - 1, examples.labels)


class FewLabels(Experiment):
    """Table 2 and the ablation, as classification."""

    paper, networks = PAPER, NETWORKS
    data = "Fashion-MNIST, a subset a seed"

    def __init__(self, labels: int, published):
        self.name, self.labels = f"fashion-{labels}-labels", labels
        self.about = f"Table 2: Fashion-MNIST with {labels:,} labels, bilinear, linearized and entropic sampling"
        self.presets = {
            "quick": Preset(400, 32, 2e-3, labels, 2000, 1, (0.75,), (("width", 8),)),
            "paper": Preset(5000 * labels // 32, 32, 1e-3, labels, 10_000, 5, more=(("width", 32),), stages=5),
        }
        self.published = {n: {"error": e} for n, e in published.items()}
        self.claims = (
            Claim("an STN errs less than the CNN", lambda m: m["STN"]["error"] < m["CNN"]["error"]),
            Claim("L-STN errs less than STN", lambda m: m["L-STN"]["error"] < m["STN"]["error"]),
            Claim("ESTN errs less than L-STN", lambda m: m["ESTN"]["error"] < m["L-STN"]["error"]),
            Claim("without norm preservation it errs more", lambda m: m["ESTN w/o norm"]["error"] > m["ESTN"]["error"]),
            Claim("without the entropy weights it errs more", lambda m: m["ESTN w/o ER"]["error"] > m["ESTN"]["error"]),
        )

    def load(self, preset, seed):
        train, _ = data.split(data.fashion("train"), preset.train, 0, seed)
        return Split(padded(train), padded(data.fashion("test")[: preset.test]))

    def build(self, network, preset, split):
        return classifier(network, width=preset["width"])

    def optimizer(self, network, preset):
        """The paper states the weight decay for the VAE alone; here the classifiers have it too."""
        return torch.optim.Adam(network.parameters(), preset.rate, weight_decay=1e-3)

    def warp(self, network, images):
        """The images as the first transformer would warp them: it warps features of the same size."""
        x = images
        for layer in network:
            if isinstance(layer, Transformer):
                return affine_sample(images, layer.parameters_of(x), images.shape[-2:], padding_mode="border")
            x = layer(x)
        return None


class Align(Experiment):
    """Photographs found again by descent on a few pixels, from further and further away."""

    name, paper = "linearized-alignment", "Jiang et al. 2019"
    about = "Shifts found by descent under 4x to 16x down-sampling, bilinear against linearized gradients"
    data = "photographs of scikit-image"
    networks = tuple(f"{mode} {factor}x" for factor in (4, 8, 16) for mode in ("bilinear", "linearized"))
    measures = {  # of 40 images each; an offset is in pixels of the small image
        "near": "found % from 0-1 px",
        "middle": "from 1-2 px",
        "far": "from 2-4 px",
    }
    presets = {
        "quick": Preset(120, 1, 0.02, 120, 0, 1, (0.6, 0.85)),
        "paper": Preset(300, 1, 0.02, 600, 0, 3, (0.6, 0.85)),
    }
    joint = True
    claims = tuple(
        Claim(
            f"under {factor}x down-sampling linearized gradients find more from 2 to 4 pixels",
            lambda m, factor=factor: m[f"linearized {factor}x"]["far"] > m[f"bilinear {factor}x"]["far"],
        )
        for factor in (4, 8, 16)
    )

    def load(self, preset, seed):
        """Patches of 128 x 128; their "labels" are which third of the offsets they start from."""
        generator = torch.Generator().manual_seed(seed)
        pictures = [
            F.interpolate(p[None].mean(1, keepdim=True), (384, 384), mode="area") for p in photographs().values()
        ]
        which = torch.randint(0, len(pictures), (preset.train,), generator=generator)
        window = params.attention(0.5, *(torch.rand(2, preset.train, generator=generator) - 0.5))
        chosen = torch.cat([pictures[i] for i in which.tolist()])
        patches = affine_sample(chosen, window, (128, 128), padding_mode="border")
        examples = Examples(patches, torch.arange(preset.train) % 3)
        return Split(examples, examples)

    def data_missing(self):
        try:
            photographs()
        except ImportError as error:
            return str(error)
        return ""

    def build(self, network, preset, split):
        mode, _, factor = network.partition(" ")
        side = 64 // int(factor[:-1])  # the window is half of the patch
        generator = torch.Generator().manual_seed(5)
        count = len(split.train)
        low, high = torch.tensor([[0.0, 1], [1, 2], [2, 4]])[split.train.labels].unbind(1)
        distance = low + (high - low) * torch.rand(count, generator=generator)
        angle = 2 * torch.pi * torch.rand(count, generator=generator)
        truth = (distance / side).unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)
        sampler = Linearized() if mode == "linearized" else mode
        return Registration(split.train.inputs, truth.clamp(-0.5, 0.5), (side, side), sampler)

    def batch(self, examples, preset, generator):
        return examples[:0]

    def loss(self, network, batch, progress, preset):
        return network().sum()

    def show(self, network, split, device, count=10):
        """The patches; and side by side the window that was to be found and the one that was, in full resolution."""
        patches = network.images[:count]
        windows = [params.attention(0.5, *shift[:count].unbind(-1)) for shift in (network.truth, network.shift)]
        both = [affine_sample(patches, window, (64, 64), padding_mode="border").cpu() for window in windows]
        return patches.cpu(), torch.cat(both, -1)

    def evaluate(self, network, split, device):
        found = (network.distance().cpu() < 0.5).double()
        return {name: 100 * found[split.train.labels == i].mean().item() for i, name in enumerate(self.measures)}


class Autoencoder(Experiment):
    """Table 1's VAE. ESTN samples in the tangent space of the data that it learns.

    `turned` shows how far that space goes: a turn of an image by five degrees moves it along the data's manifold, as
    far as this share of the change lies in the decoder's tangent space.
    """

    name, paper, about = "vae", PAPER, "Table 1: the VAE on Fashion-MNIST, bound on the log-likelihood"
    data, networks = "Fashion-MNIST", ("VAE",)
    measures = {"bound": "negative bound, nats a pixel", "turned": "of a turn, % in the tangent space"}
    presets = {
        "quick": Preset(1000, 64, 1e-3, 50_000, 10_000),
        "paper": Preset(100_000, 64, 1e-4, 60_000, 10_000, 3),
    }

    def load(self, preset, seed):
        return Split(data.fashion("train")[: preset.train], data.fashion("test")[: preset.test])

    def build(self, network, preset, split):
        return VAE()

    def optimizer(self, network, preset):
        return torch.optim.Adam(network.parameters(), preset.rate, weight_decay=1e-3)

    def loss(self, network, batch, progress, preset):
        return network.loss(batch.inputs)

    def evaluate(self, network, split, device):
        parts = [part.to(device) for part in split.test.inputs.split(500)]
        bounds = torch.stack([network.loss(part) for part in parts])
        angle = torch.tensor(math.radians(5.0))
        turned = [distortions.similar(part.cpu(), part.shape[-2:], angle).to(device) - part for part in parts]
        shares = [network.share_in_tangent_space(part, change) for part, change in zip(parts, turned, strict=True)]
        return {"bound": bounds.mean().item(), "turned": 100 * torch.cat(shares).mean().item()}

    def warp(self, network, images):
        return network(images)[0]


EXPERIMENTS = (
    FewLabels(1000, {"CNN": 14.47, "STN": 11.84, "L-STN": 8.92, "ESTN": 7.21}),
    FewLabels(3000, {"CNN": 12.63, "STN": 9.37, "L-STN": 6.83, "ESTN": 4.43}),
    FewLabels(5000, {"CNN": 9.52, "STN": 6.76, "L-STN": 4.24, "ESTN": 2.19}),
    Align(),
    Autoencoder(),
)
