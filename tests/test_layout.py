"""Fails when a public operator lacks one of its parts: reference, a kernel per backend, tests, a benchmark, docs."""

import pathlib
import re

import pytest

import stn_kernels
from stn_kernels import _library
from stn_kernels.op_cases import OP_CASES

ROOT = pathlib.Path(__file__).resolve().parents[1]
PUBLIC = [op.name for op in _library._ops if not op.name.startswith("_")]
# Parts that do not exist yet. A test fails when one of them has come, so that its entry goes.
MISSING = {"cpab_jacobian": {"gradient"}}
for backend, ops in _library.LACKING.items():
    for name in ops:
        MISSING.setdefault(name, set()).add(backend)


def expect(op: str, part: str, there: bool) -> None:
    assert there == (part not in MISSING.get(op, ())), f"{op}: {part} is {'' if there else 'not '}there"


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
        backward = re.search(rf"^def {op}_backward\(", text("stn_kernels/reference/*.py"), re.M)
        expect(op, "gradient", bool(backward))

    @pytest.mark.parametrize("folder", ["cpu", "cuda"])
    def test_native_kernels(self, op, folder):
        registered = text(f"csrc/{folder}/*")
        expect(op, folder, f'm.impl("{op}"' in registered)
        if "gradient" not in MISSING.get(op, ()):
            expect(op, folder, f'm.impl("_{op}_backward"' in registered)

    def test_triton_kernels(self, op):
        from stn_kernels.triton import kernels

        expect(op, "triton", op in kernels.implementations())
        if "gradient" not in MISSING.get(op, ()):
            expect(op, "triton", f"_{op}_backward" in kernels.implementations())

    def test_backward_is_an_operator(self, op):
        expect(op, "gradient", f"_{op}_backward" in [o.name for o in _library._ops])

    def test_tests_and_sample_inputs(self, op):
        expect(op, "cases", op in OP_CASES)
        if op in OP_CASES:
            assert f'OP_CASES["{op}"]' in (ROOT / "tests" / f"test_{op}.py").read_text()

    def test_benchmark(self, op):
        from benchmarks import cases

        expect(op, "benchmark", any(case.op == op for case in cases.all_cases()))
        if "benchmark" not in MISSING.get(op, ()):
            assert op in (ROOT / "benchmarks" / f"bench_{op}.py").read_text()

    def test_readme_row(self, op):
        expect(op, "readme", f"| `{op}`" in (ROOT / "README.md").read_text())


def test_no_case_without_an_operator():
    assert set(OP_CASES) == {op for op in PUBLIC if "cases" not in MISSING.get(op, ())}
