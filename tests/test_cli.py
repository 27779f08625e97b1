"""The command line: what it prints, writes and returns."""

import json

import pytest
from click.testing import CliRunner

from stn_kernels import _build, demo_linearized
from stn_kernels.cli import main


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_info_lists_backends_with_reasons(tmp_path):
    done = invoke("info", "--json", str(tmp_path / "info.json"))
    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "info.json").read_text())
    for name, reason in content["backends"].items():
        assert name in done.output
        assert reason == "" or reason.split()[0] in done.output
    for name in ("torch", "triton", "python"):
        assert content["versions"][name] in done.output


def test_unknown_command():
    done = invoke("measure")
    assert done.exit_code == 2
    assert "No such command 'measure'" in done.output


@pytest.mark.parametrize("command", ["info", "verify", "bench", "demo", "train", "build"])
def test_every_command_has_help(command):
    done = invoke(command, "--help")
    assert done.exit_code == 0
    assert command in done.output


@pytest.mark.parametrize("threads", ["two", "0", "1,-2"])
def test_bench_rejects_bad_threads(threads):
    done = invoke("bench", "--threads", threads)
    assert done.exit_code == 2
    assert repr(threads) in done.output


def test_bench_rejects_an_absent_backend():
    done = invoke("bench", "--quick", "--backend", "cuda", "--device", "cpu")
    assert done.exit_code == 1
    assert "'cuda' cannot be used here" in done.output


def test_train_lists_every_experiment(monkeypatch):
    from stn_kernels.models.experiments import EXPERIMENTS
    from stn_kernels.models.experiments.base import Experiment

    monkeypatch.setattr(Experiment, "data_missing", lambda self: "fetch it")
    done = invoke("train", "--list")
    assert done.exit_code == 0, done.output
    assert all(name in done.output for name in EXPERIMENTS)
    assert "fetch it" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ddtn"], "no experiment is called 'ddtn'"),
        (["mnist30", "--preset", "slow"], "preset must be one of quick, paper, got 'slow'"),
        (["mnist30", "--network", "RNN"], "mnist30 has the networks CNN, STN, P-STN, not RNN"),
    ],
)
def test_train_rejects_unknown_names(arguments, message, tmp_path):
    done = invoke("train", *arguments, "--out", str(tmp_path))
    assert done.exit_code == 1
    assert message in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", [[], ["cpab"]])
def test_demo_writes_a_picture(tmp_path, family):
    done = invoke("demo", *family, "--out", str(tmp_path / "sheet.png"))
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "sheet.png") in done.output
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_demo_of_linearized_sampling(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_linearized, "STEPS", 1)
    monkeypatch.setattr(demo_linearized, "RATES", (0.001, 0.001))
    monkeypatch.setattr(demo_linearized, "FACTORS", (16,))
    monkeypatch.setattr(demo_linearized, "OFFSETS", (0.01,))
    out, numbers = tmp_path / "alignment.png", tmp_path / "alignment.json"
    done = invoke("demo", "linearized", "--out", str(out), "--json", str(numbers))
    assert done.exit_code == 0, done.output
    assert out.read_bytes().startswith(b"\x89PNG")
    rows = json.loads(numbers.read_text())
    assert [row["sampler"] for row in rows] == list(demo_linearized.SAMPLERS)
    assert all(row["success"] == 1 for row in rows)  # it stays within half an output pixel


def test_build_prints_configuration_and_lines(monkeypatch):
    monkeypatch.setattr(_build, "build", lambda: ["cpu: g++ 12 -> somewhere", "cuda: not built, no nvcc found"])
    done = invoke("build")
    assert done.exit_code == 0
    assert "cpu_levels" in done.output
    assert "cuda: not built, no nvcc found" in done.output


def test_build_shows_the_compilers_words(monkeypatch):
    def fail():
        raise _build.BuildError("kernels.cpp:3: error: expected ';'")

    monkeypatch.setattr(_build, "build", fail)
    done = invoke("build")
    assert done.exit_code == 1
    assert "expected ';'" in done.output


def test_build_without_a_compiler_fails(monkeypatch):
    monkeypatch.setattr(_build, "build", lambda: ["cpu: not built, no g++ found; afterwards run `stn-kernels build`"])
    done = invoke("build")
    assert done.exit_code == 1
    assert "no g++ found" in done.output
