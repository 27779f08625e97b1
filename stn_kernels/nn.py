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
from .ops._cpab import check_tessellation
from .ops._tps_system import check_control_points, default_control_points
from .ops.affine_grid import affine_grid
from .ops.affine_sample import affine_sample
from .ops.cpab_grid import cpab_grid
from .ops.cpab_sample import cpab_sample
from .ops.homography_grid import homography_grid
from .ops.homography_sample import homography_sample
from .ops.tps_grid import tps_grid
from .ops.tps_sample import tps_sample
from .tessellation import Tessellation


@dataclass(frozen=True)
class Family:
    """A family of transformations: zero numbers are the identity."""

    count: int | None  # numbers of a transformation; None: by the control points or the tessellation
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


def _affine_cpab_sample(image, parameters, size, **options):
    theta, affine = parameters
    return cpab_sample(image, theta, size, affine=affine, **options)


def _affine_cpab_grid(parameters, size, **options):
    theta, affine = parameters
    return cpab_grid(theta, size, affine=affine, **options)


FAMILIES = {
    "translation": Family(2, lambda o: params.translation(*o.unbind(-1)), affine_sample, affine_grid),
    "rotation": Family(1, lambda o: params.rotation(o[..., 0]), affine_sample, affine_grid),
    "attention": Family(3, _attention, affine_sample, affine_grid),
    "similarity": Family(4, params.pstn, affine_sample, affine_grid),
    "affine": Family(6, params.finnveden, affine_sample, affine_grid),
    "affine_diffeo": Family(6, params.affine_diffeo, affine_sample, affine_grid),
    "homography": Family(8, _homography, homography_sample, homography_grid),
    "tps": Family(None, None, tps_sample, tps_grid),
    "cpab": Family(None, None, cpab_sample, cpab_grid),
    "affine+cpab": Family(None, None, _affine_cpab_sample, _affine_cpab_grid),
}
CPAB = ("cpab", "affine+cpab")


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
        transform: "translation", "rotation", "attention", "similarity", "affine", "affine_diffeo", "homography", "tps",
            "cpab", or "affine+cpab", which interpolates once.
        size: spatial size (Ho, Wo) of the output, in the dimensions of the tessellation or the control points; None:
            that of the image.
        mode: "bilinear", "nearest" or "bicubic".
        padding_mode: "zeros", "border" or "reflection".
        align_corners: as in `affine_sample`.
        samples: S parallel transformers on one localization network; None: one, without a sample dimension.
        control_points: of "tps": (K, 2), or (K, 3) to warp volumes; None: the regular 4x4 grid.
        tessellation: of "cpab" and "affine+cpab": a `Tessellation` in one to three dimensions, whose basis belongs to
            what is learned; None: 2x2 squares with a zero boundary.
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
        tessellation: Tessellation | None = None,
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
        if tessellation is not None and transform not in CPAB:
            known = " and ".join(map(repr, CPAB))
            raise ValueError(
                f"tessellation must be None for transform {transform!r}, got a value: only {known} have one"
            )
        if transform in CPAB:
            tessellation = Tessellation((2, 2)) if tessellation is None else tessellation
            check_tessellation(tessellation)
        _checks.mode(mode, MODE_NAMES)
        _checks.padding_mode(padding_mode)
        _checks.flag("align_corners", align_corners)
        self.localization, self.transform, self.samples, self.backend = localization, transform, samples, backend
        self.n = 2 if tessellation is None else tessellation.n
        if control_points is not None:
            self.n = check_control_points(control_points)
        self.size = None if size is None else _checks.spatial_size(size, self.n)
        self.mode, self.padding_mode, self.align_corners = mode, padding_mode, align_corners
        self.register_buffer("control_points", control_points)
        self.tessellation = tessellation
        if tessellation is None:
            self.count = FAMILIES[transform].count or (2 * 16 if control_points is None else control_points.numel())
        else:
            self.count = tessellation.dim + (self.n * (self.n + 1) if transform == "affine+cpab" else 0)
        self.head = _Head(self.count * (samples or 1))

    def parameters_of(self, input: torch.Tensor) -> torch.Tensor:
        """What is predicted for input (B, ...), as the operator takes it.

        (B[, S], 2, 3), (.., 3, 3), (.., K, n) or theta (.., d); of "affine+cpab" theta and (.., n, n + 1).
        """
        numbers = self.head(self.localization(input).flatten(1))
        if self.samples is not None:
            numbers = numbers.unflatten(-1, (self.samples, self.count))
        if self.transform == "tps":
            control = default_control_points() if self.control_points is None else self.control_points
            return control.to(numbers) + numbers.unflatten(-1, (-1, self.n))
        if self.transform == "cpab":
            return numbers
        if self.transform == "affine+cpab":
            theta, affine = numbers.split([self.tessellation.dim, self.n * (self.n + 1)], -1)
            return theta, torch.eye(self.n, self.n + 1).to(affine) + affine.unflatten(-1, (self.n, self.n + 1))
        return FAMILIES[self.transform].parameters(numbers)

    def _options(self) -> dict:
        options = {"align_corners": self.align_corners, "backend": self.backend}
        if self.transform == "tps":
            options["control_points"] = self.control_points
        if self.transform in CPAB:
            options["tessellation"] = self.tessellation
        return options

    def forward(self, input: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """Samples `image` (default: input) at the transformation predicted from `input`.

        Args:
            input: what the localization network sees: (B, ...).
            image: (B, C, H, W); of a tessellation or control points in other dimensions (B, C, W) or (B, C, D, H, W).

        Returns:
            (B, C, Ho, Wo), or (B, S, C, Ho, Wo) with parallel transformers.
        """
        image = input if image is None else image
        sample = FAMILIES[self.transform].sample
        options = self._options() | {"mode": self.mode, "padding_mode": self.padding_mode}
        return sample(image, self.parameters_of(input), self.size or image.shape[2:], **options)

    @torch.no_grad()
    def share_in_bounds(self, input: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        """The share of the output's pixels whose source lies in the image: (B[, S]); at 0 no gradient is left."""
        size = self.size or (input if image is None else image).shape[2:]
        return share_in_bounds(FAMILIES[self.transform].grid(self.parameters_of(input), size, **self._options()))

    def extra_repr(self) -> str:
        samples = "" if self.samples is None else f", samples={self.samples}"
        return f"transform={self.transform!r}, size={self.size}, mode={self.mode!r}{samples}"


def share_in_bounds(grid: torch.Tensor) -> torch.Tensor:
    """The share of points inside the image: normalized coordinates (B[, S], *out, n) -> (B[, S]); NaN is outside."""
    return (grid.abs() <= 1).all(-1).flatten(-grid.shape[-1]).double().mean(-1).to(grid.dtype)
