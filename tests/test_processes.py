"""Several processes train the model of one: in a real pair of them through the command, and piece by piece."""

import json
import pathlib
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributions import StudentT

from models import processes, training

from .tiny_experiments import JOINT, NOISY

ROOT = pathlib.Path(__file__).resolve().parents[1]
WORKER = """
import torch
from stn_kernels.cli import main
from stn_kernels.models.experiments import EXPERIMENTS
from tests.tiny_experiments import JOINT, NOISY
torch.set_num_threads(1)
EXPERIMENTS.update(noisy=NOISY, joint=JOINT)
main()
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def together(environment, *arguments, count=2):
    """Runs `stn-kernels train` in processes with the environment that torchrun gives them; their exits and output."""
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    command = [sys.executable, "-c", WORKER, "train", *arguments]
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    output = [process.communicate(timeout=300)[0] for process in started]
    return [process.returncode for process in started], output


def test_two_processes_train_the_model_of_one(tmp_path, one_thread_environment):
    codes, output = together(
        one_thread_environment, "noisy", "joint", "--out", str(tmp_path), "--json", str(tmp_path / "a")
    )
    assert codes == [0, 0], output
    assert "wrote" not in output[1]
    assert [found["experiment"] for found in json.loads((tmp_path / "a").read_text())] == ["noisy", "joint"]
    for experiment in (NOISY, JOINT):
        for run in training.runs_of(experiment, "quick"):
            alone = training.train(run, training.start(run))
            checkpoint = run.checkpoint(tmp_path / f"{experiment.name}-quick")
            losses = json.loads(checkpoint.with_suffix(".json").read_text())["losses"]
            assert losses == pytest.approx(alone.losses, rel=1e-5)
            saved = load_file(checkpoint)
            for name, value in alone.network.state_dict().items():
                torch.testing.assert_close(saved[f"network.{name}"], value, rtol=1e-4, atol=1e-5)


LEAVE = """
import atexit, pathlib, torch
from models import processes
def threads():
    return [t.read_text().strip() for t in pathlib.Path("/proc/self/task").glob("*/comm")]
atexit.register(lambda: print(sum("gloo" in t for t in threads())))  # runs last
processes.join("cpu")
torch.optim.Adam([torch.ones(1, requires_grad=True)])  # imports what may keep hold of the group
processes.mean(torch.ones(2))
print(sum("gloo" in t for t in threads()))
"""


def test_threads_end_before_python(one_thread_environment):
    """One that frees a tensor later would abort the process (torch's issue 190489)."""
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "1", "RANK": "0"}
    environment = one_thread_environment | alone
    output = subprocess.check_output([sys.executable, "-c", LEAVE], cwd=ROOT, env=environment, text=True)
    training, after = map(int, output.split())
    assert training > 0
    assert after == 0


class TestShare:
    """What a share sees is its part of what one process draws."""

    @pytest.fixture(autouse=True)
    def _alone(self, monkeypatch):
        monkeypatch.setattr(processes, "gathered", lambda x: torch.cat([x, x]))

    @pytest.mark.parametrize(
        "draw",
        [
            lambda n: torch.rand(n, 3),
            lambda n: torch.randn(size=(n, 2, 5)),
            lambda n: torch.randn_like(torch.zeros(n, 7)),
            lambda n: torch.randint(0, 9, (2 * n, 4)),
            lambda n: torch.bernoulli(torch.full((n, 4), 0.5)),
            lambda n: torch.zeros(n, 4).bernoulli_(torch.full((n, 4), 0.5)),
            lambda n: torch.zeros(n, 4).uniform_(2, 3),
            lambda n: StudentT(torch.full((), 2.0)).sample((n, 2, 6)),
            lambda n: nn.functional.dropout(torch.ones(3 * n, 8)),
            lambda n: torch.native_dropout(torch.ones(n, 8), 0.5, True)[0],  # what dropout is on a GPU
            lambda n: nn.functional.dropout2d(torch.ones(n, 8, 2, 2)),
        ],
    )
    def test_of_the_batch(self, draw):
        def drawn():
            torch.manual_seed(0)
            return draw(4)

        torch.manual_seed(0)
        whole = draw(8)
        halves = []
        for rank in range(2):
            with processes.Share(4, rank, 2):
                halves.append(drawn())
        assert torch.equal(torch.cat(halves), whole)
        assert not torch.equal(*halves)

    @pytest.mark.parametrize("draw", [lambda: torch.rand(()), lambda: torch.rand(3, 8), lambda: torch.randperm(8)])
    def test_of_no_batch(self, draw):
        torch.manual_seed(0)
        whole = draw()
        for rank in range(2):
            torch.manual_seed(0)
            with processes.Share(4, rank, 2):
                assert torch.equal(draw(), whole)

    def test_linearized_samplers_are_refused(self):
        run = training.Run(NOISY, "quick", "L-STN", 0)
        state = training.start(run)
        assert processes.has_linearized(state.network)
        with processes.Share(4, 0, 2), pytest.raises(NotImplementedError, match="linearized sampler"):
            state.network(torch.rand(4, 1, 8, 8))

    def test_batch_normalization_of_one_share(self):
        """With a single process the values, gradients and running statistics are torch's."""
        x = torch.randn(6, 3, 4, 5, requires_grad=True)
        weight = torch.randn(6, 3, 4, 5)
        found = []
        for function in (torch.nn.functional.batch_norm, processes.batch_norm):
            torch.manual_seed(1)
            layer = nn.BatchNorm2d(3)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            y = function(
                x, layer.running_mean, layer.running_var, layer.weight, layer.bias, True, layer.momentum, layer.eps
            )
            gradients = torch.autograd.grad((y * weight).sum(), (x, layer.weight, layer.bias))
            found.append((y, *gradients, layer.running_mean, layer.running_var))
        for ours, theirs in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert nn.functional.batch_norm is not processes.batch_norm


def test_batches_that_cannot_be_shared(monkeypatch):
    monkeypatch.setattr(training, "ranks", lambda: (0, 3))
    run = training.Run(NOISY, "quick", "P-STN", 0)
    with pytest.raises(ValueError, match="divisible by the 3 processes, got 8 examples"):
        training.take_step(run, training.start(run))
