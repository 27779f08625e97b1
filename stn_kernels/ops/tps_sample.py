"""Fused thin-plate spline and sampling."""

import torch

from .. import _checks, _library
from .._library import MODE_NAMES
from ..reference import tps as reference
from . import _tps_system, linearized
from ._broadcast import over_batch
from ._double_backward import double_backward_at_transform
from ._warp import declare_sample


def tps_sample(
    input,
    points,
    size,
    mode="bilinear",
    padding_mode="zeros",
    align_corners=False,
    *,
    control_points=None,
    affine=None,
    backend=None,
):
    """Samples input at the thin-plate spline of a regular output lattice, in one kernel.

    The spline maps each control point, a place in the output, to its row of `points`, a place in the source, and
    interpolates between them with the least bending (Bookstein 1989; Jaderberg et al. 2015, Sec. 3.2): by r^2 log r^2
    of the distance r to each in 2-D, by r itself in 3-D (`reference/tps.py`). These radial functions are evaluated in
    the kernel: no matrix of pixels by control points. The system is factorised once for a tensor of control points, in
    float64.

    Args:
        input: images (B, C, H, W) or volumes (B, C, D, H, W), or one (B = 1) for a batch of splines; float32, float64,
            float16 or bfloat16; contiguous, channels_last or strided.
        points: normalized source positions (x, y) or (x, y, z) of the control points: (B, K, n), or (B, S, K, n) for S
            splines an image, which is never copied; n = 2 or 3. Any floating dtype.
        size: spatial size of the output: (Ho, Wo) or (Do, Ho, Wo).
        mode: "bilinear", "nearest", "bicubic" (a = -0.75) or "linearized", which is `Linearized()`, or another one.
        padding_mode: "zeros", "border" or "reflection": what lies outside the image (`reference/sampling.py`).
        align_corners: whether -1 and 1 are the centres of the border pixels (True) or their outer edges (False).
        control_points: normalized output positions: (K, n), K > n, not all on a line (in 3-D a plane); constant. None:
            the regular grid of 4 points along each axis of [-1, 1]^n, row by row from (-1, -1). Keep the tensor to keep
            its factorisation.
        affine: matrices (B, n, n + 1) or (B, S, n, n + 1) applied after the spline, source = affine(spline(x)), so that
            both interpolate the image once.
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B, C, *size), or (B, S, C, *size) if points have a sample dimension; the dtype of input; channels_last if
        input is. Differentiable in input, points and affine, twice.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    if affine is None and not torch.compiler.is_compiling():
        system = _tps_system.system_at_hand(points, control_points)
        result = system and _library.eager_sample(
            "tps", input, points, size, mode, padding_mode, align_corners, backend, *system
        )
        if result is not None:
            return result
    n = _checks.image(input, (2, 3))
    _tps_system.check(points, control_points, affine, n)
    _checks.same_batch_and_device("points", points, input, broadcast=True)
    size = _checks.spatial_size(size, n)
    padding = _checks.padding_mode(padding_mode)
    _checks.flag("align_corners", align_corners)
    values, control_points = _tps_system.coefficients(points, control_points, affine, n)
    if linearized.chosen(mode):
        return linearized.sample(
            mode, "tps", input, values, 2, size, padding, align_corners, backend, control_points=control_points
        )
    options = size, _checks.mode(mode, MODE_NAMES), padding, align_corners

    def run(values):
        return _library.call("tps_sample", backend, input, values, control_points, *options, sampler=(mode, n))

    return over_batch(run, input, values, 2)


declare_sample(
    "tps_sample",
    "coefficients",
    reference.tps_sample,
    reference.tps_sample_backward,
    ("control_points",),
    double_backward=double_backward_at_transform("tps", None),
)
