"""Training: exact resume, repeatable seeds, several processes, checkpoints, and what is refused."""

import dataclasses
import json
import os
import pathlib
import signal
from unittest import mock

import pytest
import torch
from torch import nn

from models import data, processes, pstn, report, session, timing, training
from models.experiments import EXPERIMENTS
from models.experiments.base import Split
from stn_kernels import nn as families
from stn_kernels import tps_sample

from .tiny_experiments import NOISY, TINY, Tiny


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    times = {"seconds": 0.002, "seconds_torch": 0.003, "ratio": 1.5}
    monkeypatch.setattr(timing, "seconds_a_step", lambda started: {run.network: times for run, _ in started})
    return TINY


def run_of(network="STN", seed=0, preset="quick", experiment=TINY):
    return training.Run(experiment, preset, network, seed)


def weights(state):
    return {name: value.clone() for name, value in state.network.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def interruptible():
    """SIGINT as in a terminal: a job in the background of a script inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("run", [run_of(), run_of("P-STN", experiment=NOISY), run_of("L-STN", experiment=NOISY)])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_resume_is_exact(tmp_path, monkeypatch, optimizer, run):
    """Ctrl-C in the middle of a step, long before a checkpoint is due."""
    if optimizer == "sgd":
        sgd = lambda self, n, p: torch.optim.SGD(n.parameters(), p.rate, momentum=0.9, nesterov=True)  # noqa: E731
        monkeypatch.setattr(type(run.experiment), "optimizer", sgd)
    path = tmp_path / "a.safetensors"
    whole = training.train(run, training.start(run))
    handler = signal.getsignal(signal.SIGINT)
    interrupted = training.start(run)
    inside = type(run.experiment).loss

    def loss(self, *arguments):
        if interrupted.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return inside(self, *arguments)

    with mock.patch.object(type(run.experiment), "loss", loss), pytest.raises(KeyboardInterrupt):
        training.train(run, interrupted, path)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = training.restore(run, training.start(run), path)
    assert resumed.step == 3
    training.train(run, resumed, path)
    assert_same(weights(whole), weights(resumed))
    assert whole.losses == resumed.losses
    assert training.evaluate(run, whole) == training.evaluate(run, resumed)


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_does_not_wait(monkeypatch):
    def loss(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(Tiny, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        training.train(run_of(), training.start(run_of()))


def test_an_interrupt_that_is_ignored_stays_so(monkeypatch):
    inside = Tiny.loss

    def loss(self, *arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return inside(self, *arguments)

    monkeypatch.setattr(Tiny, "loss", loss)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert training.train(run_of(), training.start(run_of())).step == 6
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("every", [2, 4])
def test_checkpoints_come_in_between(tmp_path, monkeypatch, every):
    saved = []
    monkeypatch.setattr(training, "save", lambda run, state, path: saved.append(state.step))
    training.train(run_of(), training.start(run_of()), tmp_path / "a.safetensors", every)
    assert saved == {2: [2, 4, 6], 4: [4, 6]}[every]


def test_seeds_repeat_and_differ():
    first, again, other = (training.train(run_of(seed=s), training.start(run_of(seed=s))) for s in (0, 0, 1))
    assert_same(weights(first), weights(again))
    assert first.losses != other.losses


def test_learning_rate_falls():
    """Tiny's, tenfold after half of its 6 steps."""
    run = run_of()
    state, rates = training.start(run), []
    for _ in range(6):
        training.take_step(run, state)
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.05] * 3 + [0.005] * 3)


