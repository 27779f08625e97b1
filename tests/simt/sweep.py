"""The CUDA kernels, run on the CPU, against the float64 reference: raw operators, every layout and both scatters.

`python -m tests.simt.sweep VARIANT` runs a few cases of each kernel on one build (tests run it under the sanitizers).
"""

import dataclasses
import itertools
import sys

import torch

import stn_kernels  # noqa: F401  declares the operators
from stn_kernels._tolerances import TOLERANCES, relative_error
from stn_kernels.op_cases import Sample, spanning_offsets
from stn_kernels.ops import _cpab
from stn_kernels.ops._outputs import empty_images, is_channels_last
from stn_kernels.ops._tps_system import default_control_points
from stn_kernels.ops.linearized import TRANSFORMS
from stn_kernels.reference import tps
from stn_kernels.tessellation import Tessellation

from .build import NAMESPACE, load

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SWEPT = tuple(t for t in DTYPES if t != torch.float16)  # the sanitizers' builds leave it out (build.py)
LAYOUTS = ("planar", "channels_last", "rows", "expanded", "transposed")
PADDINGS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of a sampling operator and of its backward."""

    op: str  # "affine_sample", "grid_sample", "homography_sample" or "tps_sample"
    dtype: torch.dtype = torch.float32
    coords_dtype: torch.dtype = torch.float32
    padding: int = 0
    align_corners: bool = False
    layout: str = "planar"
    samples: int | None = None
    batch: int = 2
    channels: int = 3
    size: tuple[int, ...] = (7, 9)
    out_size: tuple[int, ...] = (6, 18)
    zoom: float = 1.0  # of the affine matrices: above 1 outputs are sparse, below 1 dense
    mode: int = 0

    @property
    def lead(self) -> tuple[int, ...]:
        return (self.batch,) if self.samples is None else (self.batch, self.samples)

    def image(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Random numbers (..., C, *in) in the case's layout."""
        n = len(self.size)
        *lead, width = shape
        if self.layout == "expanded":
            return torch.randn(1, *shape[1:]).to(self.dtype).expand(shape)
        if self.layout == "rows":
            return torch.randn(*lead, width + 3).to(self.dtype)[..., 1 : width + 1]
        if self.layout == "transposed" and n > 1:
            return torch.randn(*lead[:-1], width, lead[-1]).to(self.dtype).transpose(-1, -2)
        if self.layout == "channels_last":
            return torch.randn(*shape[: -n - 1], *shape[-n:], shape[-n - 1]).to(self.dtype).movedim(-1, -n - 1)
        return torch.randn(shape).to(self.dtype)

    def parameters(self) -> tuple[torch.Tensor, ...]:
        """What the operator takes after the image: theta, a grid, matrices, or coefficients and control points."""
        lead, n = self.lead, len(self.size)
        if self.op == "grid_sample":
            return ((1.3 * torch.randn(*lead, *self.out_size, n)).to(self.coords_dtype),)
        if self.op == "tps_sample":
            control = default_control_points(n)
            points = control + 0.2 * torch.randn(*lead, *control.shape, dtype=torch.float64)
            return tps.solver(control) @ points, control
        spread, rows = (0.4, n) if self.op == "affine_sample" else (0.1, n + 1)
        matrix = self.zoom * torch.eye(rows, n + 1) + spread * self.zoom * torch.randn(*lead, rows, n + 1)
        return (matrix.to(self.coords_dtype),)

    def draw(self) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor, tuple]:
        """(input, its parameters, grad_output, the options after them)."""
        params = self.parameters()
        image = self.image((self.batch, self.channels, *self.size))
        grad_output = self.image((*self.lead, self.channels, *self.out_size))
        return image, params, grad_output, (self.mode, self.padding, self.align_corners)

    @property
    def forward_size(self) -> tuple:
        """The argument that only a forward takes, and not at a grid."""
        return () if self.op == "grid_sample" else (list(self.out_size),)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, quantity: str, times: float = 1) -> None:
    error, allowed = relative_error(actual, expected), times * TOLERANCES[actual.dtype][quantity]
    assert error <= allowed, f"{quantity}: relative error {error:.2e} > {allowed:.2e} ({actual.dtype})"


def double(tensors) -> list[torch.Tensor]:
    return [t.double() for t in tensors]


