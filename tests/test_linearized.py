"""Linearized multi-sampling: against the published algorithm, written anew here, and on every transform."""

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

import stn_kernels
from benchmarks import harness
from stn_kernels import Linearized, Tessellation, _library
from stn_kernels.op_cases import (
    DTYPES,
    LAYOUTS,
    LINEARIZED_CASES,
    OP_CASES,
    Inputs,
    OpCase,
    Sample,
    image,
    spanning_offsets,
)
from stn_kernels.reference import linearized as reference
from stn_kernels.reference import philox

from .op_tests import FLAGS, RecordOperators, assert_compiles, deterministic
from .tolerances import assert_close, assert_like_reference


class NotInterpreted(OpCase):
    """A case for conftest, on the backends that have the sampler: Triton's interpreter takes seconds a call."""

    def runs_on(self, backend: str) -> bool:
        return super().runs_on(backend) and not (backend == "triton" and _library.device_of(backend) == "cpu")


CASE = NotInterpreted(**vars(LINEARIZED_CASES["linearized_given"]))
PADDINGS = ("zeros", "border", "reflection")
SIZES = {1: ((19,), (13,)), 2: ((9, 12), (10, 7)), 3: ((6, 7, 8), (4, 3, 5))}


def published(input, grid, offsets, fixed_bias, padding, align):
    """Jiang et al. 2019 on images (B, C, H, W) with offsets (B, K, H, W, 2), the first zero: K copies of the image."""
    batch, samples = offsets.shape[:2]
    grids = (grid.unsqueeze(1) + offsets).detach()
    copies = input.repeat_interleave(samples, 0)
    values = F.grid_sample(copies, grids.flatten(0, 1), padding_mode=padding, align_corners=align)
    values = values.unflatten(0, (batch, samples)).permute(0, 3, 4, 1, 2)  # (B, H, W, K, C)
    differences = values[..., 1:, :] - values[..., :1, :]
    rows = offsets[:, 1:].permute(0, 2, 3, 1, 4)  # (B, H, W, K - 1, 2)
    inside = (rows.abs() <= 1).all(-1, keepdim=True)
    rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1) * inside
    slope = (torch.linalg.inv(rows.mT @ rows) @ rows.mT @ differences).detach()  # (B, H, W, 3, C)
    moved = torch.cat([grid - grid.detach(), torch.full_like(grid[..., :1], 0.0 if fixed_bias else 1.0)], -1)
    return values[..., 0, :].permute(0, 3, 1, 2) + (moved.unsqueeze(-2) @ slope).squeeze(-2).permute(0, 3, 1, 2)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("fixed_bias", FLAGS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("align", FLAGS)
def test_equals_the_published_algorithm(backend, dtype, fixed_bias, padding, align):
    sample = Sample(dtype=dtype, padding_mode=padding, align_corners=align, size=(9, 12), out_size=(10, 7), seed=4)
    inputs = OP_CASES["grid_sample"].draw(sample)
    offsets = spanning_offsets(sample, 8, torch.Generator().manual_seed(0))
    offsets[0, 3, 2, 2] = torch.tensor([1.5, 0.1])
    offsets[0, 5, 4] = torch.tensor([0.1, -1.01])
    results = []
    for wide in (True, False):
        chosen = inputs.to(dtype=torch.float64) if wide else inputs.to(device=backend.device)
        tensors = list(chosen.requires_grad().tensors.values())
        if wide:
            value = published(*tensors, offsets.double(), fixed_bias, padding, align)
        else:
            mode = Linearized(fixed_bias=fixed_bias, offsets=offsets.to(backend.device))
            value = backend.op("grid_sample")(*tensors, mode, padding, align)
        cotangent = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).reshape(value.shape).to(value)
        results.append((value, *torch.autograd.grad(value, tensors, cotangent)))
    for expected, actual in zip(*results, strict=True):
        scale = expected.abs().max()
        assert (actual.cpu().double() - expected).abs().max() <= (1e-11 if dtype == torch.float64 else 1e-5) * scale


def normal_equations(weight, offsets, values, ridge):
    """[g, b] of one point by Eq. 9: weights (K - 1,), offsets (K - 1, n) in pixels, differences (K - 1, C)."""
    rows = np.concatenate([offsets, np.ones((len(offsets), 1))], 1)
    system = rows.T @ (weight[:, None] * rows) + ridge * np.eye(rows.shape[1])
    return np.linalg.solve(system, rows.T @ (weight[:, None] * values))


