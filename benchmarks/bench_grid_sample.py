"""pytest-benchmark of grid_sample: `pytest benchmarks/bench_grid_sample.py`."""

from .pytest_cases import measured, parametrize


@parametrize("grid_sample")
def test_grid_sample(benchmark, case, provider, which):
    measured(benchmark, case, provider, which)
