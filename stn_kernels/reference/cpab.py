"""CPAB transformations: the specification of `cpab_transform`, `cpab_jacobian` and `cpab_sample`.

A point follows dx/dt = v(x) for a unit of time, v being continuous and affine in every region (`_regions.py`). The
rules, stated once:

Exact     In a region the path is a polynomial to a rounding: x(t) = x + sum_k t^k/k! M^{k-1} v(x), 20 terms for
          t |M| <= 1. A face g_j >= 0 is a polynomial in t too, and its Bernstein coefficients on [0, t] tell how often
          it can vanish there: no change of sign, never; one, once. t is halved until no face has two. The path leaves
          through the face that vanishes first and goes on in the region beyond.
Fixed     x <- expm(A_c / steps) x, steps times, with the cell c of the point before each step (Freifeld et al. 2017;
          libcpab). Not continuous in the parameters where a step changes its cell.
Limit     After SEGMENT_LIMIT segments the exact method finishes the rest of the time in fixed steps.
Outside   With a zero boundary a point outside counts as the nearest one of the domain, and has no gradient across.
          Otherwise the field goes on outside (`Tessellation`).
NaN, Inf  A point with one becomes NaN; other points and images are as without it.
"""

import math

import torch

from .._regions import cell_of
from .affine import homogeneous_base
from .sampling import compute_dtype, grid_sample, grid_sample_backward

SEGMENT_LIMIT = 1024
FIXED_STEPS = 50  # of the rest, where the limit is hit
TERMS = 20
TOLERANCE = 1e-14
_BERNSTEIN = torch.tensor(  # power basis -> Bernstein basis on [0, 1]
    [[math.comb(i, j) / math.comb(TERMS, j) if j <= i else 0.0 for j in range(TERMS + 1)] for i in range(TERMS + 1)],
    dtype=torch.float64,
)


class Regions:
    """The tables of a tessellation (`Tessellation.tables`), unpacked."""

    def __init__(self, integers, reals, shape):
        n = self.n = len(shape)
        self.shape = torch.tensor(shape, dtype=torch.float64, device=reals.device)
        self.cells = math.prod(shape) * {1: 1, 2: 4, 3: 5}[n]
        self.per_cube = self.cells // math.prod(shape)
        m, square = n + 1, (n + 1) ** 2
        self.crossing, self.support = integers[:, :m].long(), integers[:, m:].long().unflatten(1, (m, m))
        parts = reals.split([square, square, n, n, n * n], 1)
        self.weights, self.g = parts[0].unflatten(1, (m, m)), parts[1].unflatten(1, (m, m))

    @property
    def bounded(self) -> bool:
        """Whether the domain has walls: nothing lies outside."""
        return self.g.shape[0] == self.cells

    def affine_maps(self, velocities):
        """Vertex velocities (N, V, n) -> A (N, R, n, n + 1), lattice units a unit of time, on lattice coordinates."""
        columns = (velocities.double()[:, self.support] * self.weights.unsqueeze(-1)).sum(-2)  # (N, R, n + 1, n)
        return (columns * self.shape).mT @ self.g

    def affine_maps_adjoint(self, grad_A, vertices):
        """Gradient to the velocities (N, vertices, n) of a gradient to `affine_maps`."""
        columns = (grad_A @ self.g.mT).mT * self.shape
        terms = (columns.unsqueeze(-2) * self.weights.unsqueeze(-1)).flatten(1, 3)  # as support, (N, R (n+1)^2, n)
        result = columns.new_zeros(grad_A.shape[0], vertices, self.n)
        return result.index_add(1, self.support.flatten(), terms)

    def locate(self, y):
        """The region of each lattice point (..., n): from the nearest cube's first cell on, across violated faces."""
        cube = y.floor().clamp_min(0).minimum(self.shape - 1).nan_to_num()
        number = torch.zeros_like(y[..., 0])
        for s, q in zip(self.shape.flip(0), cube.flip(-1).unbind(-1), strict=True):
            number = number * s + q
        region = number.long() * self.per_cube
        for _ in range(4 * self.n + 4):
            values, slot = self.coordinates(region, y).min(-1)
            code = self.crossing[region, slot]
            moves = (values < 0) & (code >= 0)
            if not moves.any():
                break
            region = torch.where(moves, code >> 3, region)
        return region

    def coordinates(self, region, y):
        return (self.g[region] @ _homogeneous(y).unsqueeze(-1)).squeeze(-1)


