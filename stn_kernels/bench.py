"""Connects `stn-kernels bench` with stn_kernels.benchmarks."""

import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import _library
from .benchmarks import harness, report
from .benchmarks.cases import QUICK, Case, all_cases
from .benchmarks.providers import EAGER, providers


@dataclass(frozen=True)
class Plan:
    """What will be measured, in order."""

    steps: list[tuple[Case, int]]  # a case at a number of threads
    backends: list[str]
    device: str
    quick: bool


def plan(ops, backends, quick: bool, threads: list[int], device: str | None) -> Plan:
    """Raises RuntimeError if a backend asked for cannot run on the device."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("no CUDA device is visible")
    for name in backends or ():
        if reason := _library.why_not(name, device):
            raise RuntimeError(f"backend {name!r} cannot be used here: {reason}")
    # The reference is a specification, many times slower than torch eager; it is measured only if asked for.
    runs = [name for name in _library.BACKENDS if name != "reference" and not _library.why_not(name, device)]
    counts = threads if device == "cpu" else threads[:1]
    steps = [(case, n) for case in all_cases(ops, quick) for n in counts]
    return Plan(steps, backends or runs, device, quick)


def run(plan: Plan, progress: Callable[[str], None]) -> list[dict]:
    """The rows of all steps; progress is called after each."""
    budget = harness.QUICK if plan.quick else harness.FULL
    where, rows, measurement = report.conditions(plan.device), [], None
    for case, threads in plan.steps:
        if measurement is None or measurement.case is not case:
            compile_wanted = case.compiled and (not plan.quick or case.shape == QUICK[0])
            chosen = providers(plan.backends, compile_wanted)
            measurement = harness.Measurement(case, chosen, plan.device)
        rows += [row | where for row in measurement.rows(threads, budget)]
        progress(f"{case.op} {case.name}, {threads} threads")
    return rows


def tables(rows: list[dict], table) -> list:
    """A table an op with times and ratios, and the summary; `table(title, *columns)` makes one."""
    found = []
    for op in dict.fromkeys(row["op"] for row in rows):
        columns = "case", "provider", "threads", "pass", "ms", "p10", "p90", "x eager", "peak MiB"
        one = table(f"{op}: median of interleaved rounds", *columns)
        for row in rows:
            if row["op"] == op and row.get("median_ms") is not None:
                ratio = f"{row['ratio']:.2f}" if "ratio" in row and row["provider"] != EAGER else ""
                times = (f"{row[key]:.3g}" for key in ("median_ms", "p10_ms", "p90_ms"))
                cells = row["case"], row["provider"], str(row["threads"]), row["pass"], *times, ratio
                one.add_row(*cells, f"{row['peak_mib']:.3g}")
        found.append(one)
    columns = "op", "provider", "threads", "pass", "cases", "geometric mean", "worst", "best"
    total = table("speed relative to torch eager", *columns)
    for group in report.summary(rows):
        numbers = (f"{group[key]:.2f}" for key in ("mean", "worst", "best"))
        total.add_row(
            group["op"], group["provider"], str(group["threads"]), group["pass"], str(group["cases"]), *numbers
        )
    return [*found, total]


def gated_out(rows: list[dict]) -> list[str]:
    """A line a provider and case that the correctness gate refused."""
    lines = [f"no result of {r['provider']} on {r['op']} {r['case']}: {r['reason']}" for r in rows if r["reason"]]
    return list(dict.fromkeys(lines))


def write(rows: list[dict], out: str | None, quick: bool) -> list[pathlib.Path]:
    return report.write(rows, pathlib.Path(out) if out else None, quick)
