"""cpab_jacobian: the gradient of every point, row by row, and against the float64 reference."""

import itertools

import pytest
import torch

from stn_kernels import Tessellation, cpab_transform
from stn_kernels.op_cases import OP_CASES, Sample

from .tolerances import assert_close, assert_like_reference

CASE = OP_CASES["cpab_jacobian"]
FLAGS = (True, False)
SHAPES = ((4,), (2, 2), (3, 1), (2, 1, 2))


@pytest.mark.thinned(13)
@pytest.mark.parametrize("method", ["exact", "fixed"])
@pytest.mark.parametrize("own", FLAGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_gradient_of_every_point(backend, shape, own, method):
    tessellation = Tessellation(shape, False)
    n = len(shape)
    theta = tessellation.sample(2, dtype=torch.float64).reshape(2, 1, -1).repeat(1, 2, 1).to(backend.device)
    points = torch.rand(*((2,) if own else ()), 3, n, dtype=torch.float64).to(backend.device)
    options = {"method": method, "steps": 5}
    jacobian = backend.op("cpab_jacobian")(points, theta, tessellation, **options)
    assert jacobian.shape == (2, 2, 3, n, tessellation.dim)
    leaf = theta.clone().requires_grad_()
    value = cpab_transform(points, leaf, tessellation, **options)
    for p, i in itertools.product(range(3), range(n)):
        (row,) = torch.autograd.grad(value[..., p, i].sum(), leaf, retain_graph=True)
        torch.testing.assert_close(jacobian[..., p, i, :], row, rtol=0, atol=1e-12)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_like_reference(backend, n, samples):
    for seed, dtype in enumerate((torch.float64, torch.float32, torch.bfloat16)):
        lead = {"samples": samples, "batch": 1 if backend.slow else 2}
        sample = Sample(dtype=dtype, size=(2,) * n, out_size=(5, 7, 2)[:n], seed=seed, **lead)
        assert_like_reference(backend, CASE, CASE.draw(sample), ("contiguous", "channels_last", "rows")[seed])


def test_contracts_to_the_gradient(backend):
    """With more points than a vector has lanes, and a cotangent: J^T g is what autograd gives."""
    tessellation = Tessellation((3, 2))
    theta = tessellation.sample(2).to(backend.device)
    points = torch.rand(45, 2, device=backend.device)
    cotangent = torch.randn(2, 45, 2, device=backend.device)
    leaf = theta.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cpab_transform(points, leaf, tessellation), leaf, cotangent)
    jacobian = backend.op("cpab_jacobian")(points, theta, tessellation)
    assert_close(torch.einsum("bpid,bpi->bd", jacobian, cotangent), expected, "coords")


@pytest.mark.parametrize(("points", "lead"), [((0, 2), (2,)), ((5, 2), (0,)), ((2, 0, 2), (2, 3))])
def test_empty(backend, points, lead):
    tessellation = Tessellation((2, 2))
    theta = torch.rand(*lead, tessellation.dim, device=backend.device)
    jacobian = backend.op("cpab_jacobian")(torch.rand(points, device=backend.device), theta, tessellation)
    assert jacobian.shape == (*lead, points[-2], 2, tessellation.dim)
