"""Sample inputs of every public operator: shared by `stn-kernels verify`, the tests and the benchmarks' gate.

A later operator adds one `OpCase` to `OP_CASES`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

import stn_kernels

from ._library import MODES, PADDING_MODES, hole
from .ops._tps_system import default_control_points
from .ops.linearized import Linearized
from .reference import tps
from .reference.affine import affine_grid
from .reference.homography import homography_grid
from .reference.linearized import WEIGHTINGS, solve
from .tessellation import Tessellation

LAYOUTS = ("contiguous", "channels_last", "rows", "expanded")
SAMPLERS = tuple((mode, n) for n in (1, 2, 3) for mode in MODES)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Sample:
    """What to draw: everything that may vary about one call."""

    dtype: torch.dtype = torch.float32
    coords_dtype: torch.dtype | None = None  # None: float64 for float64 images, else float32
    padding_mode: str = "zeros"
    align_corners: bool = False
    layout: str = "contiguous"
    samples: int | None = None  # S; None is no sample dimension
    batch: int = 2
    channels: int = 3
    size: tuple[int, ...] = (7, 9)
    out_size: tuple[int, ...] = (8, 5)
    mode: str = "bilinear"
    seed: int = 0

    @property
    def parameter_dtype(self) -> torch.dtype:
        if self.coords_dtype is not None:
            return self.coords_dtype
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def n(self) -> int:
        return len(self.size)

    def in_dimension(self, n: int) -> "Sample":
        """The same in n dimensions: of 2-D sizes the last one, or with a small one before them."""
        sizes = {name: ((3, *getattr(self, name)))[3 - n :] for name in ("size", "out_size")}
        return replace(self, **sizes)

    @property
    def lead(self) -> tuple[int, ...]:
        return (self.batch,) if self.samples is None else (self.batch, self.samples)


@dataclass
class Inputs:
    """The arguments of one call: tensors to differentiate by, in order, and options."""

    tensors: dict[str, torch.Tensor]
    options: dict[str, object] = field(default_factory=dict)

    def to(self, device=None, dtype=None) -> "Inputs":
        tensors = {k: moved(t.detach(), device).to(dtype=dtype) for k, t in self.tensors.items()}
        options = dict(self.options)
        if getattr(options.get("mode"), "offsets", None) is not None:
            options["mode"] = replace(options["mode"], offsets=moved(options["mode"].offsets, device))
        return Inputs(tensors, options)

    def requires_grad(self, *names: str) -> "Inputs":
        """The same tensors as leaves that require a gradient (all, or those named), strides kept."""
        wanted = names or tuple(self.tensors)
        return Inputs({k: t.detach().requires_grad_(k in wanted) for k, t in self.tensors.items()}, self.options)


def moved(tensor: torch.Tensor, device) -> torch.Tensor:
    """tensor on a device with its strides, which `Tensor.to` drops where elements overlap or leave gaps."""
    if device is None or torch.device(device).type == tensor.device.type:
        return tensor
    storage = tensor.new_empty(0).set_(tensor.untyped_storage()).to(device)
    return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


@dataclass(frozen=True, eq=False)
class OpCase:
    """A public operator and how to draw inputs at which all its gradients exist."""

    name: str
    quantities: dict[str, str]  # differentiable argument -> its column of the tolerance table
    draw: Callable[[Sample], Inputs]
    paddings: tuple[str, ...] = tuple(PADDING_MODES)
    twice_differentiable: bool = True
    function: str = ""  # the public one; "": `name`
    sampler: tuple | None = None  # the entry of _library.SAMPLERS that it needs
    surrogates: tuple[str, ...] = ()  # tensors whose gradient is not meant to be the value's derivative
    dimensions: tuple[int, ...] = (2,)  # in which `verify` draws, in turn
    slow_reference: bool = False  # `verify` draws fewer samples then

    def runs_on(self, backend: str) -> bool:
        """Whether a backend has kernels for it."""
        return not hole(backend, self.sampler, self.function or self.name)

    def call(self, inputs: Inputs, backend: str | None = None) -> torch.Tensor:
        return getattr(stn_kernels, self.function or self.name)(**inputs.tensors, **inputs.options, backend=backend)


def image(sample: Sample, generator: torch.Generator) -> torch.Tensor:
    """A random (B, C, *in) image in the layout asked for."""
    batch = sample.batch
    shape = (min(batch, 1) if sample.layout == "expanded" else batch, sample.channels, *sample.size)
    if sample.layout == "rows":  # every second row of a wider image; in 1-D every second pixel
        wider = [*sample.size[:-1], sample.size[-1] + 3]
        wider[0] *= 2
        wide = torch.randn((*shape[:2], *wider), generator=generator, dtype=torch.float64).to(sample.dtype)
        return wide[:, :, ::2][..., 1 : sample.size[-1] + 1]
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(sample.dtype)
    if sample.layout == "channels_last":
        return values.movedim(1, -1).contiguous().movedim(-1, 1)
    return values.expand(batch, *shape[1:])


def grad_output(output: torch.Tensor, layout: str, seed: int = 1) -> torch.Tensor:
    """A random cotangent of an op's output; its strides vary with the layout, down to 0 as `sum().backward()` gives."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*output.shape[:-1], 1) if layout == "expanded" else output.shape
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(output.dtype).to(output.device)
    if layout == "rows" and values.dim() > 3:
        return values.mT.contiguous().mT
    return values.expand(output.shape) if layout == "expanded" else values