def check(case: Case) -> None:
    """Value, layout and gradients, the latter with and without the demand for determinism."""
    namespace, reference = getattr(torch.ops, NAMESPACE), torch.ops.stn_kernels_reference
    forward, backward = getattr(namespace, case.op), getattr(namespace, f"_{case.op}_backward")
    image, params, grad_output, options = case.draw()

    output = forward(image, *params, *case.forward_size, *options)
    true_output = getattr(reference, case.op)(image.double(), *double(params), *case.forward_size, *options)
    assert_close(output, true_output, "value")
    promised = empty_images(image, output.shape, is_channels_last(image), len(case.size))
    assert (output.dtype, output.stride()) == (promised.dtype, promised.stride())

    truth = getattr(reference, f"_{case.op}_backward")(
        grad_output.double(), image.double(), *double(params), *options, True, True, False
    )
    for deterministic in (False, True):
        gradients = backward(grad_output, image, *params, *options, True, True, deterministic)
        for gradient, expected, of, quantity in zip(
            gradients, truth, (image, params[0]), ("image", "coords"), strict=True
        ):
            assert gradient.dtype == of.dtype
            # The coefficients of a spline are float64 for every type of image.
            exact = gradient if quantity == "image" else gradient.to(case.coords_dtype)
            assert_close(exact, expected, quantity)


def check_second(case: Case) -> None:
    """The second backward at a grid, with both cotangents and with either."""
    image, (grid,), grad_output, options = case.draw()
    cotangents = torch.randn_like(image), torch.randn_like(grid)
    name = "_grid_sample_double_backward"
    both, of_image, of_grid = (True, True), (True, False), (False, True)
    for present, deterministic in ((both, False), (both, True), (of_image, False), (of_grid, True)):
        given = [t if there else t.new_empty(0) for t, there in zip(cotangents, present, strict=True)]
        tensors = (*given, grad_output, image, grid)
        results = getattr(getattr(torch.ops, NAMESPACE), name)(*tensors, *options, True, True, True, deterministic)
        truth = getattr(torch.ops.stn_kernels_reference, name)(*double(tensors), *options, True, True, True, False)
        for result, expected, of in zip(results, truth, (grad_output, image, grid), strict=True):
            assert result.dtype == of.dtype
            assert_close(result, expected, "coords")


def check_linearized(case: Case, weighting: int, given: bool, through_samples: bool) -> None:
    """Linearized multi-sampling at a transform, with given or drawn offsets; deterministic where it scatters."""
    image, (params, *control), grad_output, options = case.draw()
    lead, n = case.lead, len(case.size)
    drawing = Sample(size=case.size, out_size=case.out_size, batch=case.batch, samples=case.samples)
    offsets = spanning_offsets(drawing, n + 6, torch.Generator().manual_seed(0)) if given else None
    seed = None if given else torch.tensor(2**40 + 5)
    rest = (*(control or [None]), seed, offsets)
    settings = (TRANSFORMS.index(case.op.removesuffix("_sample")), list(case.out_size), *options[1:], n + 6, 0.5, True)
    settings = (*settings, False, weighting, 0.0 if given else 0.5, through_samples)
    namespace, reference = getattr(torch.ops, NAMESPACE), torch.ops.stn_kernels_reference
    output, slopes = namespace._linearized_sample(image, params, *rest, *settings, True)
    assert output.shape == (*lead, case.channels, *case.out_size)
    truth = reference._linearized_sample(*double((image, params)), *rest, *settings, True)
    assert_close(output, truth[0], "value")
    assert_close(slopes, truth[1], "value")
    tensors = grad_output, slopes, image, params
    truth = reference._linearized_sample_backward(*double(tensors), *rest, *settings, True, True, False)
    for deterministic in (False, True)[: 1 + through_samples]:
        gradients = namespace._linearized_sample_backward(*tensors, *rest, *settings, True, True, deterministic)
        for gradient, expected, quantity in zip(gradients, truth, ("image", "coords"), strict=True):
            exact = gradient if quantity == "image" else gradient.to(case.coords_dtype)
            assert_close(exact, expected, quantity)


def check_lattice(case: Case) -> None:
    """The coordinates of a sampling operator's transform alone, and their gradient."""
    name = case.op.replace("sample", "grid")
    namespace, reference = getattr(torch.ops, NAMESPACE), torch.ops.stn_kernels_reference
    params, size = case.parameters(), list(case.out_size)
    grid = getattr(namespace, name)(*params, size, case.align_corners)
    assert_close(grid, getattr(reference, name)(*double(params), size, case.align_corners), "value")
    grad = torch.randn(grid.shape, dtype=case.coords_dtype)
    rest = () if case.op == "affine_sample" else params
    result = getattr(namespace, f"_{name}_backward")(grad, *rest, case.align_corners)
    expected = getattr(reference, f"_{name}_backward")(grad.double(), *double(rest), case.align_corners)
    assert_close(result.to(case.coords_dtype), expected, "coords")


