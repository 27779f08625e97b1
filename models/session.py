"""`stn-kernels train`: every network of an experiment at every seed, then the table, the JSON and the plots."""

import json
import os
import pathlib
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone

import torch

import stn_kernels

from . import report, timing
from .blocks import parameter_count
from .experiments import EXPERIMENTS
from .experiments.base import Experiment
from .processes import ranks
from .training import CheckpointError, Run, State, check_checkpoint, evaluate, restore, runs_of, start, train


class SessionError(RuntimeError):
    """What was asked for cannot be done; the message says why."""


@dataclass(frozen=True)
class Plan:
    """An experiment that can be run: `planned` has checked it."""

    experiment: Experiment
    preset: str
    runs: tuple[Run, ...]
    folder: pathlib.Path
    device: str


def experiment_named(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise SessionError(f"no experiment is called {name!r}; there are {', '.join(sorted(EXPERIMENTS))}")
    return EXPERIMENTS[name]


def check_device(device: str) -> None:
    """Of "cpu", "cuda" and "cuda:N"; each process of torchrun has a GPU of its own.

    Raises:
        SessionError: it is none of them, or it is not here.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise SessionError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    if found.type == "cpu":
        return
    together, count = "RANK" in os.environ, torch.cuda.device_count()
    if together and found.index is not None:
        raise SessionError(f"device must be cpu or cuda where torchrun starts the processes, got {device!r}")
    if int(os.environ["LOCAL_RANK"]) >= count if together else (found.index or 0) >= count:
        whose = " for every process" if together else ""
        raise SessionError(f"there is no device {device!r} here{whose}: torch sees {count} CUDA devices")


def cannot_write(place: pathlib.Path) -> SessionError:
    return SessionError(f"{place} is no folder that can be written to: pass another --out")


def folder_for(out, experiment: Experiment, preset: str, resume: bool) -> pathlib.Path:
    """OUT/<experiment>-<preset>.

    Raises:
        SessionError: it is a file or cannot be written to, or it has results and resume is not set.
    """
    folder = pathlib.Path(out) / f"{experiment.name}-{preset}"
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise cannot_write(place)
    first = ranks()[0] == 0  # the others come when it has begun to write
    if first and not resume and folder.exists() and any(folder.iterdir()):
        raise SessionError(f"{folder} is not empty: pass --resume to go on there, or another --out")
    return folder


def conditions(device: str) -> dict:
    """Where and when a result comes from."""
    here = pathlib.Path(__file__).parent
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": os.environ.get("STN_KERNELS_COMMIT") or git.stdout.strip() or stn_kernels.__version__,
    }


def record_path(run: Run, folder: pathlib.Path) -> pathlib.Path:
    return run.checkpoint(folder).with_suffix(".json")


def recorded(run: Run, folder: pathlib.Path) -> dict | None:
    """The record of a finished run, if there is one.

    Raises:
        CheckpointError: the file is no record, or that of another run.
    """
    path = record_path(run, folder)
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        identity = found.get("run", {})
    except (ValueError, AttributeError) as error:
        text = f"{path} is not a readable record, remove it and the network is measured again: {error}"
        raise CheckpointError(text) from None
    run.check(identity, path)
    return found


def perform(run: Run, folder: pathlib.Path, device: str, progress) -> tuple[dict, State]:
    """Trains what is left of a run and measures it; a finished run is only read again."""
    state = start(run, device)
    checkpoint = run.checkpoint(folder)
    if checkpoint.exists():
        restore(run, state, checkpoint)
    trained = state.step == run.preset.steps
    train(run, state, checkpoint, progress=lambda step, loss: progress(run, step, loss))
    if trained and (found := recorded(run, folder)):
        return found, state
    record = {"run": run.identity, "network": run.network, "seed": run.seed}
    record["parameters"] = parameter_count(state.network)
    if ranks()[0] == 0:
        record["measures"] = evaluate(run, state)
        record["loss"] = sum(state.losses[-50:]) / max(1, len(state.losses[-50:]))
        record["losses"] = state.losses
        report.write_json(record_path(run, folder), record)
    return record, state


def with_finished(runs: list[Run], folder: pathlib.Path) -> list[Run]:
    """The runs, and all others of the experiment at this budget that were finished in the folder."""
    experiment, preset = runs[0].experiment, runs[0].preset_name
    seeds = len(list(folder.glob("*.json")))
    wanted = set(runs)
    for run in runs_of(experiment, preset, max(1, seeds)):
        try:
            if recorded(run, folder) and run.checkpoint(folder).exists():
                wanted.add(run)
        except CheckpointError:  # of another budget, or damaged: not asked for, so it stays as it is
            continue
    return sorted(wanted, key=lambda run: (experiment.networks.index(run.network), run.seed))


def planned(name, preset="quick", seeds=None, device="cpu", out="runs", resume=False, networks=None) -> Plan:
    """What `perform_all` would do; nothing is trained or written.

    Raises:
        SessionError, MissingDataError, DamagedDataError, CheckpointError: it cannot.
    """
    experiment = experiment_named(name)
    if preset not in experiment.presets:
        raise SessionError(f"preset must be one of {', '.join(experiment.presets)}, got {preset!r}")
    if unknown := set(networks or ()) - set(experiment.networks):
        raise SessionError(f"{name} has the networks {', '.join(experiment.networks)}, not {', '.join(unknown)}")
    check_device(device)
    folder = folder_for(out, experiment, preset, resume)
    runs = runs_of(experiment, preset, seeds, networks)
    for run in runs:
        recorded(run, folder)
        if run.checkpoint(folder).exists():
            check_checkpoint(run, run.checkpoint(folder))
    batch, world = experiment.presets[preset].batch, ranks()[1]
    if batch % world and not experiment.joint:
        raise SessionError(f"{name} has batches of {batch} examples, which {world} processes cannot share equally")
    experiment.load(runs[0].preset, 0)
    return Plan(experiment, preset, tuple(with_finished(runs, folder)), folder, device)


def perform_all(plan: Plan, progress=None) -> tuple[dict | None, pathlib.Path]:
    """Runs an experiment; returns the summary, None where another process reports, and its folder.

    Raises:
        CheckpointError: a checkpoint holds another model; it was not overwritten.
        SessionError: the folder cannot be made.
    """
    experiment, folder, device = plan.experiment, plan.folder, plan.device
    progress = progress or (lambda run, step, loss: None)
    try:
        folder.mkdir(parents=True, exist_ok=True)  # may fail where permissions allow it, as under /proc
    except OSError as error:
        raise cannot_write(folder) from error
    records, started, warps, reliabilities, before = [], [], {}, {}, None
    for run in plan.runs:
        record, state = perform(run, folder, device, progress)
        records.append(record)
        if run.seed == 0 and ranks()[0] == 0:
            started.append((run, state))
            state.network.eval()
            with torch.no_grad():
                before, seen = experiment.show(state.network, state.split, device)
            if seen is not None:
                warps[run.network] = seen
            if "ece" in experiment.measures:
                reliabilities[run.network] = report.reliability(run, state)
    if ranks()[0]:
        return None, folder
    times = timing.seconds_a_step(started) if ranks()[1] == 1 else {}
    result = report.summary(experiment, plan.preset, records, times, conditions(device))
    report.write_json(folder / "results.json", result)
    report.plot_losses(folder / "losses.png", {r["network"]: r["losses"] for r in records if r["seed"] == 0})
    if warps:
        report.plot_warps(folder / "warps.png", before, warps)
    if reliabilities:
        report.plot_calibration(folder / "calibration.png", reliabilities)
    return result, folder
