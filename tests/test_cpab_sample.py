"""cpab_sample and cpab_grid: against the float64 reference, and against the transformation and the sampler apart."""

import math

import pytest
import torch
import torch.nn.functional as F

from stn_kernels import Tessellation, cpab_grid, cpab_sample, cpab_transform
from stn_kernels.op_cases import OP_CASES, Inputs, Sample, grad_output

from .op_tests import small
from .tolerances import assert_close, assert_like_reference

CASE = OP_CASES["cpab_sample"]


@pytest.mark.thinned(7)
@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("padding", CASE.paddings)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_like_reference(backend, n, padding, samples):
    for seed, dtype in enumerate((torch.float64, torch.float32, torch.bfloat16)):
        layout = ("contiguous", "channels_last", "rows")[seed]
        sample = Sample(
            dtype=dtype,
            padding_mode=padding,
            layout=layout,
            samples=samples,
            batch=1 if backend.slow else 2,
            size=(4, 5, 3)[:n],
            out_size=(3, 4, 2)[:n],
            align_corners=seed == 1,
            seed=seed,
        )
        assert_like_reference(backend, CASE, CASE.draw(sample), layout)


@pytest.mark.parametrize("align", [False, True])
def test_is_torch_at_the_transformed_points(backend, align):
    tessellation = Tessellation((3, 2))
    theta = tessellation.sample(2, dtype=torch.float64)
    image = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    wide = torch.float64
    v, u = (torch.linspace(0, 1, s, dtype=wide) if align else (torch.arange(s, dtype=wide) + 0.5) / s for s in (6, 7))
    points = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).flatten(0, 1)
    grid = 2 * cpab_transform(points, theta, tessellation, backend="reference").unflatten(1, (6, 7)) - 1
    expected = F.grid_sample(image, grid, padding_mode="border", align_corners=align)
    tensors = [t.to(backend.device) for t in (image, theta)]
    value = backend.op("cpab_sample")(*tensors, (6, 7), tessellation, "bilinear", "border", align)
    assert_close(value.cpu(), expected)
    found = backend.op("cpab_grid")(tensors[1], (6, 7), tessellation, align)
    assert_close(found.cpu(), grid)


def test_affine_comes_after(backend):
    tessellation = Tessellation((2, 2))
    theta = tessellation.sample(2, dtype=torch.float64).to(backend.device)
    affine = torch.eye(2, 3, dtype=torch.float64) + 0.2 * torch.randn(2, 2, 3, dtype=torch.float64)
    affine = affine.to(backend.device)
    plain = backend.op("cpab_grid")(theta, (4, 5), tessellation)
    both = backend.op("cpab_grid")(theta, (4, 5), tessellation, affine=affine)
    expected = torch.einsum("bij,bhwj->bhwi", affine[..., :2], plain) + affine[:, None, None, :, 2]
    assert_close(both, expected)


@pytest.mark.parametrize("samples", [None, 2])
def test_one_image_for_a_batch_of_parameters(backend, samples):
    """Equal to the expanded image, with and without a matrix; one gradient of the size of one image."""
    tessellation = Tessellation((2, 1))
    lead = (2,) if samples is None else (2, samples)
    theta = tessellation.sample(math.prod(lead), dtype=torch.float64).reshape(*lead, -1).to(backend.device)
    image = torch.rand(1, 2, 4, 5, dtype=torch.float64, device=backend.device)
    matrix = (torch.eye(2, 3, dtype=torch.float64) + 0.1 * torch.randn(*lead, 2, 3)).to(backend.device)
    for affine in (matrix,) if backend.slow else (None, matrix):
        results = []
        for picture in (image.clone(), image.expand(2, -1, -1, -1)):
            leaves = [t.detach().requires_grad_() for t in (picture, theta)]
            value = backend.op("cpab_sample")(*leaves, (3, 4), tessellation, affine=affine)
            weight = torch.linspace(-1, 1, value.numel(), dtype=torch.float64, device=value.device).view_as(value)
            results.append((value, *torch.autograd.grad(value, leaves, weight)))
        (one, of_image, of_theta), (many, of_images, of_many) = results
        assert_close(one, many)
        assert_close(of_image, of_images.sum(0, keepdim=True), "image")
        assert_close(of_theta, of_many, "coords")


def test_identity_is_the_image(backend):
    tessellation = Tessellation((2, 2))
    image = torch.rand(2, 3, 8, 16, device=backend.device)
    value = backend.op("cpab_sample")(image, tessellation.identity(2, device=backend.device), (8, 16), tessellation)
    assert (value - image).abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["nearest", "bicubic"])
def test_modes(backend, mode):
    sample = Sample(dtype=torch.float64, mode=mode, size=(6, 7), out_size=(5, 4))
    assert_like_reference(backend, CASE, CASE.draw(sample))