class TestCheckpoints:
    @pytest.fixture
    def path(self, tmp_path):
        run = run_of()
        training.save(run, training.start(run), tmp_path / "a.safetensors")
        return tmp_path / "a.safetensors"

    @pytest.mark.parametrize(
        ("run", "key"),
        [
            (run_of("CNN"), "network"),
            (run_of(seed=1), "seed"),
            (run_of(preset="other"), "preset"),
            (run_of(experiment=EXPERIMENTS["rotated-digits"]), "experiment"),
        ],
    )
    def test_of_another_run(self, path, run, key):
        state = training.start(run_of())
        before = weights(state)
        with pytest.raises(training.CheckpointError, match=rf"of another run: its {key} is"):
            training.restore(run, state, path)
        assert_same(weights(state), before)

    def test_of_another_model(self, path, monkeypatch):
        monkeypatch.setattr(Tiny, "build", lambda *a: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        with pytest.raises(training.CheckpointError, match="holds another model"):
            training.restore(run_of(), training.start(run_of()), path)

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
    def test_damaged(self, path, content):
        path.write_bytes(path.read_bytes()[:200] if content is None else content)
        with pytest.raises(training.CheckpointError, match="not a readable checkpoint"):
            training.restore(run_of(), training.start(run_of()), path)

    def test_a_loss_that_is_not_finite_stops(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Tiny, "loss", lambda self, network, *_: network(torch.full((2, 1, 8, 8), torch.nan)).sum())
        with pytest.raises(FloatingPointError, match="nan at step 1"):
            training.train(run_of(), training.start(run_of()), tmp_path / "a.safetensors")
        assert not (tmp_path / "a.safetensors").exists()


def performed(out, name="tiny", **options):
    return session.perform_all(session.planned(name, out=out, **options))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestSession:
    def test_writes_everything_and_resumes(self, tiny, tmp_path):
        result, folder = performed(tmp_path)
        names = {path.name for path in folder.iterdir()}
        assert {"results.json", "losses.png", "warps.png", "CNN-0.safetensors", "STN-1.safetensors"} <= names
        stored = json.loads((folder / "results.json").read_text())
        assert stored == json.loads(json.dumps(result))
        row = stored["rows"][1]
        assert row["network"] == "STN"
        assert row["seeds"] == 2
        assert row["measures"]["error"]["spread"] is not None
        assert stored["claims"] == [{"claim": "the loss is a number", "reproduced": True}]
        heads, rows = report.cells(result)
        assert heads[:5] == ["network", "parameters", "seeds", "error %", "paper"]
        assert heads[5:] == ["ms a step", "with torch's sampler", "torch / ours"]
        assert rows[1][4:] == ["1", "2", "3", "1.5"]
        again, _ = performed(tmp_path, resume=True)
        assert again["rows"] == result["rows"]

    def test_refuses_to_overwrite(self, tiny, tmp_path):
        (tmp_path / "tiny-quick").mkdir()
        (tmp_path / "tiny-quick" / "mine.txt").write_text("mine")
        with pytest.raises(session.SessionError, match="not empty: pass --resume"):
            performed(tmp_path)
        assert [path.name for path in (tmp_path / "tiny-quick").iterdir()] == ["mine.txt"]

    def test_unknown_names(self, tiny, tmp_path):
        for arguments, message in (
            ({"name": "tinny"}, "no experiment is called 'tinny'"),
            ({"name": "tiny", "preset": "slow"}, "preset must be one of quick, other, got 'slow'"),
            ({"name": "tiny", "networks": ("RNN",)}, "has the networks CNN, STN, not RNN"),
        ):
            with pytest.raises(session.SessionError, match=message):
                session.planned(**arguments, out=tmp_path)

    def test_absent_data_leaves_nothing(self, tmp_path, monkeypatch):
        monkeypatch.delenv("SVHN_DIR", raising=False)
        with pytest.raises(data.MissingDataError, match="set SVHN_DIR"):
            session.planned("svhn", out=tmp_path)
        assert not list(tmp_path.iterdir())

    def test_a_record_without_its_checkpoint_is_made_again(self, tiny, tmp_path):
        result, folder = performed(tmp_path, networks=["CNN"], seeds=1)
        (folder / "CNN-0.safetensors").unlink()
        record = json.loads((folder / "CNN-0.json").read_text())
        stale = record | {"measures": {"error": 12.0, "accuracy": 88.0, "nll": 0.0, "ece": 0.0}}
        (folder / "CNN-0.json").write_text(json.dumps(stale))
        again, _ = performed(tmp_path, networks=["CNN"], seeds=1, resume=True)
        assert again["rows"] == result["rows"]
        assert json.loads((folder / "CNN-0.json").read_text()) == record

    @pytest.mark.parametrize("file", ["CNN-0.json", "STN-1.json", "STN-1.safetensors"])
    @pytest.mark.parametrize("damage", ["cut", "budget"])
    def test_damaged_or_of_another_budget(self, tiny, tmp_path, monkeypatch, file, damage):
        """Refused before anything is trained or written."""
        _, folder = performed(tmp_path)
        if damage == "cut":
            (folder / file).write_bytes((folder / file).read_bytes()[:40])
            message = rf"{file} is not a readable"
        else:
            for path in folder.iterdir():
                if path.name != file:
                    path.unlink()
            monkeypatch.setitem(tiny.presets, "quick", dataclasses.replace(tiny.presets["quick"], steps=7))
            message = rf"{file} is of another run: its budget is"
        before = contents(folder)
        with pytest.raises(training.CheckpointError, match=message):
            session.planned("tiny", out=tmp_path, resume=True)
        assert contents(folder) == before

    def test_other_networks_keep_their_rows(self, tiny, tmp_path):
        result, folder = performed(tmp_path)
        (folder / "STN-0.json").unlink()
        again, _ = performed(tmp_path, networks=["STN"], seeds=1, resume=True)
        assert again["rows"] == result["rows"]
        assert [claim["reproduced"] for claim in again["claims"]] == [True]
        other = json.loads((folder / "CNN-1.json").read_text())
        other["run"]["budget"] = "another"
        (folder / "CNN-1.json").write_text(json.dumps(other))
        (folder / "CNN-0.json").write_text("{")
        left = contents(folder)
        again, _ = performed(tmp_path, networks=["STN"], resume=True)
        assert again["rows"] == result["rows"][1:]
        assert all(contents(folder)[name] == left[name] for name in ("CNN-0.json", "CNN-1.json"))

    def test_a_file_is_replaced_whole(self, tmp_path):
        path = tmp_path / "a.json"
        report.write_json(path, {"old": 1})

        def killed(self, text):
            self.write_bytes(text[:4].encode())
            raise KeyboardInterrupt

        with mock.patch.object(pathlib.Path, "write_text", killed), pytest.raises(KeyboardInterrupt):
            report.write_json(path, {"new": 2})
        assert json.loads(path.read_text()) == {"old": 1}

    def test_claims_wait_for_all_networks(self, tiny):
        records = [{"network": "STN", "parameters": 1, "measures": {"error": 2.0}, "loss": 0.5}]
        result = report.summary(TINY, "quick", records, {}, {})
        assert result["claims"][0]["reproduced"] is None
        assert report.verdict(result["claims"][0]) == "not all networks ran"


class TestTorchSampling:
    """What our step is timed against computes the same."""

    def test_times(self):
        started = [(run_of(name), training.start(run_of(name))) for name in TINY.networks]
        times = timing.seconds_a_step(started, rounds=2)
        assert times.keys() == {"CNN", "STN"}
        assert all(
            row.keys() == {"seconds", "seconds_torch", "ratio"} and min(row.values()) > 0 for row in times.values()
        )
        assert [state.step for _, state in started] == [9, 9]

    @pytest.mark.parametrize(
        ("experiment", "network", "can"),
        [
            ("ddtn-rts", "ST-TPS", True),
            ("ddtn-rts", "ST-CPAB", False),
            ("ddtn-rts", "ST-Affine+CPAB", False),
            ("fashion-1000-labels", "STN", True),
            ("fashion-1000-labels", "L-STN", False),
        ],
    )
    def test_what_torch_can(self, experiment, network, can):
        run = smaller(EXPERIMENTS[experiment], network)
        images = torch.rand(4, 1, 28, 28)
        examples = data.Examples(images, torch.arange(4))
        assert timing.torch_can(run.experiment.build(network, run.preset, Split(examples, examples))) == can

    @pytest.mark.parametrize("family", ["affine", "similarity", "homography", "tps"])
    @pytest.mark.parametrize("samples", [None, 3])
    def test_same_values(self, family, samples):
        torch.manual_seed(0)
        layer = families.SpatialTransformer(nn.Flatten(), family, (7, 9), samples=samples)
        image = torch.rand(2, 2, 8, 8)
        layer(image)
        nn.init.normal_(layer.head.bias, std=0.1)
        ours = layer(image)
        with timing.torch_sampling():
            theirs = layer(image)
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
        assert families.FAMILIES["tps"].sample is tps_sample


def smaller(experiment, network):
    """The quick preset with a few examples a step and hardly any pretraining."""
    preset = experiment.presets["quick"]
    most = {"pretraining": 2}
    more = tuple((name, min(value, most.get(name, value))) for name, value in preset.more)
    train, test = (min(n, 12) for n in (preset.train, preset.test))
    preset = dataclasses.replace(preset, steps=1, batch=4, train=train, test=test, more=more)
    clone = type(experiment).__new__(type(experiment))
    clone.__dict__.update(experiment.__dict__, presets={"quick": preset, "paper": experiment.presets["paper"]})
    return training.Run(clone, "quick", network, 0)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_takes_steps(name, samples):
    """The first and the last network, which has the most to it: a step, measures and pictures.

    Data that no package has is generated in its real format.
    """
    for network in dict.fromkeys((EXPERIMENTS[name].networks[0], EXPERIMENTS[name].networks[-1])):
        run = smaller(EXPERIMENTS[name], network)
        state = training.start(run)
        before = weights(state)
        training.train(run, state)
        trained = any(not torch.equal(before[k], v) for k, v in state.network.state_dict().items())
        assert trained == (name != "series-alignment" or network != "None")
        measured = training.evaluate(run, state)
        assert set(run.experiment.measures) - {"pose", "condition"} <= set(measured)
        assert all(torch.isfinite(torch.tensor(value)) for value in measured.values())
        with torch.no_grad():
            images, seen = run.experiment.show(state.network.eval(), state.split, "cpu")
        assert seen is None or len(seen) == len(images)
    assert measured == training.evaluate(run, state)
    if "ece" in run.experiment.measures:
        assert all(0 <= value <= 1 for curve in report.reliability(run, state) for value in curve)
    if not (run.experiment.joint or processes.has_linearized(state.network)):
        assert_shares_add_up(run, state)


def assert_shares_add_up(run, state):
    """The loss of a batch is the mean of its two halves', each with its part of what one process would draw."""
    batch = run.experiment.batch(state.split.train, run.preset, torch.Generator().manual_seed(3))
    state.network.eval()  # statistics of a batch need the other process: tests/test_processes.py

    def loss(part):
        torch.manual_seed(4)
        return run.experiment.loss(state.network, part, 0.5, run.preset)

    halves = []
    with torch.no_grad(), mock.patch.object(processes, "gathered", lambda x: torch.cat([x, x])):
        whole = loss(batch)
        for rank, part in enumerate((batch[: len(batch) // 2], batch[len(batch) // 2 :])):
            with processes.Share(len(part), rank, 2):
                halves.append(loss(part))
    torch.testing.assert_close(sum(halves) / 2, whole, rtol=1e-5, atol=1e-6)


def test_localization_has_a_rate_of_its_own():
    run = smaller(EXPERIMENTS["addition"], "2xST-FCN")
    state = training.start(run)
    rest, slow = state.optimizer.param_groups
    transformers = {id(p) for p in state.network[1].parameters()}
    assert {id(p) for p in slow["params"]} == transformers
    assert {id(p) for p in rest["params"]} == {id(p) for p in state.network.parameters()} - transformers
    assert (rest["lr"], slow["lr"]) == (run.preset.rate, 0.1 * run.preset.rate)


def test_annealing():
    """The KL-term's weight grows in proportion to the steps, and stays."""
    experiment = EXPERIMENTS["mnist30"]
    preset = dataclasses.replace(experiment.presets["quick"], more=(("weight", 0.5), ("anneal", 0.2)))
    network = pstn.mnist("P-STN", 8000)
    batch = data.Examples(torch.rand(2, 1, 28, 28), torch.tensor([1, 2]))

    def loss(progress):
        torch.manual_seed(0)
        return experiment.loss(network, batch, progress, preset).item()

    first, half, whole, end = (loss(p) for p in (0.0, 0.1, 0.2, 1.0))
    assert whole == end
    assert half - first == pytest.approx((whole - first) / 2, rel=1e-4)
    assert whole > first


def test_a_published_range_is_printed():
    experiment = EXPERIMENTS["colocalisation"]
    records = [
        {"network": n, "parameters": 1, "measures": {"found": 50.0, "iou": 0.5}, "loss": 0.5}
        for n in experiment.networks
    ]
    rows = report.cells(report.summary(experiment, "quick", records, {}, {}))[1]
    assert [row[4] for row in rows] == ["100", "75 to 93"]


def test_every_row_is_described():
    for name, experiment in EXPERIMENTS.items():
        assert name == experiment.name
        assert {"quick", "paper"} == set(experiment.presets)
        assert all((experiment.paper, experiment.about, experiment.data, experiment.networks, experiment.measures))
        assert set(experiment.published) <= set(experiment.networks)
        means = {n: dict.fromkeys(experiment.measures, 1.0) for n in experiment.networks}
        assert all(isinstance(bool(claim.holds(means)), bool) for claim in experiment.claims)
