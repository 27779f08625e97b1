"""Choosing a backend: by argument, by context, by environment; errors that say why one is not here."""

import os
import subprocess
import sys
import threading

import pytest
import torch

import stn_kernels
from stn_kernels import _library, backends, use_backend

IMAGE, THETA = torch.rand(1, 2, 5, 6), torch.eye(2, 3).unsqueeze(0)


CALLS = []


@pytest.fixture
def spy():
    """The calls of a backend "spy": the reference's operators in a namespace of their own."""

    def counted(op):
        return lambda *args: (CALLS.append(op.name), op.reference(*args))[1]

    if "spy" not in _library.NAMESPACES:
        _library.add_namespace("stn_kernels_spy", {op.name: counted(op) for op in _library._ops})
        _library.register_backend("spy", "stn_kernels_spy")
    CALLS.clear()
    return CALLS


def sample(**options):
    return stn_kernels.affine_sample(IMAGE, THETA, (5, 6), **options)


def test_every_backend_has_a_reason_or_none():
    report = backends()
    assert list(report)[:4] == ["reference", "cpu", "cuda", "triton"]
    assert report["reference"] == ""
    assert all(isinstance(reason, str) for reason in report.values())


def test_argument_wins_over_context(spy):
    with use_backend("reference"):
        sample(backend="spy")
    assert spy == ["affine_sample"]


def test_context_covers_every_op_and_ends(spy):
    with use_backend("spy"):
        sample()
        with use_backend("reference"):
            sample()
        with use_backend(None):
            sample()
        stn_kernels.grid_sample(IMAGE, stn_kernels.affine_grid(THETA, (5, 6)))
    sample()
    assert spy == ["affine_sample", "affine_grid", "grid_sample"]


def test_context_ends_after_an_error(spy):
    with pytest.raises(ZeroDivisionError), use_backend("spy"):
        raise ZeroDivisionError
    sample()
    assert spy == []


def test_backward_stays_on_the_backend_of_the_forward(spy):
    image = IMAGE.clone().requires_grad_()
    with use_backend("spy"):
        output = stn_kernels.affine_sample(image, THETA, (5, 6))
    output.sum().backward()
    assert spy == ["affine_sample", "_affine_sample_backward"]


def test_context_is_per_thread(spy):
    with use_backend("spy"):
        worker = threading.Thread(target=sample)
        worker.start()
        worker.join()
    assert spy == []


@pytest.mark.parametrize("name", ["gpu", "", "CPU"])
def test_unknown_name_in_context(name):
    with pytest.raises(ValueError, match=r"backend must be one of .*'reference'.* got '" + name), use_backend(name):
        pass


def test_unknown_name_as_argument():
    with pytest.raises(ValueError, match=r"backend must be one of .* got 'gpu'"):
        sample(backend="gpu")


@pytest.mark.parametrize("name", ["cpu", "cuda", "triton"])
def test_absent_backend_raises_its_reason(name):
    if not _library.why_not(name, "cpu"):
        sample(backend=name)
        return
    with pytest.raises(RuntimeError, match=f"backend '{name}' cannot be used here: ") as error:
        sample(backend=name)
    assert _library.why_not(name, "cpu") in str(error.value)


def choice(op, sampler=("bilinear", 2)):
    return _library._automatic(True, sampler, op)


def test_choice_on_cuda_tensors(monkeypatch):
    """The first of the operator's line that runs here and has the kernel; no GPU is asked."""
    monkeypatch.setattr(_library, "_load_errors", {})
    monkeypatch.setattr(_library, "_load_triton", lambda: "")
    assert choice("affine_sample") == "stn_kernels"
    assert choice("affine_sample", ("no such mode", 2)) == "stn_kernels_reference"
    monkeypatch.setitem(_library.CUDA_PREFERENCE, "affine_sample", ("triton", "cuda", "reference"))
    assert choice("affine_sample") == "stn_kernels_triton"
    assert choice("grid_sample") == "stn_kernels"
    monkeypatch.setitem(_library.LACKING, "triton", {"affine_sample"})
    assert choice("affine_sample") == "stn_kernels"
    monkeypatch.setitem(_library._load_errors, "cuda", "not built")
    assert choice("affine_sample") == "stn_kernels_reference"
    assert choice("grid_sample") == "stn_kernels_triton"
    monkeypatch.setattr(_library, "_load_triton", lambda: "not installed")
    assert choice("grid_sample") == "stn_kernels_reference"


def test_every_line_of_the_preference_ends_with_the_reference():
    for line in _library.CUDA_PREFERENCE.values():
        assert set(line) <= {"cuda", "triton", "reference"}
        assert line[-1] == "reference"


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


CALL = """
import torch, stn_kernels
from torch.utils._python_dispatch import TorchDispatchMode
class Names(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "stn_kernels" in func.namespace:
            print(func.namespace)
        return func(*args, **(kwargs or {}))
with Names():
    stn_kernels.affine_sample(torch.rand(1, 1, 4, 4), torch.eye(2, 3).unsqueeze(0), (4, 4))
"""


def test_environment_chooses():
    assert run(CALL, STN_KERNELS_BACKEND="reference").stdout.split() == ["stn_kernels_reference"]
    assert run(CALL, STN_KERNELS_BACKEND="").stdout.split() == ["stn_kernels"]


def test_environment_with_an_unknown_name():
    done = run(CALL, STN_KERNELS_BACKEND="gpu")
    assert done.returncode != 0
    assert "backend must be one of" in done.stderr
    assert "'gpu'" in done.stderr
