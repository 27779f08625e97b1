"""pytest-benchmark of cpab_sample: `pytest benchmarks/bench_cpab_sample.py`."""

from .pytest_cases import measured, parametrize


@parametrize("cpab_sample")
def test_cpab_sample(benchmark, case, provider, which):
    measured(benchmark, case, provider, which)
