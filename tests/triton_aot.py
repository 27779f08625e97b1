"""Compiles the Triton kernels ahead of time, without a GPU: what the operators launch in a case, for an architecture.

The operators run on meta tensors with the compiler in the place of the launch, so that nothing here can differ from
them. Run as `python -m tests.triton_aot [--arch ARCH] [WORD ...]`: a table of what the machine code of the cases with
all these words in their name needs.
"""

import argparse
import functools
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stn_kernels._library import MODES, PADDING_MODES
from stn_kernels.ops.linearized import TRANSFORMS
from stn_kernels.reference.linearized import WEIGHTINGS
from stn_kernels.tessellation import Tessellation
from stn_kernels.triton import kernels, launch

ARCHITECTURES = (80, 90, 100)
POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
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
    n: int = 2
    mode: str = "bilinear"
    steps: int = 0
    need_input: bool = True
    need_params: bool = True
    deterministic: bool = False
    params_dtype: torch.dtype | None = None
    weighting: str = "uniform"  # of "linearized"
    given: bool = False  # its offsets
    architectures: tuple[int, ...] = ARCHITECTURES

    @property
    def name(self) -> str:
        flags = [self.op, str(self.dtype).removeprefix("torch."), f"C{self.channels}", self.padding]
        flags += [f"{self.n}d"] * (self.n != 2) + [self.mode] * (self.mode != "bilinear")
        for flag in ("align", "channels_last", "deterministic"):
            flags += [flag] * getattr(self, flag)
        flags += [f"{self.steps} steps"] * bool(self.steps)
        flags += [self.weighting] * (self.weighting != "uniform") + ["given"] * self.given
        flags += [f"coords {self.params_dtype}".replace("torch.", "")] if self.params_dtype else []
        return " ".join(flags) + " to_input" * (not self.need_params) + " to_params" * (not self.need_input)

    def call(self) -> None:
        """Runs the operator on meta tensors."""
        size = {1: [4096], 2: [64, 64], 3: [16, 16, 16]}[self.n]
        image = torch.empty(2, self.channels, *size, dtype=self.dtype, device="meta")
        if self.channels_last:
            image = image.movedim(1, -1).contiguous().movedim(-1, 1)
        dtype = self.params_dtype or (torch.float64 if self.dtype == torch.float64 else torch.float32)
        grid = torch.empty(2, *size, self.n, dtype=dtype, device="meta")
        shapes = {"affine": (self.n, self.n + 1), "homography": (3, 3), "tps": (4**self.n + self.n + 1, self.n)}
        family = self.op.lstrip("_").split("_")[0]
        if family == "cpab":
            self._call_cpab(image, size, dtype)
            return
        params = grid if family == "grid" else torch.empty(2, *shapes[family], dtype=dtype, device="meta")
        control = [torch.empty(4**self.n, self.n, dtype=torch.float64, device="meta")] * (family == "tps")
        options = MODES.get(self.mode), PADDING_MODES[self.padding], self.align
        needs = self.need_input, self.need_params, self.deterministic
        if self.mode == "linearized":
            self._call_linearized(image, params, control, size, family, dtype)
            return
        run = kernels.implementations()[self.op]
        if self.op == "_grid_sample_double_backward":
            run(image, grid, image, image, grid, *options, True, True, True, self.deterministic)
        elif self.op == "_affine_grid_backward":
            run(grid, self.align)
        elif self.op.endswith("_grid_backward"):
            run(grid, params, *control, self.align)
        elif self.op.endswith("_backward"):
            run(image, image, params, *control, *options, *needs)
        elif self.op.endswith("_grid"):
            run(params, *control, size, self.align)
        else:
            run(image, params, *control, *[size] * (family != "grid"), *options)

    def _call_linearized(self, image, params, control, size, family, dtype) -> None:
        seed = None if self.given else torch.empty((), dtype=torch.int64, device="meta")
        offsets = torch.empty(2, 8, *size, self.n, dtype=params.dtype, device="meta") if self.given else None
        where = TRANSFORMS.index(family), size, PADDING_MODES[self.padding], self.align
        options = (8, 0.5, True, False, WEIGHTINGS.index(self.weighting), 0.0, True)  # through all samples
        arguments = (image, params, *(control or [None]), seed, offsets, *where, *options)
        if self.op.endswith("_backward"):
            needs = self.need_input, self.need_params, self.deterministic
            slopes = torch.empty(2, self.n * self.channels, *size, dtype=dtype, device="meta")
            kernels.implementations()["_linearized_sample_backward"](image, slopes, *arguments, *needs)
        else:
            kernels.implementations()["_linearized_sample"](*arguments, self.need_params)

    def _call_cpab(self, image, size, dtype) -> None:
        field = Tessellation((2,) * self.n, zero_boundary=False)
        velocities = torch.empty(2, *field.vertex_velocities(field.identity(1))[0].shape, dtype=dtype, device="meta")
        points = torch.empty(4096, self.n, dtype=dtype, device="meta")
        tables = (*(t.to("meta") for t in field.tables("cpu")), list(field.shape), self.steps)
        affine = torch.empty(2, self.n, self.n + 1, dtype=dtype, device="meta")
        run = kernels.implementations()[self.op]
        if self.op.startswith("cpab_sample"):
            options = size, MODES[self.mode], PADDING_MODES[self.padding], self.align
            run(image, velocities, affine, *tables, *options)
        elif self.op.endswith("_backward"):
            run(torch.empty(2, *points.shape, dtype=dtype, device="meta"), points, velocities, *tables, True, True)
        else:
            run(points, velocities, *tables)


