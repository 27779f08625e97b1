"""Parameterisations against SciPy, finite differences and their definitions."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

from stn_kernels import params

F64 = torch.float64
EYE = torch.eye(2, 3, dtype=F64)


def tensors(*values):
    return [torch.tensor(v, dtype=F64, requires_grad=True) for v in values]


def generator(theta):
    """theta (6,) -> the 3x3 generator."""
    return np.vstack([np.asarray(theta, dtype=np.float64).reshape(2, 3), np.zeros(3)])


# Generators in and around every branch of the closed form; d = ((a - e) / 2)^2 + b c, m = (a + e) / 2.
GENERATORS = {
    "zero": [0, 0, 0, 0, 0, 0],
    "translation": [0, 0, 0.7, 0, 0, -0.4],
    "tiny": [1e-9, -2e-9, 1e-9, 3e-9, 1e-10, 2e-9],
    "rotation": [0, -1.3, 0.2, 1.3, 0, -0.5],
    "more than a turn": [0, -8.0, 0.2, 8.0, 0, -0.5],
    "dilation": [0.8, 0, 0.3, 0, 0.8, 0.1],
    "strong contraction": [-12.0, 0.3, 0.3, 0.1, -11.0, 0.1],
    "strong dilation": [6.0, 0.3, 0.3, 0.1, 7.0, 0.1],
    "shear": [0, 1.5, 0.4, 0, 0, 0.3],
    "defective": [0.4, 1.0, 0.4, 0, 0.4, 0.3],
    "defective, m = 2": [2.0, 1.0, 0.4, 0, 2.0, 0.3],
    "singular": [0.5, 0.25, 0.1, 1.0, 0.5, 0.7],
    "singular, large": [3.0, 1.5, 0.1, 6.0, 3.0, 0.7],
    "singular, m = -2": [-4.0, 0, 0.1, 0, 0, 0.7],
    "d = 0.5": [0, 0.5, 0.3, 1.0, 0, 0.2],
    "d = -0.5": [0, -0.5, 0.3, 1.0, 0, 0.2],
    "m = 1": [1.0, 0.1, 0.3, 0.2, 1.0, 0.2],
    "general": [0.3, -0.2, 0.5, 0.4, -0.6, 0.1],
    "general, large": [1.3, -2.2, 0.5, 3.4, -1.6, 2.1],
}


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_affine_diffeo_is_the_matrix_exponential(name, dtype):
    theta = torch.tensor(GENERATORS[name], dtype=dtype)
    with mpmath.workdps(40):  # SciPy's own error exceeds the bound for large generators
        exact = mpmath.expm(mpmath.matrix(generator(theta.double()).tolist()))
        expected = torch.tensor([[float(exact[i, j]) for j in range(3)] for i in range(2)], dtype=F64)
    actual = params.affine_diffeo(theta)
    assert actual.dtype == dtype
    bound = {torch.float64: 1e-14, torch.float32: 2**-24, torch.float16: 2**-11}[dtype]
    assert ((actual.double() - expected).abs() <= bound * expected.abs().max() * 1.01).all()


def test_affine_diffeo_everywhere():
    """Random generators of every size, and walks across the borders between the branches."""
    rng = np.random.default_rng(0)
    thetas = rng.standard_normal((400, 6)) * 10.0 ** rng.uniform(-6, 0.7, (400, 1))
    borders = [
        [m, b, 0.3, c, m, -0.2]
        for m, b, c in itertools.product(
            np.r_[0.0, -1, 1, 2] + 1e-9, np.linspace(0.49, 0.51, 5), [-1.0, 1.0, 1e-8, -1e-8]
        )
    ]
    thetas = np.concatenate([thetas, borders])
    actual = params.affine_diffeo(torch.from_numpy(thetas)).numpy()
    expected = np.stack([scipy.linalg.expm(generator(t))[:2] for t in thetas])
    scale = np.abs(expected).max((1, 2), keepdims=True)
    assert (np.abs(actual - expected) / scale).max() < 1e-13


@pytest.mark.parametrize("name", GENERATORS)
def test_affine_diffeo_derivatives(name):
    theta = torch.tensor(GENERATORS[name], dtype=F64, requires_grad=True)
    scale = float(params.affine_diffeo(theta).detach().abs().max())

    def function(t):
        return params.affine_diffeo(t) / scale

    assert torch.autograd.gradcheck(function, (theta,))
    assert torch.autograd.gradgradcheck(function, (theta,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_affine_diffeo_at_zero_is_exact(dtype):
    """exp(A) = I + A + A^2 / 2 + ...: identity, the basis matrices, and the symmetric products of pairs of them."""
    zero = torch.zeros(6, dtype=dtype)
    assert torch.equal(params.affine_diffeo(zero), torch.eye(2, 3, dtype=dtype))
    basis = torch.zeros(6, 3, 3, dtype=dtype)
    basis.view(6, 9)[:, :6] = torch.eye(6)
    jacobian = torch.autograd.functional.jacobian(params.affine_diffeo, zero)
    assert torch.equal(jacobian.movedim(-1, 0), basis[:, :2])
    for row, column in itertools.product(range(2), range(3)):
        hessian = torch.autograd.functional.hessian(lambda t, r=row, c=column: params.affine_diffeo(t)[r, c], zero)
        expected = torch.einsum("iab,jbc->ijac", basis, basis)
        expected = (expected + expected.transpose(0, 1))[..., row, column] / 2
        torch.testing.assert_close(hessian, expected, rtol=0, atol=1e-7 if dtype == torch.float32 else 1e-15)


def test_affine_diffeo_inverse_is_the_opposite_generator():
    theta = torch.randn(20, 6, dtype=F64)
    torch.testing.assert_close(params.inverse(params.affine_diffeo(theta)), params.affine_diffeo(-theta))
    assert (torch.linalg.det(params.affine_diffeo(theta)[..., :2]) > 0).all()


def test_rotation():
    quarter = params.rotation(torch.tensor(math.pi / 2, dtype=F64))
    torch.testing.assert_close(quarter, torch.tensor([[0, -1, 0], [1, 0, 0]], dtype=F64))
    torch.testing.assert_close(quarter @ torch.tensor([1.0, 0, 1], dtype=F64), torch.tensor([0.0, 1], dtype=F64))
    assert torch.equal(params.rotation(0.0), torch.eye(2, 3))


def test_definitions():
    s, tx, ty = tensors(0.5, 0.25, -0.75)
    assert params.attention(s, tx, ty).tolist() == [[0.5, 0, 0.25], [0, 0.5, -0.75]]
    assert params.translation(tx, ty).tolist() == [[1, 0, 0.25], [0, 1, -0.75]]
    angle = torch.tensor(0.3, dtype=F64)
    expected = params.compose(params.attention(s, tx, ty), params.rotation(angle))
    torch.testing.assert_close(params.similarity(angle, s, tx, ty), expected)
    assert params.isotropic is params.similarity
    o = torch.arange(1.0, 7.0, dtype=F64)
    assert params.finnveden(o).tolist() == [[2, 2, 3], [4, 6, 6]]
    torch.testing.assert_close(params.pstn(o[:4]), params.similarity(o[0], 3.0, o[2], o[3]))
    torch.testing.assert_close(params.pstn(o[:4], positive=True), params.similarity(o[0], math.exp(2), o[2], o[3]))


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (params.finnveden, 6),
        (params.pstn, 4),
        (lambda o: params.pstn(o, positive=True), 4),
        (params.affine_diffeo, 6),
        (lambda o: params.rotation(o[..., 0]), 1),
        (lambda o: params.similarity(o[..., 0], 1 + o[..., 1], o[..., 2], o[..., 3]), 4),
        (lambda o: params.attention(1 + o[..., 0], o[..., 1], o[..., 2]), 3),
        (lambda o: params.translation(o[..., 0], o[..., 1]), 2),
    ],
)
@pytest.mark.parametrize("lead", [(), (3,), (3, 2)])
def test_zero_is_the_identity_and_derivatives(function, count, lead):
    zero = torch.zeros(*lead, count, dtype=F64)
    assert torch.equal(function(zero), EYE.expand(*lead, 2, 3))
    output = (0.3 * torch.randn(*lead, count, dtype=F64)).requires_grad_()
    assert torch.autograd.gradcheck(function, (output,))
    assert torch.autograd.gradgradcheck(function, (output,))


def test_numbers_and_tensors_broadcast():
    assert params.similarity(torch.zeros(4, 1), torch.ones(3), 0.5, torch.zeros(())).shape == (4, 3, 2, 3)
    assert params.attention(torch.ones(2, dtype=F64), 0, 0).dtype == F64
    assert params.translation(1, 2).dtype == torch.get_default_dtype()


def test_compose_applies_the_last_first():
    a, b = torch.randn(4, 2, 3, dtype=F64), torch.randn(5, 1, 2, 3, dtype=F64)
    point = torch.tensor([0.3, -0.8], dtype=F64)
    inner = (b[..., :2] @ point) + b[..., 2]
    expected = (a[..., :2] @ inner.unsqueeze(-1)).squeeze(-1) + a[..., 2]
    both = params.compose(a, b)
    assert both.shape == (5, 4, 2, 3)
    torch.testing.assert_close((both[..., :2] @ point) + both[..., 2], expected)
    homography = torch.randn(3, 3, dtype=F64)
    assert params.compose(a, homography).shape == (4, 3, 3)
    torch.testing.assert_close(params.compose(homography, homography), homography @ homography)
    assert params.compose(torch.eye(3, 4), torch.eye(3, 4)).shape == (3, 4)
    assert torch.equal(params.compose(a), a)


@pytest.mark.parametrize("shape", [(1, 2), (2, 3), (3, 4), (3, 3)])
def test_inverse(shape):
    matrix = torch.eye(*shape, dtype=F64) + 0.2 * torch.randn(7, *shape, dtype=F64)
    inverse = params.inverse(matrix.requires_grad_())
    assert inverse.shape == matrix.shape
    torch.testing.assert_close(params.compose(matrix, inverse), torch.eye(*shape, dtype=F64).expand(7, *shape))
    assert torch.autograd.gradcheck(params.inverse, (matrix[:2].detach().requires_grad_(),))


@pytest.mark.parametrize("align", [False, True])
def test_pose_of_a_similarity(align):
    angle, scale = torch.linspace(-3.1, 3.1, 9, dtype=F64), torch.tensor(0.5, dtype=F64)
    pose = params.pose(params.similarity(angle, scale, 0.5, -0.25), (41, 61), align)
    torch.testing.assert_close(pose.angle, angle)
    torch.testing.assert_close(pose.log2_det, torch.full_like(angle, -2.0))
    expected = torch.tensor([0.5 * 30, -0.25 * 20] if align else [0.5 * 30.5, -0.25 * 20.5], dtype=F64)
    torch.testing.assert_close(pose.translation, expected.expand(9, 2))


def test_pose_is_the_nearest_similarity():
    """Eq. 10 of Finnveden et al. by linear least squares in (u, v) = S (cos, sin)."""
    matrix = torch.randn(50, 2, 3, dtype=F64)
    design = np.array([[1, 0], [0, -1], [0, 1], [1, 0]])  # a11, a12, a21, a22
    u, v = np.linalg.lstsq(design, matrix[:, :, :2].reshape(50, 4).numpy().T, rcond=None)[0]
    pose = params.pose(matrix, (8, 8))
    np.testing.assert_allclose(pose.angle.numpy(), np.arctan2(v, u), atol=1e-12)
    np.testing.assert_allclose(pose.log2_det.numpy(), np.log2(np.abs(np.linalg.det(matrix[:, :, :2].numpy()))))


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (lambda: params.affine_diffeo(torch.zeros(5)), ValueError, ["output", "(..., 6)", "(5,)"]),
        (lambda: params.finnveden([0.0] * 6), TypeError, ["output", "list"]),
        (lambda: params.pstn(torch.zeros(3, 6)), ValueError, ["output", "(..., 4)", "(3, 6)"]),
        (params.compose, ValueError, ["matrices", "none"]),
        (lambda: params.compose(torch.eye(2, 3), torch.eye(3, 4)), ValueError, ["matrices", "3 and 4"]),
        (lambda: params.compose(torch.eye(2)[:1, :1]), ValueError, ["matrices", "(1, 1)"]),
        (lambda: params.inverse("x"), TypeError, ["matrix", "str"]),
        (lambda: params.inverse(torch.zeros(3)), ValueError, ["matrix", "(3,)"]),
        (lambda: params.pose(torch.eye(3), (4, 4)), ValueError, ["matrix", "(..., 2, 3)", "(3, 3)"]),
        (lambda: params.pose(torch.eye(2, 3), (4, 0)), ValueError, ["size", "(4, 0)"]),
    ],
)
def test_bad_input(call, error, parts):
    with pytest.raises(error) as raised:
        call()
    assert all(part in str(raised.value) for part in parts), raised.value
