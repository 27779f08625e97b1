"""Parameterisations: from a few numbers to the matrices (..., 2, 3) of `affine_sample`.

A matrix maps normalized output coordinates to normalized source coordinates. Everything is differentiable, twice, and
any leading dimensions work: a scalar argument may be a tensor (...) or a number, and all are broadcast.
"""

import math
from typing import NamedTuple

import torch


def _matrix(*rows) -> torch.Tensor:
    """Entries that broadcast, numbers or tensors (...) -> (..., rows, columns)."""
    entries = [e for row in rows for e in row]
    like = next((e for e in entries if isinstance(e, torch.Tensor)), torch.empty(0))
    tensors = [torch.as_tensor(e, dtype=like.dtype, device=like.device) for e in entries]
    return torch.stack(torch.broadcast_tensors(*tensors), -1).unflatten(-1, (len(rows), -1))


def _outputs(value: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"output must be a torch.Tensor, got {type(value).__name__}")
    if value.dim() == 0 or value.shape[-1] != count:
        raise ValueError(f"output must be (..., {count}), got shape {tuple(value.shape)}")
    return value.unbind(-1)


def _check_matrix(name: str, value, *, planar: bool = False) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    rows, columns = value.shape[-2:] if value.dim() >= 2 else (0, 0)
    known = columns in (rows, rows + 1) and 1 <= rows <= 4 and columns >= 2
    if not known or (planar and (rows, columns) != (2, 3)):
        wanted = "(..., 2, 3)" if planar else "(..., n, n + 1) or (..., n + 1, n + 1)"
        raise ValueError(f"{name} must be {wanted}, got shape {tuple(value.shape)}")


def translation(tx, ty) -> torch.Tensor:
    """Shift by (tx, ty), normalized: (..., 2, 3)."""
    return _matrix((1.0, 0.0, tx), (0.0, 1.0, ty))


def rotation(angle) -> torch.Tensor:
    """Rotation by `angle` radians, from the x axis towards the y axis: (..., 2, 3)."""
    return similarity(angle, 1.0, 0.0, 0.0)


def attention(s, tx, ty) -> torch.Tensor:
    """Isotropic scaling and translation, an attention window: (..., 2, 3) (Jaderberg et al. 2015, Eq. 2).

    Args:
        s: scale; below 1 zooms in.
        tx, ty: centre of the window in the source, normalized.
    """
    return _matrix((s, 0.0, tx), (0.0, s, ty))


def similarity(angle, scale, tx, ty) -> torch.Tensor:
    """Rotation, isotropic scaling and translation: (..., 2, 3) (P-STN, Schwoebel et al. 2022, Eq. 1).

    Args:
        angle: radians.
        scale: factor on normalized coordinates; below 1 zooms in.
        tx, ty: translation, normalized.
    """
    angle = torch.as_tensor(angle, dtype=None if isinstance(angle, torch.Tensor) else torch.get_default_dtype())
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    return _matrix((cosine, -sine, tx), (sine, cosine, ty))


isotropic = similarity  # the name in P-STN's text: "rotation, isotropic scaling and translation"


def pstn(output: torch.Tensor, positive: bool = False) -> torch.Tensor:
    """P-STN's transformation of four numbers (r, s, tx, ty), shifted so that zero is the identity: (..., 2, 3).

    Args:
        output: (..., 4); the angle is r and the scale 1 + s (Schwoebel et al. 2022, Eq. 1).
        positive: take exp(s) as the scale instead: always positive, so that the map is invertible.
    """
    r, s, tx, ty = _outputs(output, 4)
    return similarity(r, s.exp() if positive else 1 + s, tx, ty)


def finnveden(output: torch.Tensor) -> torch.Tensor:
    """Six numbers plus the identity, to which weight decay then pulls: (..., 2, 3) (Finnveden et al. 2020, Eq. 17)."""
    _outputs(output, 6)
    return output.unflatten(-1, (2, 3)) + torch.eye(2, 3, dtype=output.dtype, device=output.device)


_SERIES = 0.5  # below this |d| the functions of d are summed as series
_TERMS_D, _TERMS_M = 9, 20  # rest below 1e-17 for |d| < 0.5 and |m| < 1, for two derivatives too


