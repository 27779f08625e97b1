"""Measures providers side by side: a correctness gate, interleaved rounds, ratios from paired rounds, peak memory.

Noise on a shared machine hits whoever runs at that moment; so every round runs every provider once, in rotating order,
and a ratio is the median over rounds of (torch eager's time / the provider's time) within the same round.
"""

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from stn_kernels._library import why_not
from stn_kernels._tolerances import relative_error
from stn_kernels.op_cases import OP_CASES, Inputs, OpCase, grad_output
from stn_kernels.verify import expected, results_of

from .cases import BOTH, FORWARD, SECOND, Case
from .providers import EAGER, Provider

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler, used for memory, would print two lines a call

# Looser than the tests' table: peers compute coordinates with less care; a wrong kernel is off by far more.
GATE = {"value": 2e-3, "image": 5e-3, "coords": 2e-2}
HALF_GATE = {"value": 2**-7, "image": 2**-7, "coords": 2e-2}
RAISED = "raised"  # how the reason of a provider without any result begins
LARGEST_REFERENCE = 2**15  # CPAB points: of more the reference takes minutes, and the truth is the C++ kernels' float64


@dataclass(frozen=True)
class Budget:
    """How long one case is measured for."""

    seconds: float  # a pass, all providers together
    rounds: int  # at least, but after `patience` seconds three do
    most_rounds: int = 300
    patience: float = 10.0


FULL, QUICK = Budget(seconds=2.0, rounds=15), Budget(seconds=0.5, rounds=5)


@dataclass
class Contender:
    """A provider's calls on one case, and what the gate said."""

    name: str
    calls: dict[str, Callable | None]  # of every pass that it has a part in; None where it does not run
    errors: dict[str, float]
    status: str  # "" if it passed, else why its time is no result

    @property
    def runs(self) -> bool:
        return not self.status.startswith(RAISED)


def evaluate(case: OpCase, function, inputs: Inputs, layout: str) -> dict[str, torch.Tensor]:
    """As `verify.evaluate`, for any function of the tensors."""
    leaves = inputs.requires_grad()
    value = function(**leaves.tensors)
    return results_of(case, leaves, value, grad_output(value, layout))


def cotangents(value: torch.Tensor, inputs: Inputs) -> list[torch.Tensor]:
    """Random ones of a value and of the gradients to inputs, on the device of inputs."""
    tensors = list(inputs.tensors.values())
    value = value.to(tensors[0].device)
    return [grad_output(t, "contiguous", seed) for seed, t in enumerate((value, *tensors), start=1)]


def forward(function, inputs: Inputs, given: list[torch.Tensor]) -> Callable:
    return lambda: function(**inputs.tensors)


def both(function, inputs: Inputs, given: list[torch.Tensor]) -> Callable:
    leaves = inputs.requires_grad()
    return lambda: torch.autograd.grad(function(**leaves.tensors), list(leaves.tensors.values()), given[0])


def second(function, inputs: Inputs, given: list[torch.Tensor]) -> Callable:
    """From cotangents of the first gradients, computed here and not in the call, to grad_output and inputs."""
    leaves, grad = inputs.requires_grad(), given[0].detach().requires_grad_()
    tensors = list(leaves.tensors.values())
    first = torch.autograd.grad(function(**leaves.tensors), tensors, grad, create_graph=True)
    return lambda: torch.autograd.grad(first, [grad, *tensors], given[1:], retain_graph=True)


CALLS = {FORWARD: forward, BOTH: both, SECOND: second}  # (function, inputs, cotangents) -> what is timed