def matching(units, rounds=8):
    """Sinkhorn's weights of samples (K - 1, n) by potentials, in logarithms."""
    places = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=units.shape[1])))
    cost = ((np.clip(units, -4, 4)[:, None] - places) ** 2).sum(-1)
    f, g = np.zeros(len(units)), np.zeros(len(places))
    for _ in range(rounds):
        f = -np.log(np.exp(g - cost).sum(1))
        g = -np.log(np.exp(f[:, None] - cost).sum(0))
    return len(units) * np.exp(f[:, None] + g - cost)[:, np.flatnonzero((places == 0).all(1))[0]]


def transformed(samples, generator):
    """name -> (arguments of the sampling function, the grid it reads at, the parameters)."""
    lead, size = (2,) if samples is None else (2, samples), (5, 7)
    jitter = 0.1 * torch.randn((*lead, 3, 3), generator=generator, dtype=torch.float64)
    theta, matrix = torch.eye(2, 3) + jitter[..., :2, :], torch.eye(3) + 0.5 * jitter
    points = torch.cartesian_prod(*[torch.linspace(-1, 1, 4)] * 2).flip(-1).double()
    points = points + 0.1 * torch.randn((*lead, 16, 2), generator=generator, dtype=torch.float64)
    tessellation = Tessellation((2, 2))
    velocity = torch.randn((*lead, tessellation.dim), generator=generator, dtype=torch.float64)
    return {
        "affine": (stn_kernels.affine_grid, (theta, size)),
        "homography": (stn_kernels.homography_grid, (matrix, size)),
        "tps": (stn_kernels.tps_grid, (points, size)),
        "cpab": (stn_kernels.cpab_grid, (velocity, size, tessellation)),
    }


