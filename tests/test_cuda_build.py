"""The CUDA sources compile without a GPU, for every architecture, and the check of their register use sees spills."""

import shutil
import subprocess

import pytest

from stn_kernels import _build

from .simt import check_cu

needs_nvcc = pytest.mark.skipif(_build.nvcc() is None, reason="no nvcc: the CUDA kernels were not compiled for GPUs")

PTXAS = """\
ptxas info    : Compiling entry function '_Z3fooIfEvPT_' for 'sm_80'
ptxas info    : Function properties for _Z3fooIfEvPT_
    {stack} bytes stack frame, {spill} bytes spill stores, {spill} bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 256 bytes smem, 416 bytes cmem[0]
"""


@pytest.mark.parametrize(("stack", "spill"), [(0, 0), (8, 0), (8, 4)])
def test_ptxas_messages_are_understood(stack, spill):
    (usage,) = check_cu.parse(PTXAS.format(stack=stack, spill=spill))
    assert (usage.arch, usage.registers, usage.shared, usage.stack, usage.spills) == (
        "sm_80",
        40,
        256,
        stack,
        2 * spill,
    )
    assert usage.faulty == (stack > 0)


@pytest.mark.parametrize(
    ("torch_version", "nvcc_version", "reason"),
    [
        ("", "13.0", "this torch has no CUDA"),
        ("13.0", "12.4", "nvcc is of CUDA 12.4, this torch of 13.0"),
        ("12.8", "12.4", ""),
    ],
)
def test_cuda_is_built_for_the_torch_that_will_load_it(monkeypatch, torch_version, nvcc_version, reason):
    monkeypatch.delenv("FORCE_CUDA", raising=False)
    monkeypatch.setattr(_build, "nvcc", lambda: "nvcc")
    monkeypatch.setattr(_build, "torch_cuda", lambda: torch_version)
    monkeypatch.setattr(_build, "nvcc_version", lambda: nvcc_version)
    assert _build.why_no_cuda().startswith(reason)
    assert bool(_build.why_no_cuda()) == bool(reason)
    monkeypatch.setenv("FORCE_CUDA", "1")
    assert _build.why_no_cuda() == ""


def test_no_kernel_is_launched_by_brackets():
    """simt::launch is the one way, so that every kernel also runs on the CPU."""
    sources = [p for p in (_build.SOURCES / "cuda").iterdir() if p.suffix in (".cu", ".cuh", ".h")]
    assert sources
    assert not [p.name for p in sources if "<<<" in p.read_text()]


@needs_nvcc
def test_compiles_for_every_architecture(tmp_path, monkeypatch):
    """A kernel file; all files and their spills: `make check-cu`."""
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(check_cu, "OUTPUT", tmp_path)
    usages = check_cu.parse(check_cu.compile_verbosely(_build.SOURCES / "cuda" / "lattice.cu"))
    assert {u.arch for u in usages} == {f"sm_{arch}" for arch in _build.DEFAULT_CUDA_ARCHS}
    assert not any(u.faulty for u in usages)
    if shutil.which("cuobjdump"):
        listed = subprocess.run(
            ["cuobjdump", "-lelf", tmp_path / "lattice.o"], capture_output=True, text=True, check=True
        )
        assert all(f"sm_{arch}" in listed.stdout for arch in _build.DEFAULT_CUDA_ARCHS)


@needs_nvcc
@pytest.mark.parametrize("stem", ["register", "warp_backward_float32"])
def test_host_code_of_the_kernels_compiles(tmp_path, monkeypatch, stem):
    """Registration, and the file with the most templates: nvcc writes host code that g++ has to take."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    monkeypatch.setattr(check_cu, "OUTPUT", tmp_path)
    usages = check_cu.parse(check_cu.compile_verbosely(_build.SOURCES / "cuda" / f"{stem}.cu"))
    assert bool(usages) == (stem != "register")
    assert not any(u.faulty for u in usages)