def affine_diffeo(theta: torch.Tensor) -> torch.Tensor:
    """The matrix exponential of an affine generator, an affine diffeomorphism: (..., 2, 3).

    With A the 2x2 part of the generator, t its last column, m = tr(A) / 2 and d = m^2 - det(A), Cayley and Hamilton
    give exp(A) = e^m (cosh(sqrt d) I + sinh(sqrt d) / sqrt d (A - m I)), and the translation is the integral of
    exp(s A) t over s in [0, 1], of the same form. All four coefficients are entire functions of (m, d); near their
    removable singularities they are summed as series, so that value and derivatives are exact everywhere, at zero too.
    Computed in float64 and rounded to the dtype of theta.

    Args:
        theta: (..., 6), the first two rows of the generator (Detlefsen et al. 2018, Eq. 4); zero is the identity.
    """
    a, b, tx, c, e, ty = (x.double() for x in _outputs(theta, 6))
    m, half = (a + e) / 2, (a - e) / 2
    cosh, sinh, cosh_mean, sinh_mean = _exponential_coefficients(m, half * half + b * c)
    linear = _matrix((cosh + sinh * half, sinh * b), (sinh * c, cosh - sinh * half))
    x = (cosh_mean + sinh_mean * half) * tx + sinh_mean * b * ty
    y = sinh_mean * c * tx + (cosh_mean - sinh_mean * half) * ty
    return torch.cat([linear, torch.stack([x, y], -1).unsqueeze(-1)], -1).to(theta.dtype)


def _exponential_coefficients(m, d):
    """e^m cosh(r) and e^m sinh(r) / r with r = sqrt(d), and the means of both with (s m, s r) over s in [0, 1]."""
    # A branch that is not chosen computes with harmless numbers: its NaN would reach the gradient through torch.where.
    near, real = d.abs() < _SERIES, d >= _SERIES
    small = near & (m.abs() < 1)
    imaginary = ~(near | real)

    series_d, series_m = torch.where(near, d, 0.0), torch.where(small, m, 0.0)
    powers_d = torch.stack([series_d**k for k in range(_TERMS_D)], -1)
    cosh_series = powers_d @ _inverse_factorials(0, d)
    sinh_series = powers_d @ _inverse_factorials(1, d)
    powers_m = torch.stack([series_m**i for i in range(_TERMS_M)], -1)

    root = torch.where(real, d, 1.0).sqrt()
    high, low = torch.where(real, m + root, 1.0), torch.where(real, m - root, -1.0)
    exp_high, exp_low = high.exp(), low.exp()
    mean_high, mean_low = _mean_exponential(high), _mean_exponential(low)

    turn = torch.where(imaginary, -d, 1.0).sqrt()
    scale = torch.where(real, 0.0, m).exp()
    cosh = torch.where(real, (exp_high + exp_low) / 2, scale * torch.where(near, cosh_series, turn.cos()))
    sinc = torch.where(near, sinh_series, turn.sin() / turn)
    sinh = torch.where(real, (exp_high - exp_low) / (2 * root), scale * sinc)

    closed = ~(small | real)  # det(A) = m^2 - d is at least a half
    det, m_, d_ = torch.where(closed, m * m - d, 1.0), torch.where(closed, m, 0.0), torch.where(closed, d, 0.0)
    cosh_, sinh_ = torch.where(closed, cosh, 1.0), torch.where(closed, sinh, 0.0)
    cosh_mean = (m_ * cosh_ - d_ * sinh_ - m_) / det
    sinh_mean = (m_ * sinh_ - cosh_ + 1) / det
    cosh_mean = torch.where(small, (powers_d @ _mean_series(0, d) * powers_m).sum(-1), cosh_mean)
    sinh_mean = torch.where(small, (powers_d @ _mean_series(1, d) * powers_m).sum(-1), sinh_mean)
    cosh_mean = torch.where(real, (mean_high + mean_low) / 2, cosh_mean)
    sinh_mean = torch.where(real, (mean_high - mean_low) / (2 * root), sinh_mean)
    return cosh, sinh, cosh_mean, sinh_mean


def _inverse_factorials(odd: int, like: torch.Tensor) -> torch.Tensor:
    """1 / (2 k + odd)!: the series of cosh(sqrt d), or of sinh(sqrt d) / sqrt d, in d."""
    return like.new_tensor([1 / math.factorial(2 * k + odd) for k in range(_TERMS_D)])


