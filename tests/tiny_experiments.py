"""Experiments of a second, for the tests of training."""

import torch
from torch import nn

from models import data, estn
from models.blocks import identity_head, materialized
from models.data import Examples
from models.experiments.base import Claim, Experiment, Preset, Split
from models.finnveden import STN
from models.pstn import PSTN, ImageWarp
from stn_kernels import Linearized


class Tiny(Experiment):
    """scikit-learn's 8x8 digits behind a shared-localization STN, or without."""

    name, paper, about, data = "tiny", "none", "a test", "scikit-learn digits"
    networks = ("CNN", "STN")
    presets = {  # noqa: RUF012
        "quick": Preset(6, 16, 0.05, 200, 100, 2, (0.5,)),
        "other": Preset(6, 16, 0.02, 200, 100, 2),
    }
    published = {"STN": {"error": 1.0}}  # noqa: RUF012
    claims = (Claim("the loss is a number", lambda m: m["STN"]["error"] >= 0),)

    def load(self, preset, seed):
        return Split(*data.split(data.small_digits(), preset.train, preset.test, seed))

    def build(self, network, preset, split):
        layers = [nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())]
        see = {1: nn.Sequential(nn.Flatten(), identity_head(6))} if network == "STN" else {}
        stn = STN(layers, nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), see, "SL")
        return materialized(stn, 1, 8, 8)

    def warp(self, network, images):
        return images


class Noisy(Experiment):
    """All that is random or of the whole batch: Student-t draws, dropout, batch normalization, drawn offsets."""

    name, paper, about, data = "noisy", "none", "a test", "random numbers"
    networks = ("P-STN", "L-STN")
    presets = {"quick": Preset(5, 8, 0.01, 40, 20)}  # noqa: RUF012

    def load(self, preset, seed):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(preset.train + preset.test, 1, 8, 8, generator=generator)
        examples = Examples(images, torch.arange(len(images)) % 3)
        return Split(examples[: preset.train], examples[preset.train :])

    def build(self, network, preset, split):
        norm = nn.BatchNorm1d(8)
        classify = [nn.Flatten(), nn.Linear(64, 8, bias=False), norm, nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)]
        if network == "L-STN":
            return materialized(nn.Sequential(estn.Transformer(Linearized()), nn.BatchNorm2d(1), *classify), 1, 8, 8)
        see, warp = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU()), ImageWarp()
        return materialized(PSTN(see, nn.Sequential(*classify), warp, warp.dimension, (3, 2)), 1, 8, 8)

    def loss(self, network, batch, progress, preset):
        if isinstance(network, PSTN):
            return network.loss(batch.inputs, batch.labels, 0.1)
        return super().loss(network, batch, progress, preset)


class Joint(Noisy):
    """A loss that is no mean over images."""

    name, networks, joint = "joint", ("P-STN",), True

    def loss(self, network, batch, progress, preset):
        return network(batch.inputs).mean(0).square().sum()


TINY, NOISY, JOINT = Tiny(), Noisy(), Joint()
