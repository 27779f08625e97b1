"""Tessellation: sizes, bases, cells and velocities, against the constraints written out and a plain velocity."""

import itertools

import numpy as np
import pytest
import torch
from scipy import linalg

from stn_kernels import Tessellation

from . import cpab_oracle

# The number of parameters (libcpab's), zero boundary and free.
SIZES = {
    (1,): (0, 2),
    (5,): (4, 6),
    (10,): (9, 11),
    (2, 2): (14, 20),
    (3, 3): (34, 34),
    (4, 4): (62, 58),
    (8, 8): (254, 234),
    (1, 1, 1): (0, 15),
    (1, 1, 2): (4, 18),
    (2, 2, 2): (27, 48),
    (2, 2, 4): (57, 69),
    (3, 2, 4): (86, 69),
    (3, 3, 3): (96, 78),
    (4, 4, 4): (225, 201),
}
SHAPES = ((3,), (2, 2), (3, 2), (2, 1, 2))
FLAGS = (True, False)


@pytest.mark.parametrize("shape", SIZES)
def test_number_of_parameters(shape):
    assert tuple(Tessellation(shape, flag).dim for flag in FLAGS) == SIZES[shape]


def vertices_of_cells(shape):
    """(cells, n + 1, n): the cells' corners, from the oracle's lookup alone."""
    n = len(shape)
    half = list(itertools.product(*(range(2 * s + 1) for s in shape)))
    corners = np.array([p for p in half if all(x % 2 == 0 for x in p) or (n == 2 and all(x % 2 for x in p))]) / 2
    count = {1: 1, 2: 4, 3: 5}[n] * int(np.prod(shape))
    found = [set() for _ in range(count)]
    generator = np.random.default_rng(0)
    for x in generator.random((400 * count, n)):
        y = x * shape
        number = cpab_oracle.cell(shape, x)
        near = corners[(np.abs(corners - y) < 1).all(1)]
        # A corner belongs to the cell if all of the way to it does.
        found[number] |= {
            tuple(c) for c in near if cpab_oracle.cell(shape, (0.999999 * c + 0.000001 * y) / shape) == number
        }
    assert all(len(f) == n + 1 for f in found)
    return np.array([sorted(f) for f in found]) / shape


@pytest.mark.parametrize("volume", FLAGS)
@pytest.mark.parametrize("zero_boundary", FLAGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_basis_spans_the_constraints_null_space(shape, zero_boundary, volume):
    """Continuity at shared vertices, normal velocity 0 on walls or a continuous outside, divergence 0: all fields."""
    tessellation = Tessellation(shape, zero_boundary, volume)
    n, cells = len(shape), tessellation.cells
    corners = vertices_of_cells(shape)
    rows, seen = [], {}

    def value(cell, point, component, homogeneous=1.0):
        row = np.zeros((cells, n, n + 1))
        row[cell, component] = [*point, homogeneous]
        return row.ravel()

    for cell in range(cells):
        for corner in corners[cell]:
            key = tuple(np.round(corner, 9))
            for i in range(n):
                if key in seen:
                    rows.append(value(cell, corner, i) - value(seen[key], corner, i))
                if zero_boundary and corner[i] in (0, 1):
                    rows.append(value(cell, corner, i))
            seen.setdefault(key, cell)
        if volume:
            rows.append(sum(value(cell, np.eye(n)[i], i, 0.0) for i in range(n)))
    if not zero_boundary and n > 1:
        for axis, side in itertools.product(range(n), (0, 1)):
            wall = [c for c in range(cells) if (corners[c][:, axis] == side).sum() == n]
            for cell, i in itertools.product(wall[1:], range(n)):
                rows.append(value(cell, np.eye(n)[axis], i, 0.0) - value(wall[0], np.eye(n)[axis], i, 0.0))
    null = linalg.null_space(np.array(rows)) if rows else np.eye(cells * n * (n + 1))
    basis = tessellation.basis.numpy()
    assert basis.shape == null.shape
    np.testing.assert_allclose(basis @ basis.T, null @ null.T, atol=1e-11)


@pytest.mark.parametrize("kind", ["svd", "qr"])
@pytest.mark.parametrize("shape", SHAPES)
def test_bases_are_orthonormal_and_span_the_same(shape, kind):
    basis = Tessellation(shape, False, basis=kind).basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]).double(), rtol=0, atol=1e-11)
    other = Tessellation(shape, False).basis
    torch.testing.assert_close(basis @ basis.T, other @ other.T, rtol=0, atol=1e-11)


