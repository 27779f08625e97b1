"""Every sampler, mode x dimensions: against torch where it has it, scipy, tensor products, and the reference."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

import stn_kernels
from stn_kernels import _library
from stn_kernels.op_cases import DTYPES, LAYOUTS, OP_CASES, Inputs, Sample, grad_output, image, smooth_parameters
from stn_kernels.reference.affine import affine_grid as reference_grid
from stn_kernels.reference.sampling import grid_sample_backward as reference_backward

from .op_tests import FLAGS
from .tolerances import assert_close, assert_like_reference

PADDINGS = ("zeros", "border", "reflection")
OPS = ("grid_sample", "affine_sample")
SIZES = {1: ((9,), (12,)), 2: ((7, 9), (8, 5)), 3: ((5, 6, 7), (4, 7, 5))}
SMALL = {1: ((5,), (4,)), 2: ((4, 5), (3, 4)), 3: ((3, 4, 3), (2, 2, 3))}
BAD = (torch.nan, torch.inf, -torch.inf, 1e38, -1e38)


def sample_of(sampler, sizes=SIZES, **options) -> Sample:
    mode, n = sampler
    size, out_size = sizes[n]
    return Sample(**{"mode": mode, "size": size, "out_size": out_size, **options})


def torch_sample(input, grid, mode, padding_mode, align_corners):
    """torch's grid_sample; a signal is an image of one row, and its sampling points lie on that row."""
    if grid.shape[-1] > 1:
        return F.grid_sample(input, grid, mode, padding_mode, align_corners)
    rows = torch.cat([grid, torch.zeros_like(grid)], -1).unsqueeze(1)
    return F.grid_sample(input.unsqueeze(2), rows, mode, padding_mode, align_corners).squeeze(2)


