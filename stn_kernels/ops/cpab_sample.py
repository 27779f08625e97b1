"""Images sampled through a CPAB transformation."""

import torch

from .. import _checks, _library
from .._library import MODE_NAMES, PADDING_NAMES
from ..reference import cpab as reference
from . import _cpab, linearized
from ._broadcast import over_batch
from ._double_backward import by_autograd
from ._outputs import empty_images, is_channels_last, store_images
from ._vmap import sampling
from .cpab_grid import cpab_grid
from .grid_sample import grid_sample

NAME = "cpab_sample"
OPTIONS = f"{_cpab.TABLES}, SymInt[] size, int mode, int padding_mode, bool align_corners"
SCHEMA = f"(Tensor input, Tensor velocities, Tensor? affine, {OPTIONS}) -> Tensor"
BACKWARD_SCHEMA = (
    f"(Tensor grad_output, Tensor input, Tensor velocities, Tensor? affine, {OPTIONS}, bool need_input,"
    " bool need_velocities, bool need_affine, bool deterministic) -> (Tensor, Tensor, Tensor)"
)


def cpab_sample(
    input,
    theta,
    size,
    tessellation,
    mode="bilinear",
    padding_mode="zeros",
    align_corners=False,
    *,
    affine=None,
    method="exact",
    steps=50,
    backend=None,
):
    """Samples input where a CPAB transformation puts the output's pixels: `cpab_grid` and `grid_sample` in one.

    An output pixel p, in units of the domain [0, 1]^n, reads the image at phi(p), phi as in `cpab_transform`; with
    `affine`, at affine(phi(p)), so that Affine+CPAB interpolates once (Skafte Detlefsen et al. 2018 do it twice).

    Args:
        input: (B, C, W), (B, C, H, W) or (B, C, D, H, W), by the dimension of the tessellation, or one image (B = 1)
            for a batch of theta; float32, float64, float16 or bfloat16.
        theta: parameters (B, d), or (B, S, d) for S transformations an image, d = tessellation.dim.
        size: spatial size of the output, (Wo,), (Ho, Wo) or (Do, Ho, Wo).
        tessellation: the cells and the basis, a `Tessellation`; its shape is in the order of coordinates, x first.
        mode: "bilinear" (linear in 1-D, trilinear in 3-D), "nearest", "bicubic", "linearized" or a `Linearized`, as in
            `grid_sample`.
        padding_mode: "zeros", "border" or "reflection", as in `grid_sample`.
        align_corners: whether -1 and 1 are the centres of the border pixels (True) or their outer edges (False).
        affine: matrices (B, n, n + 1), or (B, S, n, n + 1) if theta has S, on normalized coordinates; None for none.
        method, steps: as in `cpab_transform`.
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B, C, *size), or (B, S, C, *size) if theta has a sample dimension; the dtype of input; channels_last if input
        is. Differentiable in input, theta and affine, twice (the second backward runs on the reference).

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    code = _cpab.steps_of(method, steps)
    _cpab.check_tessellation(tessellation)
    n = tessellation.n
    _checks.image(input, (n,))
    _cpab.check_theta(theta, tessellation)
    _checks.same_batch_and_device("theta", theta, input, broadcast=True)
    size = _checks.spatial_size(size, n)
    several = linearized.chosen(mode)
    options = None if several else _checks.mode(mode, MODE_NAMES), _checks.padding_mode(padding_mode), align_corners
    _checks.flag("align_corners", align_corners)
    _cpab.check_affine(affine, theta, n)
    if several:
        grid = cpab_grid(
            theta, size, tessellation, align_corners, affine=affine, method=method, steps=steps, backend=backend
        )
        return grid_sample(input, grid, mode, padding_mode, align_corners, backend=backend)
    velocities, tables = _cpab.field(theta, tessellation)

    def run(velocities, affine):
        return _library.call(NAME, backend, input, velocities, affine, *tables, code, size, *options, sampler=(mode, n))

    return over_batch(run, input, velocities, 2, affine)


def _fake(input, velocities, affine, integers, reals, shape, steps, size, mode, padding_mode, align_corners):
    return empty_images(input, (*velocities.shape[:-2], input.shape[1], *size), is_channels_last(input), len(shape))


def _reference(input, velocities, affine, integers, reals, shape, steps, size, mode, padding_mode, align_corners):
    padding = PADDING_NAMES[padding_mode]
    output = reference.cpab_sample(
        input, velocities, affine, integers, reals, shape, steps, size, MODE_NAMES[mode], padding, align_corners
    )
    return store_images(output, is_channels_last(input), len(shape))


def _fake_backward(grad_output, input, velocities, affine, *options):
    need_input, need_velocities, need_affine, _ = options[-4:]
    return (
        empty_images(input, input.shape, is_channels_last(input), input.dim() - 2)
        if need_input
        else input.new_empty(0),
        velocities.new_empty(velocities.shape if need_velocities else 0),
        affine.new_empty(affine.shape) if need_affine else velocities.new_empty(0),
    )


def _reference_backward(grad_output, input, velocities, affine, *options):
    *options, need_input, need_velocities, need_affine, _ = options
    *constants, size, mode, padding_mode, align_corners = options
    grad_input, grad_velocities, grad_affine = reference.cpab_sample_backward(
        grad_output,
        input,
        velocities,
        affine,
        *constants,
        size,
        MODE_NAMES[mode],
        PADDING_NAMES[padding_mode],
        align_corners,
    )
    return (
        store_images(grad_input, is_channels_last(input), len(size)) if need_input else input.new_empty(0),
        grad_velocities.contiguous() if need_velocities else velocities.new_empty(0),
        grad_affine.contiguous() if need_affine else velocities.new_empty(0),
    )


def _setup_context(ctx, inputs, output):
    input, velocities, affine, integers, reals, *ctx.options = inputs
    ctx.save_for_backward(input, velocities, affine, integers, reals)


def _backward(namespace):
    def backward(ctx, grad_output):
        needs = ctx.needs_input_grad[:3]
        deterministic = torch.are_deterministic_algorithms_enabled()
        grads = _library.call_in(
            namespace, f"_{NAME}_backward", grad_output, *ctx.saved_tensors, *ctx.options, *needs, deterministic
        )
        return (*(g if needed else None for g, needed in zip(grads, needs, strict=True)), *[None] * 8)

    return backward


def _setup_backward_context(ctx, inputs, output):
    *tensors, shape, steps, size, mode, padding_mode, align_corners = inputs[:-4]
    ctx.constants = shape, steps, size, MODE_NAMES[mode], PADDING_NAMES[padding_mode], align_corners
    ctx.needed = inputs[-4:-1]
    ctx.save_for_backward(*tensors)


def _double_backward(namespace):
    def backward(ctx, *grads):
        *leaves, integers, reals = ctx.saved_tensors
        second = by_autograd(
            lambda *tensors: reference.differentiable_sample_backward(*tensors, integers, reals, *ctx.constants),
            leaves,
            grads,
            ctx.needed,
        )
        return (*second, *[None] * 12)

    return backward


_library.declare(
    _library.Op(
        f"_{NAME}_backward",
        BACKWARD_SCHEMA,
        _fake_backward,
        _reference_backward,
        _setup_backward_context,
        _double_backward,
        sampling(f"_{NAME}_backward", 2, 2, backward=True),
    )
)
_library.declare(_library.Op(NAME, SCHEMA, _fake, _reference, _setup_context, _backward, sampling(NAME, 2, 2)))
