"""What README.md says is true: its examples run, its commands exist, its table is the one of the results."""

import pathlib
import re

import pytest
import torch

from benchmarks import readme, report
from models import readme as trained
from stn_kernels.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("code", BLOCKS)
def test_example(code):
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), {})


def test_commands_exist():
    named = set(re.findall(r"stn-kernels (\w+)", README))
    assert named <= set(main.commands)
    assert set(main.commands) <= named


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:\$ |`)make ([\w-]+)", README + (ROOT / "CONTRIBUTING.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_measured_table_is_generated():
    assert README.count(readme.BEGIN) == README.count(readme.END) == 1
    assert readme.updated(README, readme.generated(report.HERE / "results")) == README


def test_table_of_trained_networks_is_generated():
    assert README.count(trained.BEGIN) == README.count(trained.END) == 1
    assert trained.updated(README, trained.generated(trained.HERE / "results")) == README
