"""Loads the native libraries, declares the operators and chooses a backend.

Namespaces. `stn_kernels` holds the native kernels (C++ on CPU tensors, CUDA on CUDA tensors) with the reference behind
them; `stn_kernels_reference` and `stn_kernels_triton` hold the same operators for an explicit choice. Tests add
`stn_kernels_simt`, the CUDA kernels run on the CPU. Every namespace shares one schema, fake and autograd formula.
"""

import contextlib
import functools
import importlib.util
import os
import pathlib
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

MODES = {"bilinear": 0, "nearest": 1, "bicubic": 2}
PADDING_MODES = {"zeros": 0, "border": 1, "reflection": 2}
MODE_NAMES = tuple(MODES)
PADDING_NAMES = tuple(PADDING_MODES)

BACKENDS = ("reference", "cpu", "cuda", "triton")
NAMESPACES = {
    "reference": "stn_kernels_reference",
    "cpu": "stn_kernels",
    "cuda": "stn_kernels",
    "triton": "stn_kernels_triton",
}

# What the kernels of a backend sample: (mode, dimensions of the image), where None is the coordinates alone. For the
# rest a backend asked for by name raises, and the automatic choice takes the next one, in the end the reference.
SAMPLERS = {
    "cpu": {(mode, n) for mode in (*MODES, "linearized", None) for n in (1, 2, 3)},
    "cuda": {(mode, n) for mode in (*MODES, "linearized", None) for n in (1, 2, 3)},
    "triton": {(mode, n) for mode in (*MODES, "linearized", None) for n in (1, 2, 3)},
}

# Modes whose second backward is a kernel, where else it is autograd through the reference. Of the third it always is.
SECOND_BACKWARD = dict.fromkeys(("cpu", "cuda", "triton"), ("bilinear", "nearest"))

# Where a backend runs; Triton also on CPU tensors, in its interpreter.
DEVICES = {"reference": "cpu", "cpu": "cpu", "cuda": "cuda", "triton": "cuda"}

# Operators that a backend has no kernels for so far. Asked for by name it raises; the automatic choice passes on.
LACKING: dict[str, set[str]] = {}

_DEFAULT_BACKEND = os.environ.get("STN_KERNELS_BACKEND") or None


class _Forced(threading.local):
    backend: str | None = None  # what `use_backend` asks for in this thread


_forced = _Forced()
_libraries: list[torch.library.Library] = []
_load_errors: dict[str, str] = {}


@dataclass(frozen=True)
class Op:
    """One operator: everything a namespace needs to offer it."""

    name: str
    schema: str
    fake: Callable
    reference: Callable
    setup_context: Callable | None = None
    backward: Callable[[str], Callable] | None = None  # namespace -> autograd formula
    vmap: Callable[[str], Callable] | None = None  # namespace -> batching rule


_ops: list[Op] = []
# (namespace, name) -> operator, the same below Python's overrides, recorded for autograd in eager mode, and how many
# tensors come first
_entries: dict[tuple[str, str], tuple[Callable, Callable, Callable | None, int]] = {}
_transformable: dict[tuple[str, str], type] = {}  # the same as a function that functorch transforms


def declare(op: Op) -> None:
    """Declares an operator in `stn_kernels` and `stn_kernels_reference`; other namespaces join by `add_namespace`."""
    _ops.append(op)
    for namespace in ("stn_kernels", "stn_kernels_reference"):
        _define(namespace, op, op.reference)


def add_namespace(namespace: str, implementations: dict[str, Callable] | None = None) -> None:
    """Declares every operator again in `namespace`; implementations maps a name to a Python kernel, else C++ has it."""
    for op in _ops:
        _define(namespace, op, (implementations or {}).get(op.name))


def register_backend(name: str, namespace: str) -> None:
    """Makes `backend=name` legal: the operators of `namespace`, on CPU tensors (tests run the CUDA kernels there)."""
    NAMESPACES[name] = namespace
    DEVICES[name] = "cpu"


def _define(namespace: str, op: Op, implementation: Callable | None) -> None:
    library = torch.library.Library(namespace, "FRAGMENT")
    _libraries.append(library)  # a Library that dies takes its operators along
    library.define(op.name + op.schema, tags=(torch.Tag.pt2_compliant_tag,))
    if implementation is not None:
        library.impl(op.name, implementation, "CompositeExplicitAutograd")
    qualified = f"{namespace}::{op.name}"
    torch.library.register_fake(qualified, op.fake, lib=library)
    if op.vmap is not None:
        torch.library.register_vmap(qualified, op.vmap(namespace), lib=library)
    recorded = None
    handle = getattr(getattr(torch.ops, namespace), op.name).default
    # What the handle does after a look for __torch_function__ and other overrides, which costs more than a small call.
    direct = functools.partial(torch._C._dispatch_call_boxed, handle._handle)
    if op.backward is not None:
        torch.library.register_autograd(qualified, op.backward(namespace), setup_context=op.setup_context, lib=library)
        recorded = _eager_function(direct, op.setup_context, op.backward(namespace))
        if op.vmap is not None:
            _transformable[namespace, op.name] = _transformable_function(handle, op, namespace)
    _entries[namespace, op.name] = handle, direct, recorded, _leading_tensors(handle)


