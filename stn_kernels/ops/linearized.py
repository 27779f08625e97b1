"""Linearized multi-sampling, a sampler for every transform: its options, and the operator behind them.

One operator serves all transforms, so that those of the other modes keep their schemas.
"""

import math
from dataclasses import dataclass

import torch

from .. import _checks, _library
from .._library import PADDING_NAMES
from ..reference import linearized as reference
from ..reference.sampling import compute_dtype
from ._broadcast import over_batch
from ._double_backward import by_autograd
from ._outputs import empty_images, is_channels_last, store_images
from ._vmap import multi_sampling

NAME, BACKWARD = "_linearized_sample", "_linearized_sample_backward"
TRANSFORMS = ("affine", "grid", "homography", "tps")  # their codes: Transform in csrc/cpu/kernels.h
_TENSORS = "Tensor input, Tensor parameters, Tensor? control_points, Tensor? seed, Tensor? offsets"
_OPTIONS = (
    "int transform, SymInt[] size, int padding_mode, bool align_corners, int samples, float noise, bool push_away,"
    " bool fixed_bias, int weighting, float ridge, bool through_samples"
)
# -> the output and, if asked for, what a backward to the parameters reads: the slopes of the planes to normalized
# coordinates, (B[, S], n C, *out), axis by axis, stored like the output in float32, or float64 for such images.
SCHEMA = f"({_TENSORS}, {_OPTIONS}, bool need_slopes) -> (Tensor, Tensor)"
BACKWARD_SCHEMA = (
    f"(Tensor grad_output, Tensor slopes, {_TENSORS}, {_OPTIONS}, bool need_input, bool need_parameters,"
    " bool deterministic) -> (Tensor, Tensor)"
)


