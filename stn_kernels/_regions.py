"""The pieces of space on which a CPAB velocity is affine, as tables: simplices, and what continues them outside.

Lattice coordinates y = x * shape make every cube 1 wide. A region of R^n is where n + 1 affine functions g_0 ... g_n
("coordinates") are all >= 0. Inside a simplex they are barycentric, g_j being 1 at the vertex of slot j and 0 on the
face opposite. Slots are colours of the vertices: every simplex has one vertex of each colour, so that crossing a face
changes no coordinate. Outside the domain a coordinate may stand for a direction instead of a vertex, and crossing may
permute the slots.
"""

import itertools
from dataclasses import dataclass

import torch

WALL = -1

# The corners of a cube that own a corner tetrahedron (cells 1 to 4, in libcpab's order), by the parity of i + j + k.
CORNERS = {
    0: ((0, 0, 1), (1, 1, 1), (0, 1, 0), (1, 0, 0)),
    1: ((1, 0, 1), (0, 1, 1), (0, 0, 0), (1, 1, 0)),
}
# Colours of the lattice points of a 3-D tessellation by the parities of their coordinates; an odd point has the colour
# of the even one across the central tetrahedron.
_EVEN = {(0, 0, 0): 0, (1, 1, 0): 1, (1, 0, 1): 2, (0, 1, 1): 3}


def _colour(point):
    parity = tuple(p & 1 for p in point)
    return _EVEN[parity] if sum(parity) % 2 == 0 else _EVEN[tuple(1 - p for p in parity)]


def _flip(corner, *axes):
    return tuple(1 - c if d in axes else c for d, c in enumerate(corner))


def _step(cube, corner, axis):
    """The next cube beyond the face of `cube` on which `corner` lies, along an axis."""
    return tuple(q + (1 if corner[d] else -1) if d == axis else q for d, q in enumerate(cube))


@dataclass(frozen=True)
class Complex:
    """Vertices and simplices of a tessellation.

    vertices: (V, n) lattice coordinates, float64. cells: (cells, n + 1) vertices by slot.
    """

    shape: tuple[int, ...]
    vertices: torch.Tensor
    cells: torch.Tensor

    @property
    def n(self) -> int:
        return len(self.shape)

    @property
    def per_cube(self) -> int:
        return {1: 1, 2: 4, 3: 5}[self.n]

    def barycentric(self) -> torch.Tensor:
        """(cells, n + 1, n + 1): the affine functions g_j, acting on (y, 1). Multiples of 1/2, exactly."""
        corners = self.vertices[self.cells]
        homogeneous = torch.cat([corners, torch.ones_like(corners[..., :1])], -1).mT
        return torch.round(2 * torch.linalg.inv(homogeneous)) / 2


def _lattice_index(point, shape):
    index = 0
    for p, s in zip(reversed(point), reversed(shape), strict=True):
        index = index * (s + 1) + p
    return index


def cubes(shape):
    """All cubes, the first coordinate fastest."""
    return [tuple(reversed(q)) for q in itertools.product(*(range(s) for s in reversed(shape)))]


def build_complex(shape: tuple[int, ...]) -> Complex:
    n = len(shape)
    points = [tuple(reversed(p)) for p in itertools.product(*(range(s + 1) for s in reversed(shape)))]
    vertices = [tuple(map(float, p)) for p in points]
    cells = []
    for cube in cubes(shape):
        if n == 1:
            ends = sorted((cube[0], cube[0] + 1), key=lambda i: i & 1)
            cells.append([_lattice_index((i,), shape) for i in ends])
        elif n == 2:
            i, j = cube
            ring = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
            centre = len(vertices)
            vertices.append((i + 0.5, j + 0.5))
            for t in range(4):  # top, right, bottom, left
                ends = sorted((ring[t], ring[(t + 1) % 4]), key=lambda p: sum(p) & 1)
                cells.append([_lattice_index(p, shape) for p in ends] + [centre])
        else:
            corners = CORNERS[sum(cube) & 1]
            central = [_flip(c, 0, 1, 2) for c in corners]
            for local in (central, *([c, _flip(c, 0), _flip(c, 1), _flip(c, 2)] for c in corners)):
                tops = [tuple(q + c for q, c in zip(cube, corner, strict=True)) for corner in local]
                cells.append([_lattice_index(p, shape) for p in sorted(tops, key=_colour)])
    return Complex(shape, torch.tensor(vertices, dtype=torch.float64), torch.tensor(cells))