def _leading_tensors(handle) -> int:
    """How many tensors an operator takes; they come before its other arguments, as `call_in` needs it."""
    kinds = ["Tensor" in str(argument.type) for argument in handle._schema.arguments]
    if sorted(kinds, reverse=True) != kinds:
        raise TypeError(f"{handle}: tensors must come before other arguments")
    return sum(kinds)


def _eager_function(direct, setup_context, formula):
    """The operator and its registered formula as a plain autograd.Function: the same gradients at half the overhead.

    Not its `apply`, but what that comes to once `call_in` has looked for torch.func's transforms.
    """

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *args):
            with torch._C._AutoDispatchBelowAutograd():
                output = direct(*args)
            setup_context(ctx, args, output)
            return output

        backward = staticmethod(formula)

    return super(torch.autograd.Function, Eager).apply


def _transformable_function(handle, op: Op, namespace: str):
    """The operator under torch.func's transforms, which an operator's registered formula does not take part in."""

    class Transformable(torch.autograd.Function):
        @staticmethod
        def forward(*args):
            with torch._C._AutoDispatchBelowAutograd():
                return handle(*args)

        setup_context = staticmethod(op.setup_context)
        backward = staticmethod(op.backward(namespace))
        vmap = staticmethod(op.vmap(namespace))

    return Transformable


def library_paths(name: str) -> list[pathlib.Path]:
    """Where a native library may lie: in STN_KERNELS_LIBRARIES if set, beside the package, else in the user's cache."""
    from . import _build

    folders = [pathlib.Path(f) for f in (os.environ.get("STN_KERNELS_LIBRARIES"),) if f]
    return [folder / f"lib{name}.so" for folder in (*folders, _build.PACKAGE_LIBRARIES, _build.cache_folder())]


def load_native() -> None:
    """Loads the CPU library, and the CUDA one where torch has CUDA; keeps the reason why one is not here."""
    for backend, name in (("cpu", "stn_kernels_cpu"), ("cuda", "stn_kernels_cuda")):
        if backend == "cuda" and torch.version.cuda is None:
            _load_errors["cuda"] = "this torch has no CUDA: install one that has, then run `stn-kernels build`"
            continue
        path = next((p for p in library_paths(name) if p.exists()), None)
        if path is None:
            needs = "g++" if backend == "cpu" else "nvcc"
            _load_errors[backend] = f"not built: run `stn-kernels build` (needs {needs})"
            continue
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            _load_errors[backend] = f"{path} does not load ({error}): run `stn-kernels build` again"
            continue
        if backend == "cpu":
            _load_eager(path)


def eager_sample(transform, input, parameters, size, mode, padding_mode, align_corners, backend, *system):
    """A sampling operator on plain CPU tensors; None for all else, and for what is wrong: the caller goes on.

    system: of a spline, whose parameters are its points: control points (K, n) and solver (K + n + 1, K), float64.
    What `_load_eager` puts in its place must not be called under torch.compile. Each operator asks and calls by itself,
    as one more function of Python would cost a quarter of a small call.
    """
    return None


def _leave_eager(flag: bool) -> None:
    """Whether `eager_sample`, called in this thread without a backend's name, leaves all to the caller."""


def _load_eager(library: pathlib.Path) -> None:
    """The same in C++ (csrc/eager.cpp), around the dispatcher, where it was built with this very torch."""
    global eager_sample, _leave_eager
    try:
        from ._lib._eager import TORCH, bind, leave, sample
    except ImportError:
        return
    if _DEFAULT_BACKEND in (None, "cpu") and torch.__version__ == TORCH and bind(str(library)):
        eager_sample, _leave_eager = sample, leave


def has_eager_calls() -> bool:
    return isinstance(eager_sample, types.BuiltinFunctionType)


def _load_triton() -> str:
    """Registers the Triton operators on first use; returns why they cannot be used, or ''."""
    return _load_triton_once()


# torch.compiler.assume_constant_result, without its import of torch._dynamo: torch.compile must not trace the import.
_load_triton._dynamo_marked_constant = True


@functools.cache
def _load_triton_once() -> str:
    if importlib.util.find_spec("triton") is None:
        return "not installed: run `pip install triton`"
    try:
        from .triton import kernels
    except ImportError as error:
        return f"does not import: {error}"
    add_namespace("stn_kernels_triton", kernels.implementations())
    return ""


def _triton_interprets() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def hole(backend: str, sampler: tuple | None, op: str | None = None) -> str:
    """Why `backend` does not sample so, or lacks `op`, as SAMPLERS and LACKING say; '' if it has kernels."""
    if op in LACKING.get(backend, ()):
        return f"it has no kernels for {op}"
    if sampler is None or sampler in SAMPLERS.get(backend, {sampler}):
        return ""
    mode, n = sampler
    return f"it has no kernel for {f'mode {mode!r} in ' if mode else ''}{n}-D"