def _homogeneous(y):
    return torch.cat([y, torch.ones_like(y[..., :1])], -1)


def _start(points, samples, regions):
    """points (P, n) or (B, P, n) -> lattice coordinates (1 or B * samples, P, n) in float64."""
    x = points.double()
    if regions.bounded:
        x = torch.where((x < 0) | (x > 1), x.detach().clamp(0, 1), x)
    y = x * regions.shape
    return y.repeat_interleave(samples, 0) if points.dim() == 3 else y.unsqueeze(0)


def integrate(points, velocities, integers, reals, shape, steps, visited=None):
    """points (P, n) or (B, P, n), velocities (B[, S], V, n) -> (B[, S], P, n) in the dtype of velocities.

    Differentiable in points and velocities, as often as wanted. steps: 0 for the exact flow. visited: a list that gets
    (index of the points, their region, where they are, for how long) of every segment.
    """
    regions = Regions(integers, reals, shape)
    samples = velocities.shape[1] if velocities.dim() == 4 else 1
    A = regions.affine_maps(velocities.flatten(0, -3))
    y = _start(points, samples, regions).expand(A.shape[0], -1, -1)
    if steps == 0:
        y, rest = _exact(y, A, regions, visited)
        if (rest > 0).any():
            y = _fixed(y, A, regions, FIXED_STEPS, rest, visited)
    else:
        y = _fixed(y, A, regions, steps, None, visited)
    return (y / regions.shape).reshape(*velocities.shape[:-2], *y.shape[1:]).to(velocities.dtype)


def _exact(y, A, regions, visited):
    """The flow of (N, P, n) lattice points; returns where they are and the time that is left (0 but at the limit)."""
    with torch.no_grad():
        region = regions.locate(y)
    rest = torch.ones_like(y[..., 0])
    entry = torch.full_like(region, -1)
    item = torch.arange(y.shape[0], device=y.device).unsqueeze(1).expand_as(region)
    for _ in range(SEGMENT_LIMIT):
        running = rest.detach() > 0  # NaN and arrived points are left alone
        if not running.any():
            break
        index = running.nonzero(as_tuple=True)
        r, x, left = region[index], y[index], rest[index]
        path = _path(A[item[index], r], x)
        faces = torch.einsum("rji,rki->rjk", regions.g[r][..., :-1], path)
        faces = torch.cat([regions.coordinates(r, x).unsqueeze(-1), faces], -1)  # coefficients (M, n + 1, TERMS + 1)
        walls = regions.crossing[r] < 0
        time, slot = _first_exit(faces.detach(), walls, entry[index], _step_limit(A[item[index], r], left.detach()))
        if torch.is_grad_enabled():
            time = _attached(time, slot, faces, left)
        if visited is not None:
            visited.append((index, r, x, time))
        moved = (path * _powers(time, TERMS + 1)[:, 1:, None]).sum(1)
        y = y.index_put(index, x + moved)
        rest = rest.index_put(index, torch.where(time.detach() == left.detach(), 0.0, left - time))
        code = regions.crossing[r, slot.clamp_min(0)]
        crosses = slot >= 0
        region = region.index_put(index, torch.where(crosses, code >> 3, r))
        entry = entry.index_put(index, torch.where(crosses, (code >> 1) & 3, -1))
    rest = torch.where(y.isfinite().all(-1), rest, 0.0)
    return y, rest.detach()


def _path(A, x):
    """Taylor coefficients (M, TERMS, n) of the path from x: M^{k-1} v / k!, k = 1 ..."""
    term = (A @ _homogeneous(x).unsqueeze(-1)).squeeze(-1)
    terms = [term]
    for k in range(2, TERMS + 1):
        term = (A[..., :-1] @ term.unsqueeze(-1)).squeeze(-1) / k
        terms.append(term)
    return torch.stack(terms, 1)


