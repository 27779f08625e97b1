"""pytest-benchmark of cpab_transform: `pytest benchmarks/bench_cpab_transform.py`."""

from .pytest_cases import measured, parametrize


@parametrize("cpab_transform")
def test_cpab_transform(benchmark, case, provider, which):
    measured(benchmark, case, provider, which)