class TestInterpretedToo:
    """What runs in Triton's interpreter as well."""

    case = LINEARIZED_CASES["linearized_given"]

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("weighting", ["uniform", "distance", "entropic"])
    @pytest.mark.parametrize("ridge", [0.0, 0.7])
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_equals_the_weighted_normal_equations(self, backend, n, ridge, weighting):
        size, out_size = SIZES[n]
        sample = Sample(dtype=torch.float64, size=size, out_size=out_size, batch=1, channels=2)
        generator = torch.Generator().manual_seed(n)
        count = n + 6
        offsets = spanning_offsets(sample, count, generator)
        values, grid = image(sample, generator), 0.8 * torch.rand(1, *out_size, n, generator=generator).double()
        mode = Linearized(count, 3.0, weighting=weighting, ridge=ridge, offsets=offsets.to(backend.device))
        leaves = [t.to(backend.device).requires_grad_() for t in (values, grid)]
        output = backend.op("grid_sample")(*leaves, mode)
        cotangent = torch.randn(output.shape, generator=generator).double()
        (gradient,) = torch.autograd.grad(output, leaves[1:], cotangent.to(backend.device))
        spread = np.array([math.hypot(3.0 / o * s / 2, 1) for s, o in zip(size[::-1], out_size[::-1], strict=True)])
        half = max(2, 2 * spread.max())
        scale = np.array(size[::-1]) / 2
        for place in itertools.product(*(range(0, o, 3) for o in out_size)):
            here = offsets[(0, slice(None), *place)].numpy()
            at = torch.from_numpy(here) + grid[(0, *place)]
            read = stn_kernels.grid_sample(values, at.reshape(1, count, *[1] * (n - 1), n), backend="reference")
            read = read.detach().reshape(2, count).T.numpy()
            pixels, used = here[1:] * scale, (abs(here[1:]) <= 1).all(1)
            distance = np.sqrt((pixels**2).sum(1))
            weight = np.ones(count - 1)
            if weighting == "distance":
                weight = np.maximum(0, (1 + half**1.5 - distance) / half**1.5)
            if weighting == "entropic":
                weight[used] = matching(pixels[used] / np.maximum(1, spread))
            plane = normal_equations(weight[used], pixels[used], (read[1:] - read[:1])[used], ridge)
            expected = torch.from_numpy(read[0] + plane[-1])
            assert_close(output.detach().cpu()[(0, slice(None), *place)], expected)
            expected = torch.from_numpy(plane[:-1] @ cotangent[(0, slice(None), *place)].numpy() * scale)
            assert_close(gradient.cpu()[(0, *place)], expected, "coords")

    def test_the_kernel_draws_the_same_numbers(self, backend):
        """Given the reference's offsets, in float32, the result has the same bits as with the seed they come from."""
        for n in (1, 2, 3):
            size, out_size = SIZES[n]
            sample = Sample(size=size, out_size=out_size, samples=2, batch=1)
            generator = torch.Generator().manual_seed(n)
            values, grid = image(sample, generator), torch.rand(1, 2, *out_size, n, generator=generator)
            for seed in (2**62 + 2**31 + 7, 0)[: 1 if backend.slow else 2]:
                mode = Linearized(seed=seed, samples=9, noise=0.3)
                options = reference.Options(9, 0.3, True, False, "uniform", 0.0, False)
                others = reference.drawn_offsets(torch.tensor(seed), options, size, out_size, 2, torch.float32)
                offsets = torch.cat([torch.zeros_like(others[:, :1]), others], 1).reshape(1, 2, 9, *out_size, n)
                arguments = values.to(backend.device), grid.to(backend.device)
                by_seed = backend.op("grid_sample")(*arguments, mode)
                given = backend.op("grid_sample")(*arguments, replace(mode, offsets=offsets.to(backend.device)))
                assert torch.equal(by_seed, given)

    @pytest.mark.thinned(3)
    @pytest.mark.parametrize("given", FLAGS)
    @pytest.mark.parametrize("samples", [None, 3])
    @pytest.mark.parametrize("transform", ["affine", "homography", "tps", "cpab"])
    def test_every_transform_reads_at_its_grid(self, backend, transform, samples, given):
        generator = torch.Generator().manual_seed(1)
        of_grid, (parameters, *rest) = transformed(samples, generator)[transform]
        sample = Sample(dtype=torch.float64, samples=samples, size=(9, 12), out_size=(5, 7))
        values = image(sample, generator)
        offsets = spanning_offsets(sample, 8, generator).to(backend.device) if given else None
        mode = Linearized(seed=None if given else 5, offsets=offsets, ridge=0.1, through_samples=True)
        leaves = [t.to(backend.device).requires_grad_() for t in (values, parameters)]
        value = backend.op(f"{transform}_sample")(*leaves, *rest, mode, "border")
        grid = of_grid(leaves[1], *rest, backend=None if transform == "cpab" else "reference")
        expected = backend.op("grid_sample")(leaves[0], grid, mode, "border")
        assert_close(value, expected)
        cotangent = torch.randn_like(value)
        gradients = [torch.autograd.grad(v, leaves, cotangent) for v in (value, expected)]
        for a, b in zip(*gradients, strict=True):
            assert_close(a, b, "coords")

    @pytest.mark.parametrize(
        ("name", "dtype", "padding_mode", "seed"),
        [
            ("linearized_given", torch.float32, "reflection", 4),
            ("linearized_drawn", torch.bfloat16, "zeros", 3),
            ("linearized_given", torch.float64, "border", 2),
        ],
    )
    def test_some_like_reference(self, backend, name, dtype, padding_mode, seed):
        """Every weighting, one with the gradient through all samples, also under the demand for determinism."""
        case = LINEARIZED_CASES[name]
        sample = Sample(
            dtype=dtype,
            padding_mode=padding_mode,
            samples=2,
            seed=seed,
            batch=1,
            channels=5,
            size=(9, 8),
            out_size=(6, 7),
        )
        assert_like_reference(backend, case, case.draw(sample), "contiguous")
        if seed == 4:
            with deterministic():
                assert_like_reference(backend, case, case.draw(sample), "contiguous")


@pytest.mark.thinned(5)
@pytest.mark.parametrize("name", LINEARIZED_CASES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_like_reference(backend, name, dtype, padding):
    case = LINEARIZED_CASES[name]
    options = itertools.product(LAYOUTS[:: 3 if backend.slow else 1], FLAGS, (None, 3))
    for seed, (layout, align, samples) in enumerate(options):
        sample = Sample(
            dtype=dtype, padding_mode=padding, align_corners=align, layout=layout, samples=samples, seed=seed
        )
        assert_like_reference(backend, case, case.draw(sample), layout)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LINEARIZED_CASES)
def test_large(backend, name, layout):
    case = LINEARIZED_CASES[name]
    for seed, channels in enumerate((1, 9, 17)):
        sample = Sample(layout=layout, channels=channels, seed=seed, size=(40, 37), out_size=(9, 75))
        assert_like_reference(backend, case, case.draw(sample), layout)


