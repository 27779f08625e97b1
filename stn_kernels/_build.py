"""Builds the native libraries with ninja, for setup.py, `stn-kernels build` and the tests; imports nothing of ours.

Environment: CXX, NVCC, DEBUG=1 (no optimisation, symbols), FORCE_CUDA=1 (CUDA even if this torch has none),
TORCH_CUDA_ARCH_LIST ("8.0;9.0", default: 8.0, 9.0, 10.0), MAX_JOBS.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field

PACKAGE = pathlib.Path(__file__).resolve().parent
PACKAGE_LIBRARIES = PACKAGE / "_lib"
SOURCES = next((p for p in (PACKAGE.parent / "csrc", PACKAGE / "csrc") if p.is_dir()), PACKAGE / "csrc")
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11: one binary serves every later torch
CPU_LEVELS = ("v2", "v3", "v4") if platform.machine() in ("x86_64", "AMD64") else ("generic",)
LEVEL_SOURCES = (  # compiled once an instruction set; the longest first, so that no core waits for the last one
    "kernels.cpp",
    "windows.cpp",
    "samplers.cpp",
    "channel_blocks.cpp",
    "cpab.cpp",
    "linearized.cpp",
    "transforms.cpp",
)
LEVELS_OF = {"windows.cpp": ("v4",), "channel_blocks.cpp": ("v3", "v4")}  # sources that only these levels have
# Sources that keep passes of the compiler for what they give: partial redundancies 5 %, threaded jumps 2 to 5 %.
SEEKING_REDUNDANCIES = ("windows.cpp", "channel_blocks.cpp")
THREADING_JUMPS = ("kernels.cpp", "windows.cpp", "channel_blocks.cpp", "linearized.cpp", "transforms.cpp")
DEFAULT_CUDA_ARCHS = ("80", "90", "100")


@dataclass
class Graph:
    """A ninja file in the making."""

    folder: pathlib.Path
    edges: list[str] = field(default_factory=list)

    def compile(self, source: pathlib.Path, object_name: str, command: str) -> str:
        """Adds one translation unit; command holds the compiler and its flags."""
        target = str(self.folder / object_name)
        self.edges.append(f"build {_escape(target)}: compile {_escape(str(source))}\n  command_line = {command}\n")
        return target

    def link(self, target: pathlib.Path, objects: list[str], command: str, flags: str) -> None:
        inputs = " ".join(map(_escape, objects))
        self.edges.append(
            f"build {_escape(str(target))}: link {inputs}\n  command_line = {command}\n  flags = {flags}\n"
        )

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        rules = (
            "rule compile\n  command = $command_line -MD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc\n"
            "rule link\n  command = $command_line -shared $in -o $out.tmp $flags && mv $out.tmp $out\n"
        )
        (self.folder / "build.ninja").write_text(rules + "".join(self.edges))
        # As many as there are cores: ninja's two more only take each other's cache.
        jobs = ["-j", os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)]
        # -k 0: one library is still worth having if another does not compile.
        done = subprocess.run(
            [ninja(), "-k", "0", "-C", str(self.folder), *jobs], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BuildError(done.stdout[-6000:] + done.stderr[-2000:])


class BuildError(RuntimeError):
    """The compiler's own words."""


def _escape(path: str) -> str:
    return path.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def ninja() -> str:
    import ninja as package

    return str(pathlib.Path(package.BIN_DIR) / "ninja")


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which(os.environ.get("NVCC", "nvcc")) or shutil.which("nvcc", path=f"{home}/bin")


def torch_folder() -> pathlib.Path | None:
    """torch's folder, found without importing it."""
    spec = importlib.util.find_spec("torch")
    return pathlib.Path(spec.origin).parent if spec and spec.origin else None


def cuda_archs() -> list[str]:
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    return [a.removesuffix("+PTX").replace(".", "") for a in listed] or list(DEFAULT_CUDA_ARCHS)


def torch_cuda() -> str:
    """The version of CUDA that the installed torch is built with, "" if it has none."""
    folder = torch_folder()
    found = re.search(r"^cuda\b.*= '([\d.]+)'", (folder / "version.py").read_text(), re.M) if folder else None
    return found[1] if found else ""


