"""Compiles the Triton kernels ahead of time, without a GPU: what the operators launch for a case, an architecture at a time.

The operators run on meta tensors with the compiler in the place of the launch, so that nothing here can differ from them.
Run as `python -m tests.triton_aot [--arch 90] [NAME ...]`: a table of registers, shared memory and instructions a kernel.
"""

import argparse
import functools
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stn_kernels._library import PADDING_MODES
from stn_kernels.triton import kernels, launch

ARCHITECTURES = (80, 90, 100)
POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Case:
    """A call of one operator."""

    op: str
    dtype: torch.dtype = torch.float32
    channels: int = 3
    padding: str = "zeros"
    align: bool = False
    channels_last: bool = False
    size: tuple[int, int] = (64, 64)
    need_input: bool = True
    need_params: bool = True
    deterministic: bool = False
    params_dtype: torch.dtype | None = None

    @property
    def name(self) -> str:
        flags = [self.op, str(self.dtype).removeprefix("torch."), f"C{self.channels}", self.padding]
        for flag in ("align", "channels_last", "deterministic"):
            flags += [flag] * getattr(self, flag)
        return " ".join(flags) + ("" if self.need_params else " input") + ("" if self.need_input else " params")

    def call(self) -> None:
        """Runs the operator on meta tensors."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        image = torch.empty(2, self.channels, *self.size, dtype=self.dtype, device="meta").to(memory_format=layout)
        dtype = self.params_dtype or (torch.float64 if self.dtype == torch.float64 else torch.float32)
        theta = torch.empty(2, 2, 3, dtype=dtype, device="meta")
        grid = torch.empty(2, *self.size, 2, dtype=dtype, device="meta")
        padding, size = PADDING_MODES[self.padding], list(self.size)
        needs = self.need_input, self.need_params, self.deterministic
        implementation = kernels.implementations()[self.op]
        if self.op == "affine_grid":
            implementation(theta, size, self.align)
        elif self.op == "_affine_grid_backward":
            implementation(grid, self.align)
        elif self.op.endswith("_backward"):
            implementation(image, image, theta if "affine" in self.op else grid, 0, padding, self.align, *needs)
        elif self.op == "affine_sample":
            implementation(image, theta, size, 0, padding, self.align)
        else:
            implementation(image, grid, 0, padding, self.align)


@dataclass
class Compiled:
    """A kernel for one architecture."""

    kernel: str
    arch: int
    ptx: str
    cubin: bytes
    shared: int
    warps: int
    registers: int = 0
    local: int = 0
    instructions: int = 0
    counts: Counter = field(default_factory=Counter)  # SASS memory instructions


def recorded(case: Case) -> list[tuple]:
    """The launches of a case: (kernel, arguments, number of warps)."""
    launches = []

    def record(kernel, programs, arguments, num_warps):
        assert programs > 0
        launches.append((kernel, arguments, num_warps))

    with mock.patch.object(launch, "run", record):
        case.call()
    return launches


def source(kernel, arguments: dict) -> ASTSource:
    """The kernel specialised as the launch specialises it: on constants, on None, and on 16-byte aligned pointers."""
    assert set(arguments) == set(kernel.arg_names)
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[(index,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            assert parameter.do_not_specialize
            signature[parameter.name] = parameter.annotation_type
    return ASTSource(kernel, signature, constants, attributes)


@functools.cache
def tool(name: str) -> str:
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def inspect(compiled: Compiled) -> Compiled:
    """Fills in what the machine code shows."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.cubin)
        file.flush()
        usage = subprocess.run(
            [tool("cuobjdump"), "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
        sass = subprocess.run(
            [tool("cuobjdump"), "-sass", file.name], capture_output=True, text=True, check=True
        ).stdout
    compiled.registers = int(re.search(r"REG:(\d+)", usage)[1])
    compiled.local = int(re.search(r"STACK:(\d+)", usage)[1]) + int(re.search(r"LOCAL:(\d+)", usage)[1])
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", sass, re.MULTILINE)
    compiled.instructions = len(names)
    compiled.counts = Counter(
        n for n in names if re.match(r"LD[GL]|ST[GL]|RED|ATOM|MEMBAR|LDS|STS|BAR|DFMA|DMUL|DADD", n)
    )
    return compiled


def compile_case(case: Case, arch: int) -> list[Compiled]:
    """Every kernel that a case launches."""
    results = []
    for kernel, arguments, warps in recorded(case):
        built = triton.compile(
            source(kernel, arguments),
            target=GPUTarget("cuda", arch, 32),
            options={"num_warps": warps, "enable_fp_fusion": True},
        )
        results.append(
            inspect(Compiled(kernel.__name__, arch, built.asm["ptx"], built.asm["cubin"], built.metadata.shared, warps))
        )
    return results