F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16

# The first operator, both ways, with wide accesses: those depend on the architecture.
EVERYWHERE = (
    *(Case("affine_sample", dtype=d, channels=64, channels_last=True) for d in (F32, F64, F16, BF16)),
    *(Case("_affine_sample_backward", dtype=d, channels=64, channels_last=True) for d in (F32, F16)),
)

# Every kernel with every constant at least once, each for one architecture, in turn.
IN_TURN = (
    *(Case("affine_sample", dtype=d) for d in (F32, F64, F16, BF16)),
    *(Case("_affine_sample_backward", dtype=d) for d in (F64, BF16)),
    *(Case("affine_sample", channels=c) for c in (1, 19, 64)),
    Case("affine_sample", channels=19, channels_last=True),
    Case("affine_sample", padding="border"),
    Case("affine_sample", padding="reflection", align=True),
    Case("affine_sample", params_dtype=F64),
    Case("grid_sample", padding="reflection"),
    Case("grid_sample", dtype=BF16, channels=64, channels_last=True),
    Case("_affine_sample_backward"),
    *(Case("_affine_sample_backward", channels=c, align=True) for c in (1, 19)),
    *(Case("_affine_sample_backward", dtype=d, padding="reflection") for d in (F32, F64, BF16)),
    Case("_affine_sample_backward", channels=64, channels_last=True, padding="border"),
    Case("_affine_sample_backward", padding="border", deterministic=True),
    Case("_affine_sample_backward", dtype=F64, padding="reflection", align=True, deterministic=True),
    Case("_affine_sample_backward", padding="border", need_params=False),
    Case("_grid_sample_backward", padding="zeros"),
    Case("_grid_sample_backward", channels=64, padding="reflection", align=True),
    *(Case("_grid_sample_backward", dtype=d, channels=64, channels_last=True) for d in (F32, BF16, F16, F64)),
    Case("_grid_sample_backward", dtype=BF16, channels=64, channels_last=True, deterministic=True),
    Case("_grid_sample_backward", need_input=False),
    Case("_grid_sample_backward", padding="border", need_params=False),
    *(Case(op, dtype=d) for op in ("affine_grid", "_affine_grid_backward") for d in (F32, F64)),
    Case("_grid_sample_double_backward"),
    *(Case(op) for op in ("homography_sample", "_tps_sample_backward", "homography_grid", "_tps_grid_backward")),
    # Samplers in every dimension.
    *(Case(op, n=n) for n in (1, 3) for op in ("affine_grid", "_affine_grid_backward", "affine_sample")),
    *(Case("_affine_sample_backward", n=n, dtype=d) for n, d in ((1, F32), (3, F32), (3, F64))),
    *(Case(op, n=3, channels=64, channels_last=True) for op in ("affine_sample", "_affine_sample_backward")),
    *(Case("grid_sample", n=n, mode="bicubic", padding=p) for n, p in ((1, "border"), (2, "reflection"), (3, "zeros"))),
    *(Case("grid_sample", n=n, mode="nearest") for n in (2, 3)),
    *(Case("_grid_sample_backward", n=n, mode="bicubic") for n in (1, 2, 3)),
    Case("_grid_sample_backward", mode="bicubic", padding="reflection", dtype=F64),
    Case("_grid_sample_backward", mode="bicubic", channels=64, channels_last=True),
    Case("_grid_sample_backward", n=3, padding="reflection"),
    Case("_grid_sample_backward", n=3, mode="nearest"),
    *(Case("_grid_sample_double_backward", n=n) for n in (1, 3)),
    Case("_grid_sample_double_backward", n=3, dtype=F64, padding="reflection"),
    Case("_grid_sample_double_backward", mode="nearest", dtype=BF16),
    # The families.
    *(Case(f"{family}_sample", dtype=F64) for family in ("homography", "tps")),
    Case("tps_sample"),
    Case("_homography_sample_backward"),
    *(Case(f"_{family}_sample_backward", dtype=F64) for family in ("homography", "tps")),
    *(Case(f"_{family}_sample_backward", channels=64, channels_last=True) for family in ("homography", "tps")),
    *(Case(op) for op in ("_homography_grid_backward", "tps_grid")),
    *(Case(op, n=3) for op in ("tps_sample", "_tps_sample_backward", "tps_grid", "_tps_grid_backward")),
    *(Case(op, n=3, dtype=F64, padding="reflection") for op in ("tps_sample", "_tps_sample_backward")),
    Case("_tps_sample_backward", n=3, channels=64, channels_last=True),
    # Linearized.
    Case("affine_sample", mode="linearized"),
    Case("_affine_sample_backward", n=3, mode="linearized", weighting="distance"),
    Case("grid_sample", n=3, mode="linearized", weighting="entropic"),
    Case("_grid_sample_backward", mode="linearized", weighting="entropic"),
    Case("_grid_sample_backward", n=1, dtype=F64, mode="linearized", padding="border", given=True),
    Case("_tps_sample_backward", mode="linearized", padding="reflection", deterministic=True),
    # CPAB.
    *(Case("_cpab_transform_backward", n=n) for n in (1, 3)),
    *(Case("cpab_sample", n=n, steps=steps) for n, steps in ((1, 0), (3, 50))),
    *(Case("_cpab_transform_backward", dtype=d) for d in (F32, F64)),
    *(Case(op, n=n, steps=50) for n in (2, 3) for op in ("cpab_transform", "_cpab_transform_backward")),
    *(Case(op) for op in ("cpab_transform", "cpab_sample", "cpab_jacobian")),
)
CASES = EVERYWHERE + tuple(replace(case, architectures=(ARCHITECTURES[i % 3],)) for i, case in enumerate(IN_TURN))


