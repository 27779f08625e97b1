"""pytest-benchmark of tps_grid: `pytest benchmarks/bench_tps_grid.py`."""

from .pytest_cases import measured, parametrize


@parametrize("tps_grid")
def test_tps_grid(benchmark, case, provider, which):
    measured(benchmark, case, provider, which)
