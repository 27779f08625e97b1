"""The harness: wrong kernels get no ratio, ratios are paired, memory is counted, results survive the way to disk."""

import functools
import re

import pytest
import torch

from benchmarks import cases, harness, providers, readme, report
from stn_kernels.op_cases import OP_CASES

SMALL = cases.Case("affine_sample", "small", "papers", (2, 3, 12, 14))
TWICE = cases.Case("grid_sample", "small second", "second", (2, 3, 12, 14))
FAST = harness.Budget(seconds=0.01, rounds=3, most_rounds=3)


def wrong(case):
    right = providers.eager(case)
    return lambda **tensors: right(**tensors) * 1.01


def raising(case):
    def fail(**tensors):
        raise NotImplementedError("no such size")

    return fail


def wrong_second(case):
    """Its value and first gradients are right: the square is 0, and so is its derivative."""
    right = providers.eager(case)
    return lambda input, grid: right(input, grid) + (grid - grid.detach()).square().sum()


class Once(torch.autograd.Function):
    """The identity, which refuses a second derivative."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad.clone()


@pytest.fixture(scope="module")
def twice():
    contenders = [
        providers.Provider(providers.EAGER, providers.eager),
        providers.Provider("wrong", wrong_second),
        providers.Provider("once", lambda case: lambda **tensors: Once.apply(providers.eager(case)(**tensors))),
        providers.Provider("never", providers.eager, differentiable=False),
        *providers.providers(["reference"])[1:],
    ]
    return harness.Measurement(TWICE, contenders, "cpu").rows(1, FAST)


@pytest.fixture(scope="module")
def rows():
    contenders = [
        providers.Provider(providers.EAGER, providers.eager),
        providers.Provider("wrong", wrong),
        providers.Provider("raising", raising),
        providers.ours("reference"),
    ]
    return harness.Measurement(SMALL, contenders, "cpu").rows(1, FAST)


def test_a_wrong_kernel_gets_no_ratio(rows):
    refused = [r for r in rows if r["provider"] == "wrong"]
    assert len(refused) == len(SMALL.passes)
    for row in refused:
        assert "value off by" in row["reason"]
        assert row["median_ms"] > 0
        assert "ratio" not in row


def test_a_raising_provider_is_a_row_with_its_reason(rows):
    assert {r["reason"] for r in rows if r["provider"] == "raising"} == {"raised NotImplementedError: no such size"}


def test_right_kernels_get_numbers(rows):
    for row in rows:
        if row["provider"] in (providers.EAGER, "stn_kernels reference"):
            assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
            assert row["rounds"] == 3
            assert row["error_value"] < 1e-5
    assert all(r["ratio"] == 1 for r in rows if r["provider"] == providers.EAGER)


RIGHT = (providers.EAGER, "torch eager, composed", "stn_kernels reference")


def test_second_backward_is_gated_and_timed_alone(twice):
    assert {r["pass"] for r in twice} == {cases.SECOND}
    by = {r["provider"]: r for r in twice}
    assert set(by) == {*RIGHT, "wrong", "once"}
    for name in RIGHT:
        row = by[name]
        assert row["reason"] == ""
        assert row["ratio"] > 0
        assert row["peak_mib"] > 0
        assert all(row[f"error_second_{k}"] < 1e-5 for k in ("grad_output", "input", "grid"))
    assert re.fullmatch(r"second_grid off by \S+ \(allowed \S+\)", by["wrong"]["reason"])
    assert by["wrong"]["median_ms"] > 0
    assert "ratio" not in by["wrong"]
    assert by["once"]["reason"].startswith("raised ")
    assert "median_ms" not in by["once"]


PEERS = (
    "torch eager",
    "torch eager, S copies",
    "torch eager, composed",
    "kornia",
    "libcpab",
    "difw",
    "stn_kernels reference",
)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize(
    "case",
    [
        SMALL,
        cases.Case("affine_sample", "matrix", "matrices", (2, 1, 12, 14), (9, 8), theta=cases.rotation(30)),
        cases.Case("affine_sample", "samples", "samples", (2, 2, 9, 8), samples=3),
        cases.Case("affine_sample", "linearized", "linearized", (2, 3, 12, 14), (9, 8), linearized=8),
        cases.Case("affine_sample", "bfloat16", "dtype", (2, 3, 9, 8), dtype=torch.bfloat16),
        cases.Case("grid_sample", "small", "papers", (2, 3, 12, 14)),
        cases.Case("grid_sample", "samples", "samples", (2, 2, 9, 8), samples=3),
        TWICE,
        cases.Case("affine_grid", "small", "papers", (2, 3, 12, 14)),
        cases.Case("homography_sample", "small", "papers", (2, 3, 12, 14), (9, 8)),
        cases.Case("homography_grid", "small", "papers", (2, 3, 12, 14)),
        cases.Case("tps_sample", "small", "papers", (2, 3, 12, 14)),
        cases.Case("tps_grid", "small", "papers", (2, 3, 12, 14)),
        cases.Case("cpab_transform", "small", "cpab", (2, 1, 6, 7), cells=(2, 2)),
        cases.Case("cpab_sample", "small", "cpab", (2, 3, 20), cells=(3,)),
        cases.Case("cpab_sample", "small", "cpab", (1, 1, 3, 4, 5), cells=(1, 2, 1)),
        cases.Case("cpab_jacobian", "small", "cpab", (2, 1, 9), cells=(3,)),
    ],
    ids=lambda case: f"{case.op} {case.name}",
)
def test_providers_pass_the_gate(case, name):
    provider = {p.name: p for p in providers.providers(["reference"], compile_wanted=False)}[name]
    inputs = case.inputs()
    contender = harness.contend(case, provider, inputs, harness.truth_of(case, inputs))
    assert contender is None or contender.status == ""


def test_every_paper_shape_and_op_is_measured():
    names = {(c.op, c.shape) for c in cases.all_cases() if c.suite == "papers"}
    assert names >= {(op, shape) for op in OP_CASES if not op.startswith("cpab") for shape in cases.PAPERS}
    assert {(c.op, len(c.cells)) for c in cases.cpab_cases()} == {
        (op, n) for op in OP_CASES if op.startswith("cpab") for n in (1, 2, 3)
    }
    assert {c.op for c in cases.all_cases(quick=True)} == set(OP_CASES)


def test_passes():
    assert {c.passes for c in cases.all_cases() if c.suite == "second"} == {(cases.SECOND,)}
    for case in cases.all_cases():
        if case.suite != "second":
            assert case.passes == (cases.FIRST if OP_CASES[case.op].quantities else (cases.FORWARD,))
    assert [c.shape for c in cases.all_cases(quick=True) if cases.SECOND in c.passes] == [(64, 1, 28, 28)]


def test_peak_memory_counts_what_is_held_at_once():
    def call():
        a = torch.empty(1000, 1000)  # 4 MB
        b = torch.empty(500, 1000)  # 2 MB, held together
        del a, b
        return torch.empty(1000, 500)  # 2 MB

    assert harness.peak_bytes(call, "cpu") == 6_000_000


def test_interleaving_runs_every_provider_in_every_round():
    order = []
    calls = {name: functools.partial(order.append, name) for name in "ab"}
    times = harness.interleave(calls, FAST, "cpu")
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_quantiles():
    assert harness.quantiles([float(i) for i in range(11)]) == (1.0, 5.0, 9.0)
    assert harness.quantiles([2.0]) == (2.0, 2.0, 2.0)


def test_results_reach_the_disk_and_the_readme(rows, twice, tmp_path):
    where, rows = report.conditions("cpu"), rows + twice
    paths = report.write([row | where for row in rows], tmp_path, quick=False)
    assert [p.name for p in paths] == ["results.csv", "results.png"]
    read = report.read_csv(paths[0])
    assert len(read) == len(rows)
    for key in report.CONDITIONS:
        assert all(row[key] == read[0][key] for row in read)
    assert read[0]["median_ms"] == rows[0]["median_ms"]
    text = readme.generated(tmp_path)
    assert re.search(r"\| small \| wrong \| \S+ ms, wrong \| \S+ ms, wrong \|", text)
    assert "| small | raising | refused | refused |" in text
    assert "Wrong by the correctness gate: wrong on affine_sample small (value off by" in text
    assert text.count("| `affine_sample` | provider | forward, 1 thread | forward+backward, 1 thread |") == 1
    assert text.count("| `grid_sample` | provider | second backward, 1 thread | peak MiB | error |") == 1
    assert re.search(r"\| grid_sample \| second \| 1 \| \S+ \(worst \S+\) \|\n", text)
    assert re.search(r"\| small second \| stn_kernels reference \| \S+ \| \S+ \| \S+e-\d+ \|", text)
    assert {g["pass"] for g in report.summary(rows)} == {*cases.FIRST, cases.SECOND}
    assert "Not measured yet: the CUDA and Triton kernels" in text


def test_losses_are_shown():
    row = {"op": "o", "case": "c", "pass": "forward", "threads": 1, "ratio": 0.5, "provider": "stn_kernels cpu"}
    assert readme.losses([row]) == ["Slower than torch eager in 1 of 1 measurements: o c forward 1t 0.50."]
