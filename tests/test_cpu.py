"""The native CPU library as a whole: threads, instruction sets, memory."""

import math
import os
import pathlib
import subprocess
import sys

import pytest
import torch

import stn_kernels
from stn_kernels import _build, _library, verify
from stn_kernels.op_cases import OP_CASES, SAMPLERS, Sample

ROOT = pathlib.Path(__file__).resolve().parents[1]
LARGE = {"channels": 6, "size": (150, 140), "out_size": (160, 170), "batch": 3}


@pytest.fixture(autouse=True)
def _needs_the_library(request):
    if _library.backends()["cpu"]:
        pytest.skip(f"the CPU library is not here: {_library.backends()['cpu']}")
    request.node.user_properties.append(("backend", "cpu"))


def results(case, sample):
    return verify.evaluate(case, case.draw(sample), "cpu", "contiguous").values()


def with_one_and_two_threads(f):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = f()
        torch.set_num_threads(2)
        return alone, f()
    finally:
        torch.set_num_threads(before)


def by_one_and_two_threads(case, sample):
    return with_one_and_two_threads(lambda: results(case, sample))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OP_CASES)
def test_threads_give_equal_bits(name, dtype, layout):
    samples = 3 if (dtype == torch.float32) == (layout == "channels_last") else None
    sample = Sample(dtype=dtype, layout=layout, samples=samples, padding_mode="border", **LARGE)
    assert all(map(torch.equal, *by_one_and_two_threads(OP_CASES[name], sample)))


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("name", ["affine_sample", "grid_sample"])
@pytest.mark.parametrize(("mode", "n"), SAMPLERS)
def test_threads_give_equal_bits_in_every_sampler(mode, n, name, padding):
    """One image of one channel, so that the threads share its gradient."""
    size = {1: ((900,), (40000,)), 2: ((90, 80), (200, 170)), 3: ((20, 24, 18), (33, 35, 30))}[n]
    sample = Sample(mode=mode, size=size[0], out_size=size[1], padding_mode=padding, batch=1, channels=1)
    assert all(map(torch.equal, *by_one_and_two_threads(OP_CASES[name], sample)))


WALKS = {  # batch, channels, input and output sizes that change the order in which the kernels walk
    "rows of 4 KB": (2, 3, (9, 1024), (70, 150)),
    "many rows crossed": (2, 8, (700, 90), (40, 130)),
    "blocks of channels": (2, 70, (12, 13), (60, 70)),
    "one image": (1, 3, (40, 50), (37, 130)),
    "one large image": (1, 3, (300, 280), (290, 310)),
    "bands of an image": (1, 2, (1030, 1030), (540, 545)),
}


@pytest.mark.parametrize("padding", ["zeros", "reflection"])
@pytest.mark.parametrize("name", ["affine_sample", "grid_sample", "homography_sample", "tps_sample"])
@pytest.mark.parametrize("walk", WALKS)
def test_walks(walk, name, padding):
    batch, channels, size, out_size = WALKS[walk]
    case = OP_CASES[name]
    sample = Sample(batch=batch, channels=channels, size=size, out_size=out_size, padding_mode=padding)
    wanted = verify.expected(case, case.draw(sample), "contiguous").items()
    alone, together = by_one_and_two_threads(case, sample)
    for mine, others, (key, value) in zip(alone, together, wanted, strict=True):
        assert torch.equal(mine, others)
        error = (mine.double() - value).norm() / value.norm()
        assert error < 2e-5, (key, error)


def is_right_by_any_threads(name, shapes, dtype, padding, layout="contiguous"):
    """shapes: batch, samples, channels, input and output sizes."""
    batch, samples, channels, size, out_size = shapes
    case = OP_CASES[name]
    sample = Sample(
        batch=batch,
        samples=samples,
        channels=channels,
        size=size,
        out_size=out_size,
        padding_mode=padding,
        dtype=dtype,
        layout=layout,
    )
    wanted = verify.expected(case, case.draw(sample), "contiguous").values()
    assert_right(*by_one_and_two_threads(case, sample), wanted)


def assert_right(alone, together, wanted):
    for mine, others, right in zip(alone, together, wanted, strict=True):
        assert torch.equal(mine, others)
        error = (mine.double() - right).norm() / right.norm().clamp(min=1e-30)
        assert error < (2**-8 if mine.dtype == torch.bfloat16 else 5e-6), error


