"""What this installation consists of: the content of `stn-kernels info`."""

import importlib
import importlib.metadata
import os
import platform

import torch

from . import __version__, _library


def cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_level() -> str:
    """The instruction set of the CPU kernels: "v2", "v3", "v4" (x86-64 levels), "generic", or "" without them."""
    if _library.backends()["cpu"] or not hasattr(torch.ops.stn_kernels, "_cpu_level"):
        return ""
    level = torch.ops.stn_kernels._cpu_level()
    return f"v{level}" if level else "generic"


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def build_information() -> dict[str, str]:
    """What the native libraries were built with; {} without them."""
    try:
        built = importlib.import_module("stn_kernels._lib._C")
    except ImportError:
        return {}
    return {name: str(value) for name, value in vars(built).items() if not name.startswith("_")}


def collect() -> dict[str, dict[str, str]]:
    versions = {
        "stn_kernels": __version__,
        "torch": torch.__version__,
        "triton": version("triton"),
        "python": platform.python_version(),
        "processor": cpu_model(),
        "cpu kernels": cpu_level() or "none",
        "small calls": "around the dispatcher" if _library.has_eager_calls() else "by the dispatcher",
        "cpu cores": str(os.cpu_count()),
        "cuda device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    versions |= {f"built: {name}": value for name, value in build_information().items()}
    return {"backends": _library.backends(), "versions": versions}
