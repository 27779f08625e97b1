"""Importing the package is cheap and pulls in nothing optional."""

import functools
import os
import subprocess
import sys

import pytest

OPTIONAL = ("triton", "matplotlib", "kornia", "click", "rich", "skimage", "scipy", "pytest", "hypothesis")


@functools.cache
def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_package_imports_nothing_optional():
    before = loaded_after("import torch")
    after = loaded_after("import stn_kernels")
    assert not {name for name in after - before if name.split(".")[0] in OPTIONAL}


@pytest.mark.parametrize("name", ["op_cases", "verify"])
def test_tools_import_nothing_optional(name):
    before = loaded_after("import torch")
    after = loaded_after(f"import stn_kernels.{name}")
    assert not {found for found in after - before if found.split(".")[0] in OPTIONAL}


def test_command_line_imports_what_a_command_needs_only_then():
    after = loaded_after("import stn_kernels, stn_kernels.cli")
    heavy = {"triton", "matplotlib", "kornia", "skimage", "scipy"}
    assert not {name for name in after - loaded_after("import torch") if name.split(".")[0] in heavy}
    assert "stn_kernels.verify" not in after
    assert "stn_kernels.benchmarks" not in after