def lattice_distance(
    grid: torch.Tensor, size: tuple[int, ...], align_corners: bool, mode: str = "bilinear"
) -> torch.Tensor:
    """Distance in pixels of normalized points (..., n) to where a gradient jumps: the nearest integer coordinate.

    For "nearest" the value itself jumps, halfway between the integers.
    """
    extent = torch.tensor(size[::-1], dtype=torch.float64)
    pixels = (grid.double() + 1) * (extent - 1) / 2 if align_corners else ((grid.double() + 1) * extent - 1) / 2
    pixels = pixels + 0.5 if mode == "nearest" else pixels
    distance = (pixels - pixels.round()).abs()
    # With align_corners every point falls onto the only pixel of an axis of size 1, and the gradient is 0.
    return torch.where((extent == 1) & align_corners, torch.inf, distance).amin(-1)


# A float32 coordinate is off by some 1e-6 of the image's size; on the wrong side of a line it has another gradient.
MARGIN = 5e-4


def smooth_parameters(
    sample: Sample, draw: Callable[[int], torch.Tensor], grid_of: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Parameters that put no output pixel on a lattice line of the input: (B[, S], ...).

    Args:
        draw: count -> so many random parameters (count, ...) in float64.
        grid_of: parameters (N, ...) -> the points (N, *out, n) at which they sample.
    """
    count = torch.Size(sample.lead).numel()
    values = draw(count)
    todo = torch.ones(count, dtype=torch.bool)
    margin = min(MARGIN, 0.05 / torch.Size(sample.out_size).numel())
    for _ in range(1000):
        if not todo.any():
            break
        values[todo] = draw(int(todo.sum())).to(sample.parameter_dtype).double()
        distance = lattice_distance(grid_of(values).flatten(1, -2), sample.size, sample.align_corners, sample.mode)
        todo = (distance < margin).any(-1)
    return values.to(sample.parameter_dtype).unflatten(0, sample.lead)


def smooth_theta(sample: Sample, generator: torch.Generator, spread: float = 0.4) -> torch.Tensor:
    """Near the identity: (B[, S], n, n + 1)."""
    n = sample.n

    def draw(count):
        noise = torch.randn(count, n, n + 1, generator=generator, dtype=torch.float64)
        return torch.eye(n, n + 1, dtype=torch.float64) + spread * noise

    return smooth_parameters(sample, draw, lambda theta: affine_grid(theta, sample.out_size, sample.align_corners))


def smooth_grid(sample: Sample, generator: torch.Generator, reach: float = 1.5) -> torch.Tensor:
    """Points of [-reach, reach]^n off the input's lattice lines: (B[, S], *out, n)."""
    shape = (*sample.lead, *sample.out_size, sample.n)
    grid = torch.zeros(shape, dtype=torch.float64)
    todo = torch.ones(shape[:-1], dtype=torch.bool)
    for _ in range(100):
        draw = reach * (2 * torch.rand((int(todo.sum()), sample.n), generator=generator, dtype=torch.float64) - 1)
        grid[todo] = draw.to(sample.parameter_dtype).double()
        todo = lattice_distance(grid, sample.size, sample.align_corners, sample.mode) < MARGIN
        if not todo.any():
            break
    return grid.to(sample.parameter_dtype)


def smooth_homography(sample: Sample, generator: torch.Generator) -> torch.Tensor:
    """Near the identity, with the plane w = 0 outside the output: (B[, S], 3, 3)."""
    spread = torch.tensor([[0.2, 0.2, 0.2], [0.2, 0.2, 0.2], [0.08, 0.08, 0.05]], dtype=torch.float64)

    def draw(count):
        noise = torch.randn(count, 3, 3, generator=generator, dtype=torch.float64).clamp(-2.5, 2.5)
        return torch.eye(3, dtype=torch.float64) + spread * noise

    return smooth_parameters(sample, draw, lambda m: homography_grid(m, sample.out_size, sample.align_corners))


def smooth_points(sample: Sample, generator: torch.Generator) -> torch.Tensor:
    """Images of the default control points, bent by a fifth of the image: (B[, S], 16, 2) or (B[, S], 64, 3)."""
    control = default_control_points(sample.n)
    solver = tps.solver(control)

    def draw(count):
        return control + 0.2 * torch.randn(count, *control.shape, generator=generator, dtype=torch.float64)

    def grid_of(points):
        return tps.tps_grid(solver @ points, control, sample.out_size, sample.align_corners)

    return smooth_parameters(sample, draw, grid_of)


def strided(values: torch.Tensor, layout: str) -> torch.Tensor:
    """The same parameters with other strides: the last dimension outermost in memory, or every second of a row."""
    if layout == "channels_last":
        return values.movedim(-1, 0).contiguous().movedim(0, -1)
    return torch.stack([values, values], -1)[..., 0] if layout == "rows" else values


def _options(sample: Sample, **more):
    return {**more, "padding_mode": sample.padding_mode, "align_corners": sample.align_corners}


def sample_inputs(argument: str, draw_params: Callable[[Sample, torch.Generator], torch.Tensor]):
    """Sample -> Inputs of an operator that samples an image at what the parameter `argument` says."""

    def draw(sample: Sample) -> Inputs:
        generator = torch.Generator().manual_seed(sample.seed)
        params = strided(draw_params(sample, generator), sample.layout)
        size = {} if argument == "grid" else {"size": sample.out_size}
        options = _options(sample, mode=sample.mode, **size)
        return Inputs({"input": image(sample, generator), argument: params}, options)

    return draw


def grid_inputs(argument: str, draw_params: Callable[[Sample, torch.Generator], torch.Tensor]):
    """Sample -> Inputs of an operator that turns the parameter `argument` into coordinates of the sample's dtype."""

    def draw(sample: Sample) -> Inputs:
        generator = torch.Generator().manual_seed(sample.seed)
        params = strided(draw_params(replace(sample, coords_dtype=sample.dtype), generator), sample.layout)
        return Inputs({argument: params}, {"size": sample.out_size, "align_corners": sample.align_corners})

    return draw


def any_theta(sample: Sample, generator: torch.Generator) -> torch.Tensor:
    """(B[, S], n, n + 1)."""
    shape = (*sample.lead, sample.n, sample.n + 1)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(sample.dtype)


CPAB_SHAPES = {1: (5,), 2: (3, 2), 3: (2, 1, 2)}


def cpab_tessellation(sample: Sample) -> Tessellation:
    """With walls or without, by the seed."""
    return Tessellation(CPAB_SHAPES[sample.n], zero_boundary=sample.seed % 2 == 0)


def _cpab_theta(sample: Sample, tessellation: Tessellation, generator: torch.Generator, dtype) -> torch.Tensor:
    shape = (*sample.lead, tessellation.dim)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def draw_cpab_points(sample: Sample) -> Inputs:
    """As many points as the output has pixels, some of them outside; an odd seed gives every image its own."""
    generator = torch.Generator().manual_seed(sample.seed)
    tessellation = cpab_tessellation(sample)
    lead = (sample.batch,) if sample.seed % 2 else ()
    count = torch.Size(sample.out_size).numel()
    points = 1.2 * torch.rand((*lead, count, sample.n), generator=generator, dtype=torch.float64) - 0.1
    theta = _cpab_theta(sample, tessellation, generator, sample.parameter_dtype)
    tensors = {"points": points.to(sample.dtype), "theta": theta}
    return Inputs({k: strided(t, sample.layout) for k, t in tensors.items()}, {"tessellation": tessellation})


def draw_cpab_sample(sample: Sample) -> Inputs:
    """Transformations that put no output pixel on a lattice line of the input."""
    generator = torch.Generator().manual_seed(sample.seed)
    tessellation = cpab_tessellation(sample)
    n, d = sample.n, tessellation.dim

    def draw(count):
        affine = torch.eye(n, n + 1) + 0.1 * torch.randn(count, n, n + 1, generator=generator, dtype=torch.float64)
        theta = torch.randn(count, d, generator=generator, dtype=torch.float64)
        return torch.cat([theta, affine.flatten(1)], 1)

    def grid_of(values):
        affine = values[:, d:].unflatten(1, (n, n + 1))
        return stn_kernels.cpab_grid(values[:, :d], sample.out_size, tessellation, sample.align_corners, affine=affine)

    theta, affine = smooth_parameters(sample, draw, grid_of).split([d, n * (n + 1)], -1)
    tensors = {"theta": theta.contiguous(), "affine": affine.unflatten(-1, (n, n + 1)).contiguous()}
    tensors = {name: strided(t, sample.layout) for name, t in tensors.items()}
    options = _options(sample, size=sample.out_size, mode=sample.mode, tessellation=tessellation)
    return Inputs({"input": image(sample, generator), **tensors}, options)


def spanning_offsets(sample: Sample, count: int, generator: torch.Generator, spread: float = 1.2) -> torch.Tensor:
    """Offsets (B[, S], count, *out, n) of about `spread` pixels, a few of them beyond [-1, 1], of well-posed fits."""
    n, points = sample.n, torch.Size(sample.out_size).numel()
    scale = torch.tensor(sample.size[::-1], dtype=torch.float64) / 2
    offsets = torch.zeros((torch.Size(sample.lead).numel(), count, points, n), dtype=torch.float64)
    todo = torch.ones(offsets.shape[0], points, dtype=torch.bool)
    for _ in range(1000):
        if not todo.any():
            break
        drawn = spread * torch.randn((int(todo.sum()), count - 1, n), generator=generator, dtype=torch.float64)
        # Within reach of the weights by distance, which are 0 two pixels from the centre.
        drawn = drawn * (1.8 / drawn.norm(dim=-1, keepdim=True)).clamp(max=1) / scale
        offsets.movedim(1, 2)[todo] = torch.cat([torch.zeros_like(drawn[:, :1]), drawn.float().double()], 1)
        others = offsets[:, 1:]
        counts = (others.abs() <= 1).all(-1)
        slopes, *_ = solve(torch.where(counts.unsqueeze(-1), others * scale, 0.0), counts.double(), 0.0)
        strength = slopes.square().sum((1, 3))  # 0 where there is no fit
        todo = (strength > 4) | (strength == 0)
    return offsets.reshape(*sample.lead, count, *sample.out_size, n).to(sample.parameter_dtype)


def linearized_inputs(draw_inputs: Callable[[Sample], Inputs], given: bool):
    """Inputs of another case, sampled by a `Linearized` whose options go round with the seed."""

    def draw(sample: Sample) -> Inputs:
        inputs = draw_inputs(replace(sample, mode="bilinear"))
        turn, count = sample.seed, sample.n + 6
        generator = torch.Generator().manual_seed(turn)
        mode = Linearized(
            samples=count,
            fixed_bias=turn % 4 == 1,
            weighting=WEIGHTINGS[turn % 3],
            ridge=0.0 if given else 0.5,  # keeps what the generator draws well-posed
            seed=turn + 10,  # seed 1 drew an offset 1e-7 from the limit beyond which none counts
            offsets=spanning_offsets(sample, count, generator) if given else None,
            through_samples=turn % 2 == 0,
        )
        return Inputs(inputs.tensors, {**inputs.options, "mode": mode})

    return draw


OP_CASES = {
    case.name: case
    for case in (
        OpCase("affine_sample", {"input": "image", "theta": "coords"}, sample_inputs("theta", smooth_theta)),
        OpCase("grid_sample", {"input": "image", "grid": "coords"}, sample_inputs("grid", smooth_grid)),
        OpCase("affine_grid", {"theta": "coords"}, grid_inputs("theta", any_theta), paddings=("none",)),
        OpCase("homography_sample", {"input": "image", "matrix": "coords"}, sample_inputs("matrix", smooth_homography)),
        OpCase("homography_grid", {"matrix": "coords"}, grid_inputs("matrix", smooth_homography), paddings=("none",)),
        OpCase(
            "tps_sample",
            {"input": "image", "points": "coords"},
            sample_inputs("points", smooth_points),
            dimensions=(2, 3),
        ),
        OpCase(
            "tps_grid",
            {"points": "coords"},
            grid_inputs("points", smooth_points),
            paddings=("none",),
            dimensions=(2, 3),
        ),
        OpCase(
            "cpab_transform",
            {"points": "coords", "theta": "coords"},
            draw_cpab_points,
            paddings=("none",),
            dimensions=(1, 2, 3),
            slow_reference=True,
        ),
        OpCase(
            "cpab_sample",
            {"input": "image", "theta": "coords", "affine": "coords"},
            draw_cpab_sample,
            dimensions=(1, 2, 3),
            slow_reference=True,
        ),
        OpCase("cpab_jacobian", {}, draw_cpab_points, paddings=("none",), dimensions=(1, 2, 3), slow_reference=True),
    )
}

# Sampling by `Linearized`: at a transform with given offsets, at a grid with drawn ones.
LINEARIZED_CASES = {
    name: replace(
        OP_CASES[function],
        name=name,
        function=function,
        draw=linearized_inputs(OP_CASES[function].draw, given),
        sampler=("linearized", 2),
        dimensions=(1, 2, 3),
        surrogates=(next(k for k in OP_CASES[function].quantities if k != "input"),),
    )
    for name, function, given in (
        ("linearized_given", "affine_sample", True),
        ("linearized_drawn", "grid_sample", False),
    )
}


def in_mode(draw_inputs: Callable[[Sample], Inputs], mode: str):
    """Inputs of another case in a mode."""
    return lambda sample: draw_inputs(replace(sample, mode=mode))


# Every sampler; bilinear in two dimensions is what OP_CASES draws.
SAMPLER_CASES = {
    name: replace(
        OP_CASES[function],
        name=name,
        function=function,
        draw=in_mode(OP_CASES[function].draw, mode),
        sampler=(mode, n),
        dimensions=(n,),
        slow_reference=True,
    )
    for function in ("affine_sample", "grid_sample")
    for mode, n in SAMPLERS
    if (mode, n) != ("bilinear", 2)
    for name in (f"{function}_{mode}_{n}d",)
}
VERIFIED = {**OP_CASES, **SAMPLER_CASES, **LINEARIZED_CASES}