@pytest.mark.parametrize("samples", [None, 2])
def test_one_image_for_a_batch_of_grids(backend, samples):
    sample = Sample(dtype=torch.float64, samples=samples, batch=3, seed=2)
    for case in LINEARIZED_CASES.values():
        inputs = backend.draw(case, sample)
        single = inputs.tensors["input"][:1]
        copies = single.expand(3, -1, -1, -1)
        one, many = (
            backend.call(case, Inputs({**inputs.tensors, "input": t}, inputs.options)) for t in (single, copies)
        )
        assert_close(one, many)


class TestGenerator:
    @pytest.mark.parametrize(
        ("counter", "key", "words"),
        [  # the known answers of Random123
            ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
            ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
            (
                (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
                (0xA4093822, 0x299F31D0),
                (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
            ),
        ],
    )
    def test_known_answers(self, counter, key, words):
        got = philox.philox([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])
        assert tuple(w.item() for w in got) == words

    def test_is_the_transform_of_box_and_muller(self):
        first, second = torch.randint(2**32, (2, 100_000))
        first[:2], second[:4] = torch.tensor([0, 2**32 - 1]), torch.tensor([0, 2**30 - 1, 2**30, 2**32 - 1])
        uniform = ((first >> 9) * 2 + 1).double() / 2**24
        turn = (second >> 30).double() / 4 + ((((second >> 6) & 0xFFFFFF).double() + 0.5) / 2**24 - 0.5) / 4
        radius = (-2 * uniform.log()).sqrt()
        x, y = philox.normal_pair(first, second)
        assert x.dtype == y.dtype == torch.float32
        assert (x - radius * (2 * math.pi * turn).cos()).abs().max() < 1e-6
        assert (y - radius * (2 * math.pi * turn).sin()).abs().max() < 1e-6

    def test_numbers_are_standard_normal_and_independent(self):
        numbers = philox.normals(torch.tensor(2**40 + 3), 4, 20_000, 6)
        flat = numbers.flatten().double()
        assert stats.kstest(flat.numpy(), "norm").pvalue > 0.01
        assert abs(flat.mean()) < 4 / flat.numel() ** 0.5
        assert abs(flat.var() - 1) < 4 * (2 / flat.numel()) ** 0.5
        columns = numbers.movedim(1, 2).flatten(0, 1).double()  # (item and number, point)
        for several in (torch.cat([columns, columns.roll(1, 1)]), columns.square()):
            correlation = torch.corrcoef(several) - torch.eye(len(several))
            assert correlation.abs().max() < 5 / 20_000**0.5

    def test_a_number_depends_on_its_place_alone(self):
        seed = torch.tensor(11)
        numbers = philox.normals(seed, 3, 50, 21)
        assert torch.equal(philox.normals(seed, 2, 20, 13), numbers[:2, :20, :13])
        assert not torch.equal(philox.normals(seed + 1, 3, 50, 21), numbers)
        assert not torch.equal(philox.normals(seed + 2**32, 3, 50, 21), numbers)

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_spread_is_as_published(self, n):
        size, out_size = SIZES[n]
        for noise, push in ((0.5, True), (2.0, False), (0.0, True)):
            options = reference.Options(300, noise, push, False, "uniform", 0.0, False)
            offsets = reference.drawn_offsets(torch.tensor(1), options, size, out_size, 6, torch.float64)
            deviation = offsets.flatten(0, 2).std(0)
            expected = [math.hypot(noise / o, 2 * push / s) for s, o in zip(size[::-1], out_size[::-1], strict=True)]
            torch.testing.assert_close(deviation, torch.tensor(expected).double(), rtol=0.01, atol=0)

    def test_seeds(self, backend):
        inputs = backend.draw(OP_CASES["affine_sample"], Sample())
        call = backend.op("affine_sample")

        def value(**options):
            return call(*inputs.tensors.values(), inputs.options["size"], Linearized(**options))

        assert torch.equal(value(seed=1), value(seed=1))
        assert not torch.equal(value(seed=1), value(seed=2))
        torch.manual_seed(5)
        first, second = value(), call(*inputs.tensors.values(), inputs.options["size"], "linearized")
        assert not torch.equal(first, second)
        torch.manual_seed(5)
        assert torch.equal(value(), first)
        assert torch.equal(value(), second)


def flat_call(backend, offsets, values=None, grid=None, **options):
    """(value, gradient to the grid) of a call with offsets (K, n) at every point, and the bilinear value."""
    n = offsets.shape[-1]
    generator = torch.Generator().manual_seed(0)
    size, out_size = SIZES[n]
    sample = Sample(dtype=offsets.dtype, size=size, out_size=out_size, batch=1)
    values = image(sample, generator) if values is None else values
    grid = torch.rand(1, *out_size, n, generator=generator).to(offsets.dtype) if grid is None else grid
    everywhere = offsets.reshape(1, -1, *[1] * n, n).expand(1, -1, *grid.shape[1:-1], n)
    mode = Linearized(len(offsets), offsets=everywhere.to(backend.device), **options)
    leaves = values.to(backend.device), grid.to(backend.device).requires_grad_()
    value = backend.op("grid_sample")(*leaves, mode)
    (gradient,) = torch.autograd.grad(value.sum(), leaves[1:])
    return value.detach(), gradient, backend.op("grid_sample")(*leaves).detach()


SINGULAR = {
    "all at the centre": [[0, 0]] * 4,
    "all at one place": [[0, 0]] + [[0.3, 0.1]] * 4,
    "on a line": [[0, 0]] + [[0.1 * k, 0.07 * k + 0.013] for k in range(1, 6)],
    "on a line along y": [[0, 0]] + [[0.1, 0.1 * k] for k in range(1, 6)],
    "two places": [[0, 0], [0.1, 0.2], [-0.1, 0.3], [0.1, 0.2], [-0.1, 0.3]],
    "all but two beyond": [[0, 0], [1.1, 0.2], [-0.1, 0.3], [0.1, 0.2], [0.2, -1.2]],
    "all beyond": [[0, 0], [1.1, 0.2], [-0.1, 1.3], [9, -0.2], [0.2, -1.2]],
    "not numbers": [[0, 0], [torch.nan, 0.2], [0.1, torch.nan], [torch.inf, 0.2], [0.1, 0.2]],
}


class TestRules:
    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("weighting", ["uniform", "distance", "entropic"])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("name", SINGULAR)
    def test_singular_systems_have_no_slope_and_no_bias(self, backend, name, dtype, weighting):
        offsets = torch.tensor(SINGULAR[name], dtype=dtype)
        value, gradient, bilinear = flat_call(backend, offsets, weighting=weighting)
        assert_close(value, bilinear)
        assert torch.equal(gradient, torch.zeros_like(gradient))

    def test_ridge_makes_them_regular(self, backend):
        offsets = torch.tensor(SINGULAR["on a line"], dtype=torch.float64)
        value, gradient, bilinear = flat_call(backend, offsets, ridge=0.1)
        assert value.isfinite().all()
        assert gradient.abs().min() > 0
        assert not torch.equal(value, bilinear)

    def test_without_noise_there_is_no_gradient(self, backend):
        inputs = backend.draw(OP_CASES["grid_sample"], Sample()).requires_grad()
        tensors = list(inputs.tensors.values())
        value = backend.op("grid_sample")(*tensors, Linearized(noise=0.0, push_away=False))
        assert_close(value, backend.op("grid_sample")(*tensors))
        (gradient,) = torch.autograd.grad(value.sum(), tensors[1:])
        assert torch.equal(gradient, torch.zeros_like(gradient))

    @pytest.mark.parametrize("weighting", ["uniform", "distance", "entropic"])
    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_a_linear_image_is_fitted_exactly(self, backend, n, weighting):
        size, out_size = SIZES[n]
        axes = [torch.linspace(-1 + 1 / s, 1 - 1 / s, s, dtype=torch.float64) for s in size]
        slope = torch.tensor([2.0, -3.0, 0.5], dtype=torch.float64)[:n]
        values = sum(g * s for g, s in zip(torch.meshgrid(*axes, indexing="ij")[::-1], slope, strict=True))
        grid = (torch.rand(1, *out_size, n, dtype=torch.float64) - 0.5) * 0.4
        offsets = torch.cat([torch.zeros(1, n), 0.2 * (torch.rand(n + 4, n) - 0.5)]).double()
        value, gradient, bilinear = flat_call(backend, offsets, values[None, None], grid, weighting=weighting)
        assert_close(value, bilinear)
        assert_close(gradient, slope.expand_as(gradient), "coords")

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("padding", PADDINGS)
    def test_bad_coordinates(self, backend, padding, dtype):
        """Every sample of such a point counts as it does, so that it has the value of the centre and no slope."""
        bad = list(itertools.product((torch.nan, torch.inf, -torch.inf, 1e38, -1e38), repeat=2))
        grid = torch.tensor(bad, dtype=dtype).reshape(1, 5, 5, 2).to(backend.device).requires_grad_()
        picture = image(Sample(dtype=dtype, batch=1), torch.Generator().manual_seed(0)).to(backend.device)
        value = backend.op("grid_sample")(picture, grid, Linearized(seed=0), padding)
        assert_close(value, backend.op("grid_sample")(picture, grid, padding_mode=padding))
        (gradient,) = torch.autograd.grad(value.sum(), (grid,))
        assert gradient.abs().max() < 1e-4

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_bad_pixels_stay_where_they_are_read(self, backend, bad):
        grid = stn_kernels.affine_grid(torch.eye(2, 3).unsqueeze(0), (16, 18)).to(backend.device)
        picture = image(Sample(batch=1, size=(16, 18)), torch.Generator().manual_seed(0))
        mode = Linearized(seed=3, noise=0.0)
        good = backend.op("grid_sample")(picture.to(backend.device), grid, mode).cpu()
        picture[:, :, 3, 4] = bad
        got = backend.op("grid_sample")(picture.to(backend.device), grid, mode).cpu()
        changed = (got != good).any(1)[0]
        assert changed[3, 4]
        assert not changed[10:].any()
        assert not changed[:, 12:].any()
        assert not got[:, :, 3, 4].isfinite().any()


@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("name", LINEARIZED_CASES)
def test_through_samples_the_gradient_of_the_image_is_that_of_the_value(backend, name, samples):
    """<warp x, y> = <x, warp* y>; and by default it is the bilinear one, of the centre."""
    case = LINEARIZED_CASES[name]
    inputs = backend.draw(case, Sample(dtype=torch.float64, samples=samples, seed=2)).requires_grad("input")
    mode = inputs.options["mode"]
    assert mode.through_samples
    output = backend.call(case, inputs)
    picture = inputs.tensors["input"]
    cotangent = torch.randn_like(output)
    (gradient,) = torch.autograd.grad(output, (picture,), cotangent)
    torch.testing.assert_close((gradient * picture).sum(), (output * cotangent).sum(), rtol=1e-12, atol=1e-12)
    options = {**inputs.options, "mode": replace(mode, through_samples=False)}
    (centre,) = torch.autograd.grad(backend.call(case, Inputs(inputs.tensors, options)), (picture,), cotangent)
    plain = backend.call(case, Inputs(inputs.tensors, {**inputs.options, "mode": "bilinear"}))
    assert_close(centre, torch.autograd.grad(plain, (picture,), cotangent)[0], "image")


@pytest.mark.thinned(5)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", LINEARIZED_CASES)
def test_second_gradients(backend, name, padding):
    case = LINEARIZED_CASES[name]
    sample = Sample(dtype=torch.float64, padding_mode=padding, size=(4, 5), out_size=(3, 4), channels=2)
    inputs = backend.draw(case, sample).requires_grad()

    def call(*tensors):
        return backend.call(case, Inputs(dict(zip(inputs.tensors, tensors, strict=True)), inputs.options))

    tensors = tuple(inputs.tensors.values())
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True, nondet_tol=backend.nondeterminism)
    constant = (tensors[0], tensors[1].detach())
    assert torch.autograd.gradcheck(call, constant, fast_mode=True, nondet_tol=backend.nondeterminism)


@pytest.mark.parametrize("name", LINEARIZED_CASES)
def test_operators(backend, name):
    """One forward, one backward, both pass opcheck; gradients that are not needed are not computed."""
    case = LINEARIZED_CASES[name]
    for wanted in ((), ("input",), (case.surrogates[0],)):
        inputs = backend.draw(case, Sample(size=(6, 7), out_size=(4, 3), samples=2)).requires_grad(*wanted)
        with RecordOperators() as record:
            output = backend.call(case, inputs)
            torch.autograd.grad(output.sum(), [t for t in inputs.tensors.values() if t.requires_grad])
        assert [c[0].name().split("::")[1] for c in record.calls] == [
            "_linearized_sample",
            "_linearized_sample_backward",
        ]
        for key, result in zip(inputs.tensors, record.calls[1][2], strict=True):
            assert (result.numel() > 0) == (not wanted or key in wanted)
        for operator, args, _ in record.calls:
            torch.library.opcheck(operator, tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in args))


