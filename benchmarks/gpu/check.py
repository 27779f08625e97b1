"""`stn-kernels verify` in many processes at once: Triton's compiler takes far longer than the kernels."""

import argparse
import concurrent.futures
import multiprocessing
import pathlib
import time

import torch

from stn_kernels import verify
from stn_kernels.op_cases import DTYPES, OP_CASES

from .files import write_json
from .machine import register


def check(op: str, backend: str, dtype: torch.dtype) -> list[dict]:
    torch.set_num_threads(1)
    register([backend])
    return verify.as_json(verify.run([op], [backend], [dtype]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", required=True)
    parser.add_argument("--ops", default="")
    parser.add_argument("--tiny", action="store_true", help="float32 and bfloat16 of one operator and two backends")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path, required=True)
    options = parser.parse_args()
    register(options.backends.split(","))
    ops = options.ops.split(",") if options.ops else list(OP_CASES)
    dtypes = DTYPES if not options.tiny else (torch.float32, torch.bfloat16)
    pairs = [(op, b) for op in ops for b in options.backends.split(",") if OP_CASES[op].runs_on(b)]
    tasks = [(*pair, dtype) for pair in (pairs[:2] if options.tiny else pairs) for dtype in dtypes]
    start, records, broken = time.monotonic(), [], []
    pool = concurrent.futures.ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"))
    with pool:
        futures = {pool.submit(check, *task): task for task in tasks}
        for future in concurrent.futures.as_completed(futures):
            op, backend, dtype = futures[future]
            try:
                records += future.result()
            except Exception as error:  # a process that died; the others go on
                broken.append(f"{op} {backend} {dtype}: {type(error).__name__}: {error}")
            print(f"{time.monotonic() - start:6.1f} s  {op} {backend} {dtype}", flush=True)
            write_json(options.json, {"records": records, "broken": broken, "left": sum(not f.done() for f in futures)})
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
