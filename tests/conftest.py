"""The `backend` fixture, poisoned memory, and a summary that says which backends ran and which did not.

Every test that takes `backend` runs once for each backend that works here. The interpreters (the CUDA kernels on the
CPU, Triton's interpreter) are slow: of a test marked `thinned(n)` they run every n-th combination of its parameters, n
prime to the number of values of each parameter so that every value is met; their gradcheck is torch's fast one. So it
is for every backend in a class with `thin_everywhere`, whose samplers another class tests in full; interpreters run
fewer still there. The summary counts what was left out.
"""

import collections
import ctypes
import functools
import os
import pathlib
from dataclasses import dataclass

import pytest
import torch

import stn_kernels
from stn_kernels import _library, op_cases, verify
from stn_kernels._tolerances import nondeterminism

from . import fast_interpreter

NAMES = ("reference", "cpu", "simt", "triton", "cuda")
ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Backend:
    """A backend under test."""

    name: str
    device: str

    @property
    def slow(self) -> bool:
        return verify.is_slow(self.name)

    @property
    def nondeterminism(self) -> float:
        return nondeterminism(self.device)

    def op(self, name: str):
        """The public function `name`, insisting on this backend."""
        return functools.partial(getattr(stn_kernels, name), backend=self.name)

    def call(self, case: op_cases.OpCase, inputs: op_cases.Inputs) -> torch.Tensor:
        return case.call(inputs, self.name)

    def draw(self, case: op_cases.OpCase, sample: op_cases.Sample) -> op_cases.Inputs:
        return case.draw(sample).to(device=self.device)


@functools.cache
def load_simt() -> str:
    """Builds and registers the CUDA kernels for the CPU; returns why that failed, or ''."""
    from stn_kernels import _build

    try:
        from .simt import build

        build.register()
    except (ImportError, OSError, TypeError, _build.BuildError) as error:
        return f"{type(error).__name__}: {str(error)[-400:]}"
    return ""


def why_not(name: str, selected: list[str]) -> str:
    if selected and name not in selected:
        return "not selected by --backends"
    return load_simt() if name == "simt" else _library.backends()[name]


def pytest_addoption(parser):
    text = f"of {', '.join(NAMES)}, comma-separated; all by default"
    parser.addoption("--backends", default="", help=text)
    parser.addoption("--only-backends", action="store_true", help="leave out the tests that do not take a backend")


def pytest_configure(config):
    config.addinivalue_line("markers", "thinned(n): slow backends run every n-th combination of the parameters")
    config.addinivalue_line("markers", "on_gpu: only backends that run on a GPU; without one there is nothing to test")
    poison()
    if os.environ.get("TRITON_INTERPRET") == "1":
        fast_interpreter.hasten()
    torch.set_num_threads(1)  # small tensors; test_cpu.py sets its own
    selected = [name for name in config.getoption("--backends").split(",") if name]
    if unknown := set(selected) - set(NAMES):
        raise pytest.UsageError(f"--backends must be of {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
    config.reasons = {name: why_not(name, selected) for name in NAMES}
    config.left_out = collections.Counter()
    for name in selected:
        if config.reasons[name]:
            raise pytest.UsageError(f"backend {name} does not run here: {config.reasons[name]}")


def poison() -> None:
    """Makes fresh memory NaN, so that a kernel that leaves an element unwritten is seen.

    glibc fills what malloc returns with 0xff (M_PERTURB): unlike torch's own switch, it leaves determinism alone.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option:
        set_option(-6, 0x100)
    if not all(torch.empty(n).isnan().all() for n in (1, 100, 100_000) for _ in range(3)):
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True


def pytest_generate_tests(metafunc):
    if "backend" in metafunc.fixturenames:
        case = getattr(metafunc.cls, "case", None) or getattr(metafunc.module, "CASE", None)
        runs = [name for name, reason in metafunc.config.reasons.items() if not reason]
        runs = [name for name in runs if case is None or case.runs_on(name)]  # tests/test_layout.py lists what lacks
        if metafunc.definition.get_closest_marker("on_gpu"):
            runs = [name for name in runs if _library.device_of(name) == "cuda"]
        if "sampler" in metafunc.fixturenames:  # (mode, n): every cell that a backend has
            pairs = [(name, s) for name in runs for s in op_cases.SAMPLERS if not _library.hole(name, s)]
            ids = [f"{name}-{mode}-{n}d" for name, (mode, n) in pairs]
            metafunc.parametrize(("backend", "sampler"), pairs, indirect=["backend"], ids=ids)
        else:
            metafunc.parametrize("backend", runs, indirect=True)
    if "padding" in metafunc.fixturenames and hasattr(metafunc.cls, "case"):
        metafunc.parametrize("padding", metafunc.cls.case.paddings)


def poison_cuda() -> None:
    """As `poison`, in the blocks that torch's allocator will hand out next: those of small and of large tensors."""
    blocks = [torch.full((size,), torch.nan, device="cuda") for size in (1 << 17, 1 << 17, 1 << 22)]
    del blocks


@pytest.fixture
def backend(request):
    request.node.user_properties.append(("backend", request.param))
    found = Backend(request.param, _library.device_of(request.param))
    if found.device == "cuda":
        poison_cuda()
    return found


def pytest_collection_modifyitems(config, items):
    kept, dropped, seen = [], [], collections.Counter()
    for item in items:
        mark = item.get_closest_marker("thinned")
        name = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
        alone = not isinstance(name, str)  # takes no backend, or there is none for it
        if alone and (config.getoption("--only-backends") or item.get_closest_marker("on_gpu")):
            dropped.append(item)
            continue
        thin = getattr(item.cls, "thin_everywhere", False)
        if mark and not alone and (verify.is_slow(name) or thin):
            key = name, item.parent.nodeid, item.originalname
            seen[key] += 1
            more = 6 if verify.is_slow(name) and thin else 0  # 5 becomes 11, 7 becomes 13, 17 becomes 23
            if (seen[key] - 1) % (mark.args[0] + more):
                config.left_out[name] += 1
                dropped.append(item)
                continue
        kept.append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


def pytest_terminal_summary(terminalreporter, config):
    ran = collections.Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            ran.update(value for key, value in report.user_properties if key == "backend")
    terminalreporter.section("backends")
    listed = [f"{name} ({ran[name]} tests)" for name in NAMES if ran[name]]
    terminalreporter.write_line("backends that ran: " + (", ".join(listed) or "none"))
    for name in NAMES:
        if not ran[name]:
            reason = config.reasons[name] or "no test of this selection uses it"
            terminalreporter.write_line(f"did NOT run: {name}: {reason}")
    for name, count in config.left_out.items():
        terminalreporter.write_line(f"thinned: {name} left out {count} combinations of parameters (tests/conftest.py)")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_sets(tmp_path_factory):
    """The environment variables of samples of the data sets that no package has (tests/data_samples.py)."""
    from .data_samples import everything

    return everything(tmp_path_factory.mktemp("data"))


@pytest.fixture
def samples(data_sets, monkeypatch):
    """Those of `data_sets`, set."""
    for name, folder in data_sets.items():
        monkeypatch.setenv(name, folder)
    return data_sets


@pytest.fixture
def one_thread_environment():
    """The environment of a subprocess that uses this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
