"""What an experiment is: networks, data, a loss and measures, at two budgets."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from ..data import DamagedDataError, Examples, MissingDataError


@dataclass(frozen=True)
class Preset:
    """A budget. The paper's is what the paper says, quick is for two CPU cores."""

    steps: int
    batch: int
    rate: float
    train: int  # images
    test: int
    seeds: int = 1
    drops: tuple[float, ...] = ()  # the learning rate falls tenfold after these shares of the steps
    more: tuple = ()  # (name, value) pairs of one experiment alone
    stages: int = 1  # besides, the rate falls linearly, in so many equal stages

    def __getitem__(self, name):
        return dict(self.more)[name]

    def rate_factor(self, step: int) -> float:
        """What the learning rate is multiplied by at a step."""
        tenfold = 0.1 ** sum(step >= share * self.steps for share in self.drops)
        return tenfold * (1 - step * self.stages // self.steps / self.stages)


@dataclass(frozen=True)
class Claim:
    """An ordering that a paper states: `holds` gets network -> measure -> mean over seeds."""

    text: str
    holds: Callable[[dict[str, dict[str, float]]], bool]


@dataclass(frozen=True)
class Split:
    train: Examples
    test: Examples


def nll(network, batch: Examples) -> torch.Tensor:
    return F.cross_entropy(network(batch.inputs), batch.labels)


class Experiment:
    """Override `load`, `build` and what differs; `measures` are name -> text of a table's column.

    A batch is a function of the generator alone, so that a run that was interrupted continues as if it had not been.
    """

    name: str
    paper: str
    about: str
    data: str
    networks: tuple[str, ...]
    presets: dict[str, Preset]
    measures: dict[str, str] = {"error": "error %"}
    published: dict[str, dict[str, float | str]] = {}  # a text where the paper states a range
    claims: tuple[Claim, ...] = ()
    unit: str | None = None  # the network against whose step the others' cost is stated
    joint = False  # the loss is no mean over the batch's examples: each of several processes computes all of it

    def load(self, preset: Preset, seed: int) -> Split:
        raise NotImplementedError

    def data_missing(self) -> str:
        """Why the data is not here, or cannot be read; "" if it can."""
        try:
            self.load(self.presets["quick"], 0)
        except (MissingDataError, DamagedDataError) as error:
            return str(error)
        return ""

    def build(self, network: str, preset: Preset, split: Split) -> torch.nn.Module:
        raise NotImplementedError

    def batch(self, examples: Examples, preset: Preset, generator: torch.Generator) -> Examples:
        """The next training batch: random examples, distorted."""
        index = torch.randint(0, len(examples), (preset.batch,), generator=generator)
        return self.distort(examples[index], generator)

    def distort(self, batch: Examples, generator: torch.Generator) -> Examples:
        return batch

    def loss(self, network: torch.nn.Module, batch: Examples, progress: float, preset: Preset) -> torch.Tensor:
        """Of a training batch; progress is the share of the steps already taken."""
        return nll(network, batch)

    def optimizer(self, network: torch.nn.Module, preset: Preset) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), preset.rate)

    def test_set(self, split: Split) -> Examples:
        """The test images as every network sees them: distorted once, from a fixed seed."""
        generator = torch.Generator().manual_seed(1)
        parts = [self.distort(split.test[i : i + 500], generator) for i in range(0, len(split.test), 500)]
        return Examples(torch.cat([p.inputs for p in parts]), torch.cat([p.labels for p in parts]))

    def warp(self, network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor | None:
        """What the transformer makes of images, for the plots; None without one."""
        return None

    def show(self, network, split: Split, device, count: int = 10) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The first test images of different classes, and `warp` of them."""
        test = self.test_set(split)
        first = [int((test.labels == label).nonzero()[0][0]) for label in test.labels.unique()[:count]]
        seen = self.warp(network, test.inputs[first].to(device))
        return test.inputs[first], None if seen is None else seen.cpu()

    def evaluate(self, network: torch.nn.Module, split: Split, device) -> dict[str, float]:
        """The measures, in evaluation mode and without gradients."""
        return classification(network, self.test_set(split), device)


class PlainSGD(Experiment):
    """The paper's optimizer at the paper's budget; quick has too few steps for it and takes Adam."""

    def optimizer(self, network, preset):
        make = torch.optim.SGD if preset is self.presets["paper"] else torch.optim.Adam
        return make(network.parameters(), preset.rate)


def slower_localization(network, slow, rate: float, multiplier: float, make=torch.optim.SGD, **options):
    """An optimizer whose rate is multiplied for `slow`, the parameters of the localization networks."""
    known = {id(p) for p in slow}
    groups = [{"params": [p for p in network.parameters() if id(p) not in known]}]
    return make(groups + [{"params": slow, "lr": rate * multiplier}] * bool(slow), rate, **options)


def log_probabilities(network, images: torch.Tensor, device, size: int = 500) -> torch.Tensor:
    parts = [network(part.to(device)).log_softmax(-1).cpu() for part in images.split(size)]
    return torch.cat(parts)


def classification(network, test: Examples, device) -> dict[str, float]:
    """Error in percent, negative log-likelihood, expected calibration error (15 bins)."""
    logs = log_probabilities(network, test.inputs, device)
    classes = logs.shape[-1]
    logs, labels = logs.reshape(-1, classes), test.labels.reshape(-1)
    whole = (logs.argmax(-1) == labels).reshape(len(test), -1).all(1)
    error = 100 * (1 - whole.double().mean().item())
    return {
        "error": error,
        "accuracy": 100 - error,
        "nll": F.nll_loss(logs, labels).item(),
        "ece": multiclass_calibration_error(logs.exp(), labels, classes, n_bins=15).item(),
    }
