"""Fused affine transformation and sampling: no coordinate grid, S transformations an image without copies of it."""

import torch

from .. import _checks, _library
from .._library import MODE_NAMES
from ..reference import affine as reference
from . import linearized
from ._broadcast import over_batch
from ._double_backward import double_backward_at_transform
from ._warp import declare_sample


def affine_sample(input, theta, size, mode="bilinear", padding_mode="zeros", align_corners=False, *, backend=None):
    """Samples input at the affine transformation of a regular output lattice, in one kernel.

    Equal to `grid_sample(input, affine_grid(theta, ...))` of torch (Jaderberg et al. 2015, Eq. 1 and 5) without the
    grid: memory beyond the result does not depend on the output's size. With a sample dimension the image is read S
    times and never copied, and its gradient is allocated once.

    Args:
        input: images (B, C, *in) with in = (W,), (H, W) or (D, H, W), or one image (B = 1) for a batch of matrices;
            float32, float64, float16 or bfloat16; contiguous, channels_last or strided.
        theta: affine matrices (B, n, n + 1), or (B, S, n, n + 1) for S transformations of each image; n = 1, 2 or 3.
            In 2-D a row (a, b, t) maps the output's normalized (x, y) to a x + b y + t, the source's normalized x
            (first row) or y (second), both in [-1, 1]. Any floating dtype; coordinates are computed in float32 or
            better whatever the image's dtype.
        size: spatial size of the output: (Wo,), (Ho, Wo) or (Do, Ho, Wo).
        mode: "bilinear" (linear in 1-D, trilinear in 3-D), "nearest", "bicubic" (cubic, tricubic; a = -0.75), or
            "linearized", which is `Linearized()`, or another `Linearized`.
        padding_mode: "zeros", "border" or "reflection": what lies outside the image (`reference/sampling.py`).
        align_corners: whether -1 and 1 are the centres of the border pixels (True) or their outer edges (False).
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B, C, *size), or (B, S, C, *size) if theta has a sample dimension; the dtype of input; channels_last if input
        is. Differentiable in input and theta, twice.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    if not torch.compiler.is_compiling():
        result = _library.eager_sample("affine", input, theta, size, mode, padding_mode, align_corners, backend)
        if result is not None:
            return result
    n = _checks.image(input, (1, 2, 3))
    _checks.matrix("theta", theta, n, n + 1)
    _checks.same_batch_and_device("theta", theta, input, broadcast=True)
    size = _checks.spatial_size(size, n)
    padding = _checks.padding_mode(padding_mode)
    _checks.flag("align_corners", align_corners)
    if linearized.chosen(mode):
        return linearized.sample(mode, "affine", input, theta, 2, size, padding, align_corners, backend)
    options = _checks.mode(mode, MODE_NAMES), padding, align_corners

    def run(theta):
        return _library.call("affine_sample", backend, input, theta, size, *options, sampler=(mode, n))

    return over_batch(run, input, theta, 2)


declare_sample(
    "affine_sample",
    "theta",
    reference.affine_sample,
    reference.affine_sample_backward,
    double_backward=double_backward_at_transform("affine", None),
)