def _step_limit(A, rest):
    norm = A[..., :-1].detach().square().sum((-1, -2)).sqrt()
    return torch.minimum(rest, torch.where(norm.isfinite(), 1 / norm, torch.nan))


def _powers(t, count):
    powers = [torch.ones_like(t)]
    for _ in range(count - 1):
        powers.append(powers[-1] * t)  # `**` has no derivative at 0
    return torch.stack(powers, -1)


def _value(coefficients, t):
    return (coefficients * _powers(t, coefficients.shape[-1])).sum(-1)


def _first_exit(faces, walls, entry, time):
    """How long a path stays in its region, at most `time`, and the slot of the face it leaves by, else -1."""
    slots = torch.arange(faces.shape[1], device=faces.device)
    start = faces[..., 0]
    # On a face: leave at once if the path goes out, but never back through the face just entered by.
    outward = (start < -TOLERANCE) | ((start <= 0) & (faces[..., 1] < 0) & (slots != entry.unsqueeze(-1)))
    outward &= ~walls
    at_once = outward.any(-1)
    slot = torch.where(at_once, torch.where(outward, start, torch.inf).argmin(-1), -1)
    faces = torch.cat([start.clamp_min(0).unsqueeze(-1), faces[..., 1:]], -1)
    for _ in range(100):  # halve until every face vanishes at most once
        bernstein = (faces * _powers(time, TERMS + 1).unsqueeze(1)) @ _BERNSTEIN.to(faces.device).T
        signs = torch.where(bernstein.abs() <= TOLERANCE, 0.0, bernstein.sign())
        changes = ((signs < 0).cummax(-1).values & (signs > 0)).any(-1)  # below zero, and above it later
        unsure = (changes & ~walls).any(-1) & ~at_once
        if not unsure.any():
            break
        time = torch.where(unsure, time / 2, time)
    leaves = (_value(faces, time.unsqueeze(-1)) < 0) & ~walls
    first = torch.where(leaves, _roots(faces, time), torch.inf).min(-1)
    slot = torch.where(~at_once & leaves.any(-1), first.indices, slot)
    return torch.where(at_once, 0.0, torch.where(leaves.any(-1), first.values, time)), slot


def _roots(faces, time):
    """The root in [0, time] of faces positive before it and negative after: bisection."""
    low = torch.zeros(faces.shape[:2], dtype=faces.dtype, device=faces.device)
    high = time.unsqueeze(-1).expand_as(low)
    exponents = torch.arange(TERMS + 1, dtype=time.dtype, device=time.device)
    for _ in range(60):
        middle = (low + high) / 2
        positive = (faces * middle.unsqueeze(-1) ** exponents).sum(-1) > 0
        low, high = torch.where(positive, middle, low), torch.where(positive, high, middle)
    return (low + high) / 2


def _attached(time, slot, faces, rest):
    """The same time as a function of the path: Newton steps from it, which are exact to as many derivatives as steps.

    A path that stays until the end of its time depends on the time of the crossings before; one that grazes its face
    has no derivative and is left as it is. Times of splits are constants.
    """
    crossed = slot >= 0
    face = faces.gather(1, slot.clamp_min(0)[:, None, None].expand(-1, 1, faces.shape[-1])).squeeze(1)
    order = torch.arange(1, faces.shape[-1], dtype=faces.dtype, device=faces.device)
    root = time
    for _ in range(2):
        slope = _value(face[..., 1:] * order, root)
        steep = crossed & (slope.detach().abs() > 1e-9)
        root = torch.where(steep, root - _value(face, root) / torch.where(steep, slope, 1.0), root)
    return torch.where(crossed, root, torch.where(time == rest.detach(), rest, time))


