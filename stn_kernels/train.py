"""Connects `stn-kernels train` with stn_kernels.models."""

from .models import processes, report, session, training
from .models.data import DamagedDataError, MissingDataError
from .models.experiments import EXPERIMENTS

ERRORS = (session.SessionError, MissingDataError, DamagedDataError, training.CheckpointError)
ERRORS += (FloatingPointError, ImportError)


def listing() -> list[tuple[str, ...]]:
    """A row an experiment: name, paper, what, networks, data, and "yes" or what is missing."""
    rows = []
    for experiment in EXPERIMENTS.values():
        reason = experiment.data_missing()
        networks = ", ".join(experiment.networks)
        rows.append((experiment.name, experiment.paper, experiment.about, networks, experiment.data, reason or "yes"))
    return rows


def plans(names, preset, seeds, device, out, resume, networks) -> list[session.Plan]:
    """What is to be run, all of it checked; joins the processes of torchrun."""
    session.check_device(device)
    processes.join(device)
    return [session.planned(name, preset, seeds, device, out, resume, networks) for name in dict.fromkeys(names)]


def run(progress, plan):
    """Trains; returns the summary, its folder, the table's heads and rows; None where another process reports."""
    tasks = {}

    def advance(run, step, loss):
        if processes.ranks()[0]:
            return  # one process of torchrun shows the progress
        key = run.network, run.seed
        if key not in tasks:
            tasks[key] = progress.add_task("", total=run.preset.steps)
        text = f"{run.network}, seed {run.seed}: loss {loss:.3g}"
        progress.update(tasks[key], completed=step, description=text)

    summary, folder = session.perform_all(plan, advance)
    return summary and (summary, folder, *report.cells(summary))


def verdicts(summary) -> list[str]:
    """A line a claim of the paper."""
    return [f"{report.verdict(claim)}: {claim['claim']}" for claim in summary["claims"]]
