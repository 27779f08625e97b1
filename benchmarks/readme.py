"""Writes the measured table of README.md from benchmarks/results: `python -m stn_kernels.benchmarks.readme`.

`--check` only says whether README.md is up to date.
"""

import argparse
import pathlib
import statistics
import sys

from . import report
from .cases import FIRST, SECOND
from .gpu import goals
from .harness import RAISED
from .providers import EAGER

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SUITES = ("papers", "samples", "cpab", "small", "second")  # whose every case is shown; of the others the means
COMPOSITION = (
    "The second backward alone, from cotangents of the first gradients to grad_output, image and grid; the error is the"
    " largest of the three. Composed: floor, four gathers and weights as operations of torch, instead of its"
    " `grid_sample`."
)
# Passes that share their tables, what begins the names of the errors shown, and what is said before.
PARTS = ((FIRST, "error_value", ()), ((SECOND,), "error_second", ("", COMPOSITION)))
UNMEASURED = (
    "Not measured yet: the CUDA and Triton kernels. No GPU has run them; they are checked for correctness on the CPU."
    " `make gpu` measures them; what they are to reach:"
)


def section(folder: pathlib.Path) -> str:
    """One device's part: a table an op with the ratio of every provider at every number of threads, then the losses."""
    path = next((p for name in ("results.csv", "quick.csv") if (p := folder / name).exists()), None)
    if path is None:
        return ""
    rows = report.read_csv(path)
    first = rows[0]
    where = first["device"] if first["device"] != "cpu" else f"{first['cpu']}, kernels {first['level']}"
    commits = ", ".join(dict.fromkeys(str(r["commit"]) for r in rows))
    lines = [
        f"**{where}**, torch {first['torch']}, {first['date']}, commits {commits}: how many times faster than"
        " torch eager (median of interleaved rounds; below 1 is slower; of CPAB libcpab's algorithm in torch), and the"
        " relative error of the values. All rows:"
        f" `benchmarks/results/{folder.name}/{path.name}`.",
    ]
    for passes, error, caption in PARTS:
        if not (those := [r for r in rows if r["pass"] in passes]):
            continue
        lines += [*caption, "", *means(those, passes)]
        for op in dict.fromkeys(r["op"] for r in those):
            if shown := [r for r in those if r["op"] == op and r["suite"] in SUITES]:
                lines += ["", *table(shown, op, passes, error)]
    return "\n".join([*lines, "", *refused(rows), *losses(rows)])


def means(rows: list[dict], passes: tuple[str, ...]) -> list[str]:
    """Our kernels by operator and suite: geometric mean and worst of the ratios to torch eager."""
    ours = [r for r in rows if r["provider"].startswith("stn_kernels") and r["ratio"] is not None]
    columns = [(p, t) for p in passes for t in sorted({r["threads"] for r in rows})]
    heads = ["operator", "suite", "cases", *(f"{p}, {t} thread{'s' if t > 1 else ''}" for p, t in columns)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for op, suite in dict.fromkeys((r["op"], r["suite"]) for r in ours):
        here = [r for r in ours if (r["op"], r["suite"]) == (op, suite)]
        ratios = [[r["ratio"] for r in here if (r["pass"], r["threads"]) == c] for c in columns]
        cells = [f"{statistics.geometric_mean(v):.2f} (worst {min(v):.2f})" if v else "" for v in ratios]
        lines.append(f"| {op} | {suite} | {len({r['case'] for r in here})} | " + " | ".join(cells) + " |")
    return lines


def table(rows: list[dict], op: str, passes: tuple[str, ...], error: str) -> list[str]:
    """Of the rows of an operator; its errors are the largest of those whose names begin with `error`."""
    threads = sorted({r["threads"] for r in rows})
    columns = [(p, t) for p in passes for t in threads]
    heads = [f"{p}, {t} thread{'s' if t > 1 else ''}" for p, t in columns]
    found = {(r["case"], r["provider"], r["pass"], r["threads"]): r for r in rows}
    lines = [f"| `{op}` | provider | " + " | ".join(heads) + " | peak MiB | error |", "|---" * (len(columns) + 4) + "|"]
    for case in dict.fromkeys(r["case"] for r in rows):
        for provider in dict.fromkeys(r["provider"] for r in rows if r["case"] == case):
            cells = [cell(found.get((case, provider, *column)), provider) for column in columns]
            memory = found.get((case, provider, passes[-1], threads[0]), {}).get("peak_mib")
            first = found.get((case, provider, passes[0], threads[0]), {})
            errors = [v for k, v in first.items() if k.startswith(error) and v is not None]
            last = ("" if memory is None else f"{memory:.3g}", f"{max(errors):.0e}" if errors else "")
            lines.append(f"| {case} | {provider} | " + " | ".join([*cells, *last]) + " |")
    return lines


def cell(row: dict | None, provider: str) -> str:
    if row is None:
        return ""
    if row["reason"]:
        return "refused" if row["median_ms"] is None else f"{row['median_ms']:.3g} ms, wrong"
    if provider == EAGER or row["ratio"] is None:  # there is none where eager is refused
        return f"{row['median_ms']:.3g} ms"
    return f"{row['ratio']:.2f}" if row["ratio"] < 10 else f"{row['ratio']:.1f}"


def refused(rows: list[dict]) -> list[str]:
    reasons = dict.fromkeys((r["provider"], r["op"], r["case"], r["reason"]) for r in rows if r["reason"])
    return [
        f"{'Refused' if reason.startswith(RAISED) else 'Wrong'} by the correctness gate: {p} on {op} {case} ({reason})."
        for p, op, case, reason in reasons
    ]


def losses(rows: list[dict]) -> list[str]:
    """Where one of our kernels is slower than torch eager."""
    ours = [r for r in rows if r["provider"].startswith("stn_kernels") and r["ratio"] is not None]
    slow = [r for r in ours if r["ratio"] < 1]
    named = "; ".join(f"{r['op']} {r['case']} {r['pass']} {r['threads']}t {r['ratio']:.2f}" for r in slow)
    return [f"Slower than torch eager in {len(slow)} of {len(ours)} measurements{': ' + named if slow else ''}."]


def generated(results: pathlib.Path) -> str:
    folders = sorted(path for path in results.iterdir() if path.is_dir()) if results.is_dir() else []
    parts = [part for folder in folders if (part := section(folder))]
    gpu = [path.read_text().strip() for folder in folders if (path := folder / "gpu.md").exists()]
    unmeasured = [UNMEASURED, "\n".join(goals.table([], {}, ["cuda", "triton"]))]
    return "\n\n".join([*(parts or ["Nothing is measured yet."]), *(gpu or unmeasured)])


def updated(text: str, content: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if README.md is out of date")
    arguments = parser.parse_args()
    path = report.HERE.parent / "README.md"
    text = path.read_text()
    new = updated(text, generated(report.HERE / "results"))
    if arguments.check:
        print("README.md is up to date" if new == text else "README.md is out of date: run this without --check")
        return int(new != text)
    path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
