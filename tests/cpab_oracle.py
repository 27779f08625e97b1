"""CPAB flows by SciPy's exponential of a velocity written out in plain Python: nothing of the package's.

Not by an adaptive Runge-Kutta: where the velocity has a kink it misses the tolerance asked by four orders.
"""

import math

import numpy as np
from scipy import linalg

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


def generator(shape, A, x, zero_boundary):
    """The affine piece of the velocity around x: what names its region, and the (n + 1, n + 1) generator.

    A: (cells, n, n + 1) array.
    """
    n = len(shape)
    clamped = [min(max(v, 0.0), 1.0) for v in x]
    sides = tuple(int(v > c) - int(v < c) for v, c in zip(x, clamped, strict=True))
    bounded = zero_boundary or n == 3  # a triangle goes on outside
    number = cell(shape, clamped if bounded else x)
    piece = np.zeros((n + 1, n + 1))
    piece[:n] = A[number]
    for axis in range(n):
        if sides[axis] and bounded:
            column = np.zeros(n)
            if not zero_boundary:
                wall = [p / s for p, s in zip(WALL_POINT, shape, strict=True)]
                wall[axis] = clamped[axis]
                column = A[cell(shape, wall)][:, axis]
            piece[:n, n] += (piece[:n, axis] - column) * clamped[axis]
            piece[:n, axis] = column
    return (number, sides), piece


def velocity(shape, A, x, zero_boundary):
    return (generator(shape, A, x, zero_boundary)[1] @ [*x, 1])[:-1]


def flow(shape, A, points, zero_boundary=True):
    """The points (P, n) after a unit of time: by SciPy's exponential in a region, by bisection to where it ends."""
    step, exponentials, moved = 2**-10, {}, []
    for point in np.asarray(points, dtype=float):
        x, left, h = np.append(point, 1), 1.0, step
        region, piece = generator(shape, A, point, zero_boundary)
        while left > 0:
            h = min(h, left)
            if (region, h) not in exponentials:
                exponentials[region, h] = linalg.expm(h * piece)
            y = exponentials[region, h] @ x
            entered, other = generator(shape, A, y[:-1], zero_boundary)
            if entered != region and h * abs((other - piece) @ y).max() > 1e-17:  # too far on the former piece
                h /= 2
                assert h > 1e-15, "the velocity jumps"
                continue
            x, left, h = y, left - h, min(2 * h, step)
            region, piece = entered, other
        moved.append(x[:-1])
    return np.array(moved)
