"""Continuous piecewise-affine velocity fields on [0, 1]^n: cells, basis and priors (Freifeld et al. 2015, 2017)."""

import functools
from collections.abc import Sequence

import torch

from . import _checks
from ._regions import Complex, Tables, build_complex, build_tables, cell_of

BASES = ("svd", "qr")


class Tessellation:
    """The cells of a domain [0, 1]^n and a basis of the velocity fields that are affine in each and continuous.

    A field is v(x) = M_c x + b_c in cell c; the rows of A_c = [M_c b_c] one after another, cell after cell, are
    `basis @ theta`. Cells: 1-D intervals; 2-D four triangles a square (top, right, bottom, left), number
    4 (i + j nx) + t; 3-D five tetrahedra a cube (the central one first), number 5 (i + nx (j + ny k)) + t. The order is
    libcpab's.

    Args:
        shape: squares (intervals, cubes) along each axis, (nx[, ny[, nz]]): the order of coordinates, x first.
        zero_boundary: whether the velocity through the domain's boundary is 0. Then the domain is mapped onto itself
            and a point outside counts as the nearest one of the domain. Otherwise the field goes on outside: each
            boundary cell's affine map in the band beyond it; in 3-D beyond edges and corners by the sum of the
            neighbouring bands' changes, so that it stays continuous.
        volume_preserving: whether the divergence is 0 in every cell.
        basis: "svd" (orthonormal, from smooth to rough; unique only up to rotations of equally smooth fields, so
            store `.basis` with what you learn), "qr" (orthonormal, local), or a tensor (D, d) whose columns are fields
            in the order of rows above, for example libcpab's.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or has an impossible value; the message names it.
    """

    def __init__(self, shape: Sequence[int], zero_boundary=True, volume_preserving=False, basis="svd"):
        self.shape = _checked_shape(shape)
        for name, flag in (("zero_boundary", zero_boundary), ("volume_preserving", volume_preserving)):
            if flag is not True and flag is not False:
                raise TypeError(f"{name} must be True or False, got {flag!r}")
        self.zero_boundary, self.volume_preserving = zero_boundary, volume_preserving
        if isinstance(basis, torch.Tensor):
            nodal = _nodal_of_basis(self.shape, basis, zero_boundary)
            self.basis = basis.detach().double()
        elif isinstance(basis, str) and basis in BASES:
            nodal, self.basis = _standard_basis(self.shape, zero_boundary, volume_preserving, basis)
        else:
            raise ValueError(f"basis must be 'svd', 'qr' or a tensor (D, d), got {basis!r}")
        tables = _tables(self.shape, not zero_boundary)
        reals = tables.weights, tables.g, tables.share, tables.origin, tables.axes
        integers = _rows(tables.crossing, tables.support)
        self._copies = {("nodal", "cpu"): nodal, ("integers", "cpu"): integers, ("reals", "cpu"): _rows(*reals)}

    @property
    def n(self) -> int:
        """Dimension of the domain."""
        return len(self.shape)

    @property
    def cells(self) -> int:
        return self._complex.cells.shape[0]

    @property
    def dim(self) -> int:
        """d, the number of parameters."""
        return self.basis.shape[1]

    @property
    def _complex(self) -> Complex:
        return _complex(self.shape)

    def __repr__(self) -> str:
        kind = "zero" if self.zero_boundary else "free"
        volume = ", volume-preserving" if self.volume_preserving else ""
        return f"Tessellation({list(self.shape)}, {kind} boundary{volume}, d={self.dim})"

    def cell_centers(self) -> torch.Tensor:
        """(cells, n) float64: the mean of each cell's vertices."""
        corners = self._complex.vertices[self._complex.cells]
        return corners.mean(1) / torch.tensor(self.shape, dtype=torch.float64)

    def identity(self, batch: int = 1, dtype=torch.float32, device=None) -> torch.Tensor:
        """theta (batch, d) of the identity: zeros."""
        return torch.zeros(batch, self.dim, dtype=dtype, device=device)

    def sample(self, batch: int = 1, generator=None, dtype=torch.float32, device=None) -> torch.Tensor:
        """theta (batch, d) from a standard normal distribution."""
        return torch.randn(batch, self.dim, generator=generator, dtype=torch.float64).to(device, dtype)

    def sample_prior(
        self,
        batch: int = 1,
        length_scale: float = 0.1,
        output_variance: float = 1.0,
        generator=None,
        dtype=torch.float32,
        device=None,
    ) -> torch.Tensor:
        """theta (batch, d) of a smooth random field.

        The affine parameters of cells i and j covary by output_variance^2 exp(-|c_i - c_j|^2 / (2 length_scale^2)), c
        being the cells' centres, and are projected onto the basis (Freifeld et al. 2017, Sec. 4.5).

        Raises:
            ValueError: length_scale or output_variance is not positive.
        """
        for name, value in (("length_scale", length_scale), ("output_variance", output_variance)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
        centers = self.cell_centers()
        squared = (centers[:, None] - centers[None]).square().sum(-1)
        # Close centres make the kernel singular to a rounding; its square root by eigenvalues does not mind.
        values, vectors = torch.linalg.eigh(torch.exp(squared / (-2 * length_scale**2)))
        root = vectors * values.clamp_min(0).sqrt()
        count = self.basis.shape[0] // self.cells
        noise = torch.randn(batch, self.cells, count, generator=generator, dtype=torch.float64)
        field = output_variance * torch.einsum("ij,bjk->bik", root, noise).flatten(1)
        return (field @ self.basis).to(device, dtype)

    def velocity(self, points: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """The velocity field at points.

        Args:
            points: (P, n) or (B, P, n), in units of the domain.
            theta: (B, d).

        Returns:
            (B, P, n), float64 if an argument is, else float32; differentiable in both.
        """
        check_points(points, self)
        check_theta(theta, self)
        dtype = torch.float64 if torch.float64 in (points.dtype, theta.dtype) else torch.float32
        A = (theta.double() @ self.basis.to(theta.device).T).unflatten(1, (self.cells, self.n, self.n + 1))
        x = points.double().expand(theta.shape[0], -1, -1)
        clamped = x.clamp(0, 1)
        if self.zero_boundary:
            x = clamped
        if self.n < 3 or self.zero_boundary:
            return _affine(A, self.cell_index(x), x).to(dtype)
        velocity = _affine(A, self.cell_index(clamped), clamped)
        for axis in range(self.n):
            for side in (0.0, 1.0):  # the derivative across a wall is the same all along it
                beyond = torch.where(clamped[..., axis] == side, x[..., axis] - side, 0.0).unsqueeze(-1)
                cell = self.cell_index(_wall_point(self.shape, axis, side).to(x))
                velocity = velocity + beyond * A[:, cell, :, axis].unsqueeze(1)
        return velocity.to(dtype)

    def cell_index(self, points: torch.Tensor) -> torch.Tensor:
        """The cell (...,) of each point (..., n); outside the domain, of the nearest square or cube."""
        size = torch.tensor(self.shape, dtype=points.dtype, device=points.device)
        return cell_of(points * size, size)

    def vertex_velocities(self, theta: torch.Tensor, inverse: bool = False) -> torch.Tensor:
        """theta (B[, S], d) -> the velocities at the cells' vertices (B[, S], vertices, n), which fix the field.

        Computed in float64 and rounded once, to float64 for a float64 theta, else to float32.
        """
        nodal = self._on("nodal", theta.device)
        dtype = torch.float64 if theta.dtype == torch.float64 else torch.float32
        rounded = torch.nn.functional.linear(theta.double(), nodal).to(dtype)
        velocities = rounded.reshape(*theta.shape[:-1], nodal.shape[0] // self.n, self.n)
        return -velocities if inverse else velocities

    def tables(self, device) -> tuple[torch.Tensor, torch.Tensor]:
        """The regions (`_regions.Tables`), a row each: crossing and support (int32); the rest (float64)."""
        return self._on("integers", device), self._on("reals", device)

    def _on(self, name, device):
        """A table on a device; copies are kept."""
        key = name, str(device)
        if key not in self._copies:
            self._copies[key] = self._copies[name, "cpu"].to(device)
        return self._copies[key]


def _rows(*tensors):
    return torch.cat([t.flatten(1) for t in tensors], 1).contiguous()


def _index(cell, A):
    return cell.reshape(*cell.shape, 1, 1).expand(-1, -1, *A.shape[2:])


def _affine(A, cell, points):
    local = A.gather(1, _index(cell, A))
    return (local[..., :-1] @ points.unsqueeze(-1)).squeeze(-1) + local[..., -1]


def _wall_point(shape, axis, side):
    """A point of a wall's first square, off that square's diagonals."""
    point = torch.tensor([0.37, 0.41, 0.29], dtype=torch.float64) / torch.tensor(shape, dtype=torch.float64)
    point[axis] = side
    return point


def check_points(points, tessellation: Tessellation) -> None:
    """points: (P, n) or (B, P, n) floating."""
    _checks.floating_tensor("points", points)
    if points.dim() not in (2, 3) or points.shape[-1] != tessellation.n:
        n = tessellation.n
        raise ValueError(f"points must be (P, {n}) or (B, P, {n}) for {tessellation}, got shape {tuple(points.shape)}")


def check_theta(theta, tessellation: Tessellation) -> None:
    """theta: (B, d) or (B, S, d) floating."""
    _checks.floating_tensor("theta", theta)
    if theta.dim() not in (2, 3) or theta.shape[-1] != tessellation.dim:
        d = tessellation.dim
        raise ValueError(f"theta must be (B, {d}) or (B, S, {d}) for {tessellation}, got shape {tuple(theta.shape)}")


def _checked_shape(shape) -> tuple[int, ...]:
    if isinstance(shape, str) or not hasattr(shape, "__len__") or not all(type(s) is int for s in shape):
        raise TypeError(f"shape must be one to three integers, got {shape!r}")
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise ValueError(f"shape must be one to three positive integers, got {tuple(shape)}")
    return tuple(shape)


@functools.lru_cache(maxsize=64)
def _complex(shape) -> Complex:
    return build_complex(shape)


@functools.lru_cache(maxsize=64)
def _tables(shape, outside) -> Tables:
    return build_tables(_complex(shape), outside)


def _gradients(shape) -> torch.Tensor:
    """(cells, n + 1, n + 1): the affine functions of the cells' vertices on (x, 1), x in units of the domain."""
    scale = torch.tensor([*shape, 1.0], dtype=torch.float64)
    return _complex(shape).barycentric() * scale


def _scalar_fields(shape, values) -> torch.Tensor:
    """Vertex values (vertices, k) of one component -> its affine functions in the cells (cells, n + 1, k)."""
    return torch.einsum("cjm,cjk->cmk", _gradients(shape), values[_complex(shape).cells])


def _fields(shape, nodal) -> torch.Tensor:
    """Vertex velocities (vertices * n, k) -> rows of the cells' affine maps (D, k)."""
    components = nodal.unflatten(0, (-1, len(shape))).unbind(1)
    return torch.stack([_scalar_fields(shape, c) for c in components], 1).flatten(0, 2)


def _orthonormal(field, kind):
    """(k, k): the combinations of the columns of field (rows, k) that are orthonormal."""
    gram = field.T @ field
    if kind == "qr" or len(gram) == 0:
        factor = torch.linalg.cholesky(gram)
        return torch.linalg.solve_triangular(factor, torch.eye(len(gram), dtype=gram.dtype), upper=False).mT
    values, vectors = torch.linalg.eigh(gram)  # small: the field changes little from cell to cell
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign() / values.sqrt()


@functools.lru_cache(maxsize=32)
def _standard_basis(shape, zero_boundary, volume_preserving, kind):
    """(vertex velocities (vertices * n, d), affine maps (D, d)) of an orthonormal basis."""
    n = len(shape)
    scalars = [_wall_free(shape, axis) for axis in range(n)] if zero_boundary else [_continuable(shape)] * n
    if not volume_preserving:  # the components of the velocity are independent: a smaller problem each
        mixes = {id(s): _orthonormal(_scalar_fields(shape, s).flatten(0, 1), kind) for s in scalars}
        nodal = _interleaved([s @ mixes[id(s)] for s in scalars])
        return nodal, _fields(shape, nodal)
    nodal = _interleaved(scalars)
    A = _fields(shape, nodal).unflatten(0, (-1, n, n + 1))
    nodal = nodal @ _null_space(sum(A[:, i, i] for i in range(n)))
    nodal = nodal @ _orthonormal(_fields(shape, nodal), kind)
    return nodal, _fields(shape, nodal)


def _interleaved(scalars):
    """Columns of each velocity component alone (vertices, k_i) -> columns of velocities (vertices * n, sum of k_i)."""
    n, vertices = len(scalars), scalars[0].shape[0]
    nodal = torch.zeros(vertices, n, sum(s.shape[1] for s in scalars), dtype=torch.float64)
    start = 0
    for axis, scalar in enumerate(scalars):
        nodal[:, axis, start : start + scalar.shape[1]] = scalar
        start += scalar.shape[1]
    return nodal.flatten(0, 1)


def _null_space(rows):
    """Orthonormal columns (k, dim) with rows @ columns = 0."""
    if rows.shape[0] == 0 or rows.shape[1] == 0:
        return torch.eye(rows.shape[1], dtype=rows.dtype)
    values, vectors = torch.linalg.eigh(rows.T @ rows)  # half the time of an SVD; the squares lie far apart
    return vectors[:, values <= 1e-10 * max(1.0, values[-1].item())]


def _wall_free(shape, axis):
    """Unit columns for the vertices that may move along an axis: those not on its two walls."""
    y = _complex(shape).vertices[:, axis]
    free = (y > 0) & (y < shape[axis])
    return torch.eye(len(y), dtype=torch.float64)[:, free]


def _continuable(shape):
    """Columns of vertex values whose affine pieces go on continuously outside the domain.

    Across the line (plane) that separates two bands of a wall, the derivatives normal to the wall must be equal.
    """
    complex_ = _complex(shape)
    n, cells = complex_.n, complex_.cells.tolist()
    if n == 1:
        return torch.eye(len(complex_.vertices), dtype=torch.float64)
    g = complex_.barycentric().tolist()
    y = complex_.vertices.tolist()
    rows = []
    for axis in range(n):
        for side in (0, shape[axis]):
            first = None
            for cell, vertices in enumerate(cells):
                if sum(y[v][axis] == side for v in vertices) != n:
                    continue
                normal = torch.zeros(len(y), dtype=torch.float64)
                for slot, vertex in enumerate(vertices):
                    normal[vertex] = g[cell][slot][axis]
                if first is None:
                    first = normal
                else:
                    rows.append(normal - first)
    if not rows:
        return torch.eye(len(y), dtype=torch.float64)
    constraints = torch.stack(rows)
    bound = constraints.any(0)  # few vertices take part; the others are free
    null = _null_space(constraints[:, bound])
    columns = torch.zeros(len(y), null.shape[1], dtype=torch.float64)
    columns[bound] = null
    return torch.cat([torch.eye(len(y), dtype=torch.float64)[:, ~bound], columns], 1)


def _nodal_of_basis(shape, basis, zero_boundary):
    """The vertex velocities (vertices * n, d) of a given basis (D, d)."""
    complex_ = _complex(shape)
    n, count = complex_.n, complex_.cells.shape[0]
    rows = count * n * (n + 1)
    if not basis.dtype.is_floating_point:
        raise TypeError(f"basis must be floating, got {basis.dtype}")
    if basis.dim() != 2 or basis.shape[0] != rows:
        raise ValueError(f"basis must be ({rows}, d) for shape {shape}, got shape {tuple(basis.shape)}")
    A = basis.detach().double().unflatten(0, (count, n, n + 1))
    corners = complex_.vertices[complex_.cells] / torch.tensor(shape, dtype=torch.float64)
    homogeneous = torch.cat([corners, torch.ones_like(corners[..., :1])], -1)
    values = torch.einsum("cimk,cjm->cjik", A, homogeneous)  # what each cell says about its vertices
    nodal = torch.zeros(len(complex_.vertices), n, basis.shape[1], dtype=torch.float64)
    nodal[complex_.cells] = values
    gap = (nodal[complex_.cells] - values).abs().max().item() if basis.shape[1] else 0.0
    scale = max(1.0, values.abs().max().item()) if basis.shape[1] else 1.0
    if gap > 1e-4 * scale:
        raise ValueError(f"basis must consist of continuous fields: its cells differ at a shared vertex by {gap:.2g}")
    if zero_boundary:
        y = complex_.vertices
        on_wall = (y == 0) | (y == torch.tensor(shape, dtype=torch.float64))
        through = nodal[on_wall].abs().max().item() if basis.shape[1] else 0.0
        if through > 1e-4 * scale:
            raise ValueError(f"basis must not cross the boundary, or zero_boundary be False: it does by {through:.2g}")
        nodal[on_wall] = 0  # exactly, so that no rounding carries a path through
    return nodal.flatten(0, 1)
