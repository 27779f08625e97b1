"""Thin-plate splines in three dimensions: every sampler against the composition, SciPy, derivatives, bad input."""

import pytest
import scipy.interpolate
import torch
import torch.nn.functional as F

import stn_kernels
from stn_kernels import Linearized, params
from stn_kernels.nn import SpatialTransformer
from stn_kernels.op_cases import DTYPES, LAYOUTS, OP_CASES, Sample, grad_output
from stn_kernels.ops import _tps_system
from stn_kernels.reference.affine import homogeneous_base

from .test_tps_grid import bent
from .tolerances import assert_close, assert_like_reference

F64 = torch.float64
CONTROL = _tps_system.default_control_points(3)
SAMPLE = OP_CASES["tps_sample"]
GRID = OP_CASES["tps_grid"]
MODES = ("bilinear", "nearest", "bicubic")
over_paddings = pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])


def volume(**options):
    return Sample(size=(4, 5, 6), out_size=(3, 4, 7), **options)


def few_control_points(count=7):
    return 2 * torch.rand(count, 3, dtype=F64) - 1


@pytest.mark.thinned(13)
@over_paddings
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_equals_the_reference(backend, padding, dtype, layout, mode):
    samples = 3 if layout == "rows" else None
    sample = volume(dtype=dtype, padding_mode=padding, layout=layout, mode=mode, samples=samples, seed=len(mode))
    assert_like_reference(backend, SAMPLE, backend.draw(SAMPLE, sample))


@pytest.mark.thinned(4)
@over_paddings
@pytest.mark.parametrize("channels", [1, 8, 20])
@pytest.mark.parametrize("out_size", [(1, 1, 1), (2, 35, 3), (3, 2, 70)])
def test_blocks_of_channels_and_rows(backend, padding, channels, out_size):
    """More points than a run has, more channels than a list of taps is shared by, rows of fewer than a vector."""
    sample = Sample(size=(5, 7, 20), out_size=out_size, channels=channels, padding_mode=padding, batch=2)
    assert_like_reference(backend, SAMPLE, backend.draw(SAMPLE, sample))


@over_paddings
@pytest.mark.parametrize("align", [False, True])
def test_equals_torch_at_the_grid(backend, padding, align):
    inputs = backend.draw(SAMPLE, volume(dtype=F64, padding_mode=padding, align_corners=align))
    image, points = (t.cpu() for t in inputs.tensors.values())
    grid = stn_kernels.tps_grid(points, (3, 4, 7), align, backend="reference")
    expected = F.grid_sample(image, grid, "bilinear", padding, align)
    assert_close(backend.call(SAMPLE, inputs).cpu(), expected)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("count", [None, 5, 20])
def test_grid_equals_scipy(backend, count, align):
    """Whose "linear" is minus the distance, which the weights take up."""
    control = CONTROL if count is None else few_control_points(count)
    points = bent(control)
    size = (3, 5, 19)
    lattice = homogeneous_base(size, align, F64, "cpu")[..., :3].reshape(-1, 3)
    spline = scipy.interpolate.RBFInterpolator(control.numpy(), points[0].numpy(), kernel="linear", degree=1)
    expected = torch.from_numpy(spline(lattice.numpy())).reshape(1, *size, 3)
    given = None if count is None else control.to(backend.device)
    actual = backend.op("tps_grid")(points.to(backend.device), size, align, control_points=given)
    assert (actual.cpu() - expected).abs().max() < 1e-10


def test_control_points_go_to_points(backend):
    points = bent(CONTROL, (2, 3)).to(backend.device)
    grid = backend.op("tps_grid")(points, (4, 4, 4), True)
    assert_close(grid, points.unflatten(-2, (4, 4, 4)), "coords")


def test_affine_maps_are_reproduced_and_composed(backend):
    theta, after = torch.randn(2, 2, 3, 4, dtype=F64)
    points = (CONTROL @ theta[..., :3].mT + theta[..., 3].unsqueeze(1)).to(backend.device)
    grid = backend.op("tps_grid")(points, (3, 6, 5), affine=after.to(backend.device))
    expected = stn_kernels.affine_grid(params.compose(after, theta), (3, 6, 5), backend="reference")
    assert_close(grid, expected, "coords")


@pytest.mark.thinned(2)
@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("lead", [(2,), (2, 3)])
def test_gradients_of_the_grid(backend, lead, dtype):
    sample = volume(dtype=dtype, samples=lead[1] if len(lead) == 2 else None)
    assert_like_reference(backend, GRID, backend.draw(GRID, sample))


@over_paddings
@pytest.mark.parametrize("mode", MODES)
def test_derivatives(backend, padding, mode):
    """In the image, the points and the affine map; of cubic taps by autograd, so that one padding says it."""
    if mode == "bicubic" and padding != "zeros":
        return
    sample = Sample(size=(2, 3, 4), out_size=(2, 2, 3), dtype=F64, padding_mode=padding, mode=mode, batch=1, channels=2)
    image, points = backend.draw(SAMPLE, sample).tensors.values()
    control = few_control_points(6).to(backend.device)
    affine = (torch.eye(3, 4, dtype=F64) + 0.05 * torch.randn(1, 3, 4, dtype=F64)).to(backend.device)
    points = points[:, :6].detach() + 0.01 * torch.randn(1, 6, 3, dtype=F64).to(backend.device)
    leaves = [t.detach().clone().requires_grad_() for t in (image, points, affine)]

    def call(image, points, affine):
        return backend.op("tps_sample")(image, points, (2, 2, 3), mode, padding, control_points=control, affine=affine)

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    if mode != "bicubic":
        assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


