"""Fails when a public operator lacks one of its parts: reference, a kernel per backend, tests, a benchmark, docs."""

import pathlib
import re

import pytest

import stn_kernels
from stn_kernels import _library
from stn_kernels.op_cases import OP_CASES

ROOT = pathlib.Path(__file__).resolve().parents[1]
PUBLIC = [op.name for op in _library._ops if not op.name.startswith("_")]


def text(pattern: str) -> str:
    return "\n".join(path.read_text() for path in sorted(ROOT.glob(pattern)))


@pytest.mark.parametrize("op", PUBLIC)
class TestOperator:
    def test_public_function(self, op):
        assert op in stn_kernels.__all__
        assert (ROOT / "stn_kernels" / "ops" / f"{op}.py").exists()
        for section in ("Args:", "Returns:", "Raises:"):
            assert section in getattr(stn_kernels, op).__doc__

    def test_reference(self, op):
        assert re.search(rf"^def {op}\(", text("stn_kernels/reference/*.py"), re.M)
        assert re.search(rf"^def {op}_backward\(", text("stn_kernels/reference/*.py"), re.M)

    @pytest.mark.parametrize("folder", ["cpu", "cuda"])
    def test_native_kernels(self, op, folder):
        registered = text(f"csrc/{folder}/*")
        assert f'm.impl("{op}"' in registered
        assert f'm.impl("_{op}_backward"' in registered

    def test_triton_kernels(self, op):
        from stn_kernels.triton import kernels

        assert {op, f"_{op}_backward"} <= set(kernels.implementations())

    def test_backward_is_an_operator(self, op):
        assert f"_{op}_backward" in [o.name for o in _library._ops]

    def test_tests_and_sample_inputs(self, op):
        assert f'OP_CASES["{op}"]' in (ROOT / "tests" / f"test_{op}.py").read_text()
        assert op in OP_CASES

    def test_benchmark(self, op):
        assert op in (ROOT / "benchmarks" / f"bench_{op}.py").read_text()
        from benchmarks import cases

        assert any(case.op == op for case in cases.all_cases())

    def test_readme_row(self, op):
        assert f"| `{op}`" in (ROOT / "README.md").read_text()


def test_no_case_without_an_operator():
    assert set(OP_CASES) == set(PUBLIC)
