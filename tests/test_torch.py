"""Operators inside torch's machinery: compilation over sizes, vmap, torch.func, export, autocast, memory."""

import itertools

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from benchmarks.harness import peak_bytes
from stn_kernels import affine_sample, use_backend
from stn_kernels.op_cases import OP_CASES, Inputs, Sample

from .op_tests import RecordOperators, small

BACKENDS = ("reference", "cpu")
SAMPLING = [name for name, case in OP_CASES.items() if "input" in case.quantities]


@pytest.fixture(params=BACKENDS)
def backend_name(request):
    with use_backend(request.param):
        yield request.param


def function_of(case, inputs: Inputs):
    """The operator as a function of its tensors."""
    names = list(inputs.tensors)
    return lambda *tensors: case.call(Inputs(dict(zip(names, tensors, strict=True)), inputs.options))


@pytest.mark.parametrize("name", OP_CASES)
def test_one_recompilation_serves_every_size(name):
    """Images, outputs and batches of any size, without a graph break; shapes are worked out alike for every backend."""
    torch._dynamo.reset()
    case = OP_CASES[name]
    counter = CompileCounterWithBackend("aot_eager")

    def function(size, options, *tensors):
        return case.call(
            Inputs(dict(zip(names, tensors, strict=True)), {**options, **({"size": size} if size else {})})
        )

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for k in range(4):
        sample = small(
            torch.float32, batch=2 + k, channels=3 + k, size=(9 + 2 * k, 7 + 3 * k), out_size=(6 + k, 8 + 5 * k)
        )
        inputs = case.draw(sample)
        inputs = inputs.requires_grad() if case.quantities else inputs
        names = list(inputs.tensors)
        options = {key: value for key, value in inputs.options.items() if key != "size"}
        size = tuple(inputs.options["size"]) if "size" in inputs.options else None
        tensors = list(inputs.tensors.values())
        with use_backend("cpu"):
            torch.testing.assert_close(compiled(size, options, *tensors), function(size, options, *tensors))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("name", OP_CASES)
def test_vmap_is_one_call(name, backend_name, samples):
    """Over every choice of the tensors: value, and the gradients of each example."""
    case = OP_CASES[name]
    drawn = [case.draw(small(samples=samples, seed=seed)) for seed in (0, 2, 4)]
    function = function_of(case, drawn[0])
    stacked = [torch.stack([d.tensors[key] for d in drawn], 1) for key in drawn[0].tensors]
    for chosen in itertools.product((True, False), repeat=len(stacked)):
        if not any(chosen):
            continue
        dims = tuple(1 if c else None for c in chosen)
        tensors = [s if c else s[:, 0] for s, c in zip(stacked, chosen, strict=True)]
        examples = [[t[:, k] if c else t for t, c in zip(tensors, chosen, strict=True)] for k in range(3)]
        with RecordOperators() as record:
            mapped = torch.vmap(function, dims)(*tensors)
        assert len(record.calls) == 1
        torch.testing.assert_close(mapped, torch.stack([function(*e) for e in examples]))

        if not case.quantities:
            continue
        everything = tuple(range(len(tensors)))
        gradient = torch.func.grad(lambda *t: function(*t).square().sum(), everything)
        with RecordOperators() as record:
            gradients = torch.vmap(gradient, dims)(*tensors)
        assert len(record.calls) == 2
        for k, example in enumerate(examples):
            for mapped, alone in zip(gradients, gradient(*example), strict=True):
                torch.testing.assert_close(mapped[k], alone)


@pytest.mark.parametrize("name", SAMPLING)
def test_vmap_keeps_the_image_shared(name, backend_name):
    """The Jacobian of a shared image's samples: its parameters' alone, so that no image is repeated."""
    case = OP_CASES[name]
    inputs = case.draw(small())
    image, parameters, *others = inputs.tensors.values()

    def function(parameters):
        return function_of(case, inputs)(image, parameters, *others)

    with RecordOperators() as record:
        jacobian = torch.func.jacrev(function)(parameters)
    operator, (_, given, *_), _ = record.calls[-1]
    assert "backward" in operator.name()
    assert given.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()
    expected = torch.autograd.functional.jacobian(function, parameters)
    torch.testing.assert_close(jacobian, expected)


