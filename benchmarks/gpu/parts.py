"""The parts of a run: what each starts, and for how long it may run."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import libcpab_compiled


@dataclass
class Run:
    """What the parts need to know; the backends are those that turn out to work."""

    rehearsal: bool
    folder: Path  # of the parts' JSON files and logs
    csv: Path
    ops: str
    jobs: int
    backends: list[str]
    bandwidth: float | None = None

    @property
    def device(self) -> str:
        return "cpu" if self.rehearsal else "cuda"

    def file(self, part: str) -> str:
        return str(self.folder / f"{part}.json")

    def common(self) -> list[str]:
        return ["--backends", ",".join(self.backends), "--ops", self.ops]

    def tiny(self) -> list[str]:
        return ["--tiny"] * self.rehearsal


@dataclass(frozen=True)
class Part:
    """`most`: seconds after which it is killed; `least`: what earlier parts leave it."""

    name: str
    most: int
    least: int
    command: Callable[[Run, float], list[str]]  # from the run and the seconds it has


def module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def build(run: Run, seconds: float) -> list[str]:
    # A rehearsal's CUDA kernels are those of the runner on the CPU.
    code = "from stn_kernels import _build; print(_build.configuration()); print(*_build.build(), sep='\\n')"
    if run.rehearsal:
        code += "\nfrom tests.simt import build; print(build.build())"
    if libcpab_compiled.available():
        code += f"\nfrom benchmarks import libcpab_compiled; print(libcpab_compiled.extension({run.device!r}))"
    return [sys.executable, "-c", code]


def copying(run: Run, seconds: float) -> list[str]:
    return module("benchmarks.gpu.copying", "--device", run.device, "--json", run.file("copy"))


def verify(run: Run, seconds: float) -> list[str]:
    options = ["--jobs", str(run.jobs), "--json", run.file("verify")]
    return module("benchmarks.gpu.check", *run.common(), *run.tiny(), *options)


def measure(run: Run, seconds: float) -> list[str]:
    options = ["--device", run.device, "--seconds", str(seconds - 20), "--csv", str(run.csv)]
    options += ["--bandwidth", str(run.bandwidth)] if run.bandwidth else []
    return module("benchmarks.gpu.measure", *run.common(), *run.tiny(), *options, "--json", run.file("measure"))


def tests(run: Run, seconds: float) -> list[str]:
    parallel = ["-n", str(run.jobs)] if importlib.util.find_spec("xdist") and run.jobs > 1 else []
    # Versions that nobody pinned warn of what is no fault of the kernels.
    options = ["-q", "-W", "default", "-p", "no:cacheprovider", "--maxfail", "50", "--only-backends"]
    options += ["--continue-on-collection-errors"]  # a package that is not here costs its file
    some = ["-k", "test_identity and True"] if run.rehearsal else []
    return module("pytest", "tests", *parallel, *options, "--backends", ",".join(run.backends), *some)


def sanitize(run: Run, seconds: float) -> list[str]:
    soft = 8 if run.rehearsal else seconds - 30
    return module("benchmarks.gpu.sanitize", *run.common(), "--seconds", str(soft), "--json", run.file("sanitize"))


def profile(run: Run, seconds: float) -> list[str]:
    options = ["--device", run.device, "--json", run.file("profile")]
    return module("benchmarks.gpu.profile", *run.common(), *run.tiny(), *options)


PARTS = (
    Part("machine", 40, 10, lambda run, seconds: module("benchmarks.gpu.machine", "--json", run.file("machine"))),
    Part("build", 200, 60, build),
    Part("copy", 40, 15, copying),
    Part("verify", 110, 40, verify),
    Part("measure", 220, 100, measure),
    Part("tests", 170, 70, tests),
    Part("sanitize", 110, 50, sanitize),
    Part("profile", 100, 40, profile),
)
