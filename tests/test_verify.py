"""`stn-kernels verify` finds what is wrong and names the cell."""

import json

import pytest
import torch
from click.testing import CliRunner

from stn_kernels import _library, op_cases, verify
from stn_kernels._tolerances import relative_error
from stn_kernels.cli import main


def scaled(op, name, factor, index=None):
    """The reference of `op`, with the result (or one of its results) of the operator `name` off by a factor."""

    def implementation(*args):
        result = op.reference(*args)
        if op.name != name:
            return result
        if index is None:
            return result * factor
        return tuple(r * factor if i == index else r for i, r in enumerate(result))

    return implementation


def broken_backend(label, name, factor, index=None):
    if label not in _library.NAMESPACES:
        implementations = {op.name: scaled(op, name, factor, index) for op in _library._ops}
        _library.add_namespace(f"stn_kernels_{label}", implementations)
        _library.register_backend(label, f"stn_kernels_{label}")
    return label


def failures(op, backend, dtypes=op_cases.DTYPES):
    return {(r.dtype, r.quantity) for r in verify.run([op], [backend], dtypes) if not r.passed}


def test_reference_passes_everything():
    records = verify.run(["affine_grid"], ["reference"])
    assert all(r.passed for r in records)
    assert {r.quantity for r in records} == {"value", "grad_theta", "gradcheck", "gradgradcheck"}


def test_a_value_off_by_one_percent_fails_in_every_dtype():
    failed = failures("affine_grid", broken_backend("wrong_value", "affine_grid", 1.01))
    assert {dtype for dtype, quantity in failed if quantity == "value"} == {"float64", "float32", "float16", "bfloat16"}


def test_a_gradient_off_by_one_percent_fails_alone():
    backend = broken_backend("wrong_gradient", "_affine_sample_backward", 1.01, index=1)
    failed = failures("affine_sample", backend, [torch.float64, torch.bfloat16])
    assert {q for _, q in failed} == {"grad_theta", "gradcheck", "gradgradcheck"}
    assert {d for d, q in failed if q == "grad_theta"} == {"float64", "bfloat16"}


def test_a_raising_kernel_is_a_failed_cell():
    def fail(*args):
        raise RuntimeError("no such kernel")

    if "raising" not in _library.NAMESPACES:
        _library.add_namespace("stn_kernels_raising", {op.name: fail for op in _library._ops})
        _library.register_backend("raising", "stn_kernels_raising")
    records = verify.run(["affine_grid"], ["raising"])
    assert not any(r.passed for r in records)
    assert all("no such kernel" in r.detail for r in records)


def test_command_exits_1_and_names_the_cell(tmp_path):
    backend = broken_backend("wrong_value", "affine_grid", 1.01)
    out = tmp_path / "verify.json"
    done = CliRunner().invoke(main, ["verify", "--op", "affine_grid", "--backend", backend, "--json", str(out)])
    assert done.exit_code == 1, done.output
    assert "FAILED affine_grid wrong_value float32 none value" in done.output
    assert {r["quantity"] for r in json.loads(out.read_text()) if not r["passed"]} >= {"value"}


def test_command_exits_0():
    done = CliRunner().invoke(main, ["verify", "--op", "affine_grid", "--backend", "reference"])
    assert done.exit_code == 0, done.output
    assert "every cell passed" in done.output


@pytest.mark.parametrize("arguments", [["--op", "affine_simple"], ["--backend", "gpu"]])
def test_command_rejects_unknown_names(arguments):
    done = CliRunner().invoke(main, ["verify", *arguments])
    assert done.exit_code == 2
    assert "must be one of" in done.output
    assert arguments[1] in done.output


def test_unknown_names():
    with pytest.raises(ValueError, match=r"op must be one of .* got 'affine_simple'"):
        verify.run(ops=["affine_simple"])
    with pytest.raises(ValueError, match=r"backend must be one of .* got 'gpu'"):
        verify.run(backends=["gpu"])


@pytest.mark.parametrize(
    ("actual", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([0.5, 0.0], [0.0, 0.0], 0.5),
        ([torch.nan, 2.0], [1.0, 2.0], torch.inf),
        ([1.0, 2.0], [torch.nan, 2.0], torch.inf),
        ([torch.nan, 2.0], [torch.nan, 2.0], 0.0),
        ([torch.inf, 2.0], [-torch.inf, 2.0], torch.inf),
        ([1.0], [1.0, 1.0], torch.inf),
        ([], [], 0.0),
    ],
)
def test_relative_error(actual, expected, error):
    assert relative_error(torch.tensor(actual), torch.tensor(expected)) == pytest.approx(error)