def _mean_series(odd: int, like: torch.Tensor) -> torch.Tensor:
    """Coefficients of d^k m^i of the means: 1 / ((2 k + odd)! i! (2 k + odd + i + 1))."""
    return like.new_tensor(
        [
            [1 / (math.factorial(j) * math.factorial(i) * (j + i + 1)) for i in range(_TERMS_M)]
            for j in range(odd, 2 * _TERMS_D + odd, 2)
        ]
    )


def _mean_exponential(x):
    """(e^x - 1) / x."""
    near = x.abs() < 1
    series_x, far_x = torch.where(near, x, 0.0), torch.where(near, 1.0, x)
    series = sum(series_x**k / math.factorial(k + 1) for k in range(_TERMS_M))
    return torch.where(near, series, torch.expm1(far_x) / far_x)


def _square(matrix: torch.Tensor) -> torch.Tensor:
    """(..., n, n + 1) -> (..., n + 1, n + 1) by the row (0, ..., 0, 1); a square matrix as it is."""
    rows, columns = matrix.shape[-2:]
    if rows == columns:
        return matrix
    last = torch.zeros(columns, dtype=matrix.dtype, device=matrix.device)
    last[-1] = 1
    return torch.cat([matrix, last.expand(*matrix.shape[:-2], 1, columns)], -2)


def compose(*matrices: torch.Tensor) -> torch.Tensor:
    """The product of transformations: the last is applied to the output's coordinates first.

    Args:
        matrices: affine (..., n, n + 1) or square (..., n + 1, n + 1), with leading dimensions that broadcast.

    Returns:
        (..., n, n + 1) if all are affine, else (..., n + 1, n + 1).

    Raises:
        TypeError, ValueError: there is none, or one is of the wrong type or shape.
    """
    if not matrices:
        raise ValueError("matrices must be at least one matrix, got none")
    for matrix in matrices:
        _check_matrix("matrices", matrix)
        if matrix.shape[-1] != matrices[0].shape[-1]:
            raise ValueError(
                f"matrices must have the same number of columns, got {matrices[0].shape[-1]} and {matrix.shape[-1]}"
            )
    product = _square(matrices[0])
    for matrix in matrices[1:]:
        product = product @ _square(matrix)
    rows = max(matrix.shape[-2] for matrix in matrices)
    return product[..., :rows, :]


def inverse(matrix: torch.Tensor) -> torch.Tensor:
    """The inverse transformation, in the shape of matrix: affine (..., n, n + 1) or square (..., n + 1, n + 1).

    Raises:
        TypeError, ValueError: matrix is of the wrong type or shape.
        torch.linalg.LinAlgError: one is singular.
    """
    _check_matrix("matrix", matrix)
    return torch.linalg.inv(_square(matrix))[..., : matrix.shape[-2], :]


class Pose(NamedTuple):
    """What `pose` measures."""

    angle: torch.Tensor  # (...), radians
    log2_det: torch.Tensor  # (...)
    translation: torch.Tensor  # (..., 2), pixels (x, y)


def pose(matrix: torch.Tensor, size, align_corners: bool = False) -> Pose:
    """Rotation, scale and translation of an affine matrix, as Finnveden et al. 2020 measure alignment (App. A.2).

    Args:
        matrix: (..., 2, 3).
        size: spatial size (H, W) of the image that the matrix samples.
        align_corners: whether -1 and 1 are the centres of the border pixels (True) or their outer edges (False).

    Returns:
        angle: of the similarity nearest in the Frobenius norm, atan2(a21 - a12, a11 + a22) (Eq. 13), in (-pi, pi].
        log2_det: log2 |a11 a22 - a12 a21|, 0 where areas are kept.
        translation: (a13, a23) in pixels of the image.

    Raises:
        TypeError, ValueError: matrix is of the wrong type or shape, or size is not two positive integers.
    """
    _check_matrix("matrix", matrix, planar=True)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be two positive integers (height, width), got {tuple(size)}")
    (a11, a12, a13), (a21, a22, a23) = (row.unbind(-1) for row in matrix.unbind(-2))
    height, width = ((extent - 1) / 2 if align_corners else extent / 2 for extent in size)
    return Pose(
        torch.atan2(a21 - a12, a11 + a22),
        (a11 * a22 - a12 * a21).abs().log2(),
        torch.stack([width * a13, height * a23], -1),
    )
