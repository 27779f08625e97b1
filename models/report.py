"""Results of an experiment: the table, the JSON, the plots."""

import json
import os
import pathlib
import statistics

import torch

from .experiments.base import Experiment, log_probabilities
from .training import Run, State


def mean_and_spread(values: list[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def summary(experiment: Experiment, preset: str, records: list[dict], times: dict, conditions: dict) -> dict:
    """What results.json holds: the budget, a row a network, and the claims held against the means.

    Args:
        records: of every finished run, as `session.perform` makes them.
        times: of a step, as `timing.seconds_a_step` takes them.
        conditions: machine, versions, date, commit.
    """
    budget = experiment.presets[preset]
    rows, means = [], {}
    for network in dict.fromkeys(record["network"] for record in records):
        mine = [record for record in records if record["network"] == network]
        row = {"network": network, "parameters": mine[0]["parameters"], "seeds": len(mine), "measures": {}}
        for measure in mine[0]["measures"]:
            mean, spread = mean_and_spread([record["measures"][measure] for record in mine])
            row["measures"][measure] = {"mean": mean, "spread": spread}
        row["published"] = experiment.published.get(network, {})
        row |= times.get(network, {})
        row["finals"] = [record["loss"] for record in mine]
        rows.append(row)
        means[network] = {measure: value["mean"] for measure, value in row["measures"].items()}
    complete = set(experiment.networks) <= set(means)
    claims = [{"claim": c.text, "reproduced": bool(c.holds(means)) if complete else None} for c in experiment.claims]
    about = {"experiment": experiment.name, "paper": experiment.paper, "about": experiment.about}
    settings = {"steps": budget.steps, "batch": budget.batch, "train": budget.train, "test": budget.test}
    settings |= {"rate": budget.rate, **dict(budget.more)}
    return (
        about
        | {"data": experiment.data, "preset": preset, "budget": settings, **conditions}
        | {
            "columns": experiment.measures,
            "unit": experiment.unit,
            "rows": rows,
            "claims": claims,
        }
    )


def number(value: float | str | None, digits: int = 3) -> str:
    """A range that a paper states is a text already."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.{digits}g}"


def cells(result: dict) -> tuple[list[str], list[list[str]]]:
    """Column heads and rows of text, for the terminal and the README alike."""
    heads = ["network", "parameters", "seeds"]
    for text in result["columns"].values():
        heads += [text, "paper"]
    heads += ["ms a step", "with torch's sampler", "torch / ours", f"cost, {result['unit']} = 1"]
    rows = []
    for row in result["rows"]:
        line = [row["network"], f"{row['parameters']:,}", str(row["seeds"])]
        for measure in result["columns"]:
            found = row["measures"].get(measure)
            spread = f" ({number(found['spread'], 2)})" if found and found["spread"] is not None else ""
            line += [f"{number(found['mean'])}{spread}" if found else "", number(row["published"].get(measure))]
        line += [number(1e3 * row[k]) if k in row else "" for k in ("seconds", "seconds_torch")]
        rows.append([*line, *(number(row.get(k)) for k in ("ratio", "cost"))])
    keep = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    return [heads[i] for i in keep], [[row[i] for i in keep] for row in rows]


def verdict(claim: dict) -> str:
    return {True: "reproduced", False: "NOT reproduced", None: "not all networks ran"}[claim["reproduced"]]


def write_json(path: pathlib.Path, content) -> None:
    """Replaces the file at once or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)


def plot_losses(path: pathlib.Path, curves: dict[str, list[float]]) -> None:
    """Training losses, averaged over windows of a fiftieth of the run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name, losses in curves.items():
        window = max(1, len(losses) // 50)
        smooth = torch.tensor(losses[: len(losses) // window * window]).unflatten(0, (-1, window)).mean(1)
        axis.plot([window * (i + 1) for i in range(len(smooth))], smooth.numpy(), label=name)
    axis.set(xlabel="step", ylabel="training loss")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def plot_warps(path: pathlib.Path, before: torch.Tensor, after: dict[str, torch.Tensor]) -> None:
    """Samples (N, C, H, W) and what each network's transformer makes of them, a row a network."""
    from matplotlib.figure import Figure

    rows = {"input": before, **after}
    figure = Figure(figsize=(len(before), 1.15 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(before), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_title(name, fontsize=8, loc="left")
        for axis, image in zip(line, images, strict=True):
            axis.set_axis_off()
            if image.dim() == 2:
                axis.plot(image.T.numpy())
            else:
                axis.imshow(image.mean(0).numpy(), cmap="gray")
    figure.savefig(path, dpi=100)


def plot_calibration(path: pathlib.Path, curves: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Accuracy against confidence, from `reliability`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for name, (confidence, accuracy) in curves.items():
        axis.plot(confidence.numpy(), accuracy.numpy(), marker="o", markersize=3, label=name)
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)


@torch.no_grad()
def reliability(run: Run, state: State, bins: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean confidence and accuracy in the bins of confidence that have test images."""
    test = run.experiment.test_set(state.split)
    logs = log_probabilities(state.network, test.inputs, next(state.network.parameters()).device)
    confidence, choice = logs.exp().max(-1)
    which = (confidence * bins).long().clamp(max=bins - 1)
    found = [which == b for b in range(bins) if (which == b).any()]
    right = (choice == test.labels).double()
    return torch.stack([confidence[f].mean() for f in found]), torch.stack([right[f].mean() for f in found])