def nvcc_version() -> str:
    """The release of CUDA that nvcc belongs to, "" without one."""
    if nvcc() is None:
        return ""
    done = subprocess.run([nvcc(), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"release ([\d.]+)", done.stdout)
    return found[1] if found else ""


def why_no_cuda() -> str:
    """Why the CUDA kernels are not built here, "" if they are; FORCE_CUDA=1 asks for nvcc alone."""
    if nvcc() is None:
        return "no nvcc found"
    if os.environ.get("FORCE_CUDA") == "1":
        return ""
    if not torch_cuda():
        return "this torch has no CUDA (FORCE_CUDA=1 builds all the same)"
    if torch_cuda().split(".")[0] != nvcc_version().split(".")[0]:  # its libcudart would not be found
        return f"nvcc is of CUDA {nvcc_version()}, this torch of {torch_cuda()}: set NVCC to one of that major version"
    return ""


def debug() -> bool:
    return os.environ.get("DEBUG", "0") not in ("", "0")


def cache_folder() -> pathlib.Path:
    """Where libraries go when the package's own folder is not writable."""
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    return root / "stn_kernels" / f"{sys.implementation.cache_tag}-{platform.machine()}"


def torch_flags() -> tuple[str, str]:
    """(compile flags, link flags) against the installed torch's stable ABI."""
    folder = torch_folder()
    return f"{STABLE_ABI} -isystem {folder}/include", f"-L{folder}/lib -ltorch_cpu -lc10"


def host_flags() -> str:
    kind = "-O0 -g" if debug() else "-DNDEBUG"
    return f"-std=c++20 -fPIC -fvisibility=hidden -Wno-psabi {kind} -I{SOURCES}"


def level_flags(level: str) -> str:
    march = "" if level == "generic" else f"-march=x86-64-{level} "
    # Contraction and no-trapping comparisons keep results IEEE; -ffast-math would not.
    return f"{march}-ffp-contract=fast -fno-math-errno -fno-trapping-math -fno-tree-slp-vectorize -DSTN_LEVEL={level}"


def add_cpu(graph: Graph, output: pathlib.Path, extra: str = "", levels: tuple[str, ...] = CPU_LEVELS) -> None:
    """The CPU library: kernels once an instruction set, operators once. extra: flags, instead of optimisation."""
    includes, links = torch_flags()
    command = f"{compiler()} {host_flags()} {extra}"
    operators = f"{command} {'' if debug() or extra else '-O1'} {includes} {_level_list(levels)}"  # no loop to speak of
    objects = [
        graph.compile(source, f"{source.stem}.o", operators)
        for source in sorted((SOURCES / "cpu").glob("*.cpp"))
        if source.name not in LEVEL_SOURCES
    ]
    for v in reversed(levels):
        for name in LEVEL_SOURCES:
            if v not in LEVELS_OF.get(name, levels):
                continue
            source = SOURCES / "cpu" / name
            optimised = f"{command} {'' if debug() or extra else _optimisation(v, name)}"
            objects.append(graph.compile(source, f"{source.stem}_{v}.o", f"{optimised} {level_flags(v)}"))
    graph.link(output, objects, f"{compiler()} {extra}", f"{links} -Wl,-z,defs")


def _optimisation(level: str, source: str) -> str:
    """Lanes are explicit, so that -O3 adds code and no speed; of the baseline that it builds soon matters more."""
    flags = "-O1" if level == "v2" else "-O2 -fpeel-loops -fvect-cost-model=dynamic"
    flags += " -fira-region=one -fno-ipa-modref"  # up to a tenth less time to build, kernels as fast
    if level == "v2" and source != "kernels.cpp":
        flags += " -ftree-vectorize"  # rounding lane by lane took a third of a call
    if level != "v2" and source not in SEEKING_REDUNDANCIES:
        flags += " -fno-tree-pre -fno-code-hoisting"  # as much again, kernels 0 to 2 % slower
    if level == "v2" or source not in THREADING_JUMPS:
        flags += " -fno-thread-jumps -fno-tree-dominator-opts"  # a twentieth, kernels 0 to 2 % slower
    return flags


def _level_list(levels: tuple[str, ...]) -> str:
    return "-D'STN_LEVELS(X)=" + " ".join(f"X({v})" for v in levels) + "'"


def add_cuda(graph: Graph, output: pathlib.Path) -> None:
    """The CUDA library. The current stream is libtorch_cuda's: a torch without CUDA compiles it only."""
    includes, links = torch_flags()
    if (torch_folder() / "lib" / "libtorch_cuda.so").exists():
        links += " -ltorch_cuda"
    command = f"{nvcc_command()} {includes.replace('-isystem', '-I')}"
    objects = [graph.compile(s, f"cuda_{s.stem}.o", command) for s in sorted((SOURCES / "cuda").glob("*.cu"))]
    graph.link(output, objects, f"{nvcc()} {cuda_arch_flags()}", f"{links} -cudart shared")


def nvcc_command() -> str:
    optimisation = "-G -g -O0" if debug() else "-O3 -DNDEBUG -lineinfo"
    host = "-Xcompiler -fPIC,-fvisibility=hidden"
    return (
        f"{nvcc()} -std=c++20 --expt-relaxed-constexpr {optimisation} {host} {cuda_arch_flags()} -DUSE_CUDA -I{SOURCES}"
    )


def cuda_arch_flags() -> str:
    return " ".join(f"-gencode=arch=compute_{a},code=sm_{a}" for a in cuda_archs())


def add_info(graph: Graph, output: pathlib.Path, built: dict[str, str]) -> None:
    """`_C`: what this build was made of, as a pybind11 module."""
    import pybind11

    defines = " ".join(f"-D'STN_{key}=\"{value}\"'" for key, value in built.items())
    includes = f"-isystem {pybind11.get_include()} -isystem {sysconfig.get_path('include')}"
    command = f"{compiler()} {host_flags()} -O0 {includes}"  # strings only
    graph.link(output, [graph.compile(SOURCES / "info.cpp", "info.o", f"{command} {defines}")], str(compiler()), "")


def add_eager(graph: Graph, output: pathlib.Path, version: str) -> None:
    """`_eager`: calls from Python around the dispatcher, of the ABI of this very torch."""
    folder = torch_folder()
    includes = (folder / "include", folder / "include/torch/csrc/api/include", sysconfig.get_path("include"))
    command = (
        f"{compiler()} {host_flags()} -O1 {' '.join(f'-isystem {i}' for i in includes)} -D'STN_TORCH=\"{version}\"'"
    )
    links = f"-L{folder}/lib -ltorch_python -ltorch_cpu -ltorch -lc10"
    graph.link(output, [graph.compile(SOURCES / "eager.cpp", "eager.o", command)], str(compiler()), links)


def configuration() -> dict[str, str]:
    """What a build here would use: printed by setup.py and `stn-kernels build`, kept in `_C`."""
    version = (
        subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=False).stdout
        if compiler()
        else ""
    )
    by_level = ", ".join(f"{v}: {_optimisation(v, LEVEL_SOURCES[0])}" for v in CPU_LEVELS)
    return {
        "COMPILER": version.splitlines()[0] if version else "",
        "FLAGS": host_flags().replace(f" -I{SOURCES}", "") + ("" if debug() else f"; kernels {by_level}"),
        "CPU_LEVELS": " ".join(CPU_LEVELS),
        "CUDA_ARCHS": "" if why_no_cuda() else " ".join(cuda_archs()),
        "TORCH": importlib.metadata.version("torch") if torch_folder() else "",
        "DEBUG": "1" if debug() else "0",
    }


