"""pytest-benchmark of tps_sample: `pytest benchmarks/bench_tps_sample.py`."""

from .pytest_cases import measured, parametrize


@parametrize("tps_sample")
def test_tps_sample(benchmark, case, provider, which):
    measured(benchmark, case, provider, which)
