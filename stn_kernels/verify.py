"""Checks every operator on every backend that runs here against the float64 reference: `stn-kernels verify`.

A cell is op x backend x dtype x padding x quantity; its error is the largest over align_corners, memory layouts, sample
dimensions and sizes. Quantities: the value, the gradient to each tensor, and for float64 gradcheck and gradgradcheck.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import torch

from . import _library
from ._tolerances import TOLERANCES, nondeterminism, relative_error
from .op_cases import DTYPES, LAYOUTS, VERIFIED, Inputs, OpCase, Sample, grad_output

LARGE = {"size": (40, 37), "out_size": (33, 45)}


@dataclass(frozen=True)
class Record:
    """One cell of the result."""

    op: str
    backend: str
    device: str
    dtype: str
    padding: str
    quantity: str  # "value", "grad_<tensor>", "gradcheck" or "gradgradcheck"
    error: float
    tolerance: float
    passed: bool
    detail: str = ""

    @property
    def cell(self) -> str:
        return f"{self.op} {self.backend} {self.dtype} {self.padding} {self.quantity}"


def default_backends() -> list[str]:
    return [name for name, reason in _library.backends().items() if not reason]


def is_slow(backend: str) -> bool:
    """Whether a backend interprets its kernels: it gets the small sizes only."""
    return _library.device_of(backend) == "cpu" and backend not in ("reference", "cpu")


def samples(dtype: torch.dtype, padding: str, every: int = 1) -> list[Sample]:
    """The inputs folded into one cell; of every n-th alone, all layouts, flags and sample dimensions, none large."""
    base = Sample(dtype=dtype, padding_mode=padding)
    flags = (False, True)
    chosen = [
        replace(base, align_corners=align, layout=layout, samples=count, seed=seed)
        for seed, (align, layout, count) in enumerate(itertools.product(flags, LAYOUTS, (None, 3)))
    ]
    if every > 1:
        return chosen[::every]
    for seed, (align, layout) in enumerate(itertools.product(flags, LAYOUTS)):
        chosen.append(
            replace(base, align_corners=align, layout=layout, channels=1 + 8 * (seed % 2), seed=seed, **LARGE)
        )
    for seed, align in enumerate(flags):  # a vector of channels, almost full, and one more
        chosen.append(replace(base, align_corners=align, channels=14 + 16 * seed, seed=seed, **LARGE))
    return chosen


def evaluate(case: OpCase, inputs: Inputs, backend: str | None, layout: str) -> dict[str, torch.Tensor]:
    """The value and every gradient of one call, for the cotangent that belongs to the layout."""
    inputs = inputs.requires_grad()
    value = case.call(inputs, backend)
    return results_of(case, inputs, value, grad_output(value, layout))


def expected(case: OpCase, inputs: Inputs, layout: str, oracle: str = "reference") -> dict[str, torch.Tensor]:
    """What the float64 reference, or another backend, gives, for the cotangent that a call on `inputs` gets."""
    wide = inputs.to(device="cpu", dtype=torch.float64).requires_grad()
    value, image = case.call(wide, oracle), inputs.tensors.get("input")
    # Samples have their image's type.
    narrow = case.call(inputs.to(device="cpu"), oracle) if image is None else value.detach().to(image.dtype)
    cotangent = grad_output(narrow, layout).double()
    return results_of(case, wide, value, cotangent)


def results_of(case: OpCase, inputs: Inputs, value, cotangent) -> dict[str, torch.Tensor]:
    """The value and the gradients that the operator has, to inputs that require them."""
    if not case.quantities:
        return {"value": value.detach()}
    grads = torch.autograd.grad(value, list(inputs.tensors.values()), cotangent)
    return {"value": value.detach(), **{f"grad_{k}": g for k, g in zip(inputs.tensors, grads, strict=True)}}


@functools.lru_cache(maxsize=64)
def _drawn(case: OpCase, sample: Sample) -> tuple[Inputs, dict[str, torch.Tensor]]:
    inputs = case.draw(sample)
    return inputs, expected(case, inputs, sample.layout)


def allowed_error(case: OpCase, inputs: Inputs, quantity: str, result: torch.Tensor) -> float:
    """The tolerance of a result ("value", "grad_<tensor>"); a float64 gradient by a float32 image is a float32 sum."""
    column = "value" if quantity == "value" else case.quantities[quantity.removeprefix("grad_")]
    narrow = any(t.dtype != torch.float64 for t in inputs.tensors.values())
    return TOLERANCES[torch.float32 if narrow and result.dtype == torch.float64 else result.dtype][column]


def _numeric_records(case: OpCase, backend: str, dtype: torch.dtype, padding: str) -> Iterator[Record]:
    device = _library.device_of(backend)
    worst: dict[str, tuple[float, float, str]] = {}
    every = 5 if case.slow_reference else 3 if is_slow(backend) else 1
    chosen = samples(dtype, padding if padding != "none" else "zeros", every)
    for i, base in enumerate(chosen):
        sample = base.in_dimension(case.dimensions[i % len(case.dimensions)])
        inputs, truth = _drawn(case, sample)
        try:
            results = evaluate(case, inputs.to(device=device), backend, sample.layout)
        except Exception as error:  # a crash of one cell is a failed cell, not the end of the run
            results = dict.fromkeys(truth)
            reason = f"{type(error).__name__}: {error}"
        for quantity, wanted in truth.items():
            got = results[quantity]
            if got is None:
                worst[quantity] = (float("inf"), 0.0, reason)
                continue
            error, allowed = relative_error(got, wanted), allowed_error(case, inputs, quantity, got)
            if quantity not in worst or error / allowed > worst[quantity][0] / max(worst[quantity][1], 1e-300):
                worst[quantity] = (error, allowed, "" if error <= allowed else f"at {sample}")
    for quantity, (error, allowed, detail) in worst.items():
        name = str(dtype).removeprefix("torch.")
        yield Record(case.name, backend, device, name, padding, quantity, error, allowed, error <= allowed, detail)


def _derivative_records(case: OpCase, backend: str, padding: str) -> Iterator[Record]:
    checks = {"gradcheck": torch.autograd.gradcheck} if case.quantities else {}
    if case.quantities and case.twice_differentiable:
        checks["gradgradcheck"] = torch.autograd.gradgradcheck
    device = _library.device_of(backend)
    for name, check in checks.items():
        detail = ""
        for i, (align, count) in enumerate(((False, None), (True, 2))):
            sample = Sample(
                dtype=torch.float64,
                padding_mode=padding if padding != "none" else "zeros",
                align_corners=align,
                samples=count,
                channels=2,
                size=(4, 5),
                out_size=(3, 4),
            ).in_dimension(case.dimensions[i % len(case.dimensions)])
            exact = [k for k in case.quantities if name == "gradgradcheck" or k not in case.surrogates]
            inputs = case.draw(sample).to(device=device).requires_grad(*exact)

            def call(*tensors, inputs=inputs):
                return case.call(Inputs(dict(zip(inputs.tensors, tensors, strict=True)), inputs.options), backend)

            try:
                fast = case.slow_reference
                check(call, tuple(inputs.tensors.values()), nondet_tol=nondeterminism(device), fast_mode=fast)
            except Exception as error:  # as above
                detail = f"{type(error).__name__}: {str(error).splitlines()[0]} at {sample}"
        failed = float(bool(detail))
        yield Record(case.name, backend, device, "float64", padding, name, failed, 0.0, not detail, detail)


def cells(
    ops: Iterable[str] | None = None,
    backends: Iterable[str] | None = None,
    dtypes: Iterable[torch.dtype] = DTYPES,
) -> list[tuple]:
    """(case, backend, dtype or None for the derivative checks of float64, padding) in the order of the table.

    Raises:
        ValueError: an op or backend has an unknown name.
        RuntimeError: a backend named does not run here; the message says why.
    """
    chosen = list(VERIFIED) if ops is None else list(ops)
    for op in chosen:
        if op not in VERIFIED:
            raise ValueError(f"op must be one of {sorted(VERIFIED)}, got {op!r}")
    names = default_backends() if backends is None else list(backends)
    for name in names:
        _library._check_name(name)
        if reason := _library.backends()[name]:
            raise RuntimeError(f"backend {name!r} cannot be used here: {reason}")
    cases, rounds = [VERIFIED[op] for op in chosen], [*dtypes, *([None] if torch.float64 in dtypes else [])]
    return [
        (case, backend, dtype, padding)
        for case in cases
        for padding in case.paddings
        for dtype in rounds
        for backend in names  # innermost, so that the expected result is computed once
        if case.runs_on(backend)
    ]


def run(
    ops: Iterable[str] | None = None,
    backends: Iterable[str] | None = None,
    dtypes: Iterable[torch.dtype] = DTYPES,
    progress: Callable[[str], None] | None = None,
) -> list[Record]:
    """Verifies ops (None: all) on backends (None: all that run here).

    Args:
        ops: names of public operators.
        backends: names as in `stn_kernels.backends()`.
        dtypes: of the images.
        progress: called with a description after every group of cells, as often as `cells` is long.

    Returns:
        One `Record` a cell; a kernel that raises gives failed cells with the error as their detail.

    Raises:
        ValueError, RuntimeError: as `cells`.
    """
    records = []
    for case, backend, dtype, padding in cells(ops, backends, dtypes):
        if dtype is None:
            records += _derivative_records(case, backend, padding)
        else:
            records += _numeric_records(case, backend, dtype, padding)
        if progress:
            progress(f"{case.name} {backend} {padding}")
    return records


def as_json(records: list[Record]) -> list[dict]:
    return [asdict(record) for record in records]
