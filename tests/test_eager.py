"""Calls around the dispatcher (csrc/eager.cpp): the operators' results bit for bit, and all that is not plain left."""

import threading
from dataclasses import replace

import pytest
import torch
from torch._dynamo import compiled_autograd
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import stn_kernels
from stn_kernels import _library, verify
from stn_kernels.op_cases import OP_CASES, Sample

OPS = ("affine_sample", "grid_sample", "homography_sample", "tps_sample")


@pytest.fixture(autouse=True)
def _needs_the_library(request):
    if _library.backends()["cpu"]:
        pytest.skip(f"the CPU library is not here: {_library.backends()['cpu']}")
    request.node.user_properties.append(("backend", "cpu"))


def plain_call(**changed):
    arguments = {
        "transform": "grid",
        "input": torch.randn(2, 3, 5, 6),
        "parameters": torch.rand(2, 4, 7, 2) * 2 - 1,
        "size": None,
        "mode": "bilinear",
        "padding_mode": "zeros",
        "align_corners": False,
        "backend": None,
    }
    return _library.eager_sample(*(arguments | changed).values())


def test_it_is_built_and_takes_plain_calls():
    assert _library.has_eager_calls()
    assert plain_call().shape == (2, 3, 4, 7)
    assert plain_call(backend="cpu") is not None


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("name", OPS)
def test_results_and_gradients_are_the_operators(name, mode, dtype, samples, layout, monkeypatch):
    case = OP_CASES[name]
    sample = Sample(mode=mode, dtype=dtype, samples=samples, layout=layout, padding_mode="border")
    front, taken = _library.eager_sample, []

    def watched(*args):
        taken.append(front(*args))
        return taken[-1]

    monkeypatch.setattr(_library, "eager_sample", watched)
    inputs = case.draw(sample)
    dense = {key: t if key == "input" else t.contiguous() for key, t in inputs.tensors.items()}
    inputs = replace(inputs, tensors=dense)  # others are left
    alone = verify.evaluate(case, inputs, "cpu", "contiguous")
    assert taken
    assert all(t is not None for t in taken)
    monkeypatch.setattr(_library, "eager_sample", lambda *args: None)
    others = verify.evaluate(case, inputs, "cpu", "contiguous")
    for mine, other in zip(alone.values(), others.values(), strict=True):
        if name == "tps_sample":  # torch multiplies with the system in another order
            ulp = torch.finfo(other.dtype).eps
            torch.testing.assert_close(mine, other, rtol=4 * ulp, atol=4 * ulp * float(other.abs().max()))
        else:
            assert torch.equal(mine, other)
        assert (mine.dtype, mine.stride()) == (other.dtype, other.stride())


@pytest.mark.parametrize(
    "changed",
    [
        {"transform": "tps"},
        {"input": torch.zeros(2, 3, 5, 6, dtype=torch.int32)},
        {"input": torch.zeros(2, 3, 0, 6)},
        {"input": torch.zeros(3, 5)},
        {"input": torch.zeros(3, 3, 5, 6)},
        {"input": torch.zeros(2, 3, 5, 6).to_sparse()},
        {"input": torch.zeros(2, 3, 5, 6, device="meta")},
        {"input": [1.0]},
        {"parameters": torch.zeros(2, 4, 7, 3)},
        {"parameters": torch.zeros(2, 7, 2)},
        {"parameters": torch.zeros(2, 4, 7, 2, dtype=torch.float16)},
        {"parameters": torch.zeros(2, 7, 4, 2).transpose(1, 2)},
        {"parameters": torch.zeros(2, 0, 7, 2)},
        {"mode": "linear"},
        {"mode": None},
        {"padding_mode": 0},
        {"align_corners": 0},
        {"backend": "reference"},
        {"backend": "nonsense"},
    ],
    ids=str,
)
def test_what_is_wrong_or_converted_is_left(changed):
    assert plain_call(**changed) is None


@pytest.mark.parametrize("size", [None, 4, (4,), (4, 0), (4, True), (4, 5.0), (4, -1), "45", (4, 2**70)], ids=str)
def test_wrong_sizes_are_left(size):
    assert plain_call(transform="affine", parameters=torch.zeros(2, 2, 3), size=size) is None
    with pytest.raises((TypeError, ValueError, OverflowError, RuntimeError)):
        stn_kernels.affine_sample(torch.randn(2, 3, 5, 6), torch.zeros(2, 2, 3), size)


def test_sizes_that_torch_gives():
    theta = torch.eye(2, 3).expand(2, 2, 3).contiguous()
    for size in ((4, 7), [4, 7], torch.Size((4, 7))):
        assert plain_call(transform="affine", parameters=theta, size=size).shape == (2, 3, 4, 7)


