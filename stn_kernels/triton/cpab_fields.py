"""The regions of a field as the tables that cpab.py reads: from the velocities at the vertices, and its transpose.

Small tensors, in float64; rounded once.
"""

import torch

from ..reference.cpab import Regions

TERMS = 19  # of a power series in float64, for steps of at most 1 / |M|


class Fields:
    """Fields of images, velocities (B[, S], V, n), in a dtype; affine: matrices (B[, S], n, n + 1) for their headers.

    Records `field` and geometry: see cpab.py.
    """

    def __init__(self, velocities, integers, reals, shape, dtype, affine=None):
        regions = self.regions = Regions(integers, reals, shape)
        self.n, self.vertices, self.lead = regions.n, velocities.shape[-2], velocities.shape[:-2]
        self.dtype = dtype
        n, m, count = self.n, self.n + 1, len(integers)
        self.share, origin, axes = reals[:, 2 * m * m :].split([n, n, n * n], 1)
        rows = torch.cat([axes, origin, regions.g.flatten(1), regions.crossing.to(axes), self.share], 1)
        header = rows.new_tensor([*shape, regions.bounded])
        self.geometry = torch.cat([header, rows.flatten()]).to(dtype)
        columns = self._columns(velocities.flatten(0, -3).double())
        A = self.A = columns.mT @ regions.g  # (N, R, n, n + 1), in lattice units
        # Products with g's rows: signs at a face agree exactly on its two sides.
        rows = (regions.g[:, :, None, :n] * columns.unsqueeze(-3)).sum(-1)  # (N, R, m, m): dg_i/dt by g_j
        first, start = rows[..., 0, :], rows[..., 1:, 0]
        matrix = rows[..., 1:, 1:] - self.share.unsqueeze(-2) * rows[..., 1:, :1]
        powers = _characteristic(A[..., :n])
        norm = A[..., :n].square().sum((-1, -2)).sqrt()
        limit = torch.where(norm > 0, 1 / norm, 1e30).where(norm < 1e30, torch.nan)
        parts = matrix.flatten(-2), start, first, powers, limit.unsqueeze(-1), _remainder(powers, limit)
        record = torch.cat([*parts, A[..., :n].flatten(-2), columns[..., 0, :]], -1)
        if affine is None:
            affine = torch.eye(n, m, dtype=record.dtype, device=record.device).expand(len(record), -1, -1)
        self.field = torch.cat([affine.reshape(len(record), -1).to(record), record.flatten(1)], 1).to(dtype)
        self.count = count

    def _columns(self, velocities):
        """Velocities of the regions' columns (N, R, n + 1, n), in lattice units."""
        regions = self.regions
        return (velocities[:, regions.support] * regions.weights.unsqueeze(-1)).sum(-2) * regions.shape

    @property
    def cells(self):
        return self.regions.cells

    def records_gradient(self, sums):
        """The gradient to the velocities of sums (N, R, n, n + 1), to the lattice matrix and start of every region.

        N may be a multiple of the images: an image's points one after another.
        """
        regions, n = self.regions, self.n
        sums = sums.double()
        columns = regions.g[:, 1:, :n] @ sums[..., :n].mT  # (N, R, n, n): of slots 1 to n
        zeroth = sums[..., n] - (self.share.unsqueeze(-1) * columns).sum(-2)
        columns = torch.cat([zeroth.unsqueeze(-2), columns], -2) * regions.shape
        terms = (columns.unsqueeze(-2) * regions.weights.unsqueeze(-1)).flatten(1, 3)
        result = columns.new_zeros(columns.shape[0], self.vertices, n)
        result = result.index_add(1, regions.support.flatten(), terms)
        return result.reshape(*self.lead, self.vertices, n) if len(result) == self.lead.numel() else result

    def _generators(self, steps):
        """The cells' generators of a step (N, cells, n + 1, n + 1)."""
        A = self.A[:, : self.cells] / steps
        return torch.cat([A, torch.zeros_like(A[..., :1, :])], -2)

    def maps(self, steps):
        """The cells' maps of a step (N, cells, n, n + 1)."""
        return torch.linalg.matrix_exp(self._generators(steps))[..., :-1, :].to(self.dtype).contiguous()

    def maps_gradient(self, sums, steps):
        """The gradient to the velocities of one to `maps`: a block of a larger exponential (Van Loan 1978)."""
        generator = self._generators(steps).mT
        outer = torch.nn.functional.pad(sums.double() / steps, (0, 0, 0, 1))
        lower = torch.cat([torch.zeros_like(generator), generator], -1)
        m = self.n + 1
        flow = torch.linalg.matrix_exp(torch.cat([torch.cat([generator, outer], -1), lower], -2))
        grad_A = torch.zeros_like(self.A)
        grad_A[:, : self.cells] = flow[..., : m - 1, m:]
        return self.regions.affine_maps_adjoint(grad_A, self.vertices).reshape(*self.lead, self.vertices, self.n)


def _characteristic(M):
    """powers (..., n) of the characteristic polynomial: M^n = sum powers[l] M^l."""
    n = M.shape[-1]
    if n == 1:
        return M[..., 0]
    trace = M.diagonal(dim1=-2, dim2=-1).sum(-1)
    if n == 2:
        determinant = M[..., 0, 0] * M[..., 1, 1] - M[..., 0, 1] * M[..., 1, 0]
        return torch.stack([-determinant, trace], -1)
    a, b, c = M[..., 0, :], M[..., 1, :], M[..., 2, :]
    determinant = (a * torch.linalg.cross(b, c)).sum(-1)
    minors = sum(M[..., i, i] * M[..., j, j] - M[..., i, j] * M[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    return torch.stack([determinant, -minors, trace], -1)


def _remainder(powers, limit):
    """Bounds of a face's fourth derivative / 144, by the components of its first.

    M^(3 + j) is a combination of I ... M^(n-1); times step^j / j! its coefficients bound the flow's third derivatives.
    """
    step = limit.clamp_max(1.0)
    power = torch.zeros_like(powers)
    power[..., 0] = 1
    bound, weight = torch.zeros_like(powers), torch.ones_like(step)
    for k in range(TERMS):
        if k > 3:
            weight = weight * step / (k - 3)
        if k >= 3:
            bound = bound + weight.unsqueeze(-1) * power.abs()
        last = power[..., -1:]
        shifted = torch.cat([torch.zeros_like(last), power[..., :-1]], -1)
        power = shifted + powers * last
    return bound / 144
