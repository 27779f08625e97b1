"""Fused projective transformation and sampling."""

import torch

from .. import _checks, _library
from .._library import MODE_NAMES
from ..reference import homography as reference
from . import linearized
from ._broadcast import over_batch
from ._double_backward import double_backward_at_transform
from ._warp import declare_sample


def homography_sample(input, matrix, size, mode="bilinear", padding_mode="zeros", align_corners=False, *, backend=None):
    """Samples input at the projective transformation of a regular output lattice, in one kernel.

    An output point (x, y) reads the source (X / w, Y / w) with (X, Y, w) = matrix (x, y, 1), all in normalized
    coordinates. A point at or behind the plane w = 0 (not w >= 2^-60) has no source: it reads 0 under "zeros" and the
    first row and column otherwise, as NaN does, and has no gradient. The matrix is defined up to a positive factor.

    Args:
        input: images (B, C, H, W), or one image (B = 1) for a batch of matrices; float32, float64, float16 or bfloat16;
            contiguous, channels_last or strided.
        matrix: (B, 3, 3), or (B, S, 3, 3) for S transformations of each image, which is never copied. Any floating
            dtype; coordinates are computed in float32 or better whatever the image's dtype.
        size: spatial size (Ho, Wo) of the output.
        mode: "bilinear", "nearest", "bicubic" (a = -0.75) or "linearized", which is `Linearized()`, or another one.
        padding_mode: "zeros", "border" or "reflection": what lies outside the image (`reference/sampling.py`).
        align_corners: whether -1 and 1 are the centres of the border pixels (True) or their outer edges (False).
        backend: "reference", "cpu", "cuda" or "triton" to insist on one; None chooses.

    Returns:
        (B, C, Ho, Wo), or (B, S, C, Ho, Wo) if matrix has a sample dimension; the dtype of input; channels_last if
        input is. Differentiable in input and matrix, twice.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, shape, dtype or device; the message names it.
        RuntimeError: `backend` cannot run here; the message says why.
    """
    if not torch.compiler.is_compiling():
        result = _library.eager_sample("homography", input, matrix, size, mode, padding_mode, align_corners, backend)
        if result is not None:
            return result
    _checks.image(input)
    _checks.matrix("matrix", matrix, 3, 3)
    _checks.same_batch_and_device("matrix", matrix, input, broadcast=True)
    size = _checks.spatial_size(size)
    padding = _checks.padding_mode(padding_mode)
    _checks.flag("align_corners", align_corners)
    if linearized.chosen(mode):
        return linearized.sample(mode, "homography", input, matrix, 2, size, padding, align_corners, backend)
    options = size, _checks.mode(mode, MODE_NAMES), padding, align_corners

    def run(matrix):
        return _library.call("homography_sample", backend, input, matrix, *options, sampler=(mode, 2))

    return over_batch(run, input, matrix, 2)


declare_sample(
    "homography_sample",
    "matrix",
    reference.homography_sample,
    reference.homography_sample_backward,
    double_backward=double_backward_at_transform("homography", reference.homography_grid_backward),
)
