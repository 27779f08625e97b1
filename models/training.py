"""Trains a network of an experiment: exact resume, repeatable from the seed, one process or several.

Everything random is drawn from (seed, step) alone, so that a checkpoint is weights, optimizer state and a step number.
"""

import contextlib
import json
import math
import os
import pathlib
import signal
import threading
from dataclasses import asdict, dataclass, field

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from . import processes
from .experiments.base import Examples, Experiment, Preset, Split
from .processes import ranks


@dataclass(frozen=True)
class Run:
    """One network at one seed of an experiment."""

    experiment: Experiment
    preset_name: str
    network: str
    seed: int

    @property
    def preset(self) -> Preset:
        return self.experiment.presets[self.preset_name]

    @property
    def identity(self) -> dict[str, str]:
        """What a checkpoint or a record must agree with to be this run's."""
        budget = json.dumps(asdict(self.preset), sort_keys=True)
        run = {"experiment": self.experiment.name, "network": self.network, "seed": str(self.seed)}
        return run | {"preset": self.preset_name, "budget": budget}

    def check(self, found: dict[str, str], path: pathlib.Path) -> None:
        """Raises:
        CheckpointError: the identity found in a file is another one.
        """
        for key, wanted in self.identity.items():
            if found.get(key) != wanted:
                raise CheckpointError(f"{path} is of another run: its {key} is {found.get(key)}, this run's {wanted}")

    def checkpoint(self, folder: pathlib.Path) -> pathlib.Path:
        name = self.network.replace(" ", "-").replace("/", "")
        return folder / f"{name}-{self.seed}.safetensors"


@dataclass
class State:
    """A run under way."""

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    split: Split
    step: int = 0
    losses: list[float] = field(default_factory=list)


class CheckpointError(RuntimeError):
    """A file is not the checkpoint, or the record, of this run."""


def start(run: Run, device="cpu") -> State:
    """The data, and the network as its seed makes it."""
    split = run.experiment.load(run.preset, run.seed)
    torch.manual_seed(run.seed)
    network = run.experiment.build(run.network, run.preset, split).to(device).train()
    return State(network, run.experiment.optimizer(network, run.preset), split)


def seed_of(run: Run, step: int) -> int:
    return (run.seed * 1_000_003 + step) * 7919 + 1


def share_of(batch: Examples) -> Examples:
    """This process's part of a batch.

    Raises:
        ValueError: the processes cannot share it equally.
    """
    rank, world = ranks()
    if len(batch) % world:
        raise ValueError(f"the batch must be divisible by the {world} processes, got {len(batch)} examples")
    size = len(batch) // world
    return batch[rank * size : (rank + 1) * size]


def loss_of(run: Run, state: State, batch: Examples) -> torch.Tensor:
    """The loss of a batch, or where several processes train that of this one's share: theirs have the batch's mean."""
    arguments = state.step / run.preset.steps, run.preset
    rank, world = ranks()
    if world == 1 or run.experiment.joint or processes.has_linearized(state.network):
        return run.experiment.loss(state.network, batch, *arguments)
    share = share_of(batch)
    with processes.Share(len(share), rank, world):
        return run.experiment.loss(state.network, share, *arguments)


def take_step(run: Run, state: State) -> float:
    """One optimizer step; returns the loss of the whole batch."""
    device = next(state.network.parameters()).device
    generator = torch.Generator().manual_seed(seed_of(run, state.step))
    batch = run.experiment.batch(state.split.train, run.preset, generator)
    torch.manual_seed(seed_of(run, state.step))  # dropout and the networks' own draws
    for group in state.optimizer.param_groups:
        group.setdefault("first_lr", group["lr"])
        group["lr"] = group["first_lr"] * run.preset.rate_factor(state.step)
    loss = loss_of(run, state, Examples(batch.inputs.to(device), batch.labels.to(device)))
    state.optimizer.zero_grad()
    loss.backward()
    processes.average_gradients(state.network)
    state.optimizer.step()
    state.step += 1
    return processes.mean(loss.detach()).item()


@contextlib.contextmanager
def interrupts_noted():
    """Yields a list that Ctrl-C meanwhile adds to, so that a step is finished first; a second Ctrl-C interrupts."""
    noted, before = [], signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield noted
        return

    def note(number, frame):
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def train(run: Run, state: State, checkpoint: pathlib.Path | None = None, every: int = 200, progress=None) -> State:
    """Takes the steps that are left; writes the checkpoint every `every` steps, at the end and when interrupted.

    Raises:
        FloatingPointError: the loss is not finite.
        KeyboardInterrupt: Ctrl-C was pressed; the step under way was finished and saved.
    """
    progress = progress or (lambda step, loss: None)
    with interrupts_noted() as noted:
        while state.step < run.preset.steps:
            loss = take_step(run, state)
            if not math.isfinite(loss):
                raise FloatingPointError(f"{run.network}, seed {run.seed}: the loss is {loss} at step {state.step}")
            state.losses.append(loss)
            if checkpoint and (noted or state.step % every == 0 or state.step == run.preset.steps):
                save(run, state, checkpoint)
            if noted:
                raise KeyboardInterrupt
            progress(state.step, loss)
    return state


@torch.no_grad()
def evaluate(run: Run, state: State) -> dict[str, float]:
    """The experiment's measures on the test set; what the network draws comes from a fixed seed."""
    torch.manual_seed(0)
    state.network.eval()
    try:
        return run.experiment.evaluate(state.network, state.split, next(state.network.parameters()).device)
    finally:
        state.network.train()


def save(run: Run, state: State, path: pathlib.Path) -> None:
    """Writes weights, optimizer and step as safetensors; replaces the file at once or not at all."""
    if ranks()[0]:
        return
    tensors = {f"network.{name}": value.contiguous() for name, value in state.network.state_dict().items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": v.contiguous() for name, v in values.items() if v is not None}
    tensors["losses"] = torch.tensor(state.losses, dtype=torch.float64)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished, run.identity | {"step": str(state.step)})
    os.replace(unfinished, path)


def check_checkpoint(run: Run, path: pathlib.Path) -> dict[str, str]:
    """What the file says of itself.

    Raises:
        CheckpointError: it is no checkpoint, or that of another network, seed or budget.
    """
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
    except Exception as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from None
    run.check(found, path)
    return found


def restore(run: Run, state: State, path: pathlib.Path) -> State:
    """Puts a checkpoint into a started state.

    Raises:
        CheckpointError: the file is no checkpoint, or that of another network, seed or budget; nothing is changed.
    """
    found = check_checkpoint(run, path)
    tensors = load_file(path)
    weights = {name.removeprefix("network."): v for name, v in tensors.items() if name.startswith("network.")}
    expected = {name: tuple(v.shape) for name, v in state.network.state_dict().items()}
    if {name: tuple(v.shape) for name, v in weights.items()} != expected:
        raise CheckpointError(f"{path} holds another model: its tensors differ from those of {run.network}")
    state.network.load_state_dict(weights)
    saved = state.optimizer.state_dict()
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            saved["state"].setdefault(int(index), {})[key] = value
    state.optimizer.load_state_dict(saved)
    state.losses, state.step = tensors["losses"].tolist(), int(found["step"])
    return state


def runs_of(experiment: Experiment, preset: str, seeds: int | None = None, networks=None) -> list[Run]:
    """Every network at every seed."""
    count = seeds or experiment.presets[preset].seeds
    return [Run(experiment, preset, n, s) for n in networks or experiment.networks for s in range(count)]
