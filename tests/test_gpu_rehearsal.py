"""`make gpu` walks to its end without a GPU, whatever its parts do; the whole walk is `make gpu-rehearsal`."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from benchmarks import report
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import goals, profile, table
from benchmarks.gpu.cases import SUITES, gpu_cases
from benchmarks.gpu.parts import PARTS, Part
from stn_kernels.op_cases import OP_CASES

from .simt import build as simt

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_a_part_of_the_rehearsal(tmp_path, one_thread_environment):
    simt.build()  # not in the time of a part
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearsal", "--ops", "affine_grid", "--jobs", "1"]
    command += ["--parts", "machine,build,copy,measure,sanitize,profile", "--results", str(tmp_path)]
    environment = {**one_thread_environment, "OUT": str(tmp_path / "out")}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for backend in ("simt", "triton"):
        assert f"| affine_grid forward+backward {backend} |" in done.stdout
    found = json.loads((tmp_path / "rehearsal" / "gpu.json").read_text())
    assert [p["status"] for p in found["parts"]] == ["ok"] * 6
    assert found["copy"]["bandwidth"] > 0
    assert {r["exit"] for r in found["sanitize"]} == {0}
    rows = report.read_csv(tmp_path / "rehearsal" / "gpu.csv")
    ours = [r for r in rows if r["provider"].startswith("stn_kernels")]
    assert ours
    assert all(r["device_median_ms"] > 0 and r["median_ms"] > 0 and r["share"] > 0 and r["bytes"] > 0 for r in ours)
    assert all(not r["reason"] for r in ours)
    assert len(list((tmp_path / "out").rglob("*.*"))) <= 8  # what a lent machine gives back


def run_part(tmp_path, code: str, seconds: float) -> dict:
    part = Part("p", 10, 1, lambda run, seconds: [])
    return gpu.execute(part, [sys.executable, "-c", code], seconds, dict(os.environ), tmp_path / "log")


def test_a_failing_part_is_a_line(tmp_path):
    outcome = run_part(tmp_path, "print('half done'); raise SystemExit(3)", 20)
    assert (outcome["status"], outcome["last line"]) == ("exit status 3", "half done")


def test_a_part_that_overruns_ends_with_all_it_started(tmp_path):
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(4); open({str(mark)!r}, 'w')"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    start = time.monotonic()
    outcome = run_part(tmp_path, code, 2)
    assert outcome["status"] == "out of time after 2 s"
    time.sleep(max(0.0, 5 - (time.monotonic() - start)))
    assert not mark.exists()


def test_budgets_fit():
    assert sum(part.least for part in PARTS) + gpu.END <= 560
    assert all(part.least <= part.most for part in PARTS)


def test_every_operator_is_measured_the_important_suites_first():
    cases = gpu_cases()
    assert {case.op for case in cases} >= {"affine_sample", "grid_sample", "affine_grid"}
    assert {case.op for case in cases} <= set(OP_CASES)
    order = [SUITES.index(case.suite) for case in cases]
    assert order == sorted(order)
    assert {case.op for case in gpu_cases(tiny=True)} == {case.op for case in cases}


NCU = """\
==PROF== Connected to process 12
"ID","Process ID","Kernel Name","gpu__time_duration.sum","dram__bytes.sum"
"","","","ns","byte"
"0","12","warp_forward_kernel","1234","5678"
"""


def test_ncu_is_understood():
    (row,) = profile.parse(NCU, "cuda")
    assert (row["kernel"], row["ns"], row["DRAM bytes"], row["backend"]) == (
        "warp_forward_kernel",
        "1234",
        "5678",
        "cuda",
    )
    assert profile.parse("==ERROR== no permission", "cuda") == []


def row(provider, device_ms, **fields):
    return {
        "op": "affine_sample", "case": "c", "suite": "large", "pass": "forward", "dtype": "float32", "channels": 64,
        "layout": "channels_last", "device_type": "cuda", "provider": provider, "reason": None, "error_value": 1e-7,
        "median_ms": 2 * device_ms, "device_median_ms": device_ms, "bytes": 8e6, "share": 0.9, **fields,
    }  # fmt: skip


def test_the_table_has_ratios_to_every_peer():
    peer = row("kornia", 1.0, device_median_ms=None, reason="value off by 1")
    graphless = row("libcpab", 6.0, device_median_ms=None, reason=f"{table.NO_GRAPH}: it copies")
    head, _, line = table.lines([row("torch eager", 3.0), peer, graphless, row("stn_kernels cuda", 1.5)])
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "affine_sample forward cuda",
        "c",
        "yes (1e-07)",
        "1.5e+03",
        "",
        "3e+03",
        "8",
        "90 %",
        "2",
        "refused",
        "4 (calls)",
    ]
    assert "x torch eager | x kornia | x libcpab" in head


def test_goals_are_measured_missed_or_not_yet_measured():
    rows = [row("torch eager", 3.0, suite="papers"), row("stn_kernels cuda", 1.5, suite="papers")]
    rows += [row("stn_kernels cuda", 1.0), row("stn_kernels cuda", 1.0, share=0.8, case="d")]
    rows += [row("stn_kernels cuda", 1.0, **{"pass": "input gradient"}, device_ratio=6.0)]
    lines = dict(
        zip((g.name for g in goals.GOALS), goals.table(rows, {"identity": {"cuda": 1e-5}}, ["cuda"])[2:], strict=True)
    )
    found = [line.split("|")[2:4] for line in lines.values()]
    assert [tuple(cell.strip() for cell in cells) for cells in found] == [
        ("0.8", "missed"),
        ("", goals.NOT_YET),
        ("2", "missed"),
        ("", goals.NOT_YET),
        ("2", "reached"),
        ("6", "reached"),
        ("1e-05", "reached"),
    ]
    assert all(goals.NOT_YET in line for line in goals.table([], {}, ["cuda", "triton"])[2:])


@pytest.mark.parametrize("target", ["gpu", "gpu-rehearsal"])
def test_make_starts_it(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-m benchmarks.gpu" in done.stdout
