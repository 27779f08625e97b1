"""Every Triton kernel compiles for every architecture, without a GPU: no spills, no stray float64, wide accesses."""

import re

import pytest

from .triton_aot import CASES, compile_case, recorded

MOST_REGISTERS = {4: 255, 1: 255}  # by warps: 2 blocks on a processor, 8 blocks


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_compiles(case):
    for arch in case.architectures:
        for compiled in compile_case(case, arch):
            described = f"{compiled.kernel} sm_{arch}"
            assert ".visible .entry" in compiled.ptx, described
            assert compiled.cubin[:4] == b"\x7fELF", described
            assert compiled.local == 0, f"{described}: {compiled.local} bytes of local memory"
            assert compiled.registers <= compiled.most_registers <= MOST_REGISTERS.get(compiled.warps), described
            if not compiled.wide:
                assert not re.search(r"\.f64\b", compiled.ptx), described
            if re.search(r"\b(atom|membar|fence)\.", compiled.ptx):  # the assembler may know better
                assert not [name for name in compiled.counts if re.match(r"ATOM|MEMBAR", name)], compiled.counts
            if case.channels_last and case.channels == 64:
                assert_wide_accesses(case, compiled)


def assert_wide_accesses(case, compiled):
    """Channels last: images in 16-byte accesses (8 where float32 sums belong to half images), float32 sums by four."""
    if compiled.kernel == "theta_gradient" or case.deterministic:
        return
    sums = [name for name in compiled.counts if re.match(r"REDG?\.", name)]
    narrow = sums and case.dtype.itemsize == 2
    assert compiled.counts["LDG.E.64" if narrow else "LDG.E.128"] >= 1, compiled.counts
    if compiled.kernel in ("warp_forward", "affine_gather"):
        assert compiled.counts["STG.E.128"] >= 1, compiled.counts
    if compiled.arch >= 90 and not compiled.wide:
        assert all("F32x4" in name for name in sums), compiled.counts


def test_every_kernel_is_compiled():
    launched = {kernel.__name__ for case in CASES for kernel, _, _ in recorded(case)}
    assert launched == {
        "warp_forward",
        "warp_backward",
        "affine_gather",
        "theta_gradient",
        "affine_grid_forward",
        "lattice_forward",
        "lattice_backward",
        "grid_double_backward",
        "cpab_forward",
        "cpab_backward",
        "cpab_fixed_forward",
        "cpab_fixed_backward",
        "linearized_forward",
        "linearized_grad_grid",
        "linearized_scatter",
        "linearized_bounds",
    }