def test_a_backward_makes_the_slopes_that_its_forward_did_not(backend):
    case = LINEARIZED_CASES["linearized_drawn"]
    inputs = backend.draw(case, Sample(size=(6, 7), out_size=(4, 3), samples=2)).requires_grad(*case.surrogates)
    leaf = inputs.tensors[case.surrogates[0]]
    with RecordOperators() as record:
        output = backend.call(case, inputs)
    operator, (*args, need_slopes), _ = record.calls[0]
    assert need_slopes
    args[1] = args[1].detach().requires_grad_()
    without, slopes = operator(*args, False)
    assert slopes.numel() == 0
    assert torch.equal(without, output)
    (expected,), (gradient,) = torch.autograd.grad(output.sum(), leaf), torch.autograd.grad(without.sum(), args[1])
    assert torch.equal(gradient.reshape(expected.shape), expected)


@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("shared", FLAGS)
def test_vmap(backend, samples, shared):
    """Values and gradients of each example, with the image shared or not; drawn numbers are those of one batch."""
    double = {"dtype": torch.float64, "device": backend.device}
    lead = (2,) if samples is None else (2, samples)
    image = torch.randn(3, 2, 2, 6, 7, **double)[0 if shared else slice(None)]
    theta = torch.eye(2, 3, **double) + 0.1 * torch.randn(3, *lead, 2, 3, **double)
    offsets = 0.2 * torch.randn(*lead, 5, 4, 5, 2, **double)
    offsets.select(-4, 0).zero_()
    dims = (None if shared else 0, 0)

    def function(mode):
        return lambda image, theta: backend.op("affine_sample")(image, theta, (4, 5), mode)

    def loss(image, theta):
        return function(Linearized(5, offsets=offsets))(image, theta).square().sum()

    examples = [(image if shared else image[k], theta[k]) for k in range(3)]
    mapped = torch.vmap(function(Linearized(5, offsets=offsets)), dims)(image, theta)
    torch.testing.assert_close(mapped, torch.stack([function(Linearized(5, offsets=offsets))(*e) for e in examples]))
    gradients = torch.vmap(torch.func.grad(loss, (0, 1)), dims)(image, theta)
    for k, example in enumerate(examples):
        for of_all, alone in zip(gradients, torch.func.grad(loss, (0, 1))(*example), strict=True):
            torch.testing.assert_close(of_all[k], alone)
    if samples is None and shared:
        hessian = torch.func.jacrev(torch.func.jacrev(functools.partial(loss, image)))(theta[0])
        expected = torch.autograd.functional.hessian(functools.partial(loss, image), theta[0])
        torch.testing.assert_close(hessian, expected)
    if samples is None and not shared:
        drawn = torch.vmap(function(Linearized(5, seed=7)), dims)(image, theta)
        together = function(Linearized(5, seed=7))(image.flatten(0, 1), theta.flatten(0, 1))
        torch.testing.assert_close(drawn.flatten(0, 1), together)