@dataclass(frozen=True)
class Linearized:
    """A sampling mode whose gradient sees further than the four pixels around a point.

    Around each source point the image is read at K points, and the slope of the plane through these values is the
    gradient to the source point, and on to the transform's parameters (Jiang et al. 2019, "Linearized Multi-Sampling
    for Differentiable Image Transformation"; weights and ridge: Eq. 5, 9 and 10 of Entropy Transformer Networks).
    `reference/linearized.py` has every rule. As published, the value holds the plane's bias unless `fixed_bias`, and
    the input's gradient is that of the centre sample alone.

    Args:
        samples: K, the centre included; at least n + 2 in n dimensions.
        noise: standard deviation of the offsets in halves of output pixels, as published (normalized: noise / size).
        push_away: whether the offsets also spread by one standard deviation of an input pixel.
        fixed_bias: whether the value is exactly the bilinear one.
        weighting: of the samples in the fit: "uniform"; "distance", less with the distance from the centre; or
            "entropic", by the probability that an optimal matching pairs a sample with the centre.
        ridge: added to the diagonal of the normal equations, whose lengths are in input pixels; not negative.
        seed: of the offsets, in [0, 2^63): the same on every backend. None draws a new one from torch's generator of
            the device at every call. Under torch.vmap the examples draw as items of one batch.
        offsets: normalized offsets (B, K, *out, n), or (B, S, K, *out, n) for S transformations an image, instead of
            drawn ones; the first of K, the centre, is zero. Constant. One beyond [-1, 1] does not count. `noise` and
            `push_away` then only say how wide the weights "distance" and "entropic" reach.
        through_samples: whether the gradient of the input passes through all samples, which is that of the value,
            instead of the centre alone.

    Raises:
        TypeError, ValueError: an option is of the wrong type or value; the message names it.
    """

    samples: int = 8
    noise: float = 0.5
    push_away: bool = True
    fixed_bias: bool = False
    weighting: str = "uniform"
    ridge: float = 0.0
    seed: int | None = None
    offsets: torch.Tensor | None = None
    through_samples: bool = False

    def __post_init__(self):
        _integer("samples", self.samples)
        if self.samples < 3:
            raise ValueError(f"samples must be at least 3, n + 2 in n dimensions, got {self.samples}")
        for name in ("noise", "ridge"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        for name in ("push_away", "fixed_bias", "through_samples"):
            _checks.flag(name, getattr(self, name))
        if self.weighting not in reference.WEIGHTINGS:
            known = " or ".join(map(repr, reference.WEIGHTINGS))
            raise ValueError(f"weighting must be {known}, got {self.weighting!r}")
        if self.seed is not None:
            _integer("seed", self.seed)
            if not 0 <= self.seed < 2**63:
                raise ValueError(f"seed must be in [0, 2^63), got {self.seed}")
        if self.offsets is not None:
            _check_offsets(self.offsets, self.samples)


def _integer(name, value):
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")


def _check_offsets(offsets, samples):
    """What can be said of offsets before there is an image."""
    _checks.floating_tensor("offsets", offsets)
    if offsets.requires_grad:
        raise ValueError("offsets must not require a gradient, got a tensor that does: they are constants")
    n = offsets.shape[-1] if offsets.dim() > 0 else 0
    if n not in (1, 2, 3) or offsets.dim() not in (n + 3, n + 4):
        wanted = "(B, K, *out, n) or (B, S, K, *out, n)"
        raise ValueError(f"offsets must be {wanted} with n = 1, 2 or 3, got shape {tuple(offsets.shape)}")
    if offsets.shape[-n - 2] != samples:
        raise ValueError(f"offsets must be of K = samples = {samples}, got shape {tuple(offsets.shape)}")
    if not (torch.compiler.is_compiling() or offsets.is_meta) and offsets.select(-n - 2, 0).count_nonzero():
        raise ValueError("offsets must begin with the centre, whose offset is 0, got another")


def chosen(mode) -> bool:
    """Whether a public function's `mode` asks for this sampler."""
    return isinstance(mode, Linearized) or mode == "linearized"


def sample(mode, transform, input, parameters, dims, size, padding, align_corners, backend, control_points=None):
    """`input` at a transform, with checked arguments.

    Args:
        mode: one that is `chosen`.
        transform: one of TRANSFORMS.
        parameters: (B[, S], ...) with `dims` further dimensions.
        size: of the output.

    Raises:
        ValueError: the options do not go with the other arguments.
        RuntimeError: `backend` cannot run here.
    """
    sampler, n = mode if isinstance(mode, Linearized) else Linearized(), input.dim() - 2
    if sampler.samples < n + 2:
        raise ValueError(f"samples must be at least n + 2 = {n + 2} in {n}-D, got {sampler.samples}")
    offsets, seed = sampler.offsets, None
    if offsets is not None:
        wanted = (*parameters.shape[:-dims], sampler.samples, *size, n)
        if offsets.shape != wanted:
            raise ValueError(f"offsets must be {tuple(wanted)} for this call, got shape {tuple(offsets.shape)}")
        if offsets.device != input.device:
            raise ValueError(f"offsets must be on the device of input ({input.device}), got {offsets.device}")
    elif sampler.seed is None:
        seed = torch.randint(2**63 - 1, (), device=input.device)
    else:
        seed = torch.full((), sampler.seed, device=input.device)
    options = (
        TRANSFORMS.index(transform),
        list(size),
        padding,
        align_corners,
        sampler.samples,
        float(sampler.noise),
        sampler.push_away,
        sampler.fixed_bias,
        reference.WEIGHTINGS.index(sampler.weighting),
        float(sampler.ridge),
        sampler.through_samples,
    )

    def run(parameters):
        given = offsets
        if given is not None:
            given = given.reshape(*parameters.shape[:-dims], *given.shape[-n - 2 :])
        slopes = parameters.requires_grad and torch.is_grad_enabled()
        tensors = input, parameters, control_points, seed, given
        return _library.call(NAME, backend, *tensors, *options, slopes, sampler=("linearized", n))[0]

    return over_batch(run, input, parameters, dims)


def _lead(input, parameters, transform):
    """(B[, S]) of the parameters."""
    return parameters.shape[: -input.dim() + 1 if TRANSFORMS[transform] == "grid" else -2]


def _points(input, parameters, control_points, seed, offsets, options):
    """Where the reference reads, the planes it fits there, and its options."""
    transform, size, padding_mode, align_corners, *rest = options
    weighting = rest.pop(4)
    samples, noise, push_away, fixed_bias, ridge, through_samples = rest
    named = reference.Options(
        samples, noise, push_away, fixed_bias, reference.WEIGHTINGS[weighting], ridge, through_samples
    )
    dtype = compute_dtype(input, parameters)
    grid = reference.transform_grid(TRANSFORMS[transform], parameters, control_points, size, align_corners, dtype)
    lead = _lead(input, parameters, transform)
    fit = reference.fit(seed, offsets, named, input.shape[2:], size, align_corners, lead, dtype)
    return grid, fit, named, (PADDING_NAMES[padding_mode], align_corners)


def _fake(input, parameters, control_points, seed, offsets, transform, size, *options):
    lead, channels, n = _lead(input, parameters, transform), input.shape[1], input.dim() - 2
    layout, dtype = (is_channels_last(input), n), compute_dtype(input)
    slopes = input.new_empty(0, dtype=dtype)
    if options[-1]:
        slopes = empty_images(input, (*lead, n * channels, *size), *layout, dtype)
    return empty_images(input, (*lead, channels, *size), *layout), slopes


def _reference(input, parameters, control_points, seed, offsets, *options):
    *options, need_slopes = options
    grid, fit, named, padding = _points(input, parameters, control_points, seed, offsets, options)
    layout, dtype = (is_channels_last(input), input.dim() - 2), compute_dtype(input)
    output = store_images(reference.sample(input, grid, fit, named, *padding), *layout)
    slopes = input.new_empty(0, dtype=dtype)
    if need_slopes:
        slopes = store_images(reference.slopes(input, grid, fit, named, *padding).to(dtype), *layout)
    return output, slopes


def _fake_backward(grad_output, slopes, input, parameters, *rest):
    need_input, need_parameters, _ = rest[-3:]
    grad_input = input.new_empty(0)
    if need_input:
        grad_input = empty_images(input, input.shape, is_channels_last(input), input.dim() - 2)
    return grad_input, parameters.new_empty(parameters.shape if need_parameters else 0)


def _gradients(grad_output, input, parameters, control_points, seed, offsets, *options):
    grid, fit, named, padding = _points(input, parameters, control_points, seed, offsets, options)
    grad_input, grad_grid = reference.sample_backward(grad_output, input, grid, fit, named, *padding)
    transform, align_corners = TRANSFORMS[options[0]], padding[1]
    grad = reference.transform_grid_backward(grad_grid, transform, parameters, control_points, align_corners)
    return grad_input, grad.to(parameters.dtype)


def _reference_backward(grad_output, slopes, input, parameters, *rest):
    """Fits again: `slopes` are for the kernels."""
    *rest, need_input, need_parameters, _ = rest
    grad_input, grad_parameters = _gradients(grad_output, input, parameters, *rest)
    return (
        store_images(grad_input, is_channels_last(input), input.dim() - 2) if need_input else input.new_empty(0),
        grad_parameters.contiguous() if need_parameters else parameters.new_empty(0),
    )


def _setup_context(ctx, inputs, output):
    *tensors, ctx.options, ctx.has_slopes = *inputs[:5], inputs[5:-1], inputs[-1]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], *tensors)