def has_second_backward(namespace: str, device_type: str, mode: str) -> bool:
    """Whether SECOND_BACKWARD has a kernel for the operators of a namespace."""
    there = (b for b, name in NAMESPACES.items() if name == namespace and device_of(b) == device_type)
    return any(mode in SECOND_BACKWARD.get(b, ()) and b not in _load_errors for b in there)


def why_not(backend: str, device_type: str, sampler: tuple | None = None, op: str | None = None) -> str:
    """Why `backend` cannot run on tensors of `device_type`, or has no kernel for a sampler or an op; '' if it can."""
    if reason := hole(backend, sampler, op):
        return reason
    if backend == "reference" or backend not in BACKENDS:
        return ""
    if backend == "cpu":
        return _load_errors.get("cpu", "") or (
            "" if device_type == "cpu" else f"it runs on CPU tensors, not on {device_type}"
        )
    if backend == "cuda":
        return _load_errors.get("cuda", "") or (
            "" if device_type == "cuda" else f"it runs on CUDA tensors, not on {device_type}"
        )
    if reason := _load_triton():
        return reason
    if device_type == "cpu" and not _triton_interprets():
        return "on CPU tensors it runs only in Triton's interpreter: set TRITON_INTERPRET=1 before the first import"
    return "" if device_type in ("cpu", "cuda") else f"it runs on CUDA tensors, not on {device_type}"


def backends() -> dict[str, str]:
    """The backends of this installation: name -> '' if usable here, else the reason why not and what would add it."""
    report = {}
    for backend, device in DEVICES.items():
        reason = why_not(backend, device)
        if not reason and device == "cuda" and not torch.cuda.is_available():
            reason = why_not(backend, "cpu") if backend == "triton" else "no CUDA device is visible"
        report[backend] = reason
    return report


def device_of(backend: str) -> str:
    """The device type on which `backend` runs here; Triton's interpreter, if on, runs on the CPU."""
    return "cpu" if backend == "triton" and _triton_interprets() else DEVICES[backend]


@contextlib.contextmanager
def use_backend(backend: str | None):
    """Context in which this thread's operators use one backend: "reference", "cpu", "cuda", "triton", None to choose.

    Raises:
        ValueError: the name is unknown. An operator raises RuntimeError if the backend cannot run on its tensors.
    """
    _check_name(backend)
    previous = _forced.backend
    _force(backend)
    try:
        yield
    finally:
        _force(previous)


def _force(backend: str | None) -> None:
    _forced.backend = backend
    if not torch.compiler.is_compiling():
        _leave_eager(backend not in (None, "cpu"))


def _check_name(backend: str | None) -> None:
    if backend is not None and backend not in NAMESPACES:
        raise ValueError(f"backend must be one of {sorted(NAMESPACES)} or None, got {backend!r}")


# Automatic choice on CUDA tensors: the first of a line that runs here and has kernels for the operator. An operator for
# which a measurement (benchmarks/results) shows another order gets a line; no GPU has measured any yet.
CUDA_PREFERENCE = {"any other": ("cuda", "triton", "reference")}


def _automatic(on_cuda: bool, sampler: tuple | None, op: str) -> str:
    if not on_cuda:
        return "stn_kernels" if sampler is None or sampler in SAMPLERS["cpu"] else "stn_kernels_reference"
    preference = CUDA_PREFERENCE.get(op, CUDA_PREFERENCE["any other"])
    return NAMESPACES[next(b for b in preference if not why_not(b, "cuda", sampler, op))]


def _namespace(backend: str | None, tensor: torch.Tensor, sampler: tuple | None, op: str) -> str:
    backend = backend or _forced.backend or _DEFAULT_BACKEND
    if backend is None:
        return _automatic(tensor.is_cuda, sampler, op)
    _check_name(backend)
    if reason := why_not(backend, tensor.device.type, sampler, op):
        raise RuntimeError(f"backend {backend!r} cannot be used here: {reason}")
    return NAMESPACES[backend]


def call(name: str, backend: str | None, *args, sampler: tuple | None = None):
    """Runs the operator `name` of the backend asked for, else of the one chosen for the device of the first tensor.

    sampler: the entry of SAMPLERS that a backend must have; None if every backend has the operator.
    """
    return call_in(_namespace(backend, args[0], sampler, name), name, *args)


def call_in(namespace: str, name: str, *args):
    """Runs the operator `name` of a namespace.

    In plain eager mode it goes around the dispatcher's autograd key, whose Python kernel costs more than a small call;
    under torch.compile, forward mode and overrides of __torch_function__ the registered operator is called as it is.
    """
    handle, direct, recorded, tensors = _entries[namespace, name]
    if torch.compiler.is_compiling():
        return handle(*args)
    if torch._C._are_functorch_transforms_active():
        transformable = _transformable.get((namespace, name))
        return handle(*args) if transformable is None else transformable.apply(*args)
    leading = args[:tensors]
    if forward_ad._current_level >= 0 or has_torch_function(leading):
        return handle(*args)
    if recorded is not None and torch.is_grad_enabled():
        for arg in leading:
            if arg is not None and arg.requires_grad:
                return recorded(*unwrap_dead_wrappers(leading), *args[tensors:])
    with torch._C._AutoDispatchBelowAutograd():
        return direct(*args)