def second_gradients(function, inputs: Inputs, given: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    names = ("second_grad_output", *(f"second_{name}" for name in inputs.tensors))
    return dict(zip(names, second(function, inputs, given)(), strict=True))


def truth_of(case: Case, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Value and gradients in float64; the second ones too, of a case that times them."""
    op = OP_CASES[case.op]
    large = bool(case.cells) and case.shape[0] * math.prod(case.size) > LARGEST_REFERENCE
    oracle = "cpu" if large and not why_not("cpu", "cpu") else "reference"
    truth = expected(op, inputs, "contiguous", oracle)
    if SECOND in case.passes:
        wide = inputs.to(device="cpu", dtype=torch.float64)
        given = [t.cpu().double() for t in cotangents(truth["value"].to(case.dtype), inputs)]
        truth |= second_gradients(lambda **tensors: op.call(Inputs(tensors, wide.options), oracle), wide, given)
    return truth


def gate(case: Case, function, inputs: Inputs, truth: dict[str, torch.Tensor]) -> tuple[dict[str, float], str]:
    """(errors of the quantities of truth, '' or why the results are refused)."""
    try:
        if list(truth) == ["value"]:
            results = {"value": function(**inputs.tensors)}
        else:
            results = evaluate(OP_CASES[case.op], function, inputs, "contiguous")
        if SECOND in case.passes:
            results |= second_gradients(function, inputs, cotangents(results["value"], inputs))
    except Exception as error:  # a peer that cannot do the case is a result
        return {}, f"{RAISED} {described(error)}"
    return judge(case, results, truth)


def described(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def judge(case: Case, results: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> tuple[dict[str, float], str]:
    """As `gate`, of results that are here."""
    allowed = GATE if case.dtype in (torch.float32, torch.float64) else HALF_GATE
    quantities = OP_CASES[case.op].quantities
    columns = {"grad_output": "image", **quantities}
    errors, wrong = {}, []
    for name, wanted in truth.items():
        column = "value" if name == "value" else columns[name.partition("_")[2]]  # without "grad_" or "second_"
        if not quantities:  # what has no gradient here is one
            column = "coords"
        if column == "coords" and not case.smooth:
            continue
        errors[name] = relative_error(results[name], wanted)
        if not errors[name] <= allowed[column]:
            wrong.append(f"{name} off by {errors[name]:.1e} (allowed {allowed[column]:.1e})")
    return errors, "; ".join(wrong)


def contend(case: Case, provider: Provider, inputs: Inputs, truth) -> Contender | None:
    function = provider.make(case)
    if function is None:
        return None
    judged = truth if provider.differentiable else {"value": truth["value"]}
    errors, status = gate(case, function, inputs, judged)
    value = truth["value"].to(case.dtype if not case.op.endswith("_grid") else torch.float32)
    given = cotangents(value, inputs)
    if case.channels_last:  # as a next layer gives it
        given[0] = given[0].contiguous(memory_format=torch.channels_last)
    contender = Contender(provider.name, {}, errors, status)
    for which in case.passes:
        if provider.differentiable or which == FORWARD:
            contender.calls[which] = CALLS[which](function, inputs, given) if contender.runs else None
    return contender


def clock(call: Callable, count: int, device: str) -> float:
    """Seconds a call, over `count` calls; on the GPU from its own events."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return 1e-3 * start.elapsed_time(end) / count
    before = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - before) / count


def interleave(calls: dict[str, Callable], budget: Budget, device: str) -> dict[str, list[float]]:
    """name -> seconds a call in every round."""
    counts = {}
    for name, call in calls.items():
        clock(call, 2, device)  # warm: compilation, caches, thread pools
        counts[name] = max(1, min(200, int(1e-3 / clock(call, 1, device))))
    names, times = list(calls), {name: [] for name in calls}
    start = time.perf_counter()
    for done in range(budget.most_rounds):
        passed = time.perf_counter() - start
        if (done >= budget.rounds and passed > budget.seconds) or (done >= 3 and passed > budget.patience):
            break
        shift = done % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(clock(calls[name], counts[name], device))
    return times


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """(p10, median, p90)."""
    if len(values) == 1:
        return (values[0],) * 3
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return tenths[0], statistics.median(values), tenths[8]


def peak_bytes(call: Callable, device: str) -> int:
    """Most bytes held at once during a call beyond its inputs, the result included.

    On the CPU these are the allocations that torch's profiler records, that is all that goes through torch's allocator.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    # acc_events: torch 2.11 warns without that it forgets events
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        result = call()
    del result
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


class Measurement:
    """One case with its contenders, to be measured at several numbers of threads."""

    def __init__(self, case: Case, providers: list[Provider], device: str):
        self.case, self.device = case, device
        inputs = case.inputs(device)
        truth = truth_of(case, inputs)
        self.contenders = [c for p in providers if (c := contend(case, p, inputs, truth)) is not None]
        self.memory = {
            (c.name, which): peak_bytes(call, device)
            for c in self.contenders
            if c.runs
            for which, call in c.calls.items()
        }

    def rows(self, threads: int, budget: Budget) -> list[dict]:
        """A row a provider and pass; one that the gate refused has a reason, and a time but no ratio."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            rows = []
            for which in self.case.passes:
                those = [c for c in self.contenders if which in c.calls]
                running = {c.name: c.calls[which] for c in those if c.runs}
                times = interleave(running, budget, self.device) if running else {}
                right = {c.name for c in those if not c.status}
                rows += [self._row(c, which, threads, times, right) for c in those]
            return rows
        finally:
            torch.set_num_threads(before)

    def _row(self, contender: Contender, which: str, threads: int, times, right) -> dict:
        case = self.case
        row = {
            "op": case.op,
            "case": case.name,
            "suite": case.suite,
            "dtype": str(case.dtype).removeprefix("torch."),
            "device_type": self.device,
            "threads": threads,
            "pass": which,
            "provider": contender.name,
            "reason": contender.status,
        }
        row |= {f"error_{name}": float(f"{error:.3g}") for name, error in contender.errors.items()}
        if contender.name in times:
            p10, median, p90 = (float(f"{1e3 * t:.5g}") for t in quantiles(times[contender.name]))
            row |= {"p10_ms": p10, "median_ms": median, "p90_ms": p90, "rounds": len(times[contender.name])}
            row["peak_mib"] = float(f"{self.memory[contender.name, which] / 2**20:.5g}")
            if {EAGER, contender.name} <= right:
                paired = [e / t for e, t in zip(times[EAGER], times[contender.name], strict=True)]
                low, middle, high = (float(f"{r:.4g}") for r in quantiles(paired))
                row |= {"ratio_p10": low, "ratio": middle, "ratio_p90": high}
        return row
