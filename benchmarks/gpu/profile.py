"""ncu on the main kernels: what bounds them. Run without `--json` it is the program that ncu profiles."""

import argparse
import csv
import io
import pathlib
import shutil
import subprocess
import sys
from dataclasses import replace

import torch

from stn_kernels.op_cases import OP_CASES

from ..cases import rotation
from ..harness import described
from ..providers import ours
from .cases import gpu_cases
from .files import write_json
from .machine import register
from .measure import fresh, passes

METRICS = {
    "gpu__time_duration.sum": "ns",
    "dram__bytes.sum": "DRAM bytes",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "DRAM %",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "L2 %",
    "l1tex__throughput.avg.pct_of_peak_sustained_elapsed": "L1 %",
    "l1tex__data_pipe_lsu_wavefronts.sum": "L1 wavefronts",
    "smsp__inst_executed.sum": "warp instructions",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy %",
    "launch__registers_per_thread": "registers",
    "launch__grid_size": "blocks",
}
KERNELS = (
    "regex:(warp_|sampler_|lattice_|affine_|gather|sum_partials|theta_gradient|fixed_point|homography|tps|cpab|linear)"
)


def find_ncu() -> str | None:
    found = shutil.which("ncu") or shutil.which("ncu", path="/usr/local/cuda/bin")
    return found or next((str(p) for p in sorted(pathlib.Path("/opt/nvidia/nsight-compute").glob("*/ncu"))), None)


def chosen(ops, tiny: bool):
    """The large cases, two of them also rotated: there the reads are worst."""
    cases = [case for case in gpu_cases(ops, tiny) if case.suite == "large"]
    turned = [replace(c, name=f"{c.name} rotated by 45", theta=rotation(45)) for c in cases if c.op == "affine_sample"]
    return cases + turned[:2]


def run_kernels(backend: str, ops, device: str, tiny: bool) -> None:
    """Every direction of every case once outside the profile, once inside it."""
    for case in (c for c in chosen(ops, tiny) if OP_CASES[c.op].runs_on(backend)):
        inputs = case.inputs(device)
        function = ours(backend).make(case)
        cotangent = fresh(function(**inputs.tensors))
        for direction, call in passes(function, [inputs], cotangent).items():
            if direction == "forward":  # the other directions hold it
                continue
            call()
            if device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.cudart().cudaProfilerStart()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.cudart().cudaProfilerStop()
            print(f"{backend} {case.op} {case.name} {direction}", flush=True)


def parse(text: str, backend: str) -> list[dict]:
    """Rows of `ncu --csv --page raw`: one a kernel, in the order of launches; the second line holds units."""
    lines = text.splitlines()
    head = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if head is None:
        return []
    rows = list(csv.DictReader(io.StringIO("\n".join(lines[head:]))))[1:]
    columns = {"Kernel Name": "kernel"} | METRICS
    return [{"backend": backend} | {short: row.get(name, "") for name, short in columns.items()} for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--ops", default="")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=pathlib.Path, help="profile under ncu and write rows to this file")
    options = parser.parse_args()
    ops, backends = options.ops.split(",") if options.ops else None, options.backends.split(",")
    if options.json is None:
        register(backends)
        for backend in backends:
            run_kernels(backend, ops, options.device, options.tiny)
        return 0
    again = [sys.executable, "-m", "benchmarks.gpu.profile", "--device", options.device, "--ops", options.ops]
    again += ["--tiny"] * options.tiny
    ncu, rows, status = find_ncu(), [], 0
    for backend in backends:
        # Clocks are the machine owner's: ncu would lock them.
        prefix = [ncu, "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"]
        prefix += ["--kernel-name", KERNELS, "--metrics", ",".join(METRICS)]
        command = [*(prefix if ncu else []), *again, "--backends", backend]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            status |= done.returncode
            rows += parse(done.stdout, backend)
            print(done.stdout[-3000:] + done.stderr[-3000:])
        except OSError as error:
            print(described(error))
            status = 1
        write_json(options.json, rows)
    print(f"{len(rows)} kernels profiled" if ncu else "no ncu: nothing profiled")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
