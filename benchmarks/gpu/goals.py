"""What the kernels are to reach on an H200, and how far the rows of a measurement say they have come."""

from collections.abc import Callable
from dataclasses import dataclass

from ..providers import EAGER
from ..report import geometric_mean

COMPILED = "torch.compile"
NOT_YET = "not yet measured"


@dataclass(frozen=True)
class Goal:
    """reached(rows, facts, backend) is the number that `wanted` speaks of, None if nothing was measured."""

    name: str
    wanted: float
    at_most: bool
    reached: Callable[[list[dict], dict, str], float | None]

    def line(self, rows: list[dict], facts: dict, backend: str) -> tuple[str, str, str]:
        """(goal, number, verdict)."""
        on_gpu = any(r["device_type"] == "cuda" for r in rows)
        number = self.reached(rows, facts, backend) if on_gpu else None
        if number is None:
            return self.name, "", NOT_YET
        good = number <= self.wanted if self.at_most else number >= self.wanted
        return self.name, f"{number:.3g}", "reached" if good else "missed"


def mine(rows: list[dict], backend: str, direction: str, **wanted) -> list[dict]:
    """A backend's measured rows of affine_sample with these fields."""
    fields = {"op": "affine_sample", "pass": direction, "provider": f"stn_kernels {backend}"} | wanted
    return [r for r in rows if all(r.get(k) == v for k, v in fields.items()) and r.get("device_median_ms")]


def smallest(values) -> float | None:
    return min((v for v in values if v is not None), default=None)


def share(direction: str) -> Callable:
    return lambda rows, facts, backend: smallest(
        r.get("share") for r in mine(rows, backend, direction, suite="large", dtype="float32")
    )


def speedups(rows: list[dict], backend: str, peer: str) -> list[float]:
    """How many times faster than a peer, a number for every measured shape of the papers and both passes."""
    found = []
    for direction in ("forward", "forward+backward"):
        theirs = {r["case"]: r for r in rows if r["provider"] == peer and r["pass"] == direction}
        for r in mine(rows, backend, direction, suite="papers"):
            other = theirs.get(r["case"], {}).get("median_ms")
            if other and r.get("median_ms"):
                found.append(other / r["median_ms"])
    return found


def mean_speedup(peer: str) -> Callable:
    def reached(rows, facts, backend):
        values = speedups(rows, backend, peer)
        return geometric_mean(values) if values else None

    return reached


def worst_speedup(rows, facts, backend):
    return smallest(v for peer in (EAGER, COMPILED) for v in speedups(rows, backend, peer))


def many_channels(rows, facts, backend):
    found = mine(rows, backend, "input gradient", layout="channels_last")
    return smallest(r.get("device_ratio") for r in found if r["channels"] >= 64)


def identity(rows, facts, backend):
    return facts.get("identity", {}).get(backend)


GOALS = (
    Goal("affine forward, over 64 MB: share of the copy bandwidth >= 0.85", 0.85, False, share("forward")),
    Goal("affine forward+backward, over 64 MB: share of its floor >= 0.6", 0.6, False, share("forward+backward")),
    Goal("shapes of the papers: >= 3x torch eager, geometric mean", 3.0, False, mean_speedup(EAGER)),
    Goal("shapes of the papers: >= 1.5x torch.compile, geometric mean", 1.5, False, mean_speedup(COMPILED)),
    Goal("shapes of the papers: never below 1.05x the better of the two", 1.05, False, worst_speedup),
    Goal("input gradient, C >= 64 channels last: >= 5x torch eager", 5.0, False, many_channels),
    Goal("identity coordinates at W=3840 with TF32 on: within 5e-4 px", 5e-4, True, identity),
)


def table(rows: list[dict], facts: dict, backends: list[str]) -> list[str]:
    """Markdown: a line a goal, two columns a backend."""
    lines = [
        "| goal on an H200 | " + " | ".join(f"{b} | " for b in backends) + " |",
        "|---" * (1 + 2 * len(backends)) + "|",
    ]
    for goal in GOALS:
        cells = [cell for b in backends for cell in goal.line(rows, facts, b)[1:]]
        lines.append(f"| {goal.name} | " + " | ".join(cells) + " |")
    return lines