def _fixed(y, A, regions, steps, duration, visited):
    """steps steps of expm(A_c duration / steps), duration 1 if None; the cell is looked up before each."""
    item = torch.arange(y.shape[0], device=y.device).unsqueeze(1).expand(y.shape[:2])
    index = item.flatten(), torch.arange(y.shape[1], device=y.device).expand(y.shape[:2]).flatten()
    time = (torch.ones_like(y[..., 0]) if duration is None else duration)[index] / steps
    if duration is None:
        maps = torch.linalg.matrix_exp(_square(A) / steps)
    x = y[index]
    for _ in range(steps):
        with torch.no_grad():
            inside = x.nan_to_num()
            region = cell_of(inside, regions.shape) if duration is None else regions.locate(inside)
        if visited is not None:
            visited.append((index, region, x, time))
        if duration is None:
            step = maps[index[0], region]
        else:
            step = torch.linalg.matrix_exp(_square(A[index[0], region]) * time[:, None, None])
        x = (step @ _homogeneous(x).unsqueeze(-1)).squeeze(-1)[..., :-1]
    return x.reshape(y.shape)


def _square(A):
    return torch.cat([A, torch.zeros_like(A[..., :1, :])], -2)


def cpab_transform(points, velocities, integers, reals, shape, steps):
    """points (P, n) or (B, P, n), velocities (B[, S], V, n) -> (B[, S], P, n) in the dtype of velocities."""
    with torch.no_grad():
        return integrate(points, velocities, integers, reals, shape, steps)


def cpab_transform_backward(grad_output, points, velocities, integers, reals, shape, steps):
    """Gradients of `cpab_transform` to points and velocities: its adjoint, segment by segment backwards.

    In a region with the generator A = [M b; 0 0], for a time t, a cotangent is pulled back by expm(t A)^T, and A gets
    the integral of expm(s A)^T g (expm((t - s) A) x)^T over s in [0, t], a block of one larger exponential (Van Loan
    1978). The velocity being continuous, crossing a face adds nothing.
    """
    visited = []
    regions = Regions(integers, reals, shape)
    A = regions.affine_maps(velocities.flatten(0, -3))
    integrate(points, velocities, integers, reals, shape, steps, visited)
    grad = (grad_output.double() / regions.shape).reshape(A.shape[0], *grad_output.shape[-2:])
    grad_A = torch.zeros_like(A)
    for index, region, x, time in reversed(visited):
        generator = _square(A[index[0], region]).mT * time[:, None, None]
        cotangent = torch.cat([grad[index], torch.zeros_like(time).unsqueeze(-1)], -1)
        outer = cotangent.unsqueeze(-1) * _homogeneous(x).unsqueeze(-2) * time[:, None, None]
        lower = torch.cat([torch.zeros_like(generator), generator], -1)
        flow = torch.linalg.matrix_exp(torch.cat([torch.cat([generator, outer], -1), lower], -2))
        m = regions.n + 1
        grad_A.index_put_((index[0], region), flow[:, : m - 1, m:], accumulate=True)
        grad = grad.index_put(index, (flow[:, :m, :m] @ cotangent.unsqueeze(-1)).squeeze(-1)[..., :-1])
    grad_velocities = regions.affine_maps_adjoint(grad_A, velocities.shape[-2]).reshape(velocities.shape)
    samples = velocities.shape[1] if velocities.dim() == 4 else 1
    grad_points = (grad * regions.shape).reshape(velocities.shape[0], samples, *grad.shape[1:])
    if regions.bounded:
        grad_points = torch.where(((points < 0) | (points > 1)).unsqueeze(-3), 0.0, grad_points)
    grad_points = grad_points.sum(1) if points.dim() == 3 else grad_points.sum((0, 1))
    return grad_points.to(points.dtype), grad_velocities.to(velocities.dtype)


def differentiable_backward(grad_output, points, velocities, integers, reals, shape, steps):
    """The same gradients as functions of everything, by autograd."""
    tensors = points, velocities
    output = integrate(points, velocities, integers, reals, shape, steps)
    return torch.autograd.grad(
        output, tensors, grad_output, create_graph=True, allow_unused=True, materialize_grads=True
    )


