"""cpab_transform: flows against SciPy's, gradients against differences, and what a diffeomorphism has to be."""

import json
import math
import pathlib
import warnings

import numpy as np
import pytest
import torch
from scipy import integrate, linalg

from stn_kernels import Tessellation, _library, cpab_jacobian, cpab_transform
from stn_kernels.op_cases import OP_CASES, Inputs, Sample, grad_output

from . import cpab_oracle
from .tolerances import assert_like_reference

FLAGS = (True, False)
SHAPES = ((4,), (2, 2), (3, 1), (2, 1, 2))
OP = "cpab_transform"
CASE = OP_CASES["cpab_transform"]
# libcpab's (its PyTorch path): a field (D,) by its basis, points (P, n) and where so many steps take them.
LIBCPAB = json.loads(pathlib.Path(__file__).with_name("libcpab.json").read_text())


def lattice(shape, per_cell=4, outside=0.0):
    """Points on the corners, edges, diagonals and centres of the cells, and between them: (P, n)."""
    axes = [torch.linspace(-outside, 1 + outside, per_cell * s + 1, dtype=torch.float64) for s in shape]
    return torch.cartesian_prod(*axes).reshape(-1, len(shape))


def maps(tessellation, theta):
    n = tessellation.n
    return (theta.double() @ tessellation.basis.T).unflatten(-1, (-1, n, n + 1))


def evaluate(backend, points, theta, tessellation, **options):
    """The value and both gradients, for a fixed cotangent."""
    leaves = [t.detach().to(backend.device).requires_grad_() for t in (points, theta)]
    value = backend.op(OP)(*leaves, tessellation, **options)
    grads = torch.autograd.grad(value, leaves, grad_output(value.cpu(), "contiguous").to(value))
    return [t.detach().cpu() for t in (value, *grads)]


