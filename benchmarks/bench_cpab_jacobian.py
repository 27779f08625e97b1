"""pytest-benchmark of cpab_jacobian: `pytest benchmarks/bench_cpab_jacobian.py`."""

from .pytest_cases import measured, parametrize


@parametrize("cpab_jacobian")
def test_cpab_jacobian(benchmark, case, provider, which):
    measured(benchmark, case, provider, which)