@pytest.mark.thinned(7)
@pytest.mark.parametrize("align", FLAGS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_equals_torch(backend, sampler, padding, align):
    if sampler == ("bicubic", 3):
        _equals_tensor_product(backend, padding, align)
        return
    mode = sampler[0]
    sample = sample_of(sampler, dtype=torch.float64, padding_mode=padding, align_corners=align)
    case = OP_CASES["grid_sample"]
    inputs = backend.draw(case, sample).requires_grad()
    tensors = list(inputs.tensors.values())
    actual = backend.call(case, inputs)
    expected = torch_sample(*tensors, mode, padding, align)
    assert_close(actual, expected)
    cotangent = grad_output(expected, "contiguous")
    gradients = [torch.autograd.grad(o, tensors, cotangent, materialize_grads=True) for o in (actual, expected)]
    for name, a, b in zip(inputs.tensors, *gradients, strict=True):
        assert_close(a, b, case.quantities[name])


def _equals_tensor_product(backend, padding, align):
    """Tricubic on a product grid is a 1-D cubic along each axis, and that is torch's bicubic on one row."""
    size = (5, 4, 6)
    volume = torch.randn(1, 2, *size, dtype=torch.float64)
    points = [torch.randn(count, dtype=torch.float64) for count in (3, 5, 4)]  # z, y, x
    matrices = [
        torch_sample(torch.eye(s).double().unsqueeze(0), p.reshape(1, -1, 1), "bicubic", padding, align)[0]
        for s, p in zip(size, points, strict=True)
    ]
    expected = torch.einsum("kz,jy,ix,bckji->bczyx", *matrices, volume)
    grid = torch.stack(torch.meshgrid(*points, indexing="ij")[::-1], -1).unsqueeze(0)
    actual = backend.op("grid_sample")(volume.to(backend.device), grid.to(backend.device), "bicubic", padding, align)
    assert_close(actual, expected)


@pytest.mark.parametrize("align", FLAGS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_linear_equals_scipy(padding, align, n):
    sample = sample_of(("bilinear", n), dtype=torch.float64, batch=1, channels=1)
    generator = torch.Generator().manual_seed(0)
    values = image(sample, generator)
    pixels = 30 * torch.rand((n, 200), generator=generator, dtype=torch.float64) - 12  # scipy's order: z, y, x
    extent = torch.tensor(sample.size, dtype=torch.float64).unsqueeze(1)
    normalized = 2 * pixels / (extent - 1) - 1 if align else (2 * pixels + 1) / extent - 1
    grid = normalized.flip(0).T.reshape(1, *[1] * (n - 1), 200, n)
    reflection = "mirror" if align else "reflect"
    mode = {"zeros": "grid-constant", "border": "nearest", "reflection": reflection}[padding]
    expected = ndimage.map_coordinates(values[0, 0].numpy(), pixels.numpy(), order=1, mode=mode)
    actual = stn_kernels.grid_sample(values, grid, "bilinear", padding, align, backend="reference")
    assert_close(actual.flatten(), torch.from_numpy(expected))


@pytest.mark.thinned(13)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("op", OPS)
def test_like_reference(backend, sampler, op, padding, dtype):
    """Every layout, flag and sample dimension; a few of them for interpreters and for the reference, its own truth."""
    options = list(itertools.product(LAYOUTS, FLAGS, (None, 2)))
    every = 11 if backend.slow else 5 if backend.name == "reference" else 1
    few = {"batch": 1, "channels": 2} if backend.slow else {}
    for seed, (layout, align, samples) in enumerate(options[::every]):
        sample = sample_of(
            sampler,
            dtype=dtype,
            padding_mode=padding,
            layout=layout,
            align_corners=align,
            samples=samples,
            seed=seed,
            **few,
        )
        assert_like_reference(backend, OP_CASES[op], OP_CASES[op].draw(sample), layout)


@pytest.mark.thinned(7)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("op", OPS)
def test_sizes_and_channels(backend, sampler, op, padding):
    """Single pixels, rows longer than a run of points, and channels beyond every block."""
    n = sampler[1]
    sizes = [
        ((1,) * n, (3,) * n),
        ((1, 2, 9)[3 - n :], (2, 3, 4)[:n]),
        ((6,) * n, (1,) * n),
        ((11, 9, 8)[:n], (3, 2, 140)[3 - n :]),
    ]
    cases = list(enumerate(itertools.product(sizes, (1, 2, 9 if backend.slow else 17))))
    for seed, ((size, out_size), channels) in cases[:: 5 if backend.slow else 1]:
        layout = ("contiguous", "channels_last", "rows")[seed % 3]
        sample = sample_of(
            sampler,
            size=size,
            out_size=out_size,
            channels=channels,
            batch=1 if backend.slow else 2,
            layout=layout,
            padding_mode=padding,
            align_corners=seed % 2 == 0,
            seed=seed
            + 100,  # of seeds from 0 on, one draws a single output so near 0 that float32 cannot have its digits
        )
        assert_like_reference(backend, OP_CASES[op], OP_CASES[op].draw(sample), layout)


@pytest.mark.thinned(13)
@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("op", OPS)
def test_gradcheck_and_gradgradcheck(backend, sampler, op, padding, samples):
    case = OP_CASES[op]
    lead = {"samples": samples, "batch": 1 if backend.slow else 2, "channels": 1 if backend.slow else 2}
    sample = sample_of(sampler, SMALL, dtype=torch.float64, padding_mode=padding, **lead)
    inputs = backend.draw(case, sample).requires_grad()

    def call(*tensors):
        return backend.call(case, Inputs(dict(zip(inputs.tensors, tensors, strict=True)), inputs.options))

    tensors = tuple(inputs.tensors.values())
    assert torch.autograd.gradcheck(call, tensors, fast_mode=True, nondet_tol=backend.nondeterminism)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True, nondet_tol=backend.nondeterminism)


@pytest.mark.thinned(11)
@pytest.mark.parametrize("align", FLAGS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_bad_coordinates(backend, sampler, padding, align, dtype):
    """NaN counts as -inf, huge is outside or the edge, and under reflection -inf; no gradient to such coordinates."""
    mode, n = sampler
    points = list(itertools.product(BAD, repeat=n))
    sample = sample_of(sampler, dtype=dtype, batch=1)
    picture = image(sample, torch.Generator().manual_seed(5)).to(backend.device).requires_grad_()
    grid = torch.tensor(points, dtype=dtype).reshape(1, *[1] * (n - 1), -1, n).to(backend.device).requires_grad_()
    output = backend.op("grid_sample")(picture, grid, mode, padding, align)
    expected = torch.zeros_like(output)
    hits = torch.zeros(sample.size, dtype=dtype)
    if padding != "zeros":
        for i, point in enumerate(points):
            place = [
                extent - 1 if value > 0 and padding == "border" else 0
                for extent, value in zip(sample.size, point[::-1], strict=True)
            ]
            expected[0, ..., i] = picture.detach()[(0, slice(None), *place)].reshape(-1, *[1] * (n - 1))
            hits[tuple(place)] += 1
    assert_close(output, expected)
    of_image, of_grid = torch.autograd.grad(output.sum(), (picture, grid))
    assert torch.equal(of_grid, torch.zeros_like(of_grid))
    assert_close(of_image, hits.expand_as(of_image).to(of_image), "image")


def test_nearest_rounds_halves_to_even(backend):
    if _library.hole(backend.name, ("nearest", 1)):
        return
    signal = torch.arange(8.0, device=backend.device).reshape(1, 1, 8)
    pixels = torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5, 6.5])
    grid = ((2 * pixels + 1) / 8 - 1).reshape(1, -1, 1).to(backend.device)
    values = backend.op("grid_sample")(signal, grid, "nearest")
    assert values.flatten().tolist() == [0, 2, 2, 4, 4, 6]