@dataclass
class Compiled:
    """A kernel for one architecture."""

    kernel: str
    arch: int
    wide: bool  # some tensor is float64
    ptx: str
    cubin: bytes
    shared: int
    most_registers: int  # what the launch allows
    warps: int

    @functools.cached_property
    def usage(self) -> str:
        return inspect(self.cubin, "-res-usage")

    @property
    def registers(self) -> int:
        return int(re.search(r"REG:(\d+)", self.usage)[1])

    @property
    def local(self) -> int:
        """Bytes of local memory: where registers are spilled to."""
        return int(re.search(r"STACK:(\d+)", self.usage)[1]) + int(re.search(r"LOCAL:(\d+)", self.usage)[1])

    @functools.cached_property
    def instructions(self) -> list[str]:
        """Names of the machine code. The disassembler takes half a second."""
        sass = inspect(self.cubin, "-sass")
        return re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", sass, re.MULTILINE)

    @functools.cached_property
    def counts(self) -> Counter:
        """Memory instructions."""
        return Counter(n for n in self.instructions if re.match(r"LD[GL]|ST[GL]|REDG?\.|ATOM|MEMBAR", n))


def recorded(case: Case) -> list[tuple]:
    """The launches of a case: (kernel, arguments, options)."""
    launches = []

    def record(kernel, programs, arguments, options):
        assert programs > 0
        launches.append((kernel, arguments, options))

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


def inspect(cubin: bytes, option: str) -> str:
    """What cuobjdump says about it."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool("cuobjdump"), option, file.name], capture_output=True, text=True, check=True)
    return done.stdout


def compile_case(case: Case, arch: int) -> list[Compiled]:
    """Every kernel that a case launches."""
    results = []
    for kernel, arguments, options in recorded(case):
        built = triton.compile(source(kernel, arguments), target=GPUTarget("cuda", arch, 32), options=options)
        wide = any(isinstance(a, torch.Tensor) and a.dtype == torch.float64 for a in arguments.values())
        asm = built.asm
        launch_bounds = options["maxnreg"], options["num_warps"]
        results.append(
            Compiled(kernel.__name__, arch, wide, asm["ptx"], asm["cubin"], built.metadata.shared, *launch_bounds)
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of a case's name")
    parser.add_argument("--arch", type=int, nargs="*", default=list(ARCHITECTURES), help="80, 90 and 100 by default")
    chosen = parser.parse_args()
    print(
        f"{'case':<66}{'kernel':<22}{'arch':>5}{'registers':>10}{'local':>6}{'shared':>7}{'instructions':>13}  memory"
    )
    for case in CASES:
        if not all(word in case.name for word in chosen.words):
            continue
        for arch in chosen.arch:
            for c in compile_case(case, arch):
                memory = " ".join(f"{name} x{count}" for name, count in sorted(c.counts.items()))
                numbers = f"{c.registers:>10}{c.local:>6}{c.shared:>7}{len(c.instructions):>13}"
                print(f"{case.name:<66}{c.kernel:<22}{arch:>5}{numbers}  {memory}", flush=True)


if __name__ == "__main__":
    main()