def cell_of(lattice: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """The cell (...,) of lattice points (..., n), ties as libcpab's; outside, of the nearest square or cube."""
    n = lattice.shape[-1]
    cube = lattice.floor().clamp_min(0).minimum(size - 1)
    u = lattice - cube
    number = torch.zeros_like(u[..., 0])
    for s, q in zip(size.flip(0), cube.flip(-1).unbind(-1), strict=True):
        number = number * s + q
    number = number.long()
    if n == 1:
        return number
    if n == 2:
        x, y = u.unbind(-1)
        above, beyond = x > y, x + y > 1  # of the two diagonals
        return 4 * number + torch.where(above, torch.where(beyond, 1, 0), torch.where(beyond, 2, 3))
    x, y, z = u.clamp(0, 1).unbind(-1)
    odd = cube.sum(-1) % 2 == 1
    x, y = torch.where(odd, y, x), torch.where(odd, 1 - x, y)
    t = torch.zeros_like(number)
    for code, face in ((4, x - y - z), (3, y - x - z), (2, x + y + z - 2), (1, z - x - y)):
        t = torch.where(face >= 0, code, t)
    return 5 * number + t


@dataclass
class Region:
    """g: the n + 1 coordinates as rows acting on (y, 1). owners: the cell whose velocity each column extends."""

    g: list[list[float]]
    owners: list[int]
    neighbours: list  # per slot: the key of the region beyond g = 0, or None for a wall


def _combine(rows, weights):
    return [sum(w * row[k] for w, row in zip(weights, rows, strict=True)) for k in range(len(rows[0]))]


class _Builder:
    """Collects the regions: cells by their number, what lies outside by descriptive keys, made on demand."""

    def __init__(self, complex_: Complex, outside: bool):
        self.complex, self.outside, self.n, self.shape = complex_, outside, complex_.n, complex_.shape
        self.g = complex_.barycentric().tolist()
        self.cells = complex_.cells.tolist()
        self.corner_cells = {}  # 3-D: (cube, local corner) -> cell
        if self.n == 3:
            for number, cube in enumerate(cubes(self.shape)):
                for t, corner in enumerate(CORNERS[sum(cube) & 1], start=1):
                    self.corner_cells[cube, corner] = 5 * number + t
        self.corners_of = {cell: place for place, cell in self.corner_cells.items()}
        faces = {}
        for cell, vertices in enumerate(self.cells):
            for slot in range(self.n + 1):
                face = tuple(sorted(vertices[:slot] + vertices[slot + 1 :]))
                faces.setdefault(face, []).append((cell, slot))
        self.across = {pair[i]: pair[1 - i][0] for pair in faces.values() if len(pair) == 2 for i in (0, 1)}
        self.bands = {}  # 2-D: wall vertex -> the bands that touch it
        if outside and self.n == 2:
            for cell, vertices in enumerate(self.cells):
                if (cell, 2) not in self.across:
                    for vertex in vertices[:2]:
                        self.bands.setdefault(vertex, []).append(cell)

    def regions(self) -> tuple[list, list[Region]]:
        keys = [("cell", c) for c in range(len(self.cells))]
        found, known = [], set(keys)
        for key in keys:  # grows while we walk
            region = getattr(self, "_" + key[0])(*key[1:])
            found.append(region)
            for other in region.neighbours:
                if other is not None and other not in known:
                    known.add(other)
                    keys.append(other)
        return keys, found

    def _cell(self, cell):
        neighbours = []
        for slot in range(self.n + 1):
            if (cell, slot) in self.across:
                neighbours.append(("cell", self.across[cell, slot]))
            else:
                neighbours.append(self._beyond(cell, slot) if self.outside else None)
        return Region(self.g[cell], [cell] * (self.n + 1), neighbours)

    def _beyond(self, cell, slot):
        if self.n == 1:
            return "end", cell, slot
        if self.n == 2:
            return "band", cell
        cube, corner = self.corners_of[cell]
        axis = next(d for d in range(3) if self._slot(cell, d) == slot)
        return "face", cube, corner, axis

    def _end(self, cell, slot):
        """1-D, beyond an end of the domain: the distance from it, and the constant 1."""
        away = [-w for w in self.g[cell][slot]]
        back = "cell", cell
        return Region([[0.0, 1.0], away], [cell] * 2, [None, back])

    def _band(self, cell):
        """2-D, beyond a wall: between the normals at the triangle's ends, or the diagonal at a corner of the domain."""
        g, rows, neighbours = self.g[cell], [], []
        for slot in (0, 1):
            vertex = self.cells[cell][1 - slot]  # where this coordinate is 0
            other = next((c for c in self.bands[vertex] if c != cell), None)
            at_corner = all(
                y in (0, s) for y, s in zip(self.complex.vertices[vertex].tolist(), self.shape, strict=True)
            )
            rows.append(g[slot] if at_corner else _combine([g[slot], g[2]], [1.0, 0.5]))
            neighbours.append(("band", other))
        rows.append([-w for w in g[2]])
        return Region(rows, [cell] * 3, [*neighbours, ("cell", cell)])

    def _slot(self, cell, axis=None):
        """The slot of a corner cell's own corner, or of the vertex next to it along an axis."""
        cube, corner = self.corners_of[cell]
        local = corner if axis is None else _flip(corner, axis)
        return _colour(tuple(q + c for q, c in zip(cube, local, strict=True)))

    def _inside(self, cube):
        return all(0 <= q < s for q, s in zip(cube, self.shape, strict=True))

    def _outside_region(self, cell, rows, neighbours):
        """rows and neighbours by role: None for the corner itself, an axis for the vertex next to it."""
        slots = {role: self._slot(cell, role) for role in (None, 0, 1, 2)}
        finite = [role for role, row in rows.items() if row[0] == "vertex"]
        holder = next(role for role, slot in slots.items() if slot == 0)
        if holder not in finite:  # slot 0 has to be a vertex
            slots[holder], slots[finite[0]] = slots[finite[0]], 0
        order = sorted(slots, key=slots.get)
        return Region([rows[r][1] for r in order], [cell] * 4, [neighbours[r] for r in order])

    def _face(self, cube, corner, wall):
        """3-D, beyond one wall: the prism over a corner tetrahedron's triangle there."""
        cell = self.corner_cells[cube, corner]
        a = {d: self.g[cell][self._slot(cell, d)] for d in range(3)}
        own = self.g[cell][self._slot(cell)]
        others = [d for d in range(3) if d != wall]
        rows = {wall: ("direction", [-w for w in a[wall]]), None: ("vertex", _combine([own, a[wall]], [1.0, 1.0]))}
        neighbours = {wall: ("cell", cell), None: ("face", cube, _flip(corner, *others), wall)}
        for d in others:
            rows[d] = "vertex", a[d]
            beyond = _step(cube, corner, d)
            neighbours[d] = (
                ("face", beyond, _flip(corner, d), wall)
                if self._inside(beyond)
                else ("edge", cube, corner, tuple(sorted((wall, d))))
            )
        return self._outside_region(cell, rows, neighbours)

    def _edge(self, cube, corner, walls):
        """3-D, beyond two walls: a wedge along one edge of the domain."""
        cell = self.corner_cells[cube, corner]
        (along,) = (d for d in range(3) if d not in walls)
        a = {d: self.g[cell][self._slot(cell, d)] for d in range(3)}
        own = self.g[cell][self._slot(cell)]
        rows, neighbours = {}, {}
        for d in walls:
            rows[d] = "direction", [-w for w in a[d]]
            neighbours[d] = "face", cube, corner, sum(walls) - d
        rows[along] = "vertex", a[along]
        rows[None] = "vertex", _combine([own, *(a[d] for d in walls)], [1.0, 1.0, 1.0])
        for role, end in ((along, corner), (None, _flip(corner, along))):
            beyond = _step(cube, end, along)
            neighbours[role] = (
                ("edge", beyond, end if role is None else _flip(end, along), walls)
                if self._inside(beyond)
                else ("octant", end)
            )
        return self._outside_region(cell, rows, neighbours)

    def _octant(self, side):
        """3-D, beyond three walls: the normal derivatives at the domain's corner, each from a cell that has it."""
        cube = tuple((s - 1) * e for s, e in zip(self.shape, side, strict=True))
        is_corner = (cube, side) in self.corner_cells
        rows, owners, neighbours = [[0.0, 0.0, 0.0, 1.0]], [], [None]
        for d in range(3):
            sign = 1.0 if side[d] else -1.0
            rows.append([sign if k == d else 0.0 for k in range(3)] + [-self.shape[d] if side[d] else 0.0])
            owners.append(self.corner_cells[cube, side if is_corner else _flip(side, (d + 1) % 3)])
            corner = side if is_corner else _flip(side, d)
            neighbours.append(("edge", cube, corner, tuple(k for k in range(3) if k != d)))
        return Region(rows, [owners[0], *owners], neighbours)


def _crossing_code(source: Region, inverse, slot: int, target: Region, index: int) -> int:
    """Where a path goes on after g_slot = 0: index << 3 | the slot it enters by << 1 | whether coordinates change."""
    leaving = source.g[slot]
    scale = max(leaving, key=abs)
    entry = next(
        k
        for k, row in enumerate(target.g)
        if (ratio := row[leaving.index(scale)] / scale) < 0
        and all(a == ratio * b for a, b in zip(row, leaving, strict=True))
    )
    changes = entry != slot
    for j, column in enumerate(zip(*inverse, strict=True)):
        if j != slot:
            values = [sum(a * b for a, b in zip(row, column, strict=True)) for row in target.g]
            changes |= values != [float(k == j) for k in range(len(values))]
    return index << 3 | entry << 1 | changes


@dataclass(frozen=True)
class Tables:
    """The regions as tensors; a row is a region, cells first.

    crossing  (R, n+1) int32: what lies beyond g_j = 0, WALL or a code as in `_crossing_code`.
    support   (R, n+1, n+1) int32: the vertices whose velocities make up those of each column.
    weights   (R, n+1, n+1): with which weights: column velocity j = sum_i weights[j, i] velocity[support[j, i]].
    g         (R, n+1, n+1): the coordinates, acting on (y, 1).
    share     (R, n): g_0 = 1 - share . (g_1 ... g_n).
    origin    (R, n), axes (R, n, n): y = origin + axes @ (g_1 ... g_n).
    """

    crossing: torch.Tensor
    support: torch.Tensor
    weights: torch.Tensor
    g: torch.Tensor
    share: torch.Tensor
    origin: torch.Tensor
    axes: torch.Tensor


def build_tables(complex_: Complex, outside: bool) -> Tables:
    keys, regions = _Builder(complex_, outside).regions()
    index = {key: i for i, key in enumerate(keys)}
    n = complex_.n
    g = torch.tensor([r.g for r in regions], dtype=torch.float64)
    inverse = torch.linalg.inv(g)
    inverse = torch.round(4 * inverse) / 4  # exact: lattice points, their halves, directions
    rows = inverse.tolist()
    crossing = []
    for i, region in enumerate(regions):
        codes = []
        for slot, key in enumerate(region.neighbours):
            if key is None:
                codes.append(WALL)
            else:
                codes.append(_crossing_code(region, rows[i], slot, regions[index[key]], index[key]))
        crossing.append(codes)
    owners = torch.tensor([r.owners for r in regions])  # (R, n+1)
    weights = (complex_.barycentric()[owners] @ inverse.mT.unsqueeze(-1)).squeeze(-1)
    last = inverse[:, n]  # the weight of each column's point: 1 for a vertex, 0 for a direction
    return Tables(
        torch.tensor(crossing, dtype=torch.int32),
        complex_.cells[owners].to(torch.int32),
        weights,
        g,
        last[:, 1:].clone(),
        inverse[:, :n, 0].clone(),
        inverse[:, :n, 1:] - last[:, None, 1:] * inverse[:, :n, :1],
    )
