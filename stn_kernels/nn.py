"""Modules: a spatial transformer is two lines of a network.

self.transformer = SpatialTransformer(localization, transform="tps", size=(28, 28))
...
x = self.transformer(x)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import _checks, params
from ._library import MODE_NAMES
from .ops._tps_system import default_control_points
from .ops.affine_grid import affine_grid
from .ops.affine_sample import affine_sample
from .ops.homography_grid import homography_grid
from .ops.homography_sample import homography_sample
from .ops.tps_grid import tps_grid
from .ops.tps_sample import tps_sample


@dataclass(frozen=True)
class Family:
    """A family of transformations: zero numbers are the identity."""

    count: int | None  # numbers of a transformation; None: two a control point
    parameters: Callable[[torch.Tensor], torch.Tensor] | None  # numbers (..., count) -> what `sample` takes
    sample: Callable
    grid: Callable


def _homography(numbers):
    last = torch.zeros_like(numbers[..., :1])
    eye = torch.eye(3, dtype=numbers.dtype, device=numbers.device)
    return torch.cat([numbers, last], -1).unflatten(-1, (3, 3)) + eye


def _attention(numbers):
    s, tx, ty = numbers.unbind(-1)
    return params.attention(1 + s, tx, ty)


FAMILIES = {
    "translation": Family(2, lambda o: params.translation(*o.unbind(-1)), affine_sample, affine_grid),
    "rotation": Family(1, lambda o: params.rotation(o[..., 0]), affine_sample, affine_grid),
    "attention": Family(3, _attention, affine_sample, affine_grid),
    "similarity": Family(4, params.pstn, affine_sample, affine_grid),
    "affine": Family(6, params.finnveden, affine_sample, affine_grid),
    "affine_diffeo": Family(6, params.affine_diffeo, affine_sample, affine_grid),
    "homography": Family(8, _homography, homography_sample, homography_grid),
    "tps": Family(None, None, tps_sample, tps_grid),
}


class _Head(torch.nn.LazyLinear):
    """The last layer of a localization network: weights and biases 0, so that training starts at the identity."""

    cls_to_become = torch.nn.Linear

    def reset_parameters(self):
        if not self.has_uninitialized_params() and self.in_features:
            torch.nn.init.zeros_(self.weight)
            torch.nn.init.zeros_(self.bias)


class SpatialTransformer(torch.nn.Module):
    """Predicts a transformation of each image and samples it (Jaderberg et al. 2015).

    The head, a linear layer on what `localization` gives, starts with zeros; zeros are the identity in every family, so
    that weight decay pulls towards it (Finnveden et al. 2020, App. A.3).

    Args:
        localization: a module from what `forward` gets to features (B, ...), which are flattened.
        transform: "translation", "rotation", "attention", "similarity", "affine", "affine_diffeo", "homography", "tps".
        size: spatial size (Ho, Wo) of the output; None: that of the image.
        mode: "bilinear", "nearest" or "bicubic".
        padding_mode: "zeros", "border" or "reflection".
        align_corners: as in `affine_sample`.
        samples: S parallel transformers on one localization network; None: one, without a sample dimension.
        control_points: of "tps": (K, 2); None: the regular 4x4 grid.
        backend: as in `affine_sample`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or unknown; the message names it.
    """

    def __init__(
        self,
        localization: torch.nn.Module,
        transform: str = "affine",
        size: tuple[int, int] | None = None,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool = False,
        *,
        samples: int | None = None,
        control_points: torch.Tensor | None = None,
        backend: str | None = None,
    ):
        super().__init__()
        if not isinstance(localization, torch.nn.Module):
            raise TypeError(f"localization must be a torch.nn.Module, got {type(localization).__name__}")
        if transform not in FAMILIES:
            raise ValueError(f"transform must be one of {sorted(FAMILIES)}, got {transform!r}")
        if samples is not None and (not isinstance(samples, int) or samples < 1):
            raise ValueError(f"samples must be a positive integer or None, got {samples!r}")
        if control_points is not None and transform != "tps":
            raise ValueError(
                f"control_points must be None for transform {transform!r}, got a value: only 'tps' has them"
            )
        _checks.mode(mode, MODE_NAMES)
        _checks.padding_mode(padding_mode)
        _checks.flag("align_corners", align_corners)
        self.localization, self.transform, self.samples, self.backend = localization, transform, samples, backend
        self.size = None if size is None else _checks.spatial_size(size)
        self.mode, self.padding_mode, self.align_corners = mode, padding_mode, align_corners
        self.register_buffer("control_points", control_points)
        self.count = FAMILIES[transform].count or 2 * (16 if control_points is None else len(control_points))
        self.head = _Head(self.count * (samples or 1))

    def parameters_of(self, input: torch.Tensor) -> torch.Tensor:
        """What is predicted for input (B, ...), as the operator takes it: (B[, S], 2, 3), (.., 3, 3) or (.., K, 2)."""
        numbers = self.head(self.localization(input).flatten(1))
        if self.samples is not None:
            numbers = numbers.unflatten(-1, (self.samples, self.count))
        if self.transform != "tps":
            return FAMILIES[self.transform].parameters(numbers)
        control = default_control_points() if self.control_points is None else self.control_points
        return control.to(numbers) + numbers.unflatten(-1, (-1, 2))

    def _options(self) -> dict:
        options = {"align_corners": self.align_corners, "backend": self.backend}
        return options | ({"control_points": self.control_points} if self.transform == "tps" else {})

    def forward(self, input: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """Samples `image` (default: input) at the transformation predicted from `input`.

        Args:
            input: what the localization network sees: (B, ...).
            image: (B, C, H, W).

        Returns:
            (B, C, Ho, Wo), or (B, S, C, Ho, Wo) with parallel transformers.
        """
        image = input if image is None else image
        sample = FAMILIES[self.transform].sample
        options = self._options() | {"mode": self.mode, "padding_mode": self.padding_mode}
        return sample(image, self.parameters_of(input), self.size or image.shape[-2:], **options)

    @torch.no_grad()
    def share_in_bounds(self, input: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """The share of the output's pixels whose source lies in the image: (B[, S]); at 0 no gradient is left."""
        size = self.size or (input if image is None else image).shape[-2:]
        return share_in_bounds(FAMILIES[self.transform].grid(self.parameters_of(input), size, **self._options()))

    def extra_repr(self) -> str:
        samples = "" if self.samples is None else f", samples={self.samples}"
        return f"transform={self.transform!r}, size={self.size}, mode={self.mode!r}{samples}"


def share_in_bounds(grid: torch.Tensor) -> torch.Tensor:
    """The share of points inside the image: normalized coordinates (B[, S], Ho, Wo, 2) -> (B[, S]); NaN is outside."""
    return (grid.abs() <= 1).all(-1).flatten(-2).double().mean(-1).to(grid.dtype)