@pytest.mark.parametrize("dynamic", FLAGS)
@pytest.mark.parametrize("name", LINEARIZED_CASES)
def test_compile_fullgraph(backend, name, dynamic):
    assert_compiles(backend, LINEARIZED_CASES[name], Sample(dtype=torch.float64, samples=2), dynamic)


def test_compile_draws_a_new_seed_at_every_call():
    torch._dynamo.reset()
    image, theta = torch.rand(1, 1, 6, 6), torch.eye(2, 3).unsqueeze(0)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def function(image):
        return stn_kernels.affine_sample(image, theta, (5, 5), "linearized")

    assert not torch.equal(function(image), function(image))


@pytest.mark.parametrize("empty", [{"batch": 0}, {"samples": 0}, {"channels": 0}])
@pytest.mark.parametrize("name", LINEARIZED_CASES)
def test_empty(backend, name, empty):
    case = LINEARIZED_CASES[name]
    inputs = backend.draw(case, Sample(**empty)).requires_grad()
    output = backend.call(case, inputs)
    assert output.shape == case.call(inputs.to(device="cpu"), "reference").shape
    for tensor, grad in zip(
        inputs.tensors.values(), torch.autograd.grad(output.sum(), inputs.tensors.values()), strict=True
    ):
        assert torch.equal(grad, torch.zeros_like(tensor))


