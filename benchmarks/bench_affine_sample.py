"""pytest-benchmark of affine_sample: `pytest benchmarks/bench_affine_sample.py`."""

from .pytest_cases import measured, parametrize


@parametrize("affine_sample")
def test_affine_sample(benchmark, case, provider, which):
    measured(benchmark, case, provider, which)