def test_one_volume_for_a_batch_of_splines(backend):
    image, points = torch.randn(1, 2, 3, 4, 5), bent(CONTROL, (3,)).float()
    tensors = [t.to(backend.device).requires_grad_() for t in (image, points)]
    output = backend.op("tps_sample")(*tensors, (2, 3, 4))
    copied = [image.expand(3, -1, -1, -1, -1).clone().requires_grad_(), points.clone().requires_grad_()]
    expected = stn_kernels.tps_sample(*copied, (2, 3, 4), backend="reference")
    assert_close(output.cpu(), expected)
    cotangent = grad_output(expected, "contiguous")
    actual = torch.autograd.grad(output, tensors, cotangent.to(backend.device))
    of_image, of_points = torch.autograd.grad(expected, copied, cotangent)
    assert_close(actual[0].cpu(), of_image.sum(0, keepdim=True))
    assert_close(actual[1].cpu(), of_points, "coords")


def test_linearized(backend):
    """With the exact value, and slopes for the gradient of the points."""
    image, points = torch.randn(2, 2, 5, 6, 7), bent(CONTROL, (2,), 0.05).float()
    mode = Linearized(samples=8, fixed_bias=True, ridge=0.5, seed=3)
    results = []
    for name, device in (("reference", "cpu"), (backend.name, backend.device)):
        leaves = [t.to(device, copy=True).requires_grad_() for t in (image, points)]
        value = stn_kernels.tps_sample(*leaves, (3, 4, 5), mode, backend=name)
        grads = torch.autograd.grad(value, leaves, grad_output(value.detach().cpu(), "contiguous").to(device))
        results.append([value.detach().cpu(), *(g.cpu() for g in grads)])
    columns = "image", "image", "coords"
    for actual, expected, column in zip(results[1], results[0], columns, strict=True):
        assert_close(actual, expected, column)


@over_paddings
def test_nan_points_read_nothing(backend, padding):
    inputs = backend.draw(SAMPLE, volume(padding_mode=padding, samples=3))
    good = backend.call(SAMPLE, inputs)
    inputs.tensors["points"][:, 1, 5] = torch.nan
    got = backend.call(SAMPLE, inputs)
    assert torch.equal(got[:, ::2], good[:, ::2])
    assert got.isfinite().all()


def test_vmap_over_splines(backend):
    image, points = torch.randn(2, 2, 3, 4, 5, dtype=F64), bent(CONTROL, (3, 2))
    op = backend.op("tps_sample")
    actual = torch.vmap(lambda p: op(image.to(backend.device), p, (2, 3, 4)))(points.to(backend.device))
    expected = torch.stack([stn_kernels.tps_sample(image, p, (2, 3, 4), backend="reference") for p in points])
    assert_close(actual.cpu(), expected)


def test_bad_input():
    image, points = torch.zeros(2, 1, 3, 4, 5), torch.zeros(2, 64, 3)
    call = stn_kernels.tps_sample
    with pytest.raises(ValueError, match=r"points must be \(B, K, 3\) or \(B, S, K, 3\), got shape \(2, 16, 2\)"):
        call(image, torch.zeros(2, 16, 2), (3, 4, 5))
    with pytest.raises(ValueError, match=r"points must be \(B, K, 2\).*got shape \(2, 64, 3\)"):
        call(image[:, :, 0], points, (4, 5))
    with pytest.raises(ValueError, match=r"size must be 3 integers"):
        call(image, points, (4, 5))
    with pytest.raises(ValueError, match=r"points must have a row for each of 64 control points"):
        call(image, points[:, :16], (3, 4, 5))
    with pytest.raises(ValueError, match=r"control_points must be \(K, 3\) with K >= 4, got shape \(3, 3\)"):
        call(image, points[:, :3], (3, 4, 5), control_points=torch.rand(3, 3))
    with pytest.raises(ValueError, match=r"affine must be \(B, 3, 4\)"):
        call(image, points, (3, 4, 5), affine=torch.zeros(2, 2, 3))
    flat = torch.cat([torch.rand(6, 2), torch.zeros(6, 1)], 1)
    with pytest.raises(ValueError, match=r"control_points must be distinct.* not all on a plane"):
        call(image, points[:, :6], (3, 4, 5), control_points=flat)
    with pytest.raises(ValueError, match=r"input must be \(B, C, H, W\) or \(B, C, D, H, W\)"):
        call(torch.zeros(2, 1, 3), points, (3,))
    with pytest.raises(ValueError, match=r"points must be \(B, K, 2\) or \(B, S, K, 2\) or \(B, K, 3\)"):
        stn_kernels.tps_grid(torch.zeros(2, 4, 1), (3,))


def test_layer_starts_at_the_identity_and_learns():
    control = CONTROL.float()
    layer = SpatialTransformer(torch.nn.Identity(), "tps", control_points=control)
    image = torch.randn(2, 1, 4, 5, 6)
    output = layer(image)
    torch.testing.assert_close(output, image, rtol=1e-5, atol=1e-5)
    output.square().sum().backward()
    assert layer.head.weight.grad.abs().max() > 0
    assert layer.share_in_bounds(image).tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"control_points must be \(K, 2\) with K >= 3 or \(K, 3\) with K >= 4"):
        SpatialTransformer(torch.nn.Identity(), "tps", control_points=torch.zeros(4, 1))