def check_cpab(shape: tuple[int, ...], dtype: torch.dtype, steps: int, own_points: bool, scale: float = 2.0) -> None:
    """The transform of points in the domain and its gradients; steps: 0 for exact paths.

    The truth of CPAB is of the C++ kernels in float64: the reference, which they are tested against, takes seconds.
    """
    tessellation = Tessellation(shape)
    theta = (scale * torch.randn(2, 2, tessellation.dim)).to(dtype)
    points = torch.rand(*((2,) if own_points else ()), 140, len(shape)).to(dtype)
    points, velocities, tables = _cpab.points_and_field(points, theta, tessellation, False)
    namespace, truths = getattr(torch.ops, NAMESPACE), torch.ops.stn_kernels
    output = namespace.cpab_transform(points, velocities, *tables, steps)
    grad_output = torch.randn(output.shape).to(dtype)
    results = namespace._cpab_transform_backward(grad_output, points, velocities, *tables, steps, True, True)
    tensors = double((grad_output, points, velocities))
    truth = truths._cpab_transform_backward(*tensors, *tables, steps, True, True)
    assert_close(output, truths.cpab_transform(*tensors[1:], *tables, steps), "value", 10)
    for result, expected in zip(results, truth, strict=True):
        assert_close(result, expected, "coords", 50)
    few = points[..., :45, :].contiguous()
    jacobian = namespace.cpab_jacobian(few, velocities, *tables, steps)
    assert_close(jacobian, truths.cpab_jacobian(*double((few, velocities)), *tables, steps), "coords", 50)


def check_cpab_sample(n: int, dtype: torch.dtype, mode: int, steps: int) -> None:
    """Images at transformed pixels with an affine map after, and the gradients to all; paddings and layouts in turn."""
    tessellation = Tessellation((3, 2, 1)[:n])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    _, velocities, tables = _cpab.points_and_field(
        torch.zeros(1, n, dtype=wide), torch.randn(2, 2, tessellation.dim, dtype=wide), tessellation, False
    )
    affine = torch.eye(n, n + 1, dtype=wide) + 0.1 * torch.randn(2, 2, n, n + 1, dtype=wide)
    layout = ("planar", "channels_last")[(n + mode) % 2]
    image = Case("cpab_sample", dtype, layout=layout, size=(5, 4, 3)[:n]).image((2, 3, *(5, 4, 3)[:n]))
    options = *tables, steps, list(((40,), (5, 9), (2, 6, 11))[n - 1]), mode, (n + mode) % 3, False
    namespace, truths = getattr(torch.ops, NAMESPACE), torch.ops.stn_kernels
    output = namespace.cpab_sample(image, velocities, affine, *options)
    tensors = double((image, velocities, affine))
    truth = truths.cpab_sample(*tensors, *options)
    assert_close(output, truth, "value")
    grad_output = torch.randn(output.shape).to(dtype)
    truth = truths._cpab_sample_backward(grad_output.double(), *tensors, *options, True, True, True, False)
    for deterministic in (False, True):
        results = namespace._cpab_sample_backward(
            grad_output, image, velocities, affine, *options, True, True, True, deterministic
        )
        for result, expected, quantity in zip(results, truth, ("image", "coords", "coords"), strict=True):
            assert_close(result, expected, quantity, 50)


def check_cpab_limit() -> None:
    """Paths beyond the limit of segments end, somewhere. Their way back would be walked again a hundred times."""
    tessellation = Tessellation((3, 2), zero_boundary=False)
    points, velocities, tables = _cpab.points_and_field(
        torch.rand(3, 2), 3000 * torch.randn(1, tessellation.dim), tessellation, False
    )
    getattr(torch.ops, NAMESPACE).cpab_transform(points, velocities, *tables, 0)


# The tables of (3, 3, 3) in float64 have no room in shared memory.
CPAB = (
    ((5,), 0, True),
    ((5,), 11, False),
    ((3, 2), 0, False),
    ((3, 2), 11, True),
    ((3, 3, 3), 0, True),
    ((2, 1, 2), 11, True),
)
SIZES = {1: ((9,), (300,)), 2: ((4, 5), (3, 17)), 3: ((3, 4, 5), (3, 2, 17))}
LINEARIZED_SIZES = {1: ((9,), (260,)), 2: ((7, 9), (3, 17)), 3: ((6, 7, 5), (2, 2, 17))}


def ops_in(n: int) -> tuple[str, ...]:
    """The operators whose images have n dimensions."""
    more = {2: ("homography_sample", "tps_sample"), 3: ("tps_sample",)}
    return ("affine_sample", "grid_sample", *more.get(n, ()))


