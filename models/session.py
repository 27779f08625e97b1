"""`stn-kernels train`: every network of an experiment at every seed, then the table, the JSON and the plots."""

import json
import os
import pathlib
import platform
import subprocess
import sys
from datetime import datetime, timezone

import torch

import stn_kernels

from . import report, timing
from .blocks import parameter_count
from .experiments import EXPERIMENTS
from .experiments.base import Experiment
from .training import Run, State, evaluate, ranks, restore, runs_of, start, train


class SessionError(RuntimeError):
    """What was asked for cannot be done; the message says why."""


def experiment_named(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise SessionError(f"no experiment is called {name!r}; there are {', '.join(sorted(EXPERIMENTS))}")
    return EXPERIMENTS[name]


def folder_for(out, experiment: Experiment, preset: str, resume: bool) -> pathlib.Path:
    """OUT/<experiment>-<preset>.

    Raises:
        SessionError: it has results and resume is not set.
    """
    folder = pathlib.Path(out) / f"{experiment.name}-{preset}"
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


def perform(run: Run, folder: pathlib.Path, device: str, progress) -> tuple[dict, State]:
    """Trains what is left of a run and measures it; a finished run is only read again."""
    state = start(run, device)
    checkpoint = run.checkpoint(folder)
    if checkpoint.exists():
        restore(run, state, checkpoint)
    train(run, state, checkpoint, progress=lambda step, loss: progress(run, step, loss))
    path = record_path(run, folder)
    if path.exists():
        return json.loads(path.read_text()), state
    record = {"network": run.network, "seed": run.seed, "parameters": parameter_count(state.network)}
    if ranks()[0] == 0:
        record["measures"] = evaluate(run, state)
        record["loss"] = sum(state.losses[-50:]) / max(1, len(state.losses[-50:]))
        record["losses"] = state.losses
        report.write_json(path, record)
    return record, state


def perform_all(name, preset="quick", seeds=None, device="cpu", out="runs", resume=False, networks=None, progress=None):
    """Runs an experiment; returns the summary and its folder.

    Raises:
        SessionError, MissingDataError, CheckpointError: it cannot run; nothing was overwritten.
    """
    experiment = experiment_named(name)
    if preset not in experiment.presets:
        raise SessionError(f"preset must be one of {', '.join(experiment.presets)}, got {preset!r}")
    if unknown := set(networks or ()) - set(experiment.networks):
        raise SessionError(f"{name} has the networks {', '.join(experiment.networks)}, not {', '.join(unknown)}")
    folder = folder_for(out, experiment, preset, resume)
    progress = progress or (lambda run, step, loss: None)
    runs = runs_of(experiment, preset, seeds, networks)
    experiment.load(runs[0].preset, 0)  # absent data is reported before anything is written
    records, started, warps, reliabilities, before = [], [], {}, {}, None
    for run in runs:
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
    result = report.summary(experiment, preset, records, times, conditions(device))
    report.write_json(folder / "results.json", result)
    report.plot_losses(folder / "losses.png", {r["network"]: r["losses"] for r in records if r["seed"] == 0})
    if warps:
        report.plot_warps(folder / "warps.png", before, warps)
    if reliabilities:
        report.plot_calibration(folder / "calibration.png", reliabilities)
    return result, folder
