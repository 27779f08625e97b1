"""Measures every case: correctness first, then calls with and without launch overhead, beside the peers.

Inputs and results rotate through more memory than the L2 holds. "call" is what a user waits for, events around calls in
a row; "device" is the time of the same calls replayed from a CUDA graph, which also shows that they can be captured.
"""

import argparse
import itertools
import os
import pathlib
import sys
import time
from collections.abc import Callable

import torch

from stn_kernels import affine_grid
from stn_kernels.op_cases import OP_CASES, Inputs

from .. import harness, report, roofline
from ..cases import Case
from ..providers import EAGER, Provider, providers
from .cases import gpu_cases
from .files import read_json, write_json
from .machine import register
from .table import NO_GRAPH

BUDGET = harness.Budget(seconds=0.1, rounds=7, most_rounds=60)
TINY = harness.Budget(seconds=0.0, rounds=1, most_rounds=1)
MOST_SETS = 256  # of rotating arguments
COMPILED = "torch.compile"


def fresh(like: torch.Tensor) -> torch.Tensor:
    """A cotangent."""
    generator = torch.Generator(like.device).manual_seed(1)
    return torch.randn(like.shape, generator=generator, device=like.device).to(like.dtype)


def evaluate(function: Callable, inputs: Inputs, cotangent=None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The value, every gradient, and the cotangent that gave them."""
    leaves = inputs.requires_grad()
    value = function(**leaves.tensors)
    cotangent = fresh(value) if cotangent is None else cotangent.to(value.dtype)
    grads = torch.autograd.grad(value, list(leaves.tensors.values()), cotangent)
    results = {"value": value.detach()}
    return results | {f"grad_{k}": g for k, g in zip(leaves.tensors, grads, strict=True)}, cotangent


def truth_of(case: Case, inputs: Inputs) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The float64 reference's results on the device of the inputs, and the cotangent for everybody."""
    output = OP_CASES[case.op].call(inputs.to(device="meta"))
    device = next(iter(inputs.tensors.values())).device
    cotangent = fresh(torch.empty(output.shape, dtype=output.dtype, device=device))
    if case.channels_last:  # as a next layer gives it
        cotangent = cotangent.contiguous(memory_format=torch.channels_last)

    def call(**tensors):
        return OP_CASES[case.op].call(Inputs(tensors, inputs.options), "reference")

    return evaluate(call, inputs.to(dtype=torch.float64), cotangent)


class Rotation:
    """A function called on one set of arguments after the other; the results of a round stay alive."""

    def __init__(self, function: Callable, arguments: list):
        self.function, self.arguments = function, arguments
        self.kept, self.turn = [None] * len(arguments), itertools.cycle(range(len(arguments)))

    def __call__(self) -> None:
        i = next(self.turn)
        self.kept[i] = self.function(self.arguments[i])


def passes(function: Callable, inputs: list[Inputs], cotangent: torch.Tensor, both: bool = True) -> dict[str, Rotation]:
    """Calls of the directions of the model, or of its forward alone."""
    if not both:
        return {"forward": Rotation(lambda i: function(**i.tensors), inputs)}
    leaves = [i.requires_grad() for i in inputs]
    calls = {
        "forward": Rotation(lambda i: function(**i.tensors), inputs),
        "forward+backward": Rotation(
            lambda i: torch.autograd.grad(function(**i.tensors), list(i.tensors.values()), cotangent), leaves
        ),
    }
    if "input" in inputs[0].tensors:
        images = [i.requires_grad("input") for i in inputs]
        graphs = [(function(**i.tensors), i.tensors["input"]) for i in images]
        calls["input gradient"] = Rotation(
            lambda graph: torch.autograd.grad(*graph, cotangent, retain_graph=True)[0], graphs
        )
    return calls


def captured(rotation: Rotation, device: str) -> Callable:
    """All calls of a rotation in one CUDA graph; off the GPU, in a row."""
    count = len(rotation.arguments)
    if device != "cuda":
        return lambda: [rotation() for _ in range(count)]
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    graph.capture_begin()
    try:
        for _ in range(count):
            rotation()
    finally:
        graph.capture_end()
    return graph.replay


def sets_for(call: roofline.Call, device: str) -> int:
    """How many sets of arguments are larger than the L2, twice over."""
    if device != "cuda":
        return 2
    cache = torch.cuda.get_device_properties().L2_cache_size
    return max(1, min(MOST_SETS, -(-2 * cache // call.moved("forward"))))


class Contest:
    """All providers on one case."""

    def __init__(self, case: Case, contenders: list[Provider], device: str, budget: harness.Budget):
        self.case, self.device, self.budget = case, device, budget
        inputs = case.inputs(device)
        self.model = roofline.call_of(case.op, inputs)
        truth, cotangent = truth_of(case, inputs)
        copies = [
            Inputs({k: t.clone() for k, t in inputs.tensors.items()}, inputs.options)
            for _ in range(sets_for(self.model, device))
        ]
        self.errors, self.reasons, self.calls = {}, {}, {}
        for provider in contenders:
            function = provider.make(case)
            if function is None:
                continue
            self.errors[provider.name] = {}
            try:
                if provider.differentiable:
                    results, _ = evaluate(function, inputs, cotangent)
                else:
                    results = {"value": function(**inputs.tensors)}
                judged = {name: truth[name] for name in results}
                self.errors[provider.name], self.reasons[provider.name] = harness.judge(case, results, judged)
                del results
                if not self.reasons[provider.name]:
                    calls = passes(function, copies, cotangent, provider.differentiable)
                    if provider.name == COMPILED:  # a third compilation is not worth its time
                        calls.pop("input gradient", None)
                    self.calls[provider.name] = calls
            except Exception as error:  # a provider that cannot do the case is a result
                self.reasons[provider.name] = f"raised {harness.described(error)}"

    def rows(self, bandwidth: float | None) -> list[dict]:
        rows = []
        for direction in roofline.DIRECTIONS:
            rotations = {name: calls[direction] for name, calls in self.calls.items() if direction in calls}
            if not rotations and direction == "input gradient":
                continue
            calls = harness.interleave(dict(rotations), self.budget, self.device) if rotations else {}
            memory = {name: harness.peak_bytes(call, self.device) for name, call in rotations.items()}
            graphs, reasons = {}, dict(self.reasons)
            for name, rotation in rotations.items():
                try:
                    graphs[name] = captured(rotation, self.device)
                except RuntimeError as error:
                    reasons[name] = f"{NO_GRAPH}: {harness.described(error)}"
            replays = harness.interleave(graphs, self.budget, self.device) if graphs else {}
            device = {n: [t / len(rotations[n].arguments) for t in times] for n, times in replays.items()}
            for name in self.reasons:
                row = self._row(name, direction, reasons[name], bandwidth)
                row |= timed(name, calls, "") | timed(name, device, "device_")
                if name in memory:
                    row["peak_mib"] = float(f"{memory[name] / 2**20:.5g}")
                if "device_median_ms" in row and bandwidth:
                    row["share"] = float(f"{row['floor_ms'] / row['device_median_ms']:.4g}")
                rows.append(row)
            del graphs
        return rows

    def _row(self, name: str, direction: str, reason: str, bandwidth: float | None) -> dict:
        case = self.case
        row = {
            "op": case.op,
            "case": case.name,
            "suite": case.suite,
            "channels": case.shape[1],
            "layout": "channels_last" if case.channels_last else "contiguous",
            "dtype": str(case.dtype).removeprefix("torch."),
            "device_type": self.device,
            "threads": torch.get_num_threads(),
            "pass": direction,
            "provider": name,
            "reason": reason,
            "bytes": self.model.moved(direction),
        }
        if bandwidth:
            row["floor_ms"] = float(f"{1e3 * self.model.floor(direction, bandwidth):.5g}")
        return row | {f"error_{k}": float(f"{e:.3g}") for k, e in self.errors[name].items()}


def timed(name: str, times: dict[str, list[float]], prefix: str) -> dict:
    """Quantiles of a provider's rounds in milliseconds, and its speed relative to torch eager in the same rounds."""
    if name not in times:
        return {}
    p10, median, p90 = (float(f"{1e3 * t:.5g}") for t in harness.quantiles(times[name]))
    row = {f"{prefix}p10_ms": p10, f"{prefix}median_ms": median, f"{prefix}p90_ms": p90}
    if EAGER in times:
        paired = [e / t for e, t in zip(times[EAGER], times[name], strict=False)]
        low, middle, high = (float(f"{r:.4g}") for r in harness.quantiles(paired))
        row |= {f"{prefix}ratio_p10": low, f"{prefix}ratio": middle, f"{prefix}ratio_p90": high}
    return row


def identity_error(backend: str, device: str, width: int) -> float:
    """Largest error of the identity's coordinates in pixels, with TF32 allowed."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        grid = affine_grid(torch.eye(2, 3, device=device).unsqueeze(0), (2, width), backend=backend)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    pixels = ((grid[0, 0, :, 0].double() + 1) * width - 1) / 2
    return float((pixels - torch.arange(width, device=device)).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--ops", default="")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=600.0, help="no case is begun after this long")
    parser.add_argument("--bandwidth", type=float, help="of a copy, bytes a second")
    parser.add_argument("--csv", type=pathlib.Path, required=True)
    parser.add_argument("--json", type=pathlib.Path, required=True)
    parser.add_argument("--start", type=int, default=0, help="continue with this case, on the files of a run before")
    options = parser.parse_args()
    backends, start = options.backends.split(","), time.monotonic()
    register(backends)
    cases = [
        (case, here)
        for case in gpu_cases(options.ops.split(",") if options.ops else None, options.tiny)
        if (here := [b for b in backends if OP_CASES[case.op].runs_on(b)])
    ]
    where, rows = report.conditions(options.device), []
    if options.start:
        facts, rows = read_json(options.json), report.read_csv(options.csv) if options.csv.exists() else []
    else:
        width = 3840 if not options.tiny else 64
        facts = {"identity": {b: identity_error(b, options.device, width) for b in backends}, "left out": []}
    stream = torch.cuda.Stream() if options.device == "cuda" else None
    for index, (case, here) in enumerate(cases[options.start :], options.start):
        if time.monotonic() - start > options.seconds:
            facts["left out"].append(f"{case.op} {case.name}: no time")
            continue
        contenders = providers(here, case.compiled and (not options.tiny or case.op == "affine_sample"))
        with torch.cuda.stream(stream):
            try:
                contest = Contest(case, contenders, options.device, TINY if options.tiny else BUDGET)
                rows += [row | where for row in contest.rows(options.bandwidth)]
                del contest
            except Exception as error:  # the other cases are still worth measuring
                facts["left out"].append(f"{case.op} {case.name}: {harness.described(error)}")
        print(f"{time.monotonic() - start:6.1f} s  {case.op} {case.name}", flush=True)
        if rows:
            report.write_csv(rows, options.csv)
        write_json(options.json, facts | {"rows": len(rows)})
        if options.device == "cuda" and is_broken():
            left = str(options.seconds - (time.monotonic() - start))
            again = [sys.executable, "-m", "benchmarks.gpu.measure", *sys.argv[1:]]
            print(f"the GPU context is broken: a new process for case {index + 1}", flush=True)
            os.execv(sys.executable, [*again, "--start", str(index + 1), "--seconds", left])


def is_broken() -> bool:
    """Whether an error on the GPU has left a context with which nothing works any more."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


if __name__ == "__main__":
    main()
