"""compute-sanitizer over the sweep, its tools side by side; without it, the sweep alone."""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

from .files import write_json

TOOLS = ("memcheck", "racecheck", "initcheck")
# Errors of calls are exceptions already, and some libraries ask for what is not there.
OPTIONS = ("--print-limit", "20", "--error-exitcode", "9", "--report-api-errors", "no", "--target-processes", "all")


def find_sanitizer() -> str | None:
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", required=True)
    parser.add_argument("--ops", default="")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--json", type=pathlib.Path, required=True)
    options = parser.parse_args()
    sanitizer = find_sanitizer()
    tools = TOOLS if sanitizer else ("no compute-sanitizer",)
    # A large block of the caching allocator would hide what lies beyond a tensor.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    running, folder = {}, options.json.parent
    for backend in options.backends.split(","):
        sweep = [sys.executable, "-m", "benchmarks.gpu.sweep", "--backend", backend, "--seconds", str(options.seconds)]
        sweep += ["--ops", options.ops] if options.ops else []
        for tool in tools:
            command = [sanitizer, *OPTIONS, "--tool", tool, *sweep] if sanitizer else sweep
            log = folder / f"sanitize-{backend}-{tool.replace(' ', '-')}.log"
            with log.open("w") as file:
                process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
            running[backend, tool] = process, log
    results = []
    for (backend, tool), (process, log) in running.items():
        process.wait()
        output = log.read_text()
        print(f"--- {tool} {backend}: exit status {process.returncode}\n{output[-6000:]}", flush=True)
        summary = re.findall(r"^=+ (?:ERROR SUMMARY|RACECHECK SUMMARY): .*$|^\d+ of \d+ calls .*$", output, re.M)
        results.append({"backend": backend, "tool": tool, "exit": process.returncode, "summary": "; ".join(summary)})
        write_json(options.json, results)
    for r in results:
        print(f"{r['tool']} {r['backend']}: {'clean' if r['exit'] == 0 else 'NOT clean'} ({r['summary']})")
    return any(r["exit"] for r in results)


if __name__ == "__main__":
    raise SystemExit(main())
