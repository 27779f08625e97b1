"""pytest-benchmark of homography_grid: `pytest benchmarks/bench_homography_grid.py`."""

from .pytest_cases import measured, parametrize


@parametrize("homography_grid")
def test_homography_grid(benchmark, case, provider, which):
    measured(benchmark, case, provider, which)