BLOCKS = {  # batch, samples, channels, input and output sizes: many channels, of which a vector has some of a pixel's
    "part of a block": (2, None, 29, (9, 11), (13, 7)),
    "one vector of pixels": (3, None, 16, (4, 4), (1, 16)),
    "too few pixels": (3, None, 16, (3, 5), (4, 4)),
    "samples at once": (2, 5, 16, (28, 28), (29, 27)),
    "samples in turn": (1, 3, 16, (60, 50), (70, 65)),
    "larger than the cache": (1, None, 16, (150, 130), (140, 160)),
}


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("name", ["affine_sample", "grid_sample", "homography_sample", "tps_sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_blocks_of_channels(blocks, dtype, name, padding):
    is_right_by_any_threads(name, BLOCKS[blocks], dtype, padding)


VOLUMES = {  # batch, samples, channels, input and output sizes; most points are near an edge
    "one channel": (2, 2, 1, (5, 9, 14), (6, 7, 37)),
    "one image of one channel": (1, None, 1, (8, 7, 30), (9, 11, 40)),
    "two channels": (1, None, 2, (12, 9, 33), (14, 17, 21)),
    "three channels": (3, 2, 3, (3, 5, 4), (7, 6, 5)),
    "four channels": (2, None, 4, (9, 8, 20), (11, 10, 70)),
    "four and one": (1, 2, 5, (6, 8, 11), (9, 10, 13)),
    "few points of many": (1, None, 3, (20, 24, 26), (6, 7, 5)),
    "nine channels": (2, 2, 9, (5, 9, 14), (6, 7, 37)),
    "two blocks of channels": (2, 2, 16, (5, 9, 14), (6, 7, 37)),
}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "rows"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("name", ["affine_sample", "grid_sample", "tps_sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("volume", VOLUMES)
def test_volumes(volume, dtype, name, padding, layout):
    is_right_by_any_threads(name, VOLUMES[volume], dtype, padding, layout)


def turned(about, degrees):
    """A rotation about one axis of three."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.eye(3)
    (i, j) = (k for k in range(3) if k != about)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def smooth_volumes(batch, channels, size):
    """Zero at the faces, their derivatives hardly jump anywhere, on whose one or other side a point may be rounded."""
    axes = [torch.linspace(-1, 1, extent) for extent in size]
    z, y, x = ((1 - at**2) * (1 + at * (torch.rand(batch, channels, 1) - 0.5)) for at in axes)
    return torch.einsum("bcz,bcy,bcx->bczyx", z, y, x)


BOXES = {  # matrix and translation, to which a little is added
    "near": (torch.eye(3), (0, 0, 0)),
    "turned": (turned(0, 45) @ turned(2, 90) @ turned(1, 30), (0.1, 0, 0)),
    "enlarged": (torch.eye(3) / 4, (0.3, -0.5, 0.7)),
    "shrunk": (3 * torch.eye(3), (0, 0.1, 0)),
    "flipped": (-torch.eye(3), (0, 0, 0)),
    "aside": (torch.eye(3), (1.5, 0, -1)),
    "far away": (torch.eye(3), (0, 1e4, 0)),
    "one plane": (torch.diag(torch.tensor([1.0, 1.0, 0.0])), (0, 0, 0.2)),
}
BOXED = {  # batch, samples, channels, input and output sizes: as a whole too large to be held, or by threads
    "one channel": (1, 1, 1, (65, 67, 70), (64, 66, 69)),
    "samples": (2, 2, 2, (65, 67, 70), (40, 30, 69)),
    "blocks of channels": (1, 1, 5, (30, 100, 100), (70, 21, 90)),
    "by threads": (1, 1, 1, (20, 30, 40), (40, 41, 45)),
    "narrow": (1, 1, 3, (240, 60, 20), (200, 50, 19)),
}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("boxed", BOXED)
@pytest.mark.parametrize("boxes", BOXES)
def test_boxes_of_volumes(boxes, boxed, padding, dtype, layout):
    """Against torch in float64, and with bits that do not depend on the threads."""
    batch, samples, channels, size, out_size = BOXED[boxed]
    matrix, translation = BOXES[boxes]
    theta = torch.cat([matrix, torch.tensor(translation)[:, None]], 1).expand(batch, samples, 3, 4)
    theta = theta + 0.02 * torch.randn(theta.shape) * (boxes != "one plane")
    image = smooth_volumes(batch, channels, size).to(dtype)
    grad = torch.rand(batch, samples, channels, *out_size).to(dtype)
    if layout == "channels_last":
        image = image.to(memory_format=torch.channels_last_3d)

    def results():
        leaves = image.detach().requires_grad_(), theta.detach().requires_grad_()
        output = stn_kernels.affine_sample(*leaves, out_size, padding_mode=padding, backend="cpu")
        return output, *torch.autograd.grad(output, leaves, grad)

    wide, wide_theta = image.double().requires_grad_(), theta.double().requires_grad_()
    each = [
        torch.nn.functional.grid_sample(
            wide,
            torch.nn.functional.affine_grid(wide_theta[:, s], (batch, channels, *out_size), align_corners=False),
            padding_mode=padding,
            align_corners=False,
        )
        for s in range(samples)
    ]
    output = torch.stack(each, 1)
    assert_right(
        *with_one_and_two_threads(results), (output, *torch.autograd.grad(output, (wide, wide_theta), grad.double()))
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, 0.0])
@pytest.mark.parametrize("entry", [(0, 0), (1, 3), (2, 1)])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_boxes_of_hostile_thetas(padding, entry, value):
    """As on the reference, beside an item that is not hostile."""
    theta = torch.eye(3, 4) + 0.02 * torch.randn(2, 3, 4)
    theta[0][entry] = value
    image, grad, results = smooth_volumes(2, 1, (66, 66, 66)), torch.rand(2, 1, 40, 40, 50), []
    for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64)):
        leaves = image.to(dtype).requires_grad_(), theta.to(dtype).requires_grad_()
        output = stn_kernels.affine_sample(*leaves, grad.shape[2:], padding_mode=padding, backend=backend)
        results.append((output, *torch.autograd.grad(output, leaves, grad.to(dtype))))
    for mine, right in zip(*results, strict=True):
        most = right.detach().nan_to_num(0, 0, 0).abs().max().item()
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=1e-5 * most, equal_nan=True)


SWEPT = {  # batch, samples, channels, input and output sizes: both gradients at once, tile by tile
    "one channel": (5, None, 1, (28, 28), (28, 28)),
    "threads share an image": (1, None, 1, (40, 33), (70, 66)),
    "samples": (3, 3, 2, (19, 23), (13, 18)),
    "one image, many samples": (1, 40, 1, (12, 9), (10, 11)),
    "several strips": (2, None, 3, (50, 60), (37, 141)),
    "groups of images": (41, None, 4, (30, 31), (9, 7)),
    "functions placed by each group": (5, None, 2, (40, 50), (70, 150)),
    "least": (2, None, 1, (8, 8), (4, 4)),
}


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["homography_sample", "tps_sample"])
@pytest.mark.parametrize("swept", SWEPT)
def test_both_gradients_of_tiles(swept, name, dtype, padding):
    is_right_by_any_threads(name, SWEPT[swept], dtype, padding)


def spline_gradients(image, points, grad, padding, backend):
    leaves = image.detach().requires_grad_(), points.detach().requires_grad_()
    output = stn_kernels.tps_sample(*leaves, grad.shape[2:], padding_mode=padding, backend=backend)
    both = torch.autograd.grad(output, leaves, grad, retain_graph=True)
    return *both, *(torch.autograd.grad(output, leaf, grad, retain_graph=True)[0] for leaf in leaves)


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("placed", BOXES)
def test_splines_anywhere(placed, channels, padding):
    """Both gradients, and each alone: enlarged so that points meet in a pixel, or far apart, or outside."""
    matrix, translation = BOXES[placed]
    control = stn_kernels.ops._tps_system.default_control_points()
    points = control @ matrix[:2, :2].T.double() + torch.tensor(translation)[:2]
    points = points + 0.01 * torch.randn(3, 16, 2).double() * (placed != "one plane")
    image, grad = smooth_volumes(3, channels, (3, 40, 37))[:, :, 1].double(), torch.rand(3, channels, 33, 50).double()
    narrow = image.float(), points.float().double(), grad.float()
    right = spline_gradients(*(t.double() for t in narrow), padding, "reference")
    alone, together = with_one_and_two_threads(lambda: spline_gradients(*narrow, padding, "cpu"))
    for mine, others, wanted in zip(alone, together, right, strict=True):
        assert torch.equal(mine, others)
        assert (mine.double() - wanted).norm() <= 2e-5 * wanted.norm().clamp(min=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_gradients_at_hostile_points(padding, value):
    """As on the reference, beside an item that is not hostile."""
    control = stn_kernels.ops._tps_system.default_control_points()
    points = control.expand(2, 16, 2) + 0.01 * torch.randn(2, 16, 2).double()
    points[0, 3, 1] = value
    image, grad = smooth_volumes(2, 2, (3, 20, 21))[:, :, 1], torch.rand(2, 2, 17, 18)
    results = [
        spline_gradients(image.to(dtype), points, grad.to(dtype), padding, backend)
        for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64))
    ]
    for mine, right in zip(*results, strict=True):
        most = right.nan_to_num(0, 0, 0).abs().max().item()
        torch.testing.assert_close(mine.double(), right, rtol=1e-5, atol=1e-5 * most, equal_nan=True)


SIGNALS = {  # the same
    "one channel": (3, 2, 1, (40,), (70,)),
    "two channels": (1, None, 2, (5,), (13,)),
    "four channels": (2, 3, 4, (100,), (130,)),
    "blocks of channels": (2, None, 9, (33,), (64,)),
    "two samples": (2, None, 3, (2,), (7,)),
    "one long signal": (1, None, 6, (3000,), (2900,)),
}


@pytest.mark.parametrize("layout", ["contiguous", "rows"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("name", ["affine_sample", "grid_sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("signal", SIGNALS)
def test_signals(signal, dtype, name, padding, layout):
    is_right_by_any_threads(name, SIGNALS[signal], dtype, padding, layout)


@pytest.mark.parametrize("spread", [1.2, 6.0, 300.0])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_many_reflections(mode, align, spread):
    """Float32 coordinates far outside, reflected as exactly as in float64."""
    leaves = torch.randn(2, 3, 13, 17), (2 * torch.rand(2, 20, 21, 2) - 1) * spread
    results = []
    for backend, dtype in (("cpu", torch.float32), ("reference", torch.float64)):
        image, grid = (t.to(dtype).requires_grad_() for t in leaves)
        output = stn_kernels.grid_sample(image, grid, mode, "reflection", align, backend=backend)
        results.append((output, *torch.autograd.grad(output.sin().sum(), (image, grid))))
    for mine, right in zip(*results, strict=True):
        assert (mine.double() - right).norm() <= 1e-6 * right.norm()


SECONDS = {  # batch, samples, channels, input and output sizes
    "one channel": (2, None, 1, (28, 28), (28, 28)),
    "one image of one channel": (1, None, 1, (40, 50), (37, 90)),
    "three channels": (3, 2, 3, (17, 9), (20, 19)),
    "one image of four channels": (1, 2, 4, (30, 21), (33, 31)),
    "blocks of channels": (2, 2, 11, (17, 9), (20, 19)),
    "one image of two blocks": (1, None, 8, (30, 21), (33, 31)),
    "few points of many": (2, None, 3, (40, 40), (6, 7)),
    "one row": (2, None, 2, (1, 9), (3, 50)),
    "one column": (2, None, 2, (9, 1), (50, 3)),
    "a few points": (3, None, 5, (2, 2), (1, 3)),
    "larger than the first cache": (1, None, 3, (150, 140), (160, 170)),
    "a signal": (2, 2, 3, (40,), (70,)),
    "a volume": (2, None, 3, (5, 9, 14), (6, 7, 37)),
}


@pytest.mark.parametrize("coords", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("second", SECONDS)
def test_second_backward(second, dtype, padding, coords):
    """With both cotangents or either, and for all gradients or each alone."""
    batch, samples, channels, size, out_size = SECONDS[second]
    sample = Sample(
        batch=batch, samples=samples, channels=channels, size=size, out_size=out_size, dtype=dtype, coords_dtype=coords
    )
    image, grid = OP_CASES["grid_sample"].draw(sample).tensors.values()
    lead = (batch,) if samples is None else (batch, samples)
    grad = torch.randn(*lead, channels, *out_size).to(dtype)
    cotangents = torch.randn_like(image), torch.randn_like(grid)
    options = 0, _library.PADDING_NAMES.index(padding), False
    for present in ((True, True), (True, False), (False, True)):
        given = [t if there else t.new_empty(0) for t, there in zip(cotangents, present, strict=True)]
        tensors = *given, grad, image, grid
        wide = (t.double() for t in tensors)
        reference = torch.ops.stn_kernels_reference._grid_sample_double_backward
        wanted = reference(*wide, *options, True, True, True, False)

        def gradients(*needs, tensors=tensors):
            return torch.ops.stn_kernels._grid_sample_double_backward(*tensors, *options, *needs, False)

        alone, together = with_one_and_two_threads(lambda: gradients(True, True, True))
        assert_right(alone, together, wanted)
        for i in range(3):
            one = gradients(*(i == k for k in range(3)))
            assert torch.equal(one[i], alone[i])
            assert all(one[k].numel() == 0 for k in range(3) if k != i)


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_second_backward_of_points_nowhere(channels):
    """With zeros around, NaN and infinite coordinates, and those far outside, read no pixel, not even infinite ones."""
    image = torch.full((1, channels, 9, 20), torch.inf)
    beyond = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e38, -1e38, 3.0, -3.0, torch.nan])
    grid = torch.stack([beyond, beyond.flip(0)], -1).expand(1, 12, 8, 2).contiguous()
    grad, cotangents = torch.randn(1, channels, 12, 8), (image.clone(), torch.randn_like(grid))
    results = torch.ops.stn_kernels._grid_sample_double_backward(
        *cotangents, grad, image, grid, 0, 0, False, True, True, True, False
    )
    assert all(torch.equal(t, torch.zeros_like(t)) for t in results)


LEVEL = """
import json, sys, torch
from stn_kernels import verify
torch.set_num_threads(1)
ops = [] if torch.ops.stn_kernels._cpu_level() == {own} else None
if ops is None:
    from tests import test_cpu
    for walk in test_cpu.WALKS:
        for padding in ("zeros", "reflection"):
            test_cpu.test_walks(walk, "affine_sample", padding)
    for blocks in test_cpu.BLOCKS:
        for name in ("affine_sample", "grid_sample"):
            test_cpu.test_blocks_of_channels(blocks, torch.float32, name, "zeros")
    for volume in test_cpu.VOLUMES:
        for name in ("affine_sample", "grid_sample"):
            test_cpu.test_volumes(volume, torch.float32, name, "zeros", "contiguous")
    for boxed in test_cpu.BOXED:
        test_cpu.test_boxes_of_volumes("near", boxed, "zeros", torch.float32, "contiguous")
    for signal in test_cpu.SIGNALS:
        for name in ("affine_sample", "grid_sample"):
            test_cpu.test_signals(signal, torch.float32, name, "zeros", "contiguous")
    for second in test_cpu.SECONDS:
        test_cpu.test_second_backward(second, torch.float32, "zeros", torch.float32)
records = verify.run(ops, backends=["cpu"], dtypes=[torch.float32, torch.bfloat16])
print(json.dumps([torch.ops.stn_kernels._cpu_level(), [r.cell for r in records if not r.passed]]))
"""


def run(code, level):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "STN_KERNELS_CPU_LEVEL": level},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("level", _build.CPU_LEVELS)
def test_every_instruction_set_is_right(level):
    """Below the one that this process, and so every other test, runs on; that one can be chosen."""
    done = run(LEVEL.format(own=torch.ops.stn_kernels._cpu_level()), level)
    if level != _build.CPU_LEVELS[0] and "STN_KERNELS_CPU_LEVEL must be one of" in done.stderr:
        pytest.skip(f"this processor has no {level}")
    assert done.returncode == 0, done.stderr
    number = level[1:] if level.startswith("v") else "0"
    assert done.stdout.strip() == f"[{number}, []]"


def test_unknown_instruction_set():
    done = run("import stn_kernels, torch; torch.ops.stn_kernels._cpu_level()", "v9")
    assert done.returncode != 0
    assert "STN_KERNELS_CPU_LEVEL must be one of" in done.stderr
    assert "v9" in done.stderr
