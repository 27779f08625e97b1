"""CPAB flows by SciPy's adaptive Runge-Kutta on a velocity written out in plain Python: nothing of the package's."""

import math

import numpy as np
from scipy.integrate import solve_ivp

WALL_POINT = (0.37, 0.41, 0.29)  # off the diagonals of a wall's square


def _tetrahedron(cube, u):
    x, y, z = u
    if sum(cube) % 2:
        x, y = y, 1 - x
    for t, face in ((1, z - x - y), (2, x + y + z - 2), (3, y - x - z), (4, x - y - z)):
        if face >= 0:
            return t
    return 0


def cell(shape, x):
    """The cell of a point, or of the nearest one of the domain (libcpab's order)."""
    lattice = [v * s for v, s in zip(x, shape, strict=True)]
    cube = [min(max(math.floor(v), 0), s - 1) for v, s in zip(lattice, shape, strict=True)]
    u = [v - q for v, q in zip(lattice, cube, strict=True)]
    number = 0
    for q, s in zip(reversed(cube), reversed(shape), strict=True):
        number = number * s + q
    if len(shape) == 1:
        return number
    if len(shape) == 2:
        first, second = u[0] > u[1], u[0] + u[1] > 1
        return 4 * number + ((1 if second else 0) if first else (2 if second else 3))
    return 5 * number + _tetrahedron(cube, [min(max(v, 0.0), 1.0) for v in u])


def velocity(shape, A, x, zero_boundary):
    """A: (cells, n, n + 1) array."""
    clamped = [min(max(v, 0.0), 1.0) for v in x]
    if zero_boundary:
        x = clamped
    if zero_boundary or len(shape) < 3:
        a = A[cell(shape, x)]
        return a[:, :-1] @ x + a[:, -1]
    a = A[cell(shape, clamped)]
    v = a[:, :-1] @ clamped + a[:, -1]
    for axis in range(3):
        if x[axis] != clamped[axis]:
            wall = [p / s for p, s in zip(WALL_POINT, shape, strict=True)]
            wall[axis] = clamped[axis]
            v = v + A[cell(shape, wall)][:, axis] * (x[axis] - clamped[axis])
    return v


def flow(shape, A, points, zero_boundary=True, tolerance=1e-12):
    """The points (P, n) after a unit of time."""
    return np.array(
        [
            solve_ivp(
                lambda t, x: velocity(shape, A, x, zero_boundary),
                (0, 1),
                point,
                method="DOP853",
                rtol=tolerance,
                atol=tolerance,
            ).y[:, -1]
            for point in np.asarray(points, dtype=float)
        ]
    )
