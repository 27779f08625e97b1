"""What is measured: shapes of the papers, sizes and matrices that hurt, calls so small that overhead shows."""

import functools
import math
from dataclasses import dataclass

import torch

from stn_kernels import Linearized, Tessellation, data
from stn_kernels.op_cases import OP_CASES, Inputs, Sample, smooth_homography, smooth_points, smooth_theta
from stn_kernels.reference.affine import affine_grid as reference_grid
from stn_kernels.reference.cpab import lattice_points
from stn_kernels.reference.linearized import Options, drawn_offsets

FORWARD, BOTH, SECOND = "forward", "forward+backward", "second backward"  # passes, each timed on its own
FIRST = (FORWARD, BOTH)


@dataclass(frozen=True)
class Case:
    """One row of a table."""

    op: str
    name: str
    suite: str  # which cases belong together; "second" is the second backward
    shape: tuple[int, ...]  # (B, C, *in)
    out_size: tuple[int, ...] | None = None  # None: the size of the image
    theta: tuple[tuple[float, ...], ...] | None = None  # None: the identity plus 0.1 randn
    samples: int | None = None
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    quick: bool = False
    compiled: bool = False  # whether torch.compile takes part: compiling costs far more time than measuring
    noise: bool = False  # random images instead of photographs
    sampler: str = "bilinear"
    cells: tuple[int, ...] = ()  # of a CPAB transformation: the shape of its tessellation
    linearized: int = 0  # samples a point of linearized multi-sampling, at given offsets; 0: `sampler`

    @property
    def size(self) -> tuple[int, ...]:
        return self.out_size or self.shape[2:]

    @property
    def n(self) -> int:
        return len(self.shape) - 2

    @property
    def tessellation(self) -> Tessellation:
        return _tessellation(self.cells)

    @property
    def passes(self) -> tuple[str, ...]:
        """What is timed of it."""
        if self.suite == "second":
            return (SECOND,)
        return FIRST if OP_CASES[self.op].quantities else (FORWARD,)

    @property
    def smooth(self) -> bool:
        """Whether theta's gradient exists: a given matrix may put points on lattice lines, where it jumps."""
        return self.theta is None

    def mode(self, device: str = "cpu"):
        """The sampling mode; offsets are as the default draws them."""
        if not self.linearized:
            return self.sampler
        options = Options(self.linearized, 0.5, True, False, "uniform", 0.0, False)
        others = drawn_offsets(torch.tensor(0), options, self.shape[2:], self.size, self.shape[0], torch.float32)
        offsets = torch.cat([torch.zeros_like(others[:, :1]), others], 1)
        return Linearized(self.linearized, offsets=offsets.reshape(*offsets.shape[:2], *self.size, 2).to(device))

    def inputs(self, device: str = "cpu") -> Inputs:
        batch = self.shape[0]
        lead = (batch,) if self.samples is None else (batch, self.samples)
        if self.cells:
            return self._cpab(lead).to(device=device)
        if self.op not in ("affine_sample", "affine_grid", "grid_sample"):
            return self._drawn(lead).to(device=device)
        generator = torch.Generator().manual_seed(0)
        if self.suite in ("samplers", "second"):
            sample = Sample(batch=batch, size=self.shape[2:], out_size=self.size, mode=self.sampler)
            theta = smooth_theta(sample, generator, spread=0.1)
        elif self.theta is None:
            theta = torch.eye(2, 3) + 0.1 * torch.randn((*lead, 2, 3), generator=generator)
        else:
            theta = torch.tensor(self.theta).expand(*lead, 2, 3).contiguous()
        options = {"mode": self.mode(), "padding_mode": "zeros", "align_corners": False}
        if self.op == "affine_grid":
            tensors = {"theta": theta}
            options = {"size": self.size, "align_corners": False}
        else:
            image = self._image()
            if self.channels_last:
                image = image.contiguous(memory_format=torch.channels_last)
            if self.op == "affine_sample":
                tensors, options["size"] = {"input": image, "theta": theta}, self.size
            else:
                tensors = {"input": image, "grid": reference_grid(theta.double(), self.size, False).to(theta.dtype)}
        return Inputs(tensors, options).to(device=device)

    def _image(self) -> torch.Tensor:
        if self.noise:
            return torch.rand(self.shape, generator=torch.Generator().manual_seed(1)).to(self.dtype)
        batch, channels, *size = self.shape
        depth, height, width = (1, 1, *size)[-3:]
        return data.crops(batch, channels * depth, height, width).reshape(self.shape).to(self.dtype)

    def _drawn(self, lead) -> Inputs:
        """Of a transform other than affine: its parameters as op_cases draws them."""
        sample = Sample(batch=lead[0], samples=self.samples, size=self.shape[2:], out_size=self.size)
        generator = torch.Generator().manual_seed(0)
        parameters = {"homography": ("matrix", smooth_homography), "tps": ("points", smooth_points)}
        name, draw = parameters[self.op.split("_")[0]]
        tensors, options = {name: draw(sample, generator)}, {"size": self.size, "align_corners": False}
        if self.op.endswith("_sample"):
            tensors, options["padding_mode"] = {"input": self._image(), **tensors}, "zeros"
        return Inputs(tensors, options)

    def _cpab(self, lead) -> Inputs:
        theta = torch.randn((*lead, self.tessellation.dim), generator=torch.Generator().manual_seed(0))
        if self.op != "cpab_sample":
            points = lattice_points(self.size, False, torch.float32, "cpu")
            return Inputs({"points": points, "theta": theta}, {"tessellation": self.tessellation})
        options = {"size": self.size, "tessellation": self.tessellation}
        return Inputs({"input": self._image(), "theta": theta}, {**options, "padding_mode": "zeros"})