class Function(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "context",
    [
        Function,
        Dispatch,
        FakeTensorMode,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.profiler.profile,
        lambda: torch.device("cpu"),
        lambda: stn_kernels.use_backend("reference"),
    ],
    ids=["function mode", "dispatch mode", "fake", "inference", "autocast", "profiler", "device", "backend"],
)
def test_what_listens_is_left_to(context):
    images = torch.randn(2, 3, 5, 6)
    with context():
        assert plain_call(input=images) is None
    assert plain_call(input=images) is not None


def test_tensors_that_are_not_plain_are_left():
    class Subclass(torch.Tensor):
        pass

    images = torch.randn(2, 3, 5, 6)
    assert plain_call(input=images.as_subclass(Subclass)) is None
    assert plain_call(input=torch.nn.Parameter(images)) is not None
    with forward_ad.dual_level():
        assert plain_call(input=forward_ad.make_dual(images, images)) is None
    grid, seen = torch.zeros(2, 4, 7, 2), []

    def call(image):
        seen.append(_library.eager_sample("grid", image, grid, None, "bilinear", "zeros", False, None))
        return image.sum()

    torch.vmap(call)(images.unsqueeze(0))
    torch.func.grad(call)(images)
    assert seen == [None, None]


def test_the_choice_of_backend_is_of_a_thread():
    results = []
    with stn_kernels.use_backend("reference"):
        thread = threading.Thread(target=lambda: results.append(plain_call()))
        thread.start()
        thread.join()
        with stn_kernels.use_backend("cpu"):
            results.append(plain_call())
        assert plain_call() is None
    assert all(result is not None for result in results)


SIZE = {"grid_sample": (), "tps_sample": ((4, 7),)}
AT_POINTS = pytest.mark.parametrize("name", SIZE)


def recorded(name):
    torch.manual_seed(0)
    image = torch.randn(2, 3, 5, 6, requires_grad=True)
    if name == "grid_sample":
        grid = (torch.rand(2, 4, 7, 2) * 2 - 1).requires_grad_()
        return (image, grid), stn_kernels.grid_sample(image, grid)
    control = stn_kernels.ops._tps_system.default_control_points().float()
    points = (control + 0.1 * torch.randn(2, 16, 2)).requires_grad_()
    return (image, points), stn_kernels.tps_sample(image, points, (4, 7))


