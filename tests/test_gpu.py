"""What only a GPU can show: streams, devices, captured graphs, nothing that waits, sizes beyond 2^31 elements."""

import pytest
import torch

from stn_kernels.op_cases import OP_CASES, Inputs, Sample, grad_output

from .op_tests import deterministic

pytestmark = pytest.mark.on_gpu
LAYOUTS = [("contiguous", 3), ("channels_last", 16)]
MEMORY = 24 * 2**30


@pytest.fixture(params=sorted(OP_CASES))
def case(request, backend):
    found = OP_CASES[request.param]
    if not found.runs_on(backend.name):
        pytest.skip(f"{backend.name} has no kernels for {request.param}")
    return found


def call(case, inputs, backend, layout="contiguous"):
    """The value and the gradients."""
    leaves = inputs.requires_grad()
    value = case.call(leaves, backend.name)
    if not case.quantities:
        return (value.detach(),)
    return value.detach(), *torch.autograd.grad(value, list(leaves.tensors.values()), cotangent(value, layout))


def cotangent(value, layout="contiguous"):
    """Without the copy from the host that `grad_output` makes."""
    return torch.linspace(-1, 1, value.numel(), device=value.device).reshape(value.shape).to(value.dtype)


def assert_near(actual, expected):
    """Atomics add in any order."""
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("layout", "channels"), LAYOUTS)
def test_runs_on_the_current_stream(backend, case, layout, channels):
    """Inputs are written late, by the same stream; the default stream would read them before."""
    sample = Sample(
        layout=layout, channels=channels, samples=2, padding_mode="border", size=(40, 37), out_size=(33, 45)
    )
    inputs = backend.draw(case, sample)
    expected = call(case, inputs, backend)
    late = Inputs({k: torch.zeros_like(t) for k, t in inputs.tensors.items()}, inputs.options)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for name, tensor in late.tensors.items():
            tensor.copy_(inputs.tensors[name])
        actual = call(case, late, backend)
    stream.synchronize()
    assert_near(actual, expected)


@pytest.mark.skipif(
    torch.cuda.device_count() < 2,
    reason="fewer than two GPUs: that kernels run on the device of their tensors is not shown",
)
def test_runs_on_the_device_of_its_tensors(backend, case):
    inputs = case.draw(Sample(samples=2))
    expected = call(case, inputs.to(device="cuda:0"), backend)
    actual = call(case, inputs.to(device="cuda:1"), backend)
    assert {t.device.index for t in actual} == {1}
    assert torch.cuda.current_device() == 0
    assert_near([t.cpu() for t in actual], [t.cpu() for t in expected])


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize(("layout", "channels"), LAYOUTS)
def test_can_be_captured_in_a_graph(backend, case, layout, channels, padding):
    sample = Sample(layout=layout, channels=channels, samples=2, padding_mode=padding, size=(40, 37), out_size=(33, 45))
    inputs, other = backend.draw(case, sample), backend.draw(case, Sample(**{**vars(sample), "seed": 1}))
    for deterministically in (False, True):
        torch.use_deterministic_algorithms(deterministically)
        try:
            call(case, inputs, backend)  # compiles, loads
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                results = call(case, inputs, backend)
            for name, tensor in other.tensors.items():
                inputs.tensors[name].copy_(tensor)
            graph.replay()
            torch.cuda.synchronize()
            assert_near(results, call(case, other, backend))
        finally:
            torch.use_deterministic_algorithms(False)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_nothing_waits_for_the_device(backend, case, padding):
    inputs = backend.draw(case, Sample(samples=2, padding_mode=padding))
    for deterministically in (False, True):
        torch.use_deterministic_algorithms(deterministically)
        try:
            call(case, inputs, backend)
            torch.cuda.set_sync_debug_mode("error")
            call(case, inputs, backend)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("crowded", [False, True], ids=["spread", "on one pixel"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize(("layout", "channels"), LAYOUTS)
def test_a_hundred_deterministic_runs_are_equal(backend, case, layout, channels, padding, crowded):
    sample = Sample(layout=layout, channels=channels, samples=3, padding_mode=padding, size=(40, 37), out_size=(64, 65))
    inputs = backend.draw(case, sample)
    if crowded:
        for name, tensor in inputs.tensors.items():
            if name != "input":
                tensor.zero_()
    with deterministic():
        first = call(case, inputs, backend)
        for _ in range(99):
            assert all(map(torch.equal, call(case, inputs, backend), first))


def test_gradients_of_every_layout_reach_the_kernels_as_they_are(backend, case):
    """Strides survive the way to the device, down to 0."""
    for layout in ("rows", "expanded"):
        sample = Sample(layout=layout, samples=2)
        drawn, there = case.draw(sample), backend.draw(case, sample)
        assert {k: t.stride() for k, t in there.tensors.items()} == {k: t.stride() for k, t in drawn.tensors.items()}
        value = case.call(there, backend.name)
        assert grad_output(value, layout).stride() == grad_output(value.cpu(), layout).stride()


def identity(count=1, samples=None):
    theta = torch.eye(2, 3, device="cuda").expand(count, 2, 3)
    return theta if samples is None else theta.unsqueeze(1).expand(count, samples, 2, 3)


def test_more_than_2_to_the_31_elements(backend):
    """An image, its rows and its channels beyond int32; both ends are read and written."""
    if torch.cuda.mem_get_info()[0] < MEMORY:
        pytest.skip(f"needs {MEMORY >> 30} GiB of GPU memory")
    for shape in ((1, 2, 33_000, 33_000), (3, 1, 30_000, 30_000)):
        image = torch.empty(shape, dtype=torch.float16, device="cuda").uniform_()
        image.requires_grad_()
        output = backend.op("affine_sample")(image, identity(shape[0]), shape[2:])
        (gradient,) = torch.autograd.grad(output, image, image.detach())
        for result in (output, gradient):
            for corner in ((..., slice(0, 4), slice(0, 64)), (..., slice(-4, None), slice(-64, None))):
                torch.testing.assert_close(result[corner], image[corner], rtol=0, atol=1e-2)
        del image, output, gradient


@pytest.mark.parametrize("size", [(1, 1), (2_000_000, 2), (2, 2_000_000)])
def test_more_blocks_than_a_grid_dimension_holds(backend, size):
    samples = 70_000 if size == (1, 1) else 1
    image = torch.ones(1, 1, 2, 2, device="cuda").requires_grad_()
    output = backend.op("affine_sample")(image, 0.5 * identity(1, samples), size)
    torch.testing.assert_close(output, torch.ones_like(output))
    (gradient,) = torch.autograd.grad(output.sum(), image)
    assert gradient.sum().item() == pytest.approx(output.numel(), rel=1e-3)
