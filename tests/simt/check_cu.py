"""Compiles every kernel for every GPU architecture, without a GPU, and fails if one spills or needs local memory.

Run as `python tests/simt/check_cu.py [NAME ...]`: a table of registers, shared memory and local memory a kernel.
"""

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from stn_kernels import _build  # noqa: E402

SOURCES = _build.SOURCES / "cuda"
OUTPUT = ROOT / "build" / "check_cu"


@dataclass
class Usage:
    """What ptxas says about one kernel on one architecture."""

    kernel: str
    arch: str
    registers: int
    shared: int
    stack: int
    spills: int

    @property
    def faulty(self) -> bool:
        return self.stack > 0 or self.spills > 0


def compile_verbosely(source: Path) -> str:
    """nvcc's messages for one file; raises BuildError if it does not compile."""
    includes, _ = _build.torch_flags()
    flags = f"{includes.replace('-isystem', '-I')} -Xptxas -v"
    command = f"{_build.nvcc_command()} {flags} -c {source} -o {OUTPUT}/{source.stem}.o"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _build.BuildError(f"{source.name}:\n{done.stderr[-6000:]}")
    return done.stderr


def parse(messages: str) -> list[Usage]:
    found, kernel, arch, stack, spills = [], "", "", 0, 0
    for line in messages.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            kernel, arch = match.groups()
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, spills = int(match[1]), int(match[2]) + int(match[3])
        elif match := re.search(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?", line):
            found.append(Usage(kernel, arch, int(match[1]), int(match[2] or 0), stack, spills))
    return found


def demangle(names: list[str]) -> dict[str, str]:
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    readable = text.splitlines()
    for pattern, short in ((r"void |stn::|c10::|\(int\)", ""), (r"\(Padding\)", "padding "), (r">\(.*", ">")):
        readable = [re.sub(pattern, short, name) for name in readable]
    return dict(zip(names, readable, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="stems of the .cu files to compile; all by default")
    names = parser.parse_args().names
    sources = [s for s in sorted(SOURCES.glob("*.cu")) if not names or s.stem in names]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        usages = [usage for messages in pool.map(compile_verbosely, sources) for usage in parse(messages)]
    readable = demangle(sorted({u.kernel for u in usages}))
    archs = sorted({u.arch for u in usages}, key=lambda a: int(re.sub(r"\D", "", a)))
    by_kernel = {k: {u.arch: u for u in usages if u.kernel == k} for k in readable}
    print(f"registers/shared bytes{'':<8}{''.join(f'{a:>12}' for a in archs)}")
    for kernel, name in sorted(readable.items(), key=lambda item: item[1]):
        cells = [f"{u.registers}/{u.shared}{'!' if u.faulty else ''}" for u in (by_kernel[kernel][a] for a in archs)]
        print(f"{''.join(f'{c:>12}' for c in cells)}  {name}")
    for u in (u for u in usages if u.faulty):
        print(f"FAULT {u.arch} {readable[u.kernel]}: {u.stack} bytes of local memory, {u.spills} bytes spilled")
    print(f"{len(readable)} kernels, {len(archs)} architectures, {sum(u.faulty for u in usages)} faults")
    return any(u.faulty for u in usages)


if __name__ == "__main__":
    sys.exit(main())