def each_sampler() -> list[Case]:
    """Every mode, dimension and transform but the plain ones; types but float32, paddings and layouts in turn."""
    cases = []
    turns = itertools.cycle(itertools.product(PADDINGS, ("planar", "channels_last"), (False, True)))
    others = itertools.cycle(t for t in SWEPT if t != torch.float32)
    samplers = itertools.product((0, 1, 2), (1, 2, 3))
    for (mode, n), dtype in ((sampler, t) for sampler in samplers for t in (torch.float32, next(others))):
        for op in ops_in(n):
            if (mode, n) != (0, 2) or op not in ("affine_sample", "grid_sample"):
                padding, layout, align_corners = next(turns)
                size, out_size = SIZES[n]
                coords_dtype = torch.float64 if dtype == torch.float64 else torch.float32
                cases.append(
                    Case(op, dtype, coords_dtype, padding, align_corners, layout, 2, 1, 3, size, out_size, 1.0, mode)
                )
    return cases


def each_linearized() -> list[tuple[Case, int, bool, bool]]:
    """Every dimension and transform in float32 and another type; what `check_linearized` takes besides in turn."""
    runs = []
    turns = itertools.cycle(itertools.product(PADDINGS, ("planar", "channels_last")))
    others = itertools.cycle(t for t in SWEPT if t != torch.float32)
    weighting = itertools.cycle(range(3))
    for n in (1, 2, 3):
        for op in ops_in(n):
            for dtype in (torch.float32, next(others)):
                padding, layout = next(turns)
                coords_dtype = torch.float64 if dtype == torch.float64 else torch.float32
                size, out_size = LINEARIZED_SIZES[n]
                case = Case(op, dtype, coords_dtype, padding, False, layout, 2, 1, 3, size, out_size)
                runs.append((case, next(weighting), len(runs) % 4 in (1, 2), len(runs) % 4 > 1))
    return runs


def each_kernel() -> list[Case]:
    """A few small cases that between them run every plain kernel template."""
    cases = []
    for op, padding, dtype in itertools.product(("affine_sample", "grid_sample"), PADDINGS, SWEPT):
        for layout, channels in (
            ("planar", 1),
            ("planar", 3),
            ("planar", 5),
            ("channels_last", 3),
            ("channels_last", 16),
        ):
            cases.append(Case(op, dtype, torch.float32, padding, True, layout, 2, 1, channels, (4, 5), (3, 17)))
        cases.append(Case(op, dtype, torch.float64, padding, False, "rows", None, 2, 2, (4, 5), (18, 3)))
    cases += [
        Case("affine_sample", zoom=z, channels=c, layout=y)
        for z in (0.3, 3.0)
        for c, y in ((3, "planar"), (8, "channels_last"))
    ]
    cases += [
        Case(op, channels=c, layout=y, padding=p)
        for op in ("homography_sample", "tps_sample")
        for p, (c, y) in zip(PADDINGS, ((1, "planar"), (3, "planar"), (8, "channels_last")), strict=True)
    ]
    return cases


def main() -> None:
    load(sys.argv[1])
    torch.manual_seed(0)
    cases = each_kernel() + each_sampler()
    for case in cases:
        check(case)
    seconds = [c for c in each_sampler() if c.op == "grid_sample" and c.mode < 2]
    seconds += [dataclasses.replace(c, mode=0, size=SIZES[2][0], out_size=SIZES[2][1]) for c in seconds[:4]]
    for case in seconds:
        check_second(case)
    for op, n in (
        ("affine_sample", 1),
        ("affine_sample", 2),
        ("affine_sample", 3),
        ("homography_sample", 2),
        ("tps_sample", 2),
        ("tps_sample", 3),
    ):
        check_lattice(Case(op, size=SIZES[n][0], out_size=SIZES[n][1], samples=2))
    linearized = each_linearized()
    for arguments in linearized:
        check_linearized(*arguments)
    for (shape, steps, own_points), dtype in zip(CPAB, itertools.cycle(DTYPES[:2]), strict=False):
        check_cpab(shape, dtype, steps, own_points)
    turns = itertools.cycle((*SWEPT, torch.float32))
    for (n, mode), dtype in zip(itertools.product((1, 2, 3), (0, 1, 2)), turns, strict=False):
        check_cpab_sample(n, dtype, mode, 0)
        if mode == 0:
            check_cpab_sample(n, torch.float64, mode, 3)
    check_cpab_limit()
    print(f"{len(cases) + len(linearized)} cases on {sys.argv[1]}: as the reference")


if __name__ == "__main__":
    main()
