"""Sampling under hostile input: any coordinates, shapes and strides in every sampler, and offsets beyond 2^31."""

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

import stn_kernels
from stn_kernels.op_cases import LAYOUTS, Sample, image

from .test_samplers import torch_sample
from .tolerances import assert_close

HOSTILE = (torch.nan, torch.inf, -torch.inf, 1e38, -1e38, 1e30, 8e6, -3.0, -1.0, 1.0, 0.0, 1.0000001, -0.0, 1e-45)


@st.composite
def cases(draw, sampler):
    """(image, grid, padding, align): any point hostile, or all of them on one."""
    mode, n = sampler
    size = tuple(draw(st.integers(1, 12)) for _ in range(n))
    out_size = tuple(draw(st.integers(1, 7)) for _ in range(n))
    samples = draw(st.sampled_from((None, 1, 3)))
    sample = Sample(
        dtype=draw(st.sampled_from((torch.float64, torch.float32))),
        layout=draw(st.sampled_from(LAYOUTS)),
        batch=draw(st.integers(1, 2)),
        channels=draw(st.sampled_from((0, 1, 2, 9, 29))),
        size=size,
        mode=mode,
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    lead = (sample.batch,) if samples is None else (sample.batch, samples)
    grid = 3 * torch.rand((*lead, *out_size, n), generator=generator, dtype=torch.float64) - 1.5
    values = torch.tensor(HOSTILE, dtype=torch.float64)
    chosen = torch.randint(len(HOSTILE), grid.shape, generator=generator)
    share = draw(st.sampled_from((0.0, 0.3, 1.0)))
    grid = torch.where(torch.rand(grid.shape, generator=generator) < share, values[chosen], grid)
    if draw(st.booleans()):
        grid = grid.flatten(1, -2)[:, :1].expand(-1, grid.flatten(1, -2).shape[1], -1).reshape(grid.shape)
    if draw(st.booleans()):
        grid = grid.movedim(-1, 0).contiguous().movedim(0, -1)
    padding = draw(st.sampled_from(("zeros", "border", "reflection")))
    return image(sample, generator), grid.to(sample.dtype), padding, draw(st.booleans())


@pytest.mark.thinned(2)
def test_hostile_coordinates(backend, sampler):
    """Values as the reference has them; gradients finite, the image's the adjoint of the values."""
    mode = sampler[0]

    @hypothesis.settings(max_examples=6 if backend.slow else 40, deadline=None, derandomize=True, database=None)
    @hypothesis.given(case=cases(sampler))
    def check(case):
        input, grid, padding, align = case
        tensors = [t.to(backend.device).detach().requires_grad_() for t in (input, grid)]
        output = backend.op("grid_sample")(*tensors, mode, padding, align)
        exact = input.dtype == torch.float64
        if exact or mode != "nearest":  # which of two pixels is nearest depends on rounding
            wide = input.double(), grid.double()
            expected = stn_kernels.grid_sample(*wide, mode, padding, align, backend="reference").to(output.device)
            largest = max(1.0, float(input.abs().max()) if input.numel() else 0.0)
            assert output.isfinite().all()
            error = (output.double() - expected).abs().max() if output.numel() else torch.zeros(())
            assert error <= (1e-12 if exact else 2e-5) * largest
        cotangent = torch.rand_like(output)
        grad_input, grad_grid = torch.autograd.grad(output, tensors, cotangent)
        assert grad_input.isfinite().all()
        assert grad_grid.isfinite().all()
        products = (output.double() * cotangent.double()).sum(), (grad_input.double() * tensors[0].double()).sum()
        magnitude = (output.double() * cotangent.double()).abs().sum() + (grad_input.abs() * tensors[0].abs()).sum()
        assert (products[0] - products[1]).abs() <= (1e-12 if exact else 2e-5) * magnitude

    check()


# The points of torch's tests of grid_sample: outside, at the centre, on borders and corners, halfway, just off an axis.
POINTS = (
    ((-0.9, -4.1), (0, 0.2), (1, -1), (-0.333, 1e-6), (0.5, 1.0)),
    ((-1.0, -0.5), (0, 1 / 3), (1, -1), (-0.2, 1e-6), (1.5, 0.5)),
)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("size", [(2, 5), (1, 1), (1, 4), (3, 1), (2, 2)])
def test_points_of_torchs_tests(backend, mode, padding, align, size):
    input = torch.arange(1.0, 1 + size[0] * size[1], dtype=torch.float64).view(1, 1, *size)
    grid = torch.tensor([POINTS], dtype=torch.float64)
    expected = torch_sample(input, grid, mode, padding, align)
    actual = backend.op("grid_sample")(input.to(backend.device), grid.to(backend.device), mode, padding, align)
    assert_close(actual.cpu(), expected)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("degrees", [0, 45, 90, 180, 270])
def test_rotations_of_torchs_tests(backend, degrees, align):
    """A square image turned about its centre, as torch's tests of affine_grid do."""
    angle = torch.tensor(degrees * torch.pi / 180, dtype=torch.float64)
    theta = torch.tensor([[[angle.cos(), angle.sin(), 0], [-angle.sin(), angle.cos(), 0]]], dtype=torch.float64)
    input = torch.rand((1, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = F.grid_sample(input, F.affine_grid(theta, (1, 1, 6, 6), align_corners=align), align_corners=align)
    inputs = [t.to(backend.device) for t in (input, theta)]
    assert_close(backend.op("affine_sample")(*inputs, (6, 6), align_corners=align).cpu(), expected)
    if degrees % 90 == 0:
        assert_close(expected, torch.rot90(input, -degrees // 90, (2, 3)))


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """Memory of 2^32 floats, of which only what is touched exists."""
    path = tmp_path_factory.mktemp("sparse") / "memory"
    count = 2**32
    with open(path, "wb") as file:
        file.truncate(4 * count)
    yield torch.from_file(str(path), shared=True, size=count)
    path.unlink()


@pytest.mark.parametrize("far", range(-5, 0))
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_offsets_beyond_32_bits(sparse, mode, far):
    """The image's elements along one dimension lie so far apart that the last ones are beyond 2^31 elements."""
    for n in (1, 2, 3):
        shape = (3, 2, *(9, 10, 11)[-n:])
        if len(shape) + far < 0:
            continue
        generator = torch.Generator().manual_seed(n)
        values = torch.rand(shape, generator=generator)
        grid = 2.4 * torch.rand((3, *(4, 5, 6)[-n:], n), generator=generator) - 1.2
        strides = list(values.stride())
        strides[far] = (2**32 - 5000) // shape[far]
        input = sparse.as_strided(shape, strides)
        input.copy_(values)
        near, away = (t.detach().requires_grad_() for t in (values, input))
        points = [grid.clone().requires_grad_() for _ in range(2)]
        outputs = [
            stn_kernels.grid_sample(i, g, mode, backend="cpu") for i, g in zip((near, away), points, strict=True)
        ]
        torch.testing.assert_close(*outputs)
        cotangent = torch.rand(outputs[0].shape, generator=generator)
        gradients = [
            torch.autograd.grad(o, (i, g), cotangent) for o, i, g in zip(outputs, (near, away), points, strict=True)
        ]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_more_than_2_to_31_elements(mode):
    """An image of 2^34 elements, all rows one in memory."""
    row = torch.arange(2.0**17)
    input = row.expand(1, 1, 2**17, 2**17)
    pixels = torch.tensor([5.0, 70_000.0, 131_000.0])
    x = (2 * pixels + 1) / 2**17 - 1
    grid = torch.stack([x, x.flip(0)], -1).view(1, 1, 3, 2).double()
    actual = stn_kernels.grid_sample(input, grid, mode, backend="cpu")
    torch.testing.assert_close(actual.flatten(), pixels, rtol=1e-5, atol=1e-2)
