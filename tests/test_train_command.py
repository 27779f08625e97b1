"""`stn-kernels train` on bad input: one line, exit 1 or 2, and nothing trained or written."""

import dataclasses
import pathlib
import shutil
import sys

import pytest
import torch
from click.testing import CliRunner
from stn_kernels.models import session, timing
from stn_kernels.models.experiments import EXPERIMENTS

import stn_kernels
from stn_kernels import train as glue
from stn_kernels.cli import main

from .tiny_experiments import NOISY


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "noisy", NOISY)
    monkeypatch.setattr(timing, "seconds_a_step", lambda started: {})


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def invoke(*arguments):
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def contents(folder: pathlib.Path):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def assert_refused(tmp_path, message, *arguments, code=1):
    before = contents(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit)
    last = done.output.splitlines()[-1]
    assert last.startswith("Error: ")
    assert message in last
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["noisy", "--device", "nonsense"], "device must be cpu, cuda or cuda:N, got 'nonsense'"),
        (["noisy", "--device", "meta"], "device must be cpu, cuda or cuda:N, got 'meta'"),
        (["noisy", "--device", "cuda:99"], "there is no device 'cuda:99' here"),
        (["noisy", "nonsense"], "no experiment is called 'nonsense'"),
        (["noisy", "--preset", "paper"], "preset must be one of quick, got 'paper'"),
        (["noisy", "mnist30", "--network", "L-STN"], "mnist30 has the networks CNN, STN, P-STN, not L-STN"),
    ],
)
def test_unknown_names(tmp_path, out, arguments, message):
    assert_refused(tmp_path, message, *arguments, "--out", out, "--json", tmp_path / "a.json")


def test_without_the_extra(tmp_path, out, monkeypatch):
    monkeypatch.delattr(stn_kernels, "train")
    monkeypatch.delitem(sys.modules, "stn_kernels.train")
    monkeypatch.setitem(sys.modules, "stn_kernels.models", None)
    assert_refused(tmp_path, "run `pip install 'stn-kernels[train]'`", "noisy", "--out", out)


def test_json_without_a_folder(tmp_path, out):
    target = tmp_path / "nowhere" / "a.json"
    message = f"there is no folder for '{target}'"
    assert_refused(tmp_path, message, "noisy", "--out", out, "--json", target, code=2)


@pytest.mark.parametrize("file", ["out", "out/noisy-quick"])
def test_a_file_in_place_of_the_folder(tmp_path, out, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    target = out / "deeper" if file == "out" else out
    message = f"{tmp_path / file} is no folder that can be written to"
    assert_refused(tmp_path, message, "noisy", "--out", target)


def test_a_folder_that_cannot_be_made(tmp_path):
    assert_refused(tmp_path, "is no folder that can be written to", "noisy", "--out", "/proc/nowhere")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:0", "device must be cpu or cuda where torchrun starts the processes, got 'cuda:0'"),
        ("cuda", "there is no device 'cuda' here for every process: torch sees 1 CUDA devices"),
    ],
)
def test_more_processes_than_devices(tmp_path, out, monkeypatch, device, message):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert_refused(tmp_path, message, "noisy", "--device", device, "--out", out)


def test_processes_that_cannot_share_a_batch(tmp_path, out, monkeypatch):
    monkeypatch.setattr(session, "ranks", lambda: (0, 3))
    message = "noisy has batches of 8 examples, which 3 processes cannot share equally"
    assert_refused(tmp_path, message, "noisy", "--out", out)


@pytest.mark.parametrize(
    ("name", "variable", "file"),
    [
        ("ddtn-fashion", "FASHION_MNIST_DIR", "train-images-idx3-ubyte.gz"),
        ("ddtn-cifar10", "CIFAR10_DIR", "data_batch_2"),
        ("plankton", "PLANKTON_DIR", "shrimp/notes.txt"),
        ("series-faceall", "UCR_DIR", "FaceAll/FaceAll_TEST.tsv"),
    ],
)
def test_damaged_data(tmp_path, out, samples, monkeypatch, name, variable, file):
    shutil.copytree(samples[variable], tmp_path / "copy")
    (tmp_path / "copy" / file).write_bytes(b"1\tword\n")
    monkeypatch.setenv(variable, str(tmp_path / "copy"))
    assert_refused(tmp_path, f"{tmp_path / 'copy' / file} is not ", "noisy", name, "--out", out)
    monkeypatch.setattr(glue, "EXPERIMENTS", {name: EXPERIMENTS[name], "noisy": NOISY})
    done = invoke("--list")
    assert done.exit_code == 0, done.output
    assert "noisy" in done.output


@pytest.mark.parametrize("file", ["L-STN-0.json", "L-STN-0.safetensors"])
def test_damaged_results(tmp_path, out, file):
    done = invoke("noisy", "--out", out)
    assert done.exit_code == 0, done.output
    path = out / "noisy-quick" / file
    path.write_bytes(path.read_bytes()[:100])
    assert_refused(tmp_path, f"{path} is not a readable", "noisy", "--out", out, "--resume")


def test_what_ran_is_kept_when_the_next_fails(tmp_path, out, monkeypatch):
    failing = dataclasses.replace(NOISY.presets["quick"], rate=float("inf"))
    clone = type(NOISY)()
    clone.name, clone.presets = "failing", {"quick": failing}
    monkeypatch.setitem(EXPERIMENTS, "failing", clone)
    done = invoke("noisy", "failing", "noisy", "--out", out, "--json", tmp_path / "a.json")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == "Error: P-STN, seed 0: the loss is nan at step 2"
    assert '"experiment": "noisy"' in (tmp_path / "a.json").read_text()
