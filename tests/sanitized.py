"""The C++ kernels of the wider instruction sets under the address and undefined-behaviour sanitizers, on hostile input.

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


FEATURES = {"v3": " avx2 ", "v4": " avx512dq "}  # that a level's processors have; tiles are only at v4


def levels() -> list[str]:
    """Those that run here, the baseline where there is no other."""
    has = CPU_FLAGS.read_text() if CPU_FLAGS.exists() else ""
    return [level for level in FEATURES if FEATURES[level] in has] or list(_build.CPU_LEVELS[:1])


def build() -> None:
    graph = _build.Graph(FOLDER / "objects")
    warnings = "-Wall -Wextra -Werror"  # here, not in users' builds: a tenth of the time to build the widest kernels
    flags = f"-O1 -g1 -fsanitize={CHECKS} -fno-sanitize-recover=all {warnings}"
    _build.add_cpu(graph, FOLDER / "libstn_kernels_cpu.so", flags, tuple(levels()))
    graph.run()


def main() -> int:
    build()
    environment = {**os.environ, **sanitizer_environment("asan"), "STN_KERNELS_LIBRARIES": str(FOLDER)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--backends", "cpu", "--only-backends"]
    options = sys.argv[1:] or [*(f"tests/test_{name}.py" for name in NAMES.split()), "-k", CHOSEN]
    failed = False
    for level in levels():
        print(f"{level}:", flush=True)
        environment["STN_KERNELS_CPU_LEVEL"] = level
        failed |= subprocess.run([*command, *options], env=environment, cwd=ROOT, check=False).returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
