"""`make gpu`: builds, checks, measures and profiles the kernels on this machine's GPU, and ends with one table.

Every part is a process with a budget; one that fails or overruns is reported and the next begins. What there is of the
results is on disk after every part, in benchmarks/results/<device>/ and, if OUT is set, in a folder there.
`--rehearsal` walks the same parts without a GPU: CUDA kernels on the CPU, Triton's interpreter, tiny sizes.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from .. import report
from . import goals, table
from .files import read_json, write_json
from .machine import first_line
from .parts import PARTS, Part, Run

ROOT = pathlib.Path(__file__).resolve().parents[2]
END = 12  # seconds kept for the table
MOST_BYTES = 8 * 2**20  # of a file in $OUT; of a log the end counts


def environment(run: Run) -> dict[str, str]:
    """Of every part."""
    found = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "KINETO_LOG_LEVEL": "5"}
    if run.rehearsal:
        return found | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    capability = first_line("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    return found | ({"TORCH_CUDA_ARCH_LIST": capability} if re.fullmatch(r"\d+\.\d+", capability) else {})


def usable(backends: list[str], env: dict[str, str]) -> tuple[list[str], str]:
    """The backends that a new process can use, and why the others cannot be."""
    code = "import json, stn_kernels; print(json.dumps(stn_kernels.backends()))"
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return [], done.stderr[-400:]
    reasons = json.loads(done.stdout.splitlines()[-1])
    missing = {name: reasons[name] for name in backends if reasons.get(name)}
    return [name for name in backends if name not in missing], "; ".join(f"{k}: {v}" for k, v in missing.items())


def execute(part: Part, command: list[str], seconds: float, env: dict[str, str], log: pathlib.Path) -> dict:
    """Runs a part in a process group of its own and ends the whole group when its time is over."""
    start = time.monotonic()
    with log.open("a") as file:
        file.write(f"\n===== {part.name}, at most {seconds:.0f} s: {' '.join(command)}\n")
        file.flush()
        begin = file.tell()
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        try:
            status = process.wait(max(seconds, 1))
            note = "ok" if status == 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            note = f"out of time after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
    with log.open(errors="replace") as file:
        file.seek(begin)
        last = next((line.strip() for line in reversed(file.readlines()) if line.strip()), "")
    return {"part": part.name, "status": note, "seconds": round(time.monotonic() - start, 1), "last line": last[-200:]}


class Results:
    """The folder that is committed, and its copy in $OUT."""

    def __init__(self, run: Run, folder: pathlib.Path, out: str | None):
        self.run, self.folder, self.parts = run, folder, []
        self.out = pathlib.Path(out) / folder.name if out else None
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("gpu.json", "gpu.csv", "gpu.md", "gpu.log"):
            (folder / name).unlink(missing_ok=True)

    def rows(self) -> list[dict]:
        return report.read_csv(self.run.csv) if self.run.csv.exists() else []

    def write(self) -> None:
        found = {
            name: read_json(pathlib.Path(self.run.file(name))) for name in ("machine", "copy", "measure", "profile")
        }
        found |= {"sanitize": read_json(pathlib.Path(self.run.file("sanitize"))), "parts": self.parts}
        checked = read_json(pathlib.Path(self.run.file("verify")))
        if checked:
            failed = [r for r in checked["records"] if not r["passed"]]
            found["verify"] = {"cells": len(checked["records"]), "failed": failed, "broken": checked["broken"]}
            found["verify"]["left"] = checked["left"]
        write_json(self.folder / "gpu.json", found)
        (self.folder / "gpu.md").write_text("\n".join(self.markdown(found)) + "\n")
        if self.out:
            self.out.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob("gpu.*"):
                (self.out / path.name).write_bytes(path.read_bytes()[-MOST_BYTES:])

    def markdown(self, found: dict, suites=None) -> list[str]:
        """What README.md shows: conditions, parts, goals, the table."""
        machine, rows = found["machine"] or {}, self.rows()
        named = ("device", "driver_version", "torch", "triton", "nvcc", "date", "commit")
        bandwidth = (found["copy"] or {}).get("bandwidth")
        lines = ["**" + ", ".join(f"{k} {machine.get(k) or '?'}" for k in named) + "**", ""]
        lines += [
            f"Copy bandwidth: {bandwidth / 1e12:.3g} TB/s, read and written." if bandwidth else "No bandwidth.",
            "",
        ]
        lines += ["| part | status | seconds | last line |", "|---|---|---|---|"]
        lines += [
            f"| {p['part']} | {p['status']} | {p['seconds']} | {p['last line'].replace('|', '/')} |" for p in self.parts
        ]
        lines += ["", *goals.table(rows, found["measure"] or {}, self.run.backends), ""]
        return lines + table.lines(rows, suites)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearsal", action="store_true", help="without a GPU")
    parser.add_argument("--seconds", type=float, default=560.0, help="for everything")
    parser.add_argument("--ops", default="", help="operators, separated by commas; all by default")
    parser.add_argument("--parts", default="", help=f"of {', '.join(p.name for p in PARTS)}; all by default")
    parser.add_argument("--jobs", type=int, default=min(12, len(os.sched_getaffinity(0))))
    parser.add_argument("--results", type=pathlib.Path, help="folder for the device's folder")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds - END
    work = ROOT / "build" / ("gpu-rehearsal" if options.rehearsal else "gpu")
    work = options.results / "work" if options.results else work
    name = first_line("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "no-gpu"
    device = "rehearsal" if options.rehearsal else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    folder = (options.results or (work if options.rehearsal else report.HERE / "results")) / device
    shutil.rmtree(work, ignore_errors=True)
    (work / "parts").mkdir(parents=True)
    wanted = ["simt", "triton"] if options.rehearsal else ["cuda", "triton"]
    run = Run(options.rehearsal, work / "parts", folder / "gpu.csv", options.ops, options.jobs, wanted)
    results, env = Results(run, folder, os.environ.get("OUT")), environment(run)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that a stopped run ends its part and has a table
    chosen = [p for p in PARTS if not options.parts or p.name in options.parts.split(",")]
    try:
        for i, part in enumerate(chosen):
            left = deadline - time.monotonic() - sum(later.least for later in chosen[i + 1 :])
            seconds = min(part.most, max(left, part.least, 1), max(deadline - time.monotonic(), 1))
            print(f"{part.name}: at most {seconds:.0f} s", flush=True)
            outcome = execute(part, part.command(run, seconds), seconds, env, folder / "gpu.log")
            results.parts.append(outcome)
            print(f"  {outcome['status']}, {outcome['seconds']} s: {outcome['last line']}", flush=True)
            if part.name == "build":
                run.backends, missing = usable(wanted, env)
                print(f"  backends: {', '.join(run.backends) or 'none'}{'; not ' + missing if missing else ''}")
                if not run.backends:
                    break
            if part.name == "copy":
                run.bandwidth = (read_json(pathlib.Path(run.file("copy"))) or {}).get("bandwidth")
            results.write()
    finally:
        results.write()
        found = read_json(folder / "gpu.json")
        print("\n".join(["", *results.markdown(found, table.SHORT)]), flush=True)
        print(f"\nresults: {folder}")
    return int(any(p["status"] != "ok" for p in results.parts) or len(results.parts) < len(chosen))


if __name__ == "__main__":
    raise SystemExit(main())