@functools.cache
def _tessellation(cells):
    return Tessellation(cells)


def rotation(degrees: float, zoom: float = 1.0):
    c, s = zoom * math.cos(math.radians(degrees)), zoom * math.sin(math.radians(degrees))
    return (c, -s, 0.0), (s, c, 0.0)


PAPERS = (
    (64, 1, 28, 28),
    (100, 1, 42, 42),
    (64, 3, 64, 64),
    (256, 3, 32, 32),
    (16, 64, 56, 56),
    (4, 256, 28, 28),
    (1, 3, 1024, 1024),
)
SAMPLER_SHAPES = {
    "bilinear": ((64, 8, 1024), (2, 4, 48, 48, 48), (1, 1, 96, 96, 96)),
    "nearest": ((64, 1, 28, 28), (64, 3, 64, 64), (16, 64, 56, 56), (16, 4, 16, 16, 16)),
    "bicubic": ((64, 1, 28, 28), (64, 3, 64, 64), (16, 64, 56, 56)),
}
SECOND_SHAPES = ((64, 1, 28, 28), (64, 3, 64, 64), (16, 16, 56, 56), (16, 64, 56, 56))
VOLUMES = ((8, 1, 32, 32, 32), (2, 4, 48, 48, 48))  # of splines
QUICK = ((64, 1, 28, 28), (64, 3, 64, 64), (16, 64, 56, 56))
MATRICES = {
    "rotation 45": rotation(45),
    "rotation 90": rotation(90),
    "zoom 0.4": rotation(5, 0.4),
    "zoom 2.3": rotation(5, 2.3),
    "zoom 9": rotation(5, 9.0),
    "reflection": ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "shear": ((1.0, 1.5, 0.0), (0.0, 1.0, 0.0)),
    "singular": ((0.5, 0.25, 0.1), (1.0, 0.5, 0.0)),
    "zero": ((0.0, 0.0, 0.1), (0.0, 0.0, -0.2)),
}


def label(shape, out_size=None) -> str:
    return "x".join(map(str, shape)) + (f" to {'x'.join(map(str, out_size))}" if out_size else "")


