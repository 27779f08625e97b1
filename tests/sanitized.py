"""The C++ kernels of one instruction set under the address and undefined-behaviour sanitizers, on hostile input.

`python -m tests.sanitized [PYTEST OPTION ...]` builds them in build/sanitized and runs pytest on them: by default every
case of tests/test_hostile.py, and the operators' tests of bad coordinates, shapes, layouts and channels.
"""

import os
import subprocess
import sys

from stn_kernels import _build

from .simt.build import CHECKS, CPU_FLAGS, OUTPUT, ROOT, sanitizer_environment

FOLDER = OUTPUT.parent / "sanitized"
NAMES = "hostile samplers affine_sample grid_sample homography_sample tps_sample linearized cpab_transform cpab_sample"
CHOSEN = "hostile or bad or sizes or channels or random_shapes or empty or like_reference or large or bits or lattices"


def build() -> None:
    level = "v3" if CPU_FLAGS.exists() and " avx2 " in CPU_FLAGS.read_text() else _build.CPU_LEVELS[0]
    graph = _build.Graph(FOLDER / "objects")
    flags = f"-O1 -g1 -fsanitize={CHECKS} -fno-sanitize-recover=all"
    _build.add_cpu(graph, FOLDER / "libstn_kernels_cpu.so", flags, (level,))
    graph.run()


def main() -> int:
    build()
    environment = {**os.environ, **sanitizer_environment("asan"), "STN_KERNELS_LIBRARIES": str(FOLDER)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--backends", "cpu", "--only-backends"]
    options = sys.argv[1:] or [*(f"tests/test_{name}.py" for name in NAMES.split()), "-k", CHOSEN]
    return subprocess.run([*command, *options], env=environment, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