def writable_output() -> pathlib.Path:
    try:
        PACKAGE_LIBRARIES.mkdir(exist_ok=True)
        if os.access(PACKAGE_LIBRARIES, os.W_OK):
            return PACKAGE_LIBRARIES
    except OSError:
        pass
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build(output: pathlib.Path | None = None, work: pathlib.Path | None = None) -> list[str]:
    """Builds what this machine can and returns a line on each part; raises BuildError on a compiler's error."""
    missing = [tool for tool, found in (("g++", compiler()), ("torch", torch_folder())) if not found]
    if missing:
        return [f"cpu: not built, no {' and no '.join(missing)} found; afterwards run `stn-kernels build`"]
    settings = configuration()
    output = output or writable_output()
    work = work or (PACKAGE.parent / "build" / "native" if SOURCES.parent == PACKAGE.parent else output / "build")
    graph = Graph(work / ("debug" if debug() else "release"))
    add_info(graph, output / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}", settings)
    add_eager(graph, output / f"_eager{sysconfig.get_config_var('EXT_SUFFIX')}", settings["TORCH"])
    add_cpu(graph, output / "libstn_kernels_cpu.so")
    lines = [f"cpu: {settings['COMPILER']}, {settings['CPU_LEVELS']} -> {output}"]
    reason = why_no_cuda()
    if reason:
        lines.append(f"cuda: not built, {reason}")
    else:
        add_cuda(graph, output / "libstn_kernels_cuda.so")
        lines.append(f"cuda: {nvcc()}, sm {settings['CUDA_ARCHS']} -> {output}")
    graph.run()
    return lines
