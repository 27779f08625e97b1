"""`stn-kernels verify` in many processes at once: Triton's compiler takes far longer than the kernels.

A process a group of cells, so that one that dies takes no other along.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch

from stn_kernels import verify
from stn_kernels.op_cases import DTYPES, OP_CASES

from .files import write_json
from .machine import register

NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


def check(op: str, backend: str, dtype: str) -> None:
    """The body of a process: prints its records as the last line."""
    torch.set_num_threads(1)
    register([backend])
    print(json.dumps(verify.as_json(verify.run([op], [backend], [NAMES[dtype]]))))


def started(op: str, backend: str, dtype: str) -> list[dict]:
    """Records of a group; raises if its process dies."""
    command = [sys.executable, "-m", "benchmarks.gpu.check", "--group", op, backend, dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()[-600:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default="")
    parser.add_argument("--ops", default="")
    parser.add_argument("--tiny", action="store_true", help="float32 and bfloat16 of one operator and two backends")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--group", nargs=3, metavar=("OP", "BACKEND", "DTYPE"), help="check these alone, here")
    options = parser.parse_args()
    if options.group:
        check(*options.group)
        return 0
    register(options.backends.split(","))
    ops = options.ops.split(",") if options.ops else list(OP_CASES)
    pairs = [(op, b) for op in ops for b in options.backends.split(",") if OP_CASES[op].runs_on(b)]
    dtypes = [name for name in NAMES if not options.tiny or name in ("float32", "bfloat16")]
    tasks = [(*pair, dtype) for pair in (pairs[:2] if options.tiny else pairs) for dtype in dtypes]
    start, records, broken = time.monotonic(), [], []
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = {pool.submit(started, *task): task for task in tasks}
        for future in as_completed(futures):
            group = " ".join(futures[future])
            try:
                records += future.result()
            except (RuntimeError, ValueError, IndexError) as error:
                broken.append(f"{group}: {error}")
            print(f"{time.monotonic() - start:6.1f} s  {group}", flush=True)
            left = [" ".join(task) for f, task in futures.items() if not f.done()]
            write_json(options.json, {"records": records, "broken": broken, "left": left})
    failed = [r for r in records if not r["passed"]]
    for r in failed:
        cell = " ".join(r[key] for key in ("op", "backend", "dtype", "padding", "quantity"))
        print(f"FAILED {cell}: {r['error']:.1e} > {r['tolerance']:.1e} {r['detail']}")
    for line in broken:
        print(f"BROKEN {line}")
    print(f"{len(failed)} of {len(records)} cells failed, {len(broken)} of {len(tasks)} groups broken")
    return bool(failed or broken)


if __name__ == "__main__":
    raise SystemExit(main())