def sampling_cases(op: str) -> list[Case]:
    cases = [Case(op, label(s), "papers", s, quick=s in QUICK, compiled=op == "affine_sample") for s in PAPERS]
    cases.append(Case(op, f"{label((1, 3, 1024, 1024))} rotation 45", "papers", (1, 3, 1024, 1024), theta=rotation(45)))
    cases += [
        Case(
            op, f"{label(s)} channels last", "layout", s, channels_last=True, quick=op == "affine_sample" and s[1] == 64
        )
        for s in ((64, 3, 64, 64), (16, 64, 56, 56), (4, 256, 28, 28))
    ]
    cases += [
        Case(op, f"{label(s)} bfloat16", "dtype", s, dtype=torch.bfloat16) for s in ((64, 3, 64, 64), (16, 64, 56, 56))
    ]
    cases += [
        Case(op, f"{label(s)} S=10", "samples", s, samples=10, quick=s == (64, 1, 28, 28))
        for s in ((64, 1, 28, 28), (16, 3, 64, 64), (4, 64, 56, 56))
    ]
    cases += [
        Case(op, f"{label(s)} {mode}", "samplers", s, sampler=mode)
        for mode, shapes in SAMPLER_SHAPES.items()
        for s in shapes
    ]
    cases.append(Case(op, label((1, 1, 8, 8)), "overhead", (1, 1, 8, 8), quick=True))
    return cases


def cpab_cases() -> list[Case]:
    """Images of the published sizes, 3-D and series; of series peers in fixed steps have wrong gradients."""
    sizes = ((32, 1, 64, 64), (32, 1, 128, 128))
    transforms = (
        *((shape, (cells, cells)) for shape in sizes for cells in (2, 4, 8)),
        ((64, 1, 1000), (10,)),
        ((64, 1, 1000), (50,)),
        ((8, 1, 24, 24, 24), (2, 2, 2)),
        ((2, 1, 12, 12, 12), (2, 2, 2)),
    )
    samplings = (
        ((8, 1, 64, 64), (2, 2)),
        ((8, 1, 64, 64), (8, 8)),
        ((64, 1, 128), (8,)),
        ((2, 1, 12, 12, 12), (2, 2, 2)),
    )
    cases = [
        Case(op, f"{label(shape)}, cells {list(cells)}", "cpab", shape, cells=cells, quick=shape[0] == 2)
        for op, shapes in (("cpab_transform", transforms), ("cpab_sample", samplings))
        for shape, cells in shapes
    ]
    jacobian = (((2, 1, 32, 32), (2, 2)), ((2, 1, 256), (8,)), ((1, 1, 8, 8, 8), (2, 2, 2)))
    return cases + [
        Case("cpab_jacobian", f"{label(shape)}, cells {list(cells)}", "cpab", shape, cells=cells, quick=len(cells) == 1)
        for shape, cells in jacobian
    ]


def all_cases(ops=None, quick: bool = False) -> list[Case]:
    """The cases of `ops` (None: all), or the fewer of a quick run."""
    cases = sampling_cases("affine_sample")
    cases += [
        Case("affine_sample", f"16x3x128x128 {name}", "matrices", (16, 3, 128, 128), theta=m)
        for name, m in MATRICES.items()
    ]
    cases += [
        Case(
            "affine_sample", f"{label(shape)} linearized K={count}", "linearized", shape, linearized=count, quick=quick
        )
        for shape, count, quick in (
            ((16, 3, 64, 64), 8, True),
            ((16, 3, 64, 64), 16, False),
            ((64, 1, 28, 28), 8, False),
        )
    ]
    sizes = (((16, 3, 128, 128), (44, 40)), ((16, 3, 48, 40), (128, 128)))
    cases += [Case("affine_sample", label(*pair), "matrices", *pair) for pair in sizes]
    cases += sampling_cases("grid_sample")
    cases += [Case("grid_sample", f"{label(s)} second", "second", s, quick=s == QUICK[0]) for s in SECOND_SHAPES]
    cases += [Case("affine_grid", label(s), "papers", s, quick=s in QUICK) for s in PAPERS]
    cases.append(Case("affine_grid", label((1, 1, 8, 8)), "overhead", (1, 1, 8, 8), quick=True))
    for op in ("homography_sample", "tps_sample", "homography_grid", "tps_grid"):
        cases += [Case(op, label(s), "papers", s, quick=s == QUICK[1]) for s in PAPERS]
        cases.append(Case(op, label((1, 1, 8, 8)), "overhead", (1, 1, 8, 8)))
    cases += [Case(op, label(s), "volumes", s) for op in ("tps_sample", "tps_grid") for s in VOLUMES]
    return [case for case in cases + cpab_cases() if (ops is None or case.op in ops) and (case.quick or not quick)]