@pytest.mark.parametrize("zero_boundary", FLAGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_given_basis(shape, zero_boundary):
    own = Tessellation(shape, zero_boundary)
    mixed = own.basis @ torch.randn(own.dim, own.dim, dtype=torch.float64)
    given = Tessellation(shape, zero_boundary, basis=mixed)
    theta, points = given.sample(2, dtype=torch.float64), torch.rand(20, own.n, dtype=torch.float64)
    same = torch.linalg.lstsq(own.basis, mixed @ theta.T).solution.T
    torch.testing.assert_close(given.velocity(points, theta), own.velocity(points, same), rtol=0, atol=1e-10)
    torch.testing.assert_close(given.vertex_velocities(theta), own.vertex_velocities(same), rtol=0, atol=1e-10)


def test_given_basis_must_be_continuous():
    own = Tessellation((2, 2))
    broken = own.basis.clone()
    broken[3] += 1
    with pytest.raises(ValueError, match=r"basis must consist of continuous fields.*differ at a shared vertex"):
        Tessellation((2, 2), basis=broken)
    with pytest.raises(ValueError, match=r"basis must not cross the boundary"):
        Tessellation((2, 2), basis=Tessellation((2, 2), zero_boundary=False).basis)
    with pytest.raises(ValueError, match=r"basis must be \(96, d\).*\(95, 14\)"):
        Tessellation((2, 2), basis=own.basis[1:])


@pytest.mark.parametrize("zero_boundary", FLAGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_velocity_equals_the_oracle(shape, zero_boundary):
    tessellation = Tessellation(shape, zero_boundary)
    theta = tessellation.sample(2, dtype=torch.float64)
    points = 1.6 * torch.rand(200, len(shape), dtype=torch.float64) - 0.3
    velocity = tessellation.velocity(points, theta).numpy()
    A = (theta @ tessellation.basis.T).unflatten(1, (-1, len(shape), len(shape) + 1)).numpy()
    for b in range(2):
        expected = [cpab_oracle.velocity(shape, A[b], x, zero_boundary) for x in points.numpy()]
        np.testing.assert_allclose(velocity[b], expected, atol=1e-12)


@pytest.mark.parametrize("zero_boundary", FLAGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_velocity_is_continuous_everywhere(shape, zero_boundary):
    """Along segments through the domain and what lies outside of it, steps of 1e-6 change it by no more than that."""
    tessellation = Tessellation(shape, zero_boundary)
    theta = tessellation.sample(1, dtype=torch.float64)
    start, end = (3 * torch.rand(300, 1, len(shape), dtype=torch.float64) - 1 for _ in range(2))
    t = torch.rand(1, 40, 1, dtype=torch.float64)
    near = [tessellation.velocity((start + (end - start) * (t + h)).flatten(0, 1), theta) for h in (0.0, 1e-6)]
    assert (near[0] - near[1]).abs().max() < 1e-3


def test_cell_centers_and_theta():
    tessellation = Tessellation((2, 2))
    centers = tessellation.cell_centers()
    assert torch.equal(tessellation.cell_index(centers), torch.arange(16))
    torch.testing.assert_close(centers[0], torch.tensor([0.25, 1 / 12], dtype=torch.float64))
    assert tessellation.identity(3).shape == (3, 14)
    assert not tessellation.identity(3).any()
    assert tessellation.sample(3, dtype=torch.float64).dtype == torch.float64
    assert repr(tessellation) == "Tessellation([2, 2], zero boundary, d=14)"


def test_prior_has_the_stated_covariance():
    tessellation = Tessellation((2, 2))
    generator = torch.Generator().manual_seed(0)
    theta = tessellation.sample_prior(40_000, 0.3, 2.0, generator=generator, dtype=torch.float64)
    centers = tessellation.cell_centers()
    kernel = 4 * torch.exp((centers[:, None] - centers[None]).square().sum(-1) / (-2 * 0.3**2))
    covariance = tessellation.basis.T @ torch.kron(kernel, torch.eye(6).double()) @ tessellation.basis
    torch.testing.assert_close(theta.T.cov(), covariance, rtol=0, atol=0.04 * covariance.max().item())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shape": "22"}, TypeError, "shape must be one to three integers, got '22'"),
        ({"shape": (2.0, 2)}, TypeError, "shape must be one to three integers"),
        ({"shape": ()}, ValueError, "shape must be one to three positive integers"),
        ({"shape": (2, 0)}, ValueError, "shape must be one to three positive integers"),
        ({"shape": (2, 2, 2, 2)}, ValueError, "shape must be one to three positive integers"),
        ({"shape": (2,), "zero_boundary": 1}, TypeError, "zero_boundary must be True or False, got 1"),
        ({"shape": (2,), "volume_preserving": None}, TypeError, "volume_preserving must be True or False"),
        ({"shape": (2,), "basis": "rref"}, ValueError, "basis must be 'svd', 'qr' or a tensor"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Tessellation(**arguments)


def test_bad_prior():
    with pytest.raises(ValueError, match="length_scale must be positive, got 0"):
        Tessellation((2,)).sample_prior(1, length_scale=0)
