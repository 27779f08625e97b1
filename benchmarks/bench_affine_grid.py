"""pytest-benchmark of affine_grid: `pytest benchmarks/bench_affine_grid.py`."""

from .pytest_cases import measured, parametrize


@parametrize("affine_grid")
def test_affine_grid(benchmark, case, provider, which):
    measured(benchmark, case, provider, which)
