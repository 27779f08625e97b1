"""What the machine and its software are, and the backends under measurement."""

import argparse
import datetime
import importlib.util
import os
import pathlib
import platform
import subprocess

import torch

from stn_kernels import _build, _library, info

from .. import report
from .files import write_json


def first_line(*command: str) -> str:
    """The first line a command prints, "" if there is none or no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.strip().splitlines() or [""])[0]


def describe() -> dict[str, str]:
    """Every number of a result needs these to mean anything."""
    fields = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit,ecc.mode.current"
    smi = first_line("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader").split(", ")
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": report.commit(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        **dict(zip(fields.split(","), smi, strict=False)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch's CUDA": torch.version.cuda or "none",
        "triton": info.version("triton"),
        "numpy": info.version("numpy"),
        "nvcc": _build.nvcc_version() or "none",
        "compiler": first_line(_build.compiler() or "g++", "--version"),
        "kernel": platform.release(),
        "cpu": info.cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "peers": ", ".join(name for name in ("kornia",) if importlib.util.find_spec(name)) or "torch alone",
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties()
        found |= {
            "compute capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": str(properties.multi_processor_count),
            "L2 bytes": str(properties.L2_cache_size),
        }
    return found


def register(backends: list[str]) -> None:
    """Makes "simt", the CUDA kernels on the CPU, a backend of this process if it is asked for."""
    if "simt" in backends and "simt" not in _library.NAMESPACES:
        from tests.simt import build

        build.register()
    for name in backends:
        if reason := _library.backends().get(name, ""):  # the reason why not
            raise SystemExit(f"backend {name} does not run here: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=pathlib.Path, required=True)
    path, content = parser.parse_args().json, describe()
    write_json(path, content)
    for name, value in content.items():
        print(f"{name:<20}{value}")


if __name__ == "__main__":
    main()
