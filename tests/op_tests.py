"""What every public operator is tested for: subclass `OpTests` or `SamplingTests` in test_<op>.py and set `case`."""

import contextlib
import itertools

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from stn_kernels import use_backend
from stn_kernels._library import MODES
from stn_kernels.op_cases import DTYPES, LAYOUTS, Inputs, OpCase, Sample, grad_output, lattice_distance
from stn_kernels.reference.affine import affine_grid as reference_grid

from .tolerances import assert_close, assert_like_reference

FLAGS = (False, True)
LARGE = {"size": (40, 37), "out_size": (33, 45)}  # several tiles, none of them whole
SIZES = (  # input -> output
    ((1, 1), (1, 1)),
    ((1, 1), (3, 4)),
    ((5, 7), (1, 1)),
    ((1, 9), (4, 3)),
    ((9, 1), (3, 5)),
    ((2, 2), (17, 19)),
    ((31, 29), (3, 2)),
    ((8, 8), (8, 8)),
    ((3, 45), (44, 3)),
)


def assert_compiles(backend, case, sample, dynamic):
    """In one graph, with the values and gradients of eager."""
    torch._dynamo.reset()
    inputs = backend.draw(case, sample).requires_grad()
    names, options = list(inputs.tensors), inputs.options

    def function(*tensors):
        return backend.call(case, Inputs(dict(zip(names, tensors, strict=True)), options)).sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    tensors = list(inputs.tensors.values())
    expected, actual = function(*tensors), compiled(*tensors)
    assert torch.equal(actual, expected)
    for a, b in zip(*(torch.autograd.grad(o.sum(), tensors) for o in (actual, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class RecordOperators(TorchDispatchMode):
    """Keeps every call of an operator of this package with its arguments and results."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.namespace.startswith("stn_kernels"):
            self.calls.append((func, args, result))
        return result


def small(dtype=torch.float64, **options) -> Sample:
    return Sample(dtype=dtype, **{"channels": 2, "size": (4, 5), "out_size": (3, 4), **options})


class OpTests:
    """For any operator of `op_cases`."""

    case: OpCase
    thin_everywhere = False  # see conftest.py

    @pytest.mark.thinned(7)
    @pytest.mark.parametrize("samples", [None, 3])
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("align", FLAGS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_value_and_gradients(self, backend, padding, dtype, align, layout, samples):
        sample = Sample(dtype=dtype, padding_mode=padding, align_corners=align, layout=layout, samples=samples)
        assert_like_reference(backend, self.case, self.case.draw(sample), layout)

    @pytest.mark.thinned(17)
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("align", FLAGS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_large(self, backend, padding, dtype, align, layout):
        channels = 9 if layout in ("contiguous", "channels_last") else 1
        sample = Sample(
            dtype=dtype, padding_mode=padding, align_corners=align, layout=layout, channels=channels, seed=3, **LARGE
        )
        assert_like_reference(backend, self.case, self.case.draw(sample), layout)

    @pytest.mark.thinned(7)
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.parametrize("align", FLAGS)
    @pytest.mark.parametrize(("size", "out_size"), SIZES)
    def test_sizes(self, backend, padding, size, out_size, align, layout):
        sample = Sample(padding_mode=padding, align_corners=align, layout=layout, size=size, out_size=out_size, seed=1)
        assert_like_reference(backend, self.case, self.case.draw(sample), layout)

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("channels", [1, 2, 4, 5, 8, 16, 17, 33, 64])
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_channels(self, backend, padding, channels, layout):
        sample = Sample(padding_mode=padding, layout=layout, channels=channels, size=(11, 13), out_size=(12, 10))
        assert_like_reference(backend, self.case, self.case.draw(sample), layout)

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("empty", [{"batch": 0}, {"samples": 0}, {"channels": 0}, {"batch": 0, "samples": 2}])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_empty(self, backend, padding, dtype, empty):
        sample = Sample(dtype=dtype, padding_mode=padding, **empty)
        inputs = backend.draw(self.case, sample).requires_grad()
        output = backend.call(self.case, inputs)
        assert output.shape == self.case.call(inputs, "reference").shape
        for name, grad in zip(inputs.tensors, torch.autograd.grad(output.sum(), inputs.tensors.values()), strict=True):
            assert torch.equal(grad, torch.zeros_like(inputs.tensors[name])) or "input" not in inputs.tensors

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("coords_dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_mixed_dtypes(self, backend, padding, dtype, coords_dtype):
        sample = Sample(dtype=dtype, coords_dtype=coords_dtype, padding_mode=padding, samples=2)
        assert_like_reference(backend, self.case, self.case.draw(sample))

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("samples", [None, 2])
    @pytest.mark.parametrize("align", FLAGS)
    def test_gradcheck(self, backend, padding, align, samples):
        batch = 1 if backend.slow else 2
        sample = small(padding_mode=padding, align_corners=align, samples=samples, batch=batch)
        call, tensors = self._function(backend, sample)
        fast = backend.slow or self.thin_everywhere
        assert torch.autograd.gradcheck(call, tensors, fast_mode=fast, nondet_tol=backend.nondeterminism)

    @pytest.mark.thinned(7)
    @pytest.mark.parametrize("samples", [None, 2])
    @pytest.mark.parametrize("align", FLAGS)
    def test_gradgradcheck(self, backend, padding, align, samples):
        batch = 1 if backend.slow else 2
        sample = small(padding_mode=padding, align_corners=align, samples=samples, batch=batch)
        call, tensors = self._function(backend, sample)
        fast = backend.slow or self.thin_everywhere or samples is not None
        assert torch.autograd.gradgradcheck(call, tensors, fast_mode=fast, nondet_tol=backend.nondeterminism)

    def _function(self, backend, sample):
        inputs = backend.draw(self.case, sample).requires_grad()

        def call(*tensors):
            return backend.call(self.case, Inputs(dict(zip(inputs.tensors, tensors, strict=True)), inputs.options))

        return call, tuple(inputs.tensors.values())

    def _recorded(self, backend, sample, *names):
        """The operator calls of one forward and backward with gradients to `names` (all if none is named)."""
        inputs = backend.draw(self.case, sample).requires_grad(*names)
        with RecordOperators() as record:
            output = backend.call(self.case, inputs)
            leaves = [t for t in inputs.tensors.values() if t.requires_grad]
            torch.autograd.grad(output, leaves, grad_output(output, sample.layout))
        assert len(record.calls) == 2, "one operator forward, one backward"
        return record.calls

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("samples", [None, 2])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_opcheck(self, backend, layout, samples):
        padding = "reflection" if "reflection" in self.case.paddings else "zeros"
        sample = small(padding_mode=padding, layout=layout, samples=samples, batch=1 if backend.slow else 2)
        # Compilation takes a hundred times longer than the other checks, and of layouts sees only the fake's.
        compiled = (layout, samples) in (("contiguous", None), ("channels_last", 2))
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        for operator, args, _ in self._recorded(backend, sample):
            leaves = tuple(a.detach().requires_grad_() if isinstance(a, torch.Tensor) else a for a in args)
            torch.library.opcheck(operator, leaves, test_utils=(*checks, *["test_aot_dispatch_dynamic"] * compiled))

    def test_gradients_not_needed_are_not_computed(self, backend, padding):
        gradients = list(self.case.quantities)
        for wanted in gradients:
            (_, (_, _, results)) = self._recorded(backend, small(padding_mode=padding), wanted)
            results = results if isinstance(results, tuple) else (results,)
            for name, result in zip(gradients, results, strict=True):
                assert (result.numel() > 0) == (name == wanted), name

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("dynamic", FLAGS)
    def test_compile_fullgraph(self, backend, padding, dynamic):
        assert_compiles(backend, self.case, small(padding_mode=padding, samples=2), dynamic)

    def test_deterministic_runs_are_equal(self, backend, padding):
        counts = {"batch": 1, "channels": 2, "samples": 2} if backend.slow else {"channels": 4, "samples": 3}
        inputs = self.case.draw(Sample(padding_mode=padding, size=(20, 21), out_size=(24, 19), **counts))

        def gradients():
            leaves = inputs.to(device=backend.device).requires_grad()
            output = backend.call(self.case, leaves)
            return torch.autograd.grad(output, list(leaves.tensors.values()), grad_output(output, "contiguous"))

        with deterministic():
            first, second = gradients(), gradients()
            assert all(map(torch.equal, first, second))
            assert_like_reference(backend, self.case, inputs)


@contextlib.contextmanager
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def taps_touch(points, size, align, pixels):
    """Which points (P, 2) have one of `pixels` among the four they read, without padding: (P,) bool."""
    extent = torch.tensor([size[1], size[0]])
    x = (points.double() + 1) * (extent - 1) / 2 if align else ((points.double() + 1) * extent - 1) / 2
    low = x.floor().long()
    touched = torch.zeros(len(points), dtype=torch.bool)
    for (row, column), dx, dy in itertools.product(pixels, (0, 1), (0, 1)):
        touched |= (low[:, 0] + dx == column) & (low[:, 1] + dy == row)
    return touched


class SamplingTests(OpTests):
    """For an operator that samples "input" at coordinates made of its other tensor."""

    def points(self, inputs: Inputs) -> torch.Tensor:
        """The normalized points (B[, S], Ho, Wo, 2) that a call samples at, in float64."""
        raise NotImplementedError

    def torch_call(self, inputs: Inputs) -> torch.Tensor:
        """The same by torch.nn.functional, without a sample dimension."""
        raise NotImplementedError

    @property
    def coords(self) -> str:
        return next(name for name in self.case.quantities if name != "input")

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("align", FLAGS)
    def test_equals_torch(self, backend, padding, align, mode):
        sample = Sample(
            dtype=torch.float64, mode=mode, padding_mode=padding, align_corners=align, size=(9, 12), out_size=(10, 7)
        )
        inputs = backend.draw(self.case, sample).requires_grad()
        tensors = list(inputs.tensors.values())
        actual, expected = backend.call(self.case, inputs), self.torch_call(inputs)
        assert_close(actual, expected)
        cotangent = grad_output(expected, "contiguous")
        results = (torch.autograd.grad(o, tensors, cotangent, materialize_grads=True) for o in (actual, expected))
        for name, (a, b) in zip(inputs.tensors, zip(*results, strict=True), strict=True):
            assert_close(a, b, self.case.quantities[name])

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_sample_dimension_is_a_loop_over_copies(self, backend, padding, dtype):
        count = 4
        sample = Sample(dtype=dtype, padding_mode=padding, samples=count)
        inputs = backend.draw(self.case, sample).requires_grad()
        image, coords = inputs.tensors["input"], inputs.tensors[self.coords]
        output = backend.call(self.case, inputs)
        cotangent = grad_output(output, "contiguous")
        gradient, coords_gradient = torch.autograd.grad(output, (image, coords), cotangent)
        total = torch.zeros(image.shape, dtype=torch.float64, device=image.device)
        for s in range(count):
            one = Inputs({"input": image, self.coords: coords[:, s].detach().requires_grad_()}, inputs.options)
            single = backend.call(self.case, one)
            assert_close(output[:, s], single)
            of_image, of_coords = torch.autograd.grad(single, tuple(one.tensors.values()), cotangent[:, s])
            assert_close(coords_gradient[:, s], of_coords, "coords")
            total += of_image
        if dtype in (torch.float32, torch.float64):  # the sum of rounded half-precision gradients is less exact
            assert_close(gradient, total, "image")

    @pytest.mark.thinned(5)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("samples", [None, 3])
    def test_adjoint(self, backend, padding, dtype, samples):
        """<warp x, y> = <x, warp* y>: the op is linear in the image."""
        sample = Sample(dtype=dtype, padding_mode=padding, samples=samples, size=(19, 17), out_size=(21, 23))
        inputs = backend.draw(self.case, sample).requires_grad("input")
        output = backend.call(self.case, inputs)
        cotangent = grad_output(output, "contiguous")
        (gradient,) = torch.autograd.grad(output, (inputs.tensors["input"],), cotangent)
        left = (output.double() * cotangent.double()).sum()
        right = (gradient.double() * inputs.tensors["input"].double()).sum()
        scale = output.detach().double().norm() * cotangent.double().norm()
        assert abs(left - right) <= (1e-14 if dtype == torch.float64 else 1e-6) * scale

    @pytest.mark.thinned(7)
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.parametrize("align", FLAGS)
    def test_bad_pixels_stay_where_they_are_read(self, backend, padding, align, layout, bad):
        size, pixels = (12, 11), [(3, 4), (7, 9)]
        sample = Sample(
            padding_mode=padding, align_corners=align, layout=layout, channels=5, size=size, out_size=(16, 18), batch=1
        )
        clean = self.case.draw(sample)
        spoiled = Inputs({name: t.clone() for name, t in clean.tensors.items()}, clean.options)
        for row, column in pixels:
            clean.tensors["input"][:, :, row, column] = 0
            spoiled.tensors["input"][:, :, row, column] = bad
        # Border padding moves points onto edges, which hold none of them; reflected points count as touching.
        points = self.points(clean).reshape(-1, 2)
        touched = taps_touch(points, size, align, pixels)
        assert touched.any()
        if padding == "reflection":
            touched |= (points.abs() > 1 - 2 / min(size)).any(-1)
        assert not touched.all()
        good, got = (backend.call(self.case, x.to(device=backend.device)).flatten(2).cpu() for x in (clean, spoiled))
        assert torch.equal(got[..., ~touched], good[..., ~touched])
        assert not got[..., taps_touch(points, size, align, pixels)].isfinite().any()

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_output_layout_follows_the_image(self, backend, layout):
        inputs = backend.draw(self.case, Sample(layout=layout, samples=2, channels=4)).requires_grad()
        output = backend.call(self.case, inputs)
        (gradient,) = torch.autograd.grad(output.sum(), (inputs.tensors["input"],))
        if layout == "channels_last":
            assert output.movedim(-3, -1).is_contiguous()
            assert gradient.is_contiguous(memory_format=torch.channels_last)
        else:
            assert output.is_contiguous()
            assert gradient.is_contiguous()

    def test_autocast_leaves_dtypes_alone(self, backend):
        inputs = backend.draw(self.case, Sample(dtype=torch.bfloat16))
        plain = backend.call(self.case, inputs)
        with torch.autocast(backend.device, dtype=torch.bfloat16):
            assert torch.equal(backend.call(self.case, inputs), plain)
            wide = backend.draw(self.case, Sample())
            assert backend.call(self.case, wide).dtype == torch.float32

    def test_use_backend_context(self, backend):
        inputs = backend.draw(self.case, small())
        with use_backend(backend.name):
            assert torch.equal(self.case.call(inputs), backend.call(self.case, inputs))

    @pytest.mark.thinned(2)
    @pytest.mark.parametrize("part", range(4))
    def test_random_shapes_and_strides(self, backend, part):
        examples = 2 if backend.slow else 25

        @hypothesis.settings(max_examples=examples, deadline=None, derandomize=True, database=None)
        @hypothesis.seed(part)
        @hypothesis.given(sample=random_samples(most=12 if backend.slow else 21))
        def check(sample):
            inputs = self.case.draw(sample)
            assert_like_reference(backend, self.case, inputs, sample.layout)

        check()


@st.composite
def random_samples(draw, most: int) -> Sample:
    extents = st.integers(1, most)
    return Sample(
        dtype=draw(st.sampled_from(DTYPES)),
        padding_mode=draw(st.sampled_from(("zeros", "border", "reflection"))),
        align_corners=draw(st.booleans()),
        layout=draw(st.sampled_from(LAYOUTS)),
        samples=draw(st.sampled_from((None, 1, 2, 5))),
        batch=draw(st.integers(0, 3)),
        channels=draw(st.integers(0, 18)),
        size=(draw(extents), draw(extents)),
        out_size=(draw(extents), draw(extents)),
        seed=draw(st.integers(0, 1000)),
    )


def smooth_translation(theta: torch.Tensor, sample: Sample) -> torch.Tensor:
    """theta (2, 3) moved by up to 0.2 so that no output pixel is on a lattice line: (1, 2, 3) float64."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(1000):
        moved = theta.double().clone().unsqueeze(0)
        moved[0, :, 2] += 0.2 * (2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1)
        moved = moved.float().double()
        points = reference_grid(moved, sample.out_size, sample.align_corners)
        if lattice_distance(points, sample.size, sample.align_corners).min() > 1e-3:
            return moved
    raise AssertionError("no translation found")
