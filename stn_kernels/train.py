"""Connects `stn-kernels train` with stn_kernels.models."""

from .models import report, session, training
from .models.data import MissingDataError
from .models.experiments import EXPERIMENTS

ERRORS = (session.SessionError, MissingDataError, training.CheckpointError, FloatingPointError, ImportError)


def listing() -> list[tuple[str, ...]]:
    """A row an experiment: name, paper, what, networks, data, and "yes" or what is missing."""
    rows = []
    for experiment in EXPERIMENTS.values():
        reason = experiment.data_missing()
        networks = ", ".join(experiment.networks)
        rows.append((experiment.name, experiment.paper, experiment.about, networks, experiment.data, reason or "yes"))
    return rows


def run(progress, name, preset, seeds, networks, device, out, resume):
    """Trains; returns the summary, its folder, the table's heads and rows; None where another process reports."""
    training.join_processes(device)
    tasks = {}

    def advance(run, step, loss):
        if training.ranks()[0]:
            return  # one process of torchrun shows the progress
        key = run.network, run.seed
        if key not in tasks:
            tasks[key] = progress.add_task("", total=run.preset.steps)
        text = f"{run.network}, seed {run.seed}: loss {loss:.3g}"
        progress.update(tasks[key], completed=step, description=text)

    summary, folder = session.perform_all(name, preset, seeds, device, out, resume, networks, advance)
    return summary and (summary, folder, *report.cells(summary))


def verdicts(summary) -> list[str]:
    """A line a claim of the paper."""
    return [f"{report.verdict(claim)}: {claim['claim']}" for claim in summary["claims"]]
