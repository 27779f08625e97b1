"""Results as CSV, as a plot and as short tables. Every row carries what it was measured on."""

import csv
import datetime
import os
import pathlib
import re
import statistics
import subprocess

import torch

from stn_kernels import info

from .providers import EAGER

CONDITIONS = ("date", "commit", "device", "cpu", "level", "torch", "triton", "python")
HERE = pathlib.Path(__file__).resolve().parent
DEFAULT_FOLDER = pathlib.Path("stn-kernels-results")  # not benchmarks/results, of which README.md is generated


def conditions(device: str) -> dict[str, str]:
    """What the machine and the software are; level is the instruction set of the CPU kernels."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cpu": info.cpu_model(),
        "level": info.cpu_level(),
        "torch": torch.__version__,
        "triton": info.version("triton"),
        "python": info.platform.python_version(),
    }


def commit() -> str:
    """The checkout's commit, with "+" if files differ from it; outside a checkout STN_KERNELS_COMMIT, else ""."""
    git = ["git", "-C", str(HERE)]
    done = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if done.returncode:
        return os.environ.get("STN_KERNELS_COMMIT", "")
    changed = subprocess.run(
        [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False
    ).stdout
    return done.stdout.strip() + ("+" if changed else "")


def device_folder(rows: list[dict]) -> str:
    """A folder name for a device: "amd-epyc-v4", "nvidia-h200"."""
    first = rows[0]
    name = first["device"] if first["device"] != "cpu" else f"{first['cpu']} {first['level']}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_csv(rows: list[dict], path: pathlib.Path) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    errors = sorted(c for c in columns if c.startswith("error_"))
    plain = [c for c in columns if c not in errors and c != "reason" and c not in CONDITIONS]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*plain, *errors, "reason", *CONDITIONS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: pathlib.Path) -> list[dict]:
    """Rows with numbers as numbers, and None for what a row does not have."""
    with path.open(newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str):
    if text == "":
        return None
    try:
        return float(text) if not text.isdigit() else int(text)
    except ValueError:
        return text


def geometric_mean(values: list[float]) -> float:
    return statistics.geometric_mean(values)


def summary(rows: list[dict]) -> list[dict]:
    """Per op, provider, threads and pass: geometric mean, worst and best ratio to torch eager, and how many cases."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        if row.get("ratio") and row["provider"] != EAGER:
            groups.setdefault((row["op"], row["provider"], row["threads"], row["pass"]), []).append(row["ratio"])
    keys = ("op", "provider", "threads", "pass")
    return [
        dict(zip(keys, group, strict=True))
        | {"cases": len(r), "mean": geometric_mean(r), "worst": min(r), "best": max(r)}
        for group, r in groups.items()
    ]


def plot(rows: list[dict], path: pathlib.Path) -> None:
    """Bars of ratio to torch eager, a panel an op and pass, at the highest number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    threads = max(row["threads"] for row in rows)
    rows = [r for r in rows if r["threads"] == threads and r.get("ratio") and r["provider"] != EAGER]
    panels = list(dict.fromkeys((r["op"], r["pass"]) for r in rows))
    names = list(dict.fromkeys(r["provider"] for r in rows))
    colours = dict(zip(names, plt.colormaps["tab10"].colors, strict=False))
    heights = [1 + 0.9 * len({r["case"] for r in rows if (r["op"], r["pass"]) == p}) for p in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9, sum(heights) * 0.62 + 1), height_ratios=heights, squeeze=False
    )
    for axis, (op, which) in zip(axes[:, 0], panels, strict=True):
        chosen = [r for r in rows if (r["op"], r["pass"]) == (op, which)]
        cases = list(dict.fromkeys(r["case"] for r in chosen))
        width = 0.8 / len(names)
        for i, name in enumerate(names):
            mine = {r["case"]: r for r in chosen if r["provider"] == name}
            at = [c + (i - len(names) / 2 + 0.5) * width for c, case in enumerate(cases) if case in mine]
            values = [mine[case]["ratio"] for case in cases if case in mine]
            spread = [
                [mine[c]["ratio"] - mine[c]["ratio_p10"] for c in cases if c in mine],
                [mine[c]["ratio_p90"] - mine[c]["ratio"] for c in cases if c in mine],
            ]
            axis.barh(at, values, width, color=colours[name], label=name, xerr=spread, error_kw={"lw": 0.6})
        axis.axvline(1, color="black", lw=0.8)
        axis.set(yticks=range(len(cases)), yticklabels=cases, title=f"{op}, {which}", xscale="log")
        axis.xaxis.set_major_formatter("{x:g}x")
        axis.invert_yaxis()
        axis.tick_params(labelsize=7)
    axes[0, 0].legend(fontsize=7)
    first = rows[0]
    where = (
        first["device"] if first["device"] != "cpu" else f"{first['cpu']}, kernels {first['level']}, {threads} threads"
    )
    axes[-1, 0].set_xlabel(
        f"speed relative to torch eager (right of 1 is faster), p10 to p90. {where}, torch {first['torch']}", fontsize=7
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(rows: list[dict], out: pathlib.Path | None, quick: bool) -> list[pathlib.Path]:
    """Writes the CSV, and the plot if matplotlib is installed, to out/<device>/; returns the paths."""
    folder = (out or DEFAULT_FOLDER) / device_folder(rows)
    folder.mkdir(parents=True, exist_ok=True)
    name = "quick" if quick else "results"
    paths = [folder / f"{name}.csv"]
    write_csv(rows, paths[0])
    if any(r.get("ratio") and r["provider"] != EAGER for r in rows):
        try:
            plot(rows, folder / f"{name}.png")
            paths.append(folder / f"{name}.png")
        except ImportError:
            pass
    return paths