def cpab_jacobian(points, velocities, integers, reals, shape, steps):
    """d(transformed point) / d(velocity of a vertex): (B[, S], P, n, V, n)."""
    *lead, vertices, n = velocities.shape
    items = math.prod(lead)
    own = points.unsqueeze(0) if points.dim() == 2 else points
    own = own.repeat_interleave(items // max(1, own.shape[0]), 0)  # (items, P, n)
    # Every point gets an image, and so a gradient, of its own.
    count = own.shape[1]
    per_point = velocities.reshape(items, 1, vertices, n).expand(-1, count, -1, -1).flatten(0, 1)
    starts = own.reshape(items * count, 1, n)
    unit = torch.eye(n, dtype=velocities.dtype, device=velocities.device)
    rows = [
        cpab_transform_backward(u.expand_as(starts), starts, per_point, integers, reals, shape, steps)[1] for u in unit
    ]
    return torch.stack(rows, 1).reshape(*lead, count, n, vertices, n)


def lattice_points(size, align_corners, dtype, device):
    """The output's pixel centres in units of the domain: (prod(size), n)."""
    return ((homogeneous_base(size, align_corners, dtype, device)[..., :-1] + 1) / 2).flatten(0, -2)


def grid(velocities, affine, integers, reals, shape, size, align_corners, steps):
    """Normalized source coordinates (B[, S], *size, n): affine(2 phi - 1), phi the transformed pixel centres."""
    points = lattice_points(size, align_corners, torch.float64, velocities.device)
    source = 2 * integrate(points, velocities.double(), integers, reals, shape, steps) - 1
    if affine is not None:
        source = source @ affine[..., :-1].to(source).mT + affine[..., -1:].to(source).mT
    return source.unflatten(-2, tuple(size))


def cpab_sample(input, velocities, affine, integers, reals, shape, steps, size, mode, padding_mode, align_corners):
    """input (B, C, *in), velocities (B[, S], V, n), affine (B[, S], n, n + 1) or None -> (B[, S], C, *size)."""
    with torch.no_grad():
        coordinates = grid(velocities, affine, integers, reals, shape, size, align_corners, steps)
        coordinates = coordinates.to(compute_dtype(input, velocities))
        return grid_sample(input, coordinates, padding_mode, align_corners, mode)


def cpab_sample_backward(
    grad_output, input, velocities, affine, integers, reals, shape, steps, size, mode, padding_mode, align_corners
):
    """Gradients of `cpab_sample` to input, velocities and affine (None without one)."""
    coordinates = grid(velocities, affine, integers, reals, shape, size, align_corners, steps)
    coordinates = coordinates.to(compute_dtype(input, velocities))
    grad_input, grad_source = grid_sample_backward(grad_output, input, coordinates, padding_mode, align_corners, mode)
    grad_source = grad_source.flatten(-1 - len(size), -2).double()  # (B[, S], P, n)
    grad_affine = None
    if affine is not None:
        matrix = affine.double()
        moved = grid(velocities, None, integers, reals, shape, size, align_corners, steps).flatten(-1 - len(size), -2)
        grad_affine = (grad_source.mT @ _homogeneous(moved)).to(affine.dtype)
        grad_source = grad_source @ matrix[..., :-1]
    points = lattice_points(size, align_corners, torch.float64, velocities.device)
    wide = velocities.double()
    grad_velocities = cpab_transform_backward(2 * grad_source, points, wide, integers, reals, shape, steps)[1]
    return grad_input, grad_velocities.to(velocities.dtype), grad_affine


def differentiable_sample_backward(
    grad_output, input, velocities, affine, integers, reals, shape, steps, size, mode, padding_mode, align_corners
):
    """The same gradients as functions of everything, by autograd."""
    coordinates = grid(velocities, affine, integers, reals, shape, size, align_corners, steps)
    coordinates = coordinates.to(compute_dtype(input, velocities))
    grad_input, grad_grid = grid_sample_backward(grad_output, input, coordinates, padding_mode, align_corners, mode)
    tensors = [t for t in (velocities, affine) if t is not None]
    grads = torch.autograd.grad(coordinates, tensors, grad_grid, create_graph=True)
    return grad_input, grads[0], grads[1] if affine is not None else None