@pytest.mark.thinned(5)
@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("zero_boundary", FLAGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_ode(backend, shape, zero_boundary, scale):
    tessellation = Tessellation(shape, zero_boundary)
    theta = scale * tessellation.sample(2, dtype=torch.float64)
    points = torch.rand(6, len(shape), dtype=torch.float64) * (1 if zero_boundary else 1.4) - (
        0 if zero_boundary else 0.2
    )
    value = backend.op(OP)(points.to(backend.device), theta.to(backend.device), tessellation).cpu()
    for b in range(2):
        expected = cpab_oracle.flow(shape, maps(tessellation, theta)[b].numpy(), points.numpy(), zero_boundary)
        np.testing.assert_allclose(value[b], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("zero_boundary", FLAGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_oracle_solves_the_ode(shape, zero_boundary):
    """Pieces of exponentials against an adaptive Runge-Kutta, as near as this comes over the kinks of a velocity."""
    tessellation = Tessellation(shape, zero_boundary)
    A = maps(tessellation, 3 * tessellation.sample(1, dtype=torch.float64))[0].numpy()
    points = (torch.rand(10, len(shape), dtype=torch.float64) * 1.4 - 0.2).numpy()
    for point, found in zip(points, cpab_oracle.flow(shape, A, points, zero_boundary), strict=True):
        path = integrate.solve_ivp(
            lambda t, x: cpab_oracle.velocity(shape, A, x, zero_boundary),
            (0, 1),
            point,
            method="DOP853",
            rtol=3e-14,
            atol=3e-14,
        )
        np.testing.assert_allclose(found, path.y[:, -1], rtol=1e-8, atol=1e-8)


def test_one_cell_is_an_exponential(backend):
    """Where no path leaves its cell the flow is expm of the generator, for defective ones too."""
    tessellation = Tessellation((1, 1), zero_boundary=False)
    field = torch.zeros(4, 2, 3, dtype=torch.float64)
    for matrix in ([[0, 1], [0, 0]], [[0.3, 1], [0, 0.3]], [[0, -1], [1, 0]], [[1, 0], [0, -1]], [[-1, 0], [0, -1]]):
        generator = 0.2 * torch.tensor(matrix, dtype=torch.float64)
        centre = torch.tensor([0.5, 0.5], dtype=torch.float64)  # at rest
        field[:] = torch.cat([generator, -(generator @ centre).unsqueeze(1)], 1)
        theta = (tessellation.basis.T @ field.flatten()).unsqueeze(0)
        points = lattice((1, 1), 8)
        value = backend.op(OP)(points.to(backend.device), theta.to(backend.device), tessellation)[0].cpu()
        expected = centre + (points - centre) @ torch.from_numpy(linalg.expm(generator.numpy())).T
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-13)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_fixed_steps_are_exponentials(backend, shape, steps):
    tessellation = Tessellation(shape)
    n = len(shape)
    theta = tessellation.sample(1, dtype=torch.float64)
    points = torch.rand(30, n, dtype=torch.float64)
    A = maps(tessellation, theta)[0].numpy()
    square = np.concatenate([A, np.zeros((len(A), 1, n + 1))], 1)
    step = np.stack([linalg.expm(a / steps) for a in square])
    expected = np.concatenate([points.numpy(), np.ones((30, 1))], 1)
    for _ in range(steps):
        expected = np.stack([step[cpab_oracle.cell(shape, x[:-1])] @ x for x in expected])
    value = backend.op(OP)(
        points.to(backend.device), theta.to(backend.device), tessellation, method="fixed", steps=steps
    )
    np.testing.assert_allclose(value[0].cpu(), expected[:, :-1], atol=1e-13)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("number", range(len(LIBCPAB)))
def test_fixed_steps_are_libcpabs(backend, number):
    """libcpab 0.1.3 computes in float32."""
    recorded = LIBCPAB[number]
    tessellation = Tessellation(recorded["shape"], recorded["zero_boundary"])
    field, points = (torch.tensor(recorded[k], dtype=torch.float64) for k in ("field", "points"))
    theta = (tessellation.basis.T @ field).unsqueeze(0)  # orthonormal
    assert (tessellation.basis @ theta[0] - field).abs().max() < 1e-6
    for steps, moved in recorded["moved"].items():
        value = backend.op(OP)(
            points.to(backend.device), theta.to(backend.device), tessellation, method="fixed", steps=int(steps)
        )
        assert (value[0].cpu() - torch.tensor(moved, dtype=torch.float64)).abs().max() < 3e-6


@pytest.mark.thinned(7)
@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_like_reference(backend, n, dtype, samples):
    sizes = {"size": (2,) * n, "out_size": (3, 7, 2)[:n], "batch": 1 if backend.slow else 2}
    for seed, layout in enumerate(("contiguous", "channels_last", "rows", "contiguous")):
        sample = Sample(dtype=dtype, layout=layout, samples=samples, seed=seed, **sizes)
        assert_like_reference(backend, CASE, CASE.draw(sample), layout)


@pytest.mark.thinned(13)
@pytest.mark.parametrize("method", ["exact", "fixed"])
@pytest.mark.parametrize("zero_boundary", FLAGS)
@pytest.mark.parametrize("shape", [(3,), (2, 1), (1, 1, 2)])
def test_gradients_equal_central_differences(backend, shape, zero_boundary, method):
    """Complex enough to cross faces; of "fixed" no point changes its cell within the difference."""
    tessellation = Tessellation(shape, zero_boundary)
    theta = tessellation.sample(1, dtype=torch.float64)
    points = 0.02 + 0.96 * torch.rand(6, len(shape), dtype=torch.float64)
    options = {"method": method, "steps": 3}
    value, *grads = evaluate(backend, points, theta, tessellation, **options)
    cotangent = grad_output(value, "contiguous")

    def loss(points, theta):
        moved = backend.op(OP)(points.to(backend.device), theta.to(backend.device), tessellation, **options)
        return (moved.cpu() * cotangent).sum().item()

    h = 1e-6
    for tensor, grad, place in ((points, grads[0], 0), (theta, grads[1], 1)):
        for k in range(tensor.numel()):
            shift = torch.zeros(tensor.numel(), dtype=torch.float64)
            shift[k] = h
            ends = [
                loss(*[t + sign * shift.view_as(t) if i == place else t for i, t in enumerate((points, theta))])
                for sign in (1, -1)
            ]
            assert abs((ends[0] - ends[1]) / (2 * h) - grad.flatten()[k].item()) < 1e-7


@pytest.mark.parametrize("zero_boundary", FLAGS)
def test_second_gradients(zero_boundary):
    tessellation = Tessellation((2, 1), zero_boundary)
    theta = tessellation.sample(1, dtype=torch.float64).requires_grad_()
    points = (0.03 + 0.94 * torch.rand(3, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda p, t: cpab_transform(p, t, tessellation), (points, theta))


@pytest.mark.thinned(7)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("zero_boundary", FLAGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_inverse_returns_the_points(backend, shape, zero_boundary, dtype):
    tessellation = Tessellation(shape, zero_boundary)
    theta = tessellation.sample(3, dtype=dtype).to(backend.device)
    points = torch.rand(50, len(shape), dtype=dtype).to(backend.device)
    moved = backend.op(OP)(points, theta, tessellation)
    back = backend.op(OP)(moved, theta, tessellation, inverse=True)
    assert (back - points).abs().max() < (1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.thinned(19)
@pytest.mark.parametrize("scale", [0, 1e-12, 1e-3, 1, 10])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("zero_boundary", FLAGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_lattices_on_edges_and_vertices(backend, shape, zero_boundary, dtype, scale):
    """No hang, no NaN, no path beyond the limit (which would warn), and the float64 reference's points."""
    tessellation = Tessellation(shape, zero_boundary)
    theta = scale * tessellation.sample(1, dtype=torch.float64)
    points = lattice(shape, 4 if len(shape) < 3 else 2, 0.0 if zero_boundary else 0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, *grads = evaluate(backend, points.to(dtype), theta.to(dtype), tessellation)
    assert all(t.isfinite().all() for t in (value, *grads))
    if scale <= 1:
        expected = cpab_transform(
            points.to(dtype).double(), theta.to(dtype).double(), tessellation, backend="reference"
        )
        assert (value - expected).abs().max() <= (1e-12 if dtype == torch.float64 else 2e-6)
    if scale == 0:
        inside = points.to(dtype)
        torch.testing.assert_close(value[0], inside, rtol=0, atol=1e-15 if dtype == torch.float64 else 1e-7)


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (2, 1, 2)])
def test_far_outside(backend, shape):
    """Paths that go round the domain, e^30 times as far away: float32 finds the way of float64."""
    tessellation = Tessellation(shape, False)
    theta = 30 * tessellation.sample(1 if backend.slow else 16).to(backend.device)
    points = lattice(shape, 2, 0.25).float().to(backend.device)
    value = backend.op(OP)(points, theta, tessellation)
    expected = backend.op(OP)(points.double(), theta.double(), tessellation)
    error = (value - expected).abs().amax(-1) / (1 + expected.abs().amax(-1))
    assert error.max() < 1e-4


def nodal_field(tessellation, velocity):
    """theta (1, d) of the field with these velocities (V, n) at the vertices."""
    nodal = tessellation.vertex_velocities(torch.eye(tessellation.dim, dtype=torch.float64)).flatten(1)
    solution = torch.linalg.lstsq(nodal.T, velocity.flatten().unsqueeze(1)).solution
    assert (nodal.T @ solution - velocity.flatten().unsqueeze(1)).abs().max() < 1e-10
    return solution.T


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["rotation", "along edges", "shear", "saddle", "sink", "source"])
def test_special_fields(backend, name, dtype):
    """Fields that are one affine map over all cells, around a vertex: expm says where every point goes."""
    matrices = {
        "rotation": [[0, -math.pi], [math.pi, 0]],
        "shear": [[0, 1], [0, 0]],
        "saddle": [[1, 0], [0, -1]],
        "sink": [[-2, 0], [0, -2]],
        "source": [[0.5, 0], [0, 0.5]],
    }
    tessellation = Tessellation((4, 4), zero_boundary=False)
    centre = torch.tensor([0.5, 0.5], dtype=torch.float64)
    M = torch.tensor(matrices.get(name, [[0, 0], [0, 0]]), dtype=torch.float64)
    b = torch.tensor([0.25, 0.0], dtype=torch.float64) if name == "along edges" else torch.zeros(2).double()
    vertices = tessellation._complex.vertices / 4
    theta = nodal_field(tessellation, (vertices - centre) @ M.T + b)
    points = lattice((4, 4))
    points_and_theta = points.to(dtype), theta.to(dtype)
    if backend.name == "reference" and dtype == torch.float64:  # a thousand segments, from cell to cell on one edge
        value, grads = backend.op(OP)(*points_and_theta, tessellation), ()
    else:
        value, *grads = evaluate(backend, *points_and_theta, tessellation)
    expected = centre + (points - centre) @ torch.from_numpy(linalg.expm(M.numpy())).T + b
    assert (value[0] - expected).abs().max() < (1e-12 if dtype == torch.float64 else 3e-6)
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("scale", [1, 5])
def test_order_is_preserved(backend, scale):
    tessellation = Tessellation((7,))
    theta = scale * tessellation.sample(4, dtype=torch.float64).to(backend.device)
    points = torch.linspace(0, 1, 300, dtype=torch.float64, device=backend.device).unsqueeze(1)
    moved = backend.op(OP)(points, theta, tessellation)
    assert (moved.diff(dim=1) > 0).all()


def test_jacobian_determinant_is_positive():
    """d(phi)/d(x) at many points, by the gradient to them."""
    tessellation = Tessellation((4, 4))
    theta = tessellation.sample(1)
    points = torch.rand(1_000_000, 2).requires_grad_()
    moved = cpab_transform(points, theta, tessellation)[0]
    rows = [torch.autograd.grad(moved[:, i].sum(), points, retain_graph=True)[0] for i in range(2)]
    assert (rows[0][:, 0] * rows[1][:, 1] - rows[0][:, 1] * rows[1][:, 0] > 0).all()
    assert ((moved >= 0) & (moved <= 1)).all()


def test_boundary_stays_on_the_boundary(backend):
    tessellation = Tessellation((2, 2))
    theta = 3 * tessellation.sample(2).to(backend.device)
    t = torch.linspace(0, 1, 9)
    points = torch.stack([t, torch.zeros(9)], 1).to(backend.device)
    moved = backend.op(OP)(points, theta, tessellation)
    assert not moved[..., 1].any()
    assert torch.equal(moved[:, 0], torch.zeros_like(moved[:, 0]))
    outside = backend.op(OP)(points - torch.tensor([0.0, 0.5], device=backend.device), theta, tessellation)
    assert torch.equal(outside, moved)


@pytest.mark.thinned(5)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("zero_boundary", FLAGS)
def test_bad_points_and_parameters_stay_where_they_are(backend, zero_boundary, bad):
    tessellation = Tessellation((2, 2), zero_boundary)
    theta, points = tessellation.sample(2), torch.rand(20, 2)
    clean = backend.op(OP)(points.to(backend.device), theta.to(backend.device), tessellation).cpu()
    spoiled = points.clone()
    spoiled[3, 1] = bad
    value = backend.op(OP)(spoiled.to(backend.device), theta.to(backend.device), tessellation).cpu()
    rest = torch.arange(20) != 3
    assert torch.equal(value[:, rest], clean[:, rest])
    if not (zero_boundary and bad in (torch.inf, -torch.inf)):
        assert not value[:, 3].isfinite().all()
    theta[1, 5] = bad
    value = backend.op(OP)(points.to(backend.device), theta.to(backend.device), tessellation).cpu()
    assert torch.equal(value[0], clean[0])
    assert not value[1].isfinite().any()


def test_huge_parameters_end_and_say_so():
    tessellation = Tessellation((2, 2))
    theta = 3000 * tessellation.sample(1, dtype=torch.float64)
    points = torch.rand(32, 2, dtype=torch.float64).requires_grad_()
    theta.requires_grad_()
    if _library.backends()["cpu"]:
        pytest.skip("only the C++ kernels warn, and they are not here")
    with pytest.warns(UserWarning, match=r"\d+ CPAB paths have more than 1024 segments"):
        moved = cpab_transform(points, theta, tessellation)
    with pytest.warns(UserWarning, match=r"\d+ CPAB paths have more than 1024 segments"):
        grads = torch.autograd.grad(moved.sum(), (points, theta))
    assert all(t.isfinite().all() for t in (moved, *grads))


def test_rest_after_the_limit_in_fixed_steps(backend, monkeypatch):
    """Of Triton and the reference, whose limit can be lowered: the same steps, and so the same gradients."""
    if backend.name != "triton" or backend.device == "cuda":
        return
    import triton.language as tl

    from stn_kernels.reference import cpab as reference
    from stn_kernels.triton import cpab

    for name, number in (("SEGMENTS", 2), ("REST_STEPS", 4)):
        monkeypatch.setattr(cpab, name, tl.constexpr(number))
    for name, number in (("SEGMENT_LIMIT", 2), ("FIXED_STEPS", 4)):
        monkeypatch.setattr(reference, name, number)
    tessellation = Tessellation((2, 2))
    theta = 6 * tessellation.sample(1, dtype=torch.float64)
    inputs = Inputs({"points": torch.rand(5, 2, dtype=torch.float64), "theta": theta}, {"tessellation": tessellation})
    assert_like_reference(backend, CASE, inputs)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_empty(backend, n):
    tessellation = Tessellation((2,) * n)
    for points, lead in (((0, n), (2,)), ((5, n), (0,)), ((5, n), (2, 0)), ((2, 0, n), (2, 3)), ((0, 5, n), (0,))):
        value, *grads = evaluate(backend, torch.rand(points), torch.rand(*lead, tessellation.dim), tessellation)
        assert value.shape == (*lead, *points[-2:])
        assert grads[0].shape == points
        assert not any(g.any() for g in grads)


BAD = [
    ({"points": None}, TypeError, "points must be a torch.Tensor, got NoneType"),
    ({"points": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "points must be float32"),
    ({"points": torch.zeros(3, 3)}, ValueError, r"points must be \(P, 2\) or \(B, P, 2\).*\(3, 3\)"),
    ({"points": torch.zeros(3, 5, 2)}, ValueError, r"theta must have the batch size of points \(3\)"),
    ({"theta": torch.zeros(2, 13)}, ValueError, r"theta must be \(B, 14\) or \(B, S, 14\).*\(2, 13\)"),
    ({"theta": torch.zeros(14)}, ValueError, r"theta must be \(B, 14\)"),
    ({"theta": torch.zeros(2, 14, device="meta")}, ValueError, "theta must be on the device of points"),
    ({"tessellation": (2, 2)}, TypeError, "tessellation must be a stn_kernels.Tessellation, got tuple"),
    ({"method": "rk4"}, ValueError, "method must be 'exact' or 'fixed', got 'rk4'"),
    ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    ({"steps": 2.0}, TypeError, "steps must be an integer, got 2.0"),
    ({"inverse": 1}, TypeError, "inverse must be True or False, got 1"),
    ({"backend": "magic"}, ValueError, "backend must be one of"),
]


@pytest.mark.parametrize("function", [cpab_transform, cpab_jacobian])
@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_arguments(function, change, error, message):
    good = {"points": torch.zeros(3, 2), "theta": torch.zeros(2, 14), "tessellation": Tessellation((2, 2))}
    with pytest.raises(error, match=message):
        function(**{**good, **change})


def test_operator_is_well_formed():
    from torch.library import opcheck

    tessellation = Tessellation((2, 1), False)
    theta = tessellation.sample(2, dtype=torch.float64).requires_grad_()
    points = torch.rand(4, 2, dtype=torch.float64).requires_grad_()
    velocities = tessellation.vertex_velocities(theta).detach().requires_grad_()
    tables = tessellation.tables("cpu")
    opcheck(torch.ops.stn_kernels.cpab_transform, (points, velocities, *tables, [2, 1], 0))
    # Its own backward is the reference's, whose loops depend on the data: not for tracing.
    grad = torch.rand(2, 4, 2, dtype=torch.float64)
    backward = torch.ops.stn_kernels._cpab_transform_backward
    opcheck(backward, (grad, points.detach(), velocities.detach(), *tables, [2, 1], 0, True, True))


def test_compiles():
    torch._dynamo.reset()
    tessellation = Tessellation((2, 2))
    theta, points = tessellation.sample(2).requires_grad_(), torch.rand(5, 2)

    def function(theta):
        return cpab_transform(points, theta, tessellation).sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(theta), function(theta))
    for output in (compiled(theta), function(theta)):
        assert torch.autograd.grad(output.sum(), theta)[0].isfinite().all()