IMAGE, TESSELLATION = torch.rand(2, 1, 5, 6), Tessellation((2, 2))
BAD = [
    ({"input": torch.rand(2, 1, 5)}, ValueError, r"input must be \(B, C, H, W\)"),
    ({"theta": torch.zeros(3, 14)}, ValueError, "theta must have the batch size of input"),
    ({"theta": torch.zeros(2, 20)}, ValueError, r"theta must be \(B, 14\)"),
    ({"size": (3,)}, ValueError, "size must be 2 integers"),
    ({"affine": torch.zeros(2, 3, 3)}, ValueError, r"affine must be \(B, 2, 3\)"),
    ({"affine": torch.zeros(1, 2, 3)}, ValueError, r"affine must be \(2, 2, 3\)"),
    ({"mode": "cubic"}, ValueError, "mode must be"),
    ({"padding_mode": "wrap"}, ValueError, "padding_mode must be"),
    ({"align_corners": 1}, TypeError, "align_corners must be True or False"),
    ({"method": "euler"}, ValueError, "method must be"),
    ({"steps": 0}, ValueError, "steps must be at least 1"),
    ({"tessellation": None}, TypeError, "tessellation must be"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_arguments(change, error, message):
    good = {"input": IMAGE, "theta": torch.zeros(2, 14), "size": (4, 4), "tessellation": TESSELLATION}
    with pytest.raises(error, match=message):
        cpab_sample(**{**good, **change})


def test_bad_arguments_of_the_grid():
    with pytest.raises(ValueError, match="size must be 2 integers"):
        cpab_grid(torch.zeros(2, 14), (4,), TESSELLATION)


@pytest.mark.parametrize("backend_name", [None, "reference"])
def test_second_gradients(backend_name):
    sample = Sample(dtype=torch.float64, size=(4, 5), out_size=(2, 2), channels=1, batch=1, seed=1)
    inputs = CASE.draw(sample).requires_grad()

    def function(image, theta, affine):
        return cpab_sample(image, theta, affine=affine, backend=backend_name, **inputs.options)

    assert torch.autograd.gradgradcheck(function, tuple(inputs.tensors.values()), fast_mode=True)


def test_fixed_steps(backend):
    """As the transformation in fixed steps and the sampler apart."""
    tessellation = Tessellation((2, 3), False)
    theta, image = tessellation.sample(2, dtype=torch.float64), torch.rand(2, 3, 9, 8, dtype=torch.float64)
    theta, image = (t.to(backend.device).requires_grad_() for t in (theta, image))
    options = {"method": "fixed", "steps": 7}
    grid = cpab_grid(theta, (6, 7), tessellation, backend="reference", **options)
    expected = F.grid_sample(image, grid, align_corners=False)
    value = backend.op("cpab_sample")(image, theta, (6, 7), tessellation, **options)
    assert_close(value, expected)
    cotangent = torch.randn_like(value)
    for a, b in zip(*(torch.autograd.grad(v, (image, theta), cotangent) for v in (value, expected)), strict=True):
        assert_close(a, b, "coords")


def test_many_points(backend):
    """More than are handed on at a time, of items in several tasks."""
    sample = Sample(size=(30, 31), out_size=(41, 43), channels=9, dtype=torch.float64)
    assert_like_reference(backend, CASE, CASE.draw(sample))


def test_gradients_alone_and_together(backend):
    inputs = CASE.draw(small(samples=2, batch=1) if backend.slow else Sample(samples=2))
    together = gradients(backend, inputs, *inputs.tensors)
    for name, expected in together.items():
        assert torch.equal(gradients(backend, inputs, name)[name], expected)


def gradients(backend, inputs: Inputs, *names) -> dict[str, torch.Tensor]:
    """Of those tensors alone."""
    leaves = inputs.to(device=backend.device).requires_grad(*names)
    value = CASE.call(leaves, backend.name)
    wanted = {name: leaves.tensors[name] for name in names}
    cotangent = grad_output(value.detach(), "contiguous")
    return dict(zip(wanted, torch.autograd.grad(value, list(wanted.values()), cotangent), strict=True))


def test_operator_is_well_formed():
    from torch.library import opcheck

    inputs = CASE.draw(Sample(dtype=torch.float64, size=(4, 5), out_size=(3, 4), channels=2, batch=1))
    tessellation = inputs.options["tessellation"]
    image, theta, affine = inputs.tensors.values()
    leaves = [t.detach().requires_grad_() for t in (image, tessellation.vertex_velocities(theta), affine)]
    constants = *tessellation.tables("cpu"), list(tessellation.shape), 0, [3, 4], 0, 0, False
    opcheck(torch.ops.stn_kernels.cpab_sample, (*leaves, *constants))
    first = [t.detach() for t in leaves]
    opcheck(
        torch.ops.stn_kernels._cpab_sample_backward,
        (torch.rand(1, 2, 3, 4, dtype=torch.float64), *first, *constants, True, True, True, False),
    )


def test_compiles():
    torch._dynamo.reset()
    tessellation = Tessellation((2, 2))
    theta, image = tessellation.sample(2).requires_grad_(), torch.rand(2, 1, 5, 6)

    def function(theta):
        return cpab_sample(image, theta, (4, 4), tessellation).sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(theta), function(theta))
    first, second = (torch.autograd.grad(f(theta).sum(), theta)[0] for f in (compiled, function))
    assert torch.equal(first, second)