@pytest.mark.thinned(11)
@pytest.mark.parametrize("spread", ["near", "far", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("align", FLAGS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", _library.MODES)
def test_grids_of_larger_images(backend, mode, padding, align, dtype, spread):
    """Neighbouring points near one another, far apart and anywhere: kernels may read them together."""
    sample = Sample(dtype=dtype, mode=mode, size=(13, 18), out_size=(11, 14), samples=2, channels=3, seed=4)
    sample = replace(sample, padding_mode=padding, align_corners=align)
    inputs = OP_CASES["grid_sample"].draw(sample)
    if spread != "random":
        zoom, generator = 0.6 if spread == "near" else 2.5, torch.Generator().manual_seed(5)

        def draw(count):
            noise = torch.randn(count, 2, 3, generator=generator, dtype=torch.float64)
            return zoom * torch.eye(2, 3, dtype=torch.float64) + 0.2 * noise

        def grid_of(theta):
            return reference_grid(theta, sample.out_size, align)

        inputs.tensors["grid"] = grid_of(smooth_parameters(sample, draw, grid_of).double()).float()
    assert_like_reference(backend, OP_CASES["grid_sample"], inputs)


@pytest.mark.thinned(7)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("samples", [None, 3])
def test_one_image_for_a_batch_of_coordinates(backend, sampler, op, samples):
    """Equal to the expanded image, with one gradient of the size of one image."""
    case = OP_CASES[op]
    batch = 2 if backend.slow else 4
    drawn = backend.draw(case, sample_of(sampler, dtype=torch.float64, samples=samples, batch=batch))
    single = drawn.tensors["input"][:1].clone()
    copies = single.expand(batch, *single.shape[1:])
    results = []
    for picture in (single, copies):
        inputs = Inputs({**drawn.tensors, "input": picture}, drawn.options).requires_grad()
        output = backend.call(case, inputs)
        gradients = torch.autograd.grad(output, list(inputs.tensors.values()), grad_output(output, "contiguous"))
        results.append((output, *gradients))
    (one, of_one, coords), (many, of_many, coords_of_many) = results
    assert_close(one, many)
    assert_close(of_one, of_many.sum(0, keepdim=True), "image")
    assert_close(coords, coords_of_many, "coords")


@pytest.mark.parametrize("align", FLAGS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_affine_grid_of_every_dimension(backend, n, align):
    if _library.hole(backend.name, (None, n)):
        return
    case = OP_CASES["affine_grid"]
    for samples, dtype in itertools.product((None, 2), (torch.float64, torch.float32)):
        sample = replace(
            sample_of(("bilinear", n)), dtype=dtype, samples=samples, align_corners=align, coords_dtype=dtype
        )
        assert_like_reference(backend, case, case.draw(sample))


@pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid")
@pytest.mark.parametrize("align", FLAGS)
@pytest.mark.parametrize("size", [(1, 1, 1), (4, 1, 3), (3, 5, 4)])
def test_affine_grid_of_volumes_equals_torch(size, align):
    theta = torch.randn(2, 3, 4, dtype=torch.float64)
    assert_close(stn_kernels.affine_grid(theta, size, align), F.affine_grid(theta, (2, 1, *size), align))
    line = stn_kernels.affine_grid(torch.tensor([[[2.0, 0.5]]]), (5,), align)
    edge = 2.0 if align else 1.6
    assert_close(line.flatten(), torch.linspace(-edge, edge, 5) + 0.5)


def test_reference_grid_is_what_is_sampled(backend, sampler):
    mode = sampler[0]
    inputs = backend.draw(OP_CASES["affine_sample"], sample_of(sampler, dtype=torch.float64))
    grid = reference_grid(inputs.tensors["theta"], inputs.options["size"], False)
    expected = backend.op("grid_sample")(inputs.tensors["input"], grid, mode)
    assert_close(backend.call(OP_CASES["affine_sample"], inputs), expected)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("padding", range(3))
@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_second_backward_equals_autograd_through_the_reference(backend, mode, n, samples, padding):
    namespace = _library.NAMESPACES[backend.name]
    if backend.name != "reference" and not _library.has_second_backward(namespace, backend.device, mode):
        return  # it is what is compared with
    sample = sample_of((mode, n), dtype=torch.float64, samples=samples, padding_mode=PADDINGS[padding])
    image, grid = OP_CASES["grid_sample"].draw(sample).requires_grad().tensors.values()
    reference = torch.ops.stn_kernels_reference
    code = _library.MODES[mode]
    cotangent = torch.randn_like(reference.grid_sample(image, grid, code, padding, False)).requires_grad_()
    options = (PADDINGS[padding], False, mode)
    first = reference_backward(cotangent, image, grid, *options)
    seconds = [torch.randn_like(t) for t in (image, grid)]
    total = sum((f * s).sum() for f, s in zip(first, seconds, strict=True))
    leaves = (cotangent, image, grid)
    expected = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    operator = getattr(torch.ops, namespace)._grid_sample_double_backward
    with torch.no_grad():
        moved = [t.to(backend.device) for t in (*seconds, *leaves)]
        options = code, padding, False, True, True, True
        actual, again = (operator(*moved, *options, deterministic) for deterministic in FLAGS)
    for a, b, c in zip(actual, expected, again, strict=True):
        assert_close(a, b, "coords")
        assert_close(c, b, "coords")


# Which samplers exist where; a kernel that is added or lost changes this table.
EXISTING = {
    "cpu": set(itertools.product(("bilinear", "nearest", "bicubic", "linearized", None), (1, 2, 3))),
    "cuda": set(itertools.product(("bilinear", "nearest", "bicubic", "linearized", None), (1, 2, 3))),
    "triton": set(itertools.product(("bilinear", "nearest", "bicubic", "linearized", None), (1, 2, 3))),
}


def test_the_tables_of_samplers():
    assert {name: _library.SAMPLERS[name] for name in EXISTING} == EXISTING
    assert {"cpu", "cuda", "triton"} == set(_library.SECOND_BACKWARD) - {"simt"}


def test_a_hole_raises_when_asked_for_and_else_uses_the_reference(backend):
    signal, grid = torch.randn(1, 2, 9), torch.zeros(1, 4, 1)
    if reason := _library.hole(backend.name, ("bicubic", 1)):
        with pytest.raises(RuntimeError, match=f"backend '{backend.name}' cannot be used here: {reason}"):
            backend.op("grid_sample")(signal, grid, "bicubic")
    expected = stn_kernels.grid_sample(signal, grid, "bicubic", backend="reference")
    assert_close(stn_kernels.grid_sample(signal, grid, "bicubic"), expected)