def test_deterministic_runs_are_equal(backend):
    case = LINEARIZED_CASES["linearized_drawn"]
    inputs = case.draw(Sample(channels=4, samples=3, size=(20, 21), out_size=(24, 19), seed=2))
    with deterministic():
        runs = [backend.call(case, inputs.to(device=backend.device).requires_grad()) for _ in range(2)]
        assert torch.equal(*runs)


def test_memory_does_not_depend_on_the_number_of_samples(backend):
    if backend.name != "cpu":
        return
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    theta = (torch.eye(2, 3).expand(2, 2, 3) + 0.1 * torch.randn(2, 2, 3)).requires_grad_()

    def peak(mode):
        def call():
            value = backend.op("affine_sample")(images, theta, (32, 32), mode)
            return torch.autograd.grad(value, (images, theta), torch.ones_like(value))

        return harness.peak_bytes(call, "cpu")

    few, many = (peak(Linearized(samples, seed=0)) for samples in (4, 64))
    slopes, grid = 2 * images.nbytes, images.nbytes * 2 // 3
    assert many == few <= peak("bilinear") + slopes + grid + 1024  # and the seed


OFFSETS = torch.zeros(2, 8, 4, 5, 2)
BAD_OPTIONS = [
    ({"samples": 2}, ValueError, "samples must be at least 3"),
    ({"samples": 8.0}, TypeError, "samples must be an integer"),
    ({"samples": True}, TypeError, "samples must be an integer"),
    ({"noise": -0.5}, ValueError, "noise must be finite and not negative, got -0.5"),
    ({"noise": torch.nan}, ValueError, "noise must be finite and not negative, got nan"),
    ({"noise": "much"}, TypeError, "noise must be a number, got 'much'"),
    ({"ridge": -1e-3}, ValueError, "ridge must be finite and not negative, got -0.001"),
    ({"ridge": torch.inf}, ValueError, "ridge must be finite"),
    ({"push_away": 1}, TypeError, "push_away must be True or False, got 1"),
    ({"fixed_bias": None}, TypeError, "fixed_bias must be True or False"),
    ({"through_samples": "all"}, TypeError, "through_samples must be True or False"),
    ({"weighting": "gauss"}, ValueError, "weighting must be 'uniform' or 'distance' or 'entropic', got 'gauss'"),
    ({"seed": -1}, ValueError, r"seed must be in \[0, 2\^63\), got -1"),
    ({"seed": 2**63}, ValueError, r"seed must be in \[0, 2\^63\)"),
    ({"seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
    ({"offsets": 0.5}, TypeError, "offsets must be a torch.Tensor, got float"),
    ({"offsets": OFFSETS.int()}, TypeError, "offsets must be float32"),
    ({"offsets": OFFSETS[..., :1].expand(2, 8, 4, 5, 4)}, ValueError, r"offsets must be \(B, K, \*out, n\)"),
    ({"offsets": OFFSETS[0, 0]}, ValueError, r"offsets must be \(B, K, \*out, n\)"),
    ({"offsets": OFFSETS, "samples": 9}, ValueError, "offsets must be of K = samples = 9"),
    ({"offsets": OFFSETS + 0.1}, ValueError, "offsets must begin with the centre"),
    ({"offsets": OFFSETS.clone().requires_grad_()}, ValueError, "offsets must not require a gradient"),
]
IMAGE, THETA = torch.rand(2, 3, 5, 6), torch.eye(2, 3).expand(2, 2, 3)
BAD_CALLS = [
    ({"samples": 3}, (IMAGE, THETA, (4, 5)), r"samples must be at least n \+ 2 = 4 in 2-D, got 3"),
    ({"samples": 4}, (torch.rand(1, 1, 3, 3, 3), torch.eye(3, 4)[None], (2, 2, 2)), r"n \+ 2 = 5 in 3-D, got 4"),
    ({"offsets": OFFSETS}, (IMAGE, THETA, (5, 4)), r"offsets must be \(2, 8, 5, 4, 2\) for this call"),
    ({"offsets": OFFSETS}, (IMAGE, THETA[:, None], (4, 5)), r"offsets must be \(2, 1, 8, 4, 5, 2\) for this call"),
    ({"offsets": OFFSETS[:1]}, (IMAGE, THETA, (4, 5)), r"offsets must be \(2, 8, 4, 5, 2\) for this call"),
    ({"offsets": OFFSETS.to("meta")}, (IMAGE, THETA, (4, 5)), "offsets must be on the device of input"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        Linearized(**options)


@pytest.mark.parametrize(("options", "arguments", "message"), BAD_CALLS)
def test_options_that_do_not_fit_the_call(options, arguments, message):
    with pytest.raises(ValueError, match=message):
        stn_kernels.affine_sample(*arguments, Linearized(**options))


@pytest.mark.parametrize("mode", ["linearised", Linearized, None])
def test_other_modes_are_refused(mode):
    with pytest.raises(ValueError, match=r"mode must be .* or 'linearized' or a Linearized, got"):
        stn_kernels.affine_sample(IMAGE, THETA, (4, 5), mode)
