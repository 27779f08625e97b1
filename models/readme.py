"""Writes the table of trained networks of README.md from models/results: `python -m stn_kernels.models.readme`."""

import json
import pathlib

from . import report

BEGIN, END = "<!-- trained: begin -->", "<!-- trained: end -->"
HERE = pathlib.Path(__file__).resolve().parent


def section(result: dict) -> str:
    """One experiment: its budget, a row a network, the claims."""
    budget = result["budget"]
    heads, rows = report.cells(result)
    lines = [
        f"**{result['experiment']}** ({result['paper']}). {result['about']}. Data: {result['data']}. Preset"
        f" {result['preset']}: {budget['steps']:,} steps of {budget['batch']}.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        *(f"- {report.verdict(claim)}: {claim['claim']}" for claim in result["claims"]),
    ]
    return "\n".join(lines)


def generated(folder: pathlib.Path) -> str:
    """All recorded experiments, in the order of `train --list`."""
    from .experiments import EXPERIMENTS

    paths = [folder / f"{name}-quick.json" for name in EXPERIMENTS]
    results = [json.loads(path.read_text()) for path in paths if path.exists()]
    return "\n\n".join(section(result) for result in results)


def updated(text: str, table: str) -> str:
    """README's text with the table between its markers."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    readme = HERE.parent / "README.md"
    readme.write_text(updated(readme.read_text(), generated(HERE / "results")))