def _backward(namespace):
    def backward(ctx, grad_output, _):
        if grad_output is None:
            return (None,) * 17
        slopes, *tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        if needs[1] and not ctx.has_slopes:  # the forward could not see that it would be needed
            _, slopes = _library.call_in(namespace, NAME, *tensors, *ctx.options, True)
        deterministic = torch.are_deterministic_algorithms_enabled()
        grads = _library.call_in(
            namespace, BACKWARD, grad_output, slopes, *tensors, *ctx.options, *needs, deterministic
        )
        return (*(grad if need else None for grad, need in zip(grads, needs, strict=True)), *[None] * 15)

    return backward


def _setup_backward_context(ctx, inputs, output):
    ctx.options, ctx.needed = inputs[7:-3], inputs[-3:-1]
    ctx.save_for_backward(inputs[0], *inputs[2:7])


def _double_backward(namespace):
    def backward(ctx, *grads):
        tensors, rest = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        second = by_autograd(lambda *given: _gradients(*given, *rest, *ctx.options), tensors, grads, ctx.needed)
        return (second[0], None, *second[1:], *[None] * 17)

    return backward


_library.declare(
    _library.Op(
        BACKWARD,
        BACKWARD_SCHEMA,
        _fake_backward,
        _reference_backward,
        _setup_backward_context,
        _double_backward,
        multi_sampling(BACKWARD, TRANSFORMS.index("grid"), backward=True),
    )
)
_vmap = multi_sampling(NAME, TRANSFORMS.index("grid"))
_library.declare(_library.Op(NAME, SCHEMA, _fake, _reference, _setup_context, _backward, _vmap))
