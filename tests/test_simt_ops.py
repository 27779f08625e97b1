"""The CUDA kernels, run on the CPU (tests/simt): every operator against the reference, under several schedules."""

import itertools
import math
import os
import pathlib
import subprocess
import sys

import pytest
import torch

from stn_kernels import _library

from .simt import build
from .simt.sweep import DTYPES, LAYOUTS, PADDINGS, Case, check

ROOT = pathlib.Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
OPS = ("affine_sample", "grid_sample")


@pytest.fixture(scope="module", autouse=True)
def namespace():
    name = build.load()
    if "simt" not in _library.NAMESPACES:
        _library.register_backend("simt", name)
    return getattr(torch.ops, name)


@pytest.fixture(params=SEEDS, ids="seed{}".format)
def schedule(request, monkeypatch):
    """Blocks and threads in ascending order (0), or in a random one."""
    monkeypatch.setenv("SIMT_SEED", str(request.param))
    return request.param


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_every_combination(schedule, op, dtype, layout):
    options = itertools.product((torch.float32, torch.float64), PADDINGS, (False, True), (None, 2))
    for index, (coords_dtype, padding, align_corners, samples) in enumerate(options):
        channels = (1, 3, 8)[(index // 2 + schedule) % 3]  # every number under one of the schedules
        check(Case(op, dtype, coords_dtype, padding, align_corners, layout, samples, channels=channels))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("channels", [2, 5, 16, 33, 40])
@pytest.mark.parametrize("layout", ["planar", "channels_last"])
def test_channel_counts(op, dtype, channels, layout):
    for padding in PADDINGS:
        check(Case(op, dtype, padding=padding, layout=layout, channels=channels, samples=3, out_size=(17, 5)))


@pytest.mark.parametrize("zoom", [0.1, 0.4, 1.0, 1.6, 3.0, 20.0])
@pytest.mark.parametrize("layout", ["planar", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_zooms(zoom, layout, dtype):
    """Both windows and the row search of the gather."""
    for samples, channels in ((None, 3), (3, 8)):
        check(
            Case(
                "affine_sample",
                dtype,
                dtype,
                layout=layout,
                samples=samples,
                channels=channels,
                zoom=zoom,
                out_size=(19, 21),
            )
        )


@pytest.mark.parametrize("out_size", [(1, 1), (1, 40), (40, 1), (70, 33)])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (33, 70)])
def test_sizes(size, out_size):
    for op, padding, align_corners in itertools.product(OPS, PADDINGS, (False, True)):
        check(Case(op, torch.float64, torch.float64, padding, align_corners, size=size, out_size=out_size))


MATRICES = {
    "identity": [[1, 0, 0], [0, 1, 0]],
    "zero": [[0, 0, 0], [0, 0, 0]],
    "rank one": [[1, 0.5, 0], [0.5, 0.25, 0]],
    "one row": [[1, 0, 0], [0, 0, 0.1]],
    "nearly singular": [[1, 0.5, 0], [0.5, 0.2500001, 0]],
    "reflection": [[-1, 0, 0], [0, 1, 0]],
    "transposition": [[0, 1, 0], [1, 0, 0]],
    "shear": [[1, 7, 0], [0, 1, 0]],
    "flat": [[30, 0, 0], [0, 0.02, 0]],
    "half turn": [[0.7071, -0.7071, 0], [0.7071, 0.7071, 0]],
    "far outside": [[1, 0, 50], [0, 1, 0]],
    "huge": [[1e30, 0, 0], [0, 1e30, 0]],
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_gather_finds_every_output(namespace, name, channels_last):
    """The gathered gradient is the adjoint of the forward, for matrices that have no inverse, or a bad one."""
    theta = torch.tensor(MATRICES[name]).expand(2, 2, 3).contiguous()
    image, grad = torch.randn(2, 4, 12, 9), torch.randn(2, 4, 10, 14)
    if channels_last:
        image, grad = (t.contiguous(memory_format=torch.channels_last) for t in (image, grad))
    for align_corners in (False, True):
        options = (0, 0, align_corners)
        output = namespace.affine_sample(image, theta, [10, 14], *options)
        grad_input, _ = namespace._affine_sample_backward(grad, image, theta, *options, True, False, False)
        left, right = (output.double() * grad).sum(), (image.double() * grad_input).sum()
        scale = (output.double() * grad).abs().sum()
        assert abs(left - right) <= 1e-6 * max(scale, 1e-3)


PROJECTIONS = {
    "identity": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    "tilted": [0.9, 0.2, 0.1, -0.1, 1.1, 0, 0.3, -0.2, 1],
    "horizon in the output": [1, 0, 0, 0, 1, 0, 1.5, 0.3, 1],
    "horizon through its middle": [1, 0.2, 0, 0, 1, 0, 1, 0.5, 0],
    "the image's preimage is unbounded": [0.1, 0, 0, 0, 1, 0, 0.99, 0, 1],
    "behind": [-1, 0, 0, 0, -1, 0, 0, 0, -1],
    "minified": [9, 1, 0, -1, 8, 0, 0.5, 0, 1],
    "magnified": [0.05, 0, 0, 0, 0.04, 0, 0.1, 0, 1],
    "reflected": [0, 1, 0, 1, 0, 0, 0.1, 0.2, 1],
    "zero": [0] * 9,
    "one point": [0, 0, 0.1, 0, 0, 0.2, 0, 0, 1],
    "rank two": [1, 0, 0, 0.5, 0, 0, 0.25, 0, 1],
    "nearly singular": [1, 0, 0, 0.5, 1e-7, 0, 0.25, 0, 1],
    "tiny": [1e-12, 0, 0, 0, 1e-12, 0, 3e-13, 0, 1e-12],
    "at the smallest depth": [2.0**-60, 0, 0, 0, 2.0**-60, 0, 2.0**-61, 0, 2.0**-60],
    "huge": [1e36, 0, 0, 0, 1e36, 0, 1e35, 0, 1e36],
    "mixed": [1e20, 0, 0, 0, 1e-20, 0, 1e-3, 0, 1],
    "infinite": [1, 0, 0, 0, 1, 0, math.inf, 0, 1],
    "NaN": [1, 0, 0, 0, math.nan, 0, 0, 0, 1],
}


@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gather_finds_every_output_of_a_projection(namespace, name, dtype):
    """The gathered gradient is the adjoint of the forward wherever the plane w = 0 lies."""
    first = torch.tensor(PROJECTIONS[name], dtype=dtype).reshape(3, 3)
    matrix = torch.stack([first, torch.eye(3, dtype=dtype)]).expand(2, 2, 3, 3).contiguous()
    for channels_last, align_corners in itertools.product((False, True), repeat=2):
        image, grad = torch.randn(2, 4, 12, 9, dtype=dtype), torch.randn(2, 2, 4, 10, 14, dtype=dtype)
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        options = (0, 0, align_corners)
        # Every pixel by itself, as a channel: the forward's own weights.
        pixels = torch.eye(12 * 9, dtype=dtype).reshape(1, 12 * 9, 12, 9)
        weights = namespace.homography_sample(pixels, matrix[:1], [10, 14], *options)[0]
        expected = torch.einsum("spuv,bscuv->bcp", weights.double(), grad.double()).reshape(2, 4, 12, 9)
        gathered, _ = namespace._homography_sample_backward(grad, image, matrix, *options, True, False, False)
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(gathered.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -3e38])
@pytest.mark.parametrize("padding", PADDINGS)
def test_coordinates_that_are_no_numbers(namespace, value, padding):
    reference = torch.ops.stn_kernels_reference
    image, grad = torch.randn(1, 2, 5, 6), torch.randn(1, 2, 4, 2)  # even: no coordinate of the output is 0 (x inf)
    grid = torch.rand(1, 4, 3, 2) - 0.5
    grid[0, 1, 1, 0], grid[0, 2, 0, 1], grid[0, 3, 2] = value, value, value
    options = (0, padding, False)
    torch.testing.assert_close(
        namespace.grid_sample(image, grid, *options), reference.grid_sample(image, grid, *options)
    )
    for index in range(6):
        theta = torch.eye(2, 3).reshape(-1).index_fill(0, torch.tensor(index), value).reshape(1, 2, 3)
        actual = namespace.affine_sample(image, theta, [4, 2], *options)
        torch.testing.assert_close(actual, reference.affine_sample(image, theta, [4, 2], *options))
        if padding == 0:
            gathered, _ = namespace._affine_sample_backward(grad, image, theta, *options, True, False, False)
            expected, _ = reference._affine_sample_backward(grad, image, theta, *options, True, False, False)
            torch.testing.assert_close(gathered, expected)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("layout", ["planar", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_deterministic_gradients_have_equal_bits(namespace, op, layout, dtype, monkeypatch):
    """Under any schedule; also where every output adds to one pixel."""
    for padding, crowded in itertools.product(PADDINGS, (False, True)):
        image, (params,), grad, options = Case(
            op, dtype, torch.float32, padding, layout=layout, samples=2, channels=8
        ).draw()
        params = params * 0 if crowded else params
        results = []
        for seed in SEEDS:
            monkeypatch.setenv("SIMT_SEED", str(seed))
            results.append(getattr(namespace, f"_{op}_backward")(grad, image, params, *options, True, True, True))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_deterministic_second_gradients_have_equal_bits(namespace, n, monkeypatch):
    """To the image, also where every point is in one pixel; and right there."""
    image, grad = torch.randn(1, 2, *(4,) * n), torch.randn(1, 2, *(7,) * n)
    for padding, crowd in itertools.product(PADDINGS, (0.0, 1.0)):
        grid, cotangent = crowd * (torch.rand(1, *(7,) * n, n) - 0.5), torch.randn(1, *(7,) * n, n)
        tensors = image.new_empty(0), cotangent, grad, image, grid
        options = 0, padding, False, False, True, False
        results = []
        for seed in SEEDS:
            monkeypatch.setenv("SIMT_SEED", str(seed))
            results.append(namespace._grid_sample_double_backward(*tensors, *options, True)[1])
        assert all(torch.equal(results[0], other) for other in results[1:])
        wide = (t.double() for t in tensors)
        expected = torch.ops.stn_kernels_reference._grid_sample_double_backward(*wide, *options, False)[1]
        torch.testing.assert_close(results[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_float_atomics_depend_on_the_schedule(namespace, monkeypatch):
    """Without the demand for determinism they do: the test above can fail."""
    image, grad = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 64, 64)
    results = []
    for seed in range(4):
        monkeypatch.setenv("SIMT_SEED", str(seed))
        grid = torch.zeros(1, 64, 64, 2)
        results.append(namespace._grid_sample_backward(grad, image, grid, 0, 0, False, True, False, False)[0])
    assert any(not torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1.0, 1e20, 1e37])
def test_fixed_point_has_no_range(namespace, scale):
    image, grid = torch.zeros(1, 1, 3, 3), torch.zeros(1, 8, 8, 2)
    grad = scale * torch.rand(1, 1, 8, 8)
    total, _ = namespace._grid_sample_backward(grad, image, grid, 0, 0, False, True, False, True)
    torch.testing.assert_close(total[0, 0, 1, 1].double(), grad.double().sum(), rtol=1e-6, atol=2e-45)


def test_fixed_point_shows_gradients_that_are_not_finite(namespace):
    image, grid, grad = torch.zeros(1, 1, 3, 3), torch.zeros(1, 2, 2, 2), torch.ones(1, 1, 2, 2)
    for value in (float("nan"), float("inf")):
        grad[0, 0, 1, 1] = value
        total, _ = namespace._grid_sample_backward(grad, image, grid, 0, 0, False, True, False, True)
        assert total.isnan().all()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_only_what_is_needed(namespace, op, padding):
    image, (params,), grad, options = Case(op, padding=padding).draw()
    backward = getattr(namespace, f"_{op}_backward")
    both = backward(grad, image, params, *options, True, True, True)
    same_blocks = op == "grid_sample" or padding == 0  # theta's sums: the scatter of the input's gradient has others
    for needs in itertools.product((False, True), repeat=2):
        some = backward(grad, image, params, *options, *needs, True)
        for gradient, full, needed in zip(some, both, needs, strict=True):
            assert gradient.numel() == (full.numel() if needed else 0)
            if needed and (gradient is some[0] or same_blocks):
                assert torch.equal(gradient, full)
            elif needed:
                torch.testing.assert_close(gradient, full, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("empty", ["batch", "channels", "samples"])
def test_empty(namespace, op, empty):
    case = Case(op, **{empty: 0}) if empty != "samples" else Case(op, samples=0)
    image, (params,), grad, options = case.draw()
    assert getattr(namespace, op)(image, params, *case.forward_size, *options).shape == grad.shape
    grad_input, grad_params = getattr(namespace, f"_{op}_backward")(grad, image, params, *options, True, True, False)
    assert torch.equal(grad_input, torch.zeros_like(image))
    assert torch.equal(grad_params, torch.zeros_like(params))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("samples", [None, 2])
def test_gradcheck_and_opcheck(namespace, schedule, op, padding, samples):
    case = Case(op, torch.float64, torch.float64, padding, samples=samples, out_size=(3, 4))
    image, (params,), _, options = case.draw()
    size = case.forward_size
    tensors = image.requires_grad_(), params.requires_grad_()
    overload = getattr(namespace, op).default
    assert torch.autograd.gradcheck(lambda x, p: overload(x, p, *size, *options), tensors)
    if schedule == 0:
        torch.library.opcheck(overload, (*tensors, *size, *options))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("samples", [None, 3])
def test_affine_grid(namespace, schedule, align_corners, samples):
    lead = (2,) if samples is None else (2, samples)
    for dtype in DTYPES:
        theta = torch.randn(*lead, 2, 3).to(dtype)
        for size in ([1, 1], [17, 35], [40, 3]):
            grid = namespace.affine_grid(theta, size, align_corners)
            expected = torch.ops.stn_kernels_reference.affine_grid(theta, size, align_corners)
            torch.testing.assert_close(grid, expected)
    theta = torch.randn(*lead, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: namespace.affine_grid(t, [3, 5], align_corners), (theta,))
    if schedule == 0:
        torch.library.opcheck(namespace.affine_grid.default, (theta, [4, 5], align_corners))


def test_more_images_than_a_grid_holds(namespace):
    """gridDim.z ends at 65535: the launch is repeated."""
    image, theta = torch.randn(1, 1, 2, 2), torch.eye(2, 3).repeat(1, 65540, 1, 1)
    output = namespace.affine_sample(image, theta, [1, 1], 0, 0, False)
    torch.testing.assert_close(output, image.mean().expand(1, 65540, 1, 1, 1))


@pytest.mark.parametrize("variant", ["asan", "race"])
def test_sanitizers_find_nothing(variant):
    build.build(variant)
    environment = {
        **os.environ,
        **build.sanitizer_environment(variant),
        "PYTHONPATH": str(ROOT),
        "SIMT_SEED": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.simt.sweep", variant]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "as the reference" in done.stdout
