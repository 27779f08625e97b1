"""The operators' tests on Triton's interpreter, which has to be on when Triton is imported: in a process of its own.

Here a part of them, for a plain `pytest`; `make test` runs them all. Races do not show: programs run one by one.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
LISTED = re.search(r"^TRITON_TESTS := (.*?)\n\n", (ROOT / "Makefile").read_text(), re.M | re.S)[1]
FILES = [f"test_{name}" for name in re.findall(r"\w+\.py", LISTED)][:4]  # of the samplers
PART = (
    "value_and_gradients or matrices or bad_entries or bad_coordinates or random_shapes or empty or not_needed"
    " or (deterministic and border) or (opcheck and rows) or (gradcheck and True-2 and not gradgradcheck)"
)


def test_operators_in_the_interpreter(one_thread_environment, capfd):
    folder = os.path.dirname(__file__)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--backends", "triton", "-k", PART]
    done = subprocess.run(
        [*command, *(os.path.join(folder, name) for name in FILES)],
        env={**one_thread_environment, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = done.stdout[-6000:]
    if done.returncode:
        pytest.fail(f"exit status {done.returncode}\n{summary}\n{done.stderr[-2000:]}")
    with capfd.disabled():
        print(f"\n{summary}")
    assert int(re.search(r"triton \((\d+) tests\)", summary)[1]) > 100
