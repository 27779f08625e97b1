"""Builds csrc/cuda with g++ for the runner on the CPU, and loads it as the namespace `stn_kernels_simt`."""

import fcntl
import functools
import pathlib
import subprocess

import torch

from stn_kernels import _build, _library

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUTPUT = ROOT / "build" / "simt"
NAMESPACE = "stn_kernels_simt"

# nvcc fuses products and sums, and so does the build whose results are compared, where the processor can.
CPU_FLAGS = pathlib.Path("/proc/cpuinfo")
FUSED = "-mfma -ffp-contract=fast" if CPU_FLAGS.exists() and " fma " in CPU_FLAGS.read_text() else ""

# variant -> (flags for everything, flags for the kernels alone, linker flags), chosen by what compiles fast.
CHECKS = "address,alignment,bounds,float-cast-overflow,integer-divide-by-zero,shift,signed-integer-overflow"
VARIANTS = {
    # libtsan is not linked: the compiler's calls to it go to races.cpp, which looks for races if SIMT_RACES=1.
    "race": (f"-O1 -g1 {FUSED}", "-fsanitize=thread --param tsan-instrument-func-entry-exit=0", "-Wl,-z,defs"),
    # The checks of memory as calls, undefined behaviour as a trap (SIGILL), bfloat16 for both half types, whose code is
    # the same.
    "asan": (
        f"-O0 -g1 -DSTN_WITHOUT_FLOAT16 -fsanitize={CHECKS} -fsanitize-undefined-trap-on-error"
        " --param asan-instrumentation-with-call-threshold=0",
        "",
        "",
    ),
}
COMPARED = "race"  # whose results are those of the backend "simt"
LIBRARIES = {"stn_kernels_simt": sorted((_build.SOURCES / "cuda").glob("*.cu")), "planted": [HERE / "planted.cu"]}


@functools.cache
def build(variant: str = COMPARED, library: str = "stn_kernels_simt") -> pathlib.Path:
    """One variant ("race", "asan") of the kernels or of the planted faults, built if its sources changed."""
    flags, kernel_flags, link_flags = VARIANTS[variant]
    includes, links = _build.torch_flags()
    command = (
        f"{_build.compiler()} -std=c++20 -fPIC -fvisibility=hidden -Wall -Wextra -Wno-unknown-pragmas {flags}"
        f" -DSIMT_HOST -I{_build.SOURCES} -I{_build.SOURCES}/cuda"
    )
    of_kernels = f"{command} {kernel_flags} {includes}"
    prelude = _build.Graph(OUTPUT / variant / "prelude")
    prelude.compile(HERE / "prelude.h", "prelude.h.gch", f"{of_kernels} -I{HERE} -x c++-header")
    graph = _build.Graph(OUTPUT / variant / library)
    objects = [graph.compile(s, f"{s.stem}.o", f"{command} -I{HERE}") for s in sorted(HERE.glob("*.cpp"))]
    for source in LIBRARIES[library]:
        if "WITHOUT_FLOAT16" in flags and source.stem.endswith("_float16"):
            continue
        where = f"-I{prelude.folder} -I{HERE} -include prelude.h"
        objects.append(graph.compile(source, f"{source.stem}.o", f"{of_kernels} {where} -x c++"))
    target = graph.folder / f"lib{library}.so"
    graph.link(target, objects, f"{_build.compiler()} {flags}", f"{links} {link_flags}")
    prelude.folder.mkdir(parents=True, exist_ok=True)
    with open(OUTPUT / variant / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the processes of pytest-xdist build the same files
        prelude.run()
        graph.run()
    return target


def load(variant: str = COMPARED) -> str:
    """Builds and loads a variant, declares its operators; returns the namespace. One variant a process."""
    _load(variant)
    return NAMESPACE


def register() -> None:
    """Makes the kernels the backend "simt" of this process."""
    _library.register_backend("simt", load())
    for table in (_library.SAMPLERS, _library.SECOND_BACKWARD):
        table["simt"] = table["cuda"]
    _library.LACKING["simt"] = _library.LACKING.get("cuda", set())


@functools.cache
def _load(variant: str) -> None:
    library = build(variant)
    _library.add_namespace(NAMESPACE)
    torch.ops.load_library(str(library))


def sanitizer_environment(variant: str) -> dict[str, str]:
    """What a process needs in its environment to be checked by a variant."""
    if variant == "race":
        return {"SIMT_RACES": "1"}
    libraries = [
        subprocess.run(
            [_build.compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout
        for name in ("libasan.so", "libubsan.so")
    ]
    return {"LD_PRELOAD": ":".join(path.strip() for path in libraries), "ASAN_OPTIONS": "detect_leaks=0"}
