"""The runner of .cu files on the CPU finds the mistakes it is there to find, and only those."""

import functools
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from .simt import build

FAULTS = {
    "none": 0,
    "early return": 1,
    "divergent barrier": 2,
    "missing lane": 3,
    "lane outside mask": 4,
    "barrier meets shuffle": 5,
    "uninitialised shared": 6,
    "missing __syncthreads": 7,
    "missing __syncwarp": 8,
    "non-atomic sum": 9,
    "global out of bounds": 10,
    "dynamic shared out of bounds": 11,
    "static shared out of bounds": 12,
}
SEEDS = (0, 1, 2)


@functools.cache
def planted():
    torch.ops.load_library(str(build.build("race", "planted")))
    return torch.ops.stn_planted


def run(fault: str, threads: int = 64, blocks: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """(input, output) of the planted kernel; without a fault out[i] = in[i] + in[63 - i]."""
    x = torch.arange(65.0)
    return x, planted().planted(x, FAULTS[fault], threads, blocks)


def correct(x: torch.Tensor, out: torch.Tensor) -> bool:
    return torch.equal(out[:64], (x[:64] + x[:64].flip(0)))


PROGRAM = """
import os, sys, torch
torch.ops.load_library(sys.argv[1])
for run in sys.argv[2:]:
    fault, seed, blocks = map(int, run.split())
    os.environ["SIMT_SEED"] = str(seed)
    try:
        torch.ops.stn_planted.planted(torch.arange(65.0 if fault == 9 else 64.0), fault, 64, blocks)
        print("no fault")
    except RuntimeError as error:
        print(str(error).splitlines()[0])
"""


def run_elsewhere(variant: str, *runs: tuple[str, int, int]) -> subprocess.CompletedProcess:
    """The planted kernel on a sanitizer's build, which may end its process; a line each (fault, seed, blocks)."""
    listed = [f"{FAULTS[fault]} {seed} {blocks}" for fault, seed, blocks in runs]
    command = [sys.executable, "-c", PROGRAM, str(build.build(variant, "planted")), *listed]
    environment = {**os.environ, **build.sanitizer_environment(variant)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_correct_kernel_is_correct(seed, monkeypatch):
    monkeypatch.setenv("SIMT_SEED", str(seed))
    assert correct(*run("none"))


@pytest.mark.parametrize("seed", SEEDS)
def test_words(seed, monkeypatch):
    monkeypatch.setenv("SIMT_SEED", str(seed))
    out = planted().words(torch.zeros(50))
    lane = torch.arange(48) % 32
    value = (torch.arange(48) - (lane % 8 > 0).int()) + 100 * (torch.arange(48) // 8 * 8 + 3) + 0.5
    swapped = value.view(-1, 2).flip(1).flatten()
    expected = torch.where(lane < 16, value + swapped, value) + 15
    torch.testing.assert_close(out[:48], expected, rtol=0, atol=0)
    assert out[48:].tolist() == [48.0, 47.0]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("early return", "returned before the __syncthreads"),
        ("divergent barrier", "divergent __syncthreads|returned before"),
        ("missing lane", "deadlock: __shfl_xor_sync"),
        ("lane outside mask", "not in its own mask"),
        ("barrier meets shuffle", "deadlock: __syncwarp"),
    ],
)
def test_synchronisation_faults_are_errors(fault, message, seed, monkeypatch):
    monkeypatch.setenv("SIMT_SEED", str(seed))
    with pytest.raises(RuntimeError, match=message):
        run(fault)
    assert correct(*run("none"))  # an error leaves the runner usable


def test_uninitialised_shared_memory_is_nan():
    _, out = run("uninitialised shared")
    assert out[:64].isnan().all()


@pytest.mark.parametrize("fault", ["missing __syncthreads", "missing __syncwarp"])
def test_missing_barriers_show_in_results(fault, monkeypatch):
    results = []
    for seed in SEEDS:
        monkeypatch.setenv("SIMT_SEED", str(seed))
        results.append(run(fault)[1][:64])
    assert (
        any(
            not torch.equal(
                results[0],
                r,
            )
            for r in results[1:]
        )
        or results[0].isnan().any()
    )


@pytest.mark.parametrize(("threads", "blocks"), [(2048, 1), (0, 1), (32, 0)])
def test_bad_launch_configuration_is_an_error(threads, blocks):
    with pytest.raises(RuntimeError, match="invalid launch configuration"):
        run("none", threads, blocks)


def test_race_build_finds_races():
    within = "missing __syncthreads", "missing __syncwarp", "non-atomic sum"
    done = run_elsewhere("race", *((fault, 0, 1) for fault in within), ("none", 0, 2))  # in, and between, blocks
    found = [re.search(r"data race on (\w+) memory|$", line)[1] for line in done.stdout.splitlines()]
    assert found == ["shared", "shared", "global", "global"], done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("fault", ["global", "dynamic shared", "static shared"])
def test_asan_build_finds_accesses_out_of_bounds(fault):
    done = run_elsewhere("asan", (f"{fault} out of bounds", 0, 1))
    assert done.returncode != 0
    trapped = fault == "static shared" and done.returncode == -signal.SIGILL  # the length is known to the compiler
    assert "AddressSanitizer" in done.stderr or trapped


@pytest.mark.parametrize("variant", ["race", "asan"])
def test_sanitizers_accept_the_correct_kernel(variant):
    done = run_elsewhere(variant, *(("none", seed, 1) for seed in SEEDS))
    assert done.stdout.splitlines() == ["no fault"] * len(SEEDS), done.stderr[-2000:]