@AT_POINTS
def test_backward_as_torch_has_it(name):
    leaves, output = recorded(name)
    assert output.grad_fn.name() == f"{name}_backward"
    total = output.square().sum()
    first = torch.autograd.grad(total, leaves, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(total, leaves)))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(total, leaves)
    leaves, output = recorded(name)
    with torch.no_grad():
        leaves[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@AT_POINTS
def test_each_gradient_alone(name):
    leaves, output = recorded(name)
    both = torch.autograd.grad(output.sum(), leaves)
    for i in range(2):
        leaves, _ = recorded(name)
        alone = [leaf if i == k else leaf.detach() for k, leaf in enumerate(leaves)]
        (only,) = torch.autograd.grad(getattr(stn_kernels, name)(*alone, *SIZE[name]).sum(), leaves[i])
        assert torch.allclose(only, both[i], rtol=1e-6, atol=1e-6)


@AT_POINTS
def test_gradients_are_differentiated_again(name):
    leaves, output = recorded(name)
    (first,) = torch.autograd.grad(output.square().sum(), leaves[0], create_graph=True)
    mine = torch.autograd.grad(first.square().sum(), leaves)
    with stn_kernels.use_backend("reference"):
        leaves, output = recorded(name)
    (first,) = torch.autograd.grad(output.square().sum(), leaves[0], create_graph=True)
    for a, b in zip(mine, torch.autograd.grad(first.square().sum(), leaves), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@AT_POINTS
def test_hooks_of_saved_tensors(name):
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t.clone(), lambda t: t):
        leaves, output = recorded(name)
    assert [t.shape for t in packed] == [leaf.shape for leaf in leaves]
    others, again = recorded(name)
    assert all(map(torch.equal, torch.autograd.grad(output.sum(), leaves), torch.autograd.grad(again.sum(), others)))


@AT_POINTS
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, as it wraps
def test_compiled_autograd(name):
    leaves, output = recorded(name)
    expected = torch.autograd.grad(output.square().sum(), leaves)
    leaves, output = recorded(name)
    with compiled_autograd._enable(torch.compile(backend="eager")):
        output.square().sum().backward()
    for leaf, gradient in zip(leaves, expected, strict=True):
        assert torch.allclose(leaf.grad, gradient)


@AT_POINTS
def test_many_threads_of_python(name):
    (image, points), output = recorded(name)
    expected = torch.autograd.grad(output.sum(), (image, points), retain_graph=True)
    size, same = SIZE[name], []

    def work():
        for _ in range(50):
            result = getattr(stn_kernels, name)(image, points, *size)
            gradients = torch.autograd.grad(result.sum(), (image, points))
            same.append(torch.equal(result, output) and all(map(torch.equal, gradients, expected)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(same) == 200
    assert all(same)


def spline_call(control_points=None, **changed):
    control = stn_kernels.ops._tps_system.default_control_points()
    points = control.float().expand(2, 16, 2).contiguous()
    system = stn_kernels.ops._tps_system.system_at_hand(points, control_points)
    arguments = {"transform": "tps", "input": torch.randn(2, 3, 5, 6), "points": points, "size": (4, 7)}
    arguments |= {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False, "backend": None}
    arguments |= dict(zip(("control_points", "solver"), system or (None, None), strict=True))
    return _library.eager_sample(*(arguments | changed).values())


def test_splines_of_the_default_points_and_of_those_at_hand():
    assert spline_call().shape == (2, 3, 4, 7)
    control = torch.rand(16, 2) * 2 - 1
    assert spline_call(control) is None  # not solved yet
    stn_kernels.tps_sample(torch.randn(2, 3, 5, 6), control.expand(2, 16, 2), (4, 7), control_points=control)
    assert spline_call(control) is not None
    control[0] += 0.01
    assert spline_call(control) is None  # no longer what was solved
    stn_kernels.tps_sample(torch.randn(2, 3, 5, 6), control.expand(2, 16, 2), (4, 7), control_points=control)
    assert spline_call(control) is not None
    control.requires_grad_()
    assert spline_call(control) is None


def test_splines_of_volumes(monkeypatch):
    torch.manual_seed(0)
    control = stn_kernels.ops._tps_system.default_control_points(3)
    leaves = [torch.randn(2, 2, 5, 6, 7), control + 0.1 * torch.randn(2, 64, 3).double()]
    leaves = [leaf.double().requires_grad_() for leaf in leaves]

    def results():
        output = stn_kernels.tps_sample(*leaves, (3, 4, 5))
        return output, *torch.autograd.grad(output.square().sum(), leaves)

    mine = results()
    assert mine[0].grad_fn.name() == "tps_sample_backward"
    monkeypatch.setattr(_library, "eager_sample", lambda *args: None)
    for a, b in zip(mine, results(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "changed",
    [
        {"transform": "affine"},
        {"points": torch.zeros(2, 15, 2)},
        {"points": torch.zeros(2, 16, 3)},
        {"points": torch.zeros(1, 16, 2)},
        {"points": torch.zeros(2, 16, 2, dtype=torch.bfloat16)},
        {"input": torch.zeros(2, 3, 5)},
        {"input": torch.zeros(2, 3, 4, 5, 6)},
        {"size": (4, 5, 6)},
        {"control_points": torch.zeros(16, 2)},
        {"control_points": torch.zeros(15, 2, dtype=torch.float64)},
        {"solver": torch.zeros(18, 16, dtype=torch.float64)},
        {"solver": torch.zeros(19, 16)},
        {"solver": None},
    ],
    ids=str,
)
def test_splines_that_do_not_fit_are_left(changed):
    assert spline_call(**changed) is None


def test_control_points_of_inference_mode():
    with torch.inference_mode():
        control = stn_kernels.ops._tps_system.default_control_points().float()
    image, points = torch.randn(2, 3, 5, 6), torch.rand(2, 16, 2)
    warped = stn_kernels.tps_sample(image, points, (4, 7), control_points=control)
    assert torch.equal(warped, stn_kernels.tps_sample(image, points, (4, 7), control_points=control.clone()))


def test_control_points_that_change_before_the_backward():
    """What was solved is what the gradients are of, though nothing converted the points."""
    torch.manual_seed(0)
    control = stn_kernels.ops._tps_system.default_control_points()
    image = torch.randn(2, 3, 5, 6, requires_grad=True)
    points = (control + 0.1 * torch.randn(2, 16, 2)).requires_grad_()
    gradients = []
    for change in (0.0, 0.5):
        warped = stn_kernels.tps_sample(image, points, (4, 7), control_points=control)
        warped = stn_kernels.tps_sample(image, points, (4, 7), control_points=control)  # by what is at hand
        control.mul_(1 + change)
        gradients.append(torch.autograd.grad(warped.sum(), (image, points)))
    assert all(map(torch.equal, *gradients))