@pytest.mark.parametrize("name", [name for name, case in OP_CASES.items() if case.quantities])
def test_hessian_by_two_reverse_modes(name, backend_name):
    case = OP_CASES[name]
    inputs = case.draw(small(batch=1, channels=1))
    *others, parameters = inputs.tensors.values()

    def loss(parameters):
        return function_of(case, inputs)(*others, parameters).square().sum()

    hessian = torch.func.jacrev(torch.func.jacrev(loss))(parameters)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(loss, parameters))


@pytest.mark.parametrize("name", OP_CASES)
def test_export(name, backend_name):
    case = OP_CASES[name]
    inputs = case.draw(small(torch.float32))

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return function_of(case, inputs)(*tensors)

    tensors = tuple(inputs.tensors.values())
    batch = torch.export.Dim("batch", min=2, max=64)
    batched = {key: {0: batch} if key != "points" or t.dim() > 2 else None for key, t in inputs.tensors.items()}
    program = torch.export.export(Module(), tensors, dynamic_shapes=(tuple(batched.values()),))
    called = [str(node.target) for node in program.graph.nodes if "stn_kernels" in str(node.target)]
    assert len(called) == 1
    more = tuple(case.draw(small(torch.float32, batch=5)).tensors.values())
    torch.testing.assert_close(program.module()(*more), function_of(case, inputs)(*more))


@pytest.mark.parametrize("name", SAMPLING)
def test_autocast_leaves_coordinates_alone(name, backend_name):
    """Parameters in float32 give coordinates in float32, under an image of half precision and in autocast."""
    case = OP_CASES[name]
    inputs = case.draw(Sample(dtype=torch.bfloat16, size=(40, 300), out_size=(9, 11)))
    tensors = inputs.tensors.values()
    function = function_of(case, inputs)
    exact = function(*(t.double() for t in tensors))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = function(*tensors)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.double(), exact, rtol=2**-8, atol=2**-8)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "rows", "expanded"])
@pytest.mark.parametrize("name", [name for name in SAMPLING if not name.startswith("cpab")])
def test_allocates_results_alone(name, layout):
    """Forward: no copy of the image; backward: of each gradient only what is asked for."""
    case = OP_CASES[name]
    sample = Sample(batch=4, channels=32, size=(64, 64), out_size=(64, 64), layout=layout)
    inputs = case.draw(sample)
    image, *others = inputs.tensors.values()
    with use_backend("cpu"):
        function = function_of(case, inputs)
        whole, little = 4 * image.numel(), 4 * sum(t.numel() for t in others) + 200_000
        assert whole <= peak_bytes(lambda: function(image, *others), "cpu") <= whole + little

        def backward(of_image, of_others):
            tensors = [image.detach().requires_grad_(of_image), *(t.detach().requires_grad_(of_others) for t in others)]
            output = function(*tensors)
            needed, cotangent = [t for t in tensors if t.requires_grad], torch.ones_like(output)
            return lambda: torch.autograd.grad(output, needed, cotangent, retain_graph=True)

        assert peak_bytes(backward(False, True), "cpu") <= little
        assert whole <= peak_bytes(backward(True, False), "cpu") <= whole + little
        assert peak_bytes(backward(True, True), "cpu") <= whole + little


@pytest.mark.parametrize("needs_grad", [False, True])
def test_torch_function_sees_the_operator(needs_grad):
    seen = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    image = torch.rand(1, 2, 5, 6).as_subclass(Watched).requires_grad_(needs_grad)
    output = affine_sample(image, torch.eye(2, 3).unsqueeze(0), (4, 4))
    assert type(output) is Watched
    assert output.requires_grad == needs_grad
    assert torch.ops.stn_kernels.affine_sample.default in seen


def test_a_tensor_leaked_from_a_transform_is_a_constant():
    leaked = []
    torch.func.grad(lambda image: (leaked.append(image * 1), image.sum())[1])(torch.rand(1, 2, 5, 6))
    theta = torch.eye(2, 3).unsqueeze(0)
    assert not affine_sample(leaked[0], theta, (4, 4)).requires_grad
    affine_sample(leaked[0], theta.requires_grad_(), (4, 4)).sum().backward()
    assert theta.grad.isfinite().all()
