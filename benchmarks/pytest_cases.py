"""The cases and providers of the harness as parameters of pytest-benchmark."""

import functools

import pytest
import torch

from stn_kernels import _library

from .cases import all_cases
from .harness import Measurement
from .providers import providers

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = [name for name in _library.BACKENDS if name != "reference" and not _library.why_not(name, DEVICE)]
PROVIDERS = {p.name: p for p in providers(BACKENDS)}


def parametrize(op: str):
    """Marks a test with every case of the op and its passes, and every provider."""
    cases = [pytest.param(case, which, id=f"{case.name}-{which}") for case in all_cases([op]) for which in case.passes]

    def mark(test):
        for names, values in (("provider", list(PROVIDERS)), (("case", "which"), cases)):
            test = pytest.mark.parametrize(names, values)(test)
        return test

    return mark


@functools.lru_cache(maxsize=1)
def measurement(case, provider: str) -> Measurement:
    return Measurement(case, [PROVIDERS[provider]], DEVICE)


def measured(benchmark, case, provider: str, which: str) -> None:
    """Times one provider on one case; skips what it has no part in, fails what the gate refuses."""
    contenders = measurement(case, provider).contenders
    if not contenders or which not in contenders[0].calls:
        pytest.skip(f"{provider} has no {case.op} for this case")
    if contenders[0].status:
        pytest.fail(f"refused: {contenders[0].status}")
    benchmark.group = f"{case.op} {case.name} {which}"
    benchmark(contenders[0].calls[which])
