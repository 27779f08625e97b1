"""pytest-benchmark of homography_sample: `pytest benchmarks/bench_homography_sample.py`."""

from .pytest_cases import measured, parametrize


@parametrize("homography_sample")
def test_homography_sample(benchmark, case, provider, which):
    measured(benchmark, case, provider, which)
