"""The papers' distortions of digits, made in batches by the library's own kernels.

Every function takes images (B, C, h, w) and a `torch.Generator`, and returns the distorted images with what was done to
them. Angles are radians, lengths pixels; a digit that is turned by `angle`, enlarged by `scale` and moved by `shift` is
sampled through the inverse map.
"""

import math

import torch

from stn_kernels import Tessellation, affine_sample, cpab_sample, homography_sample, params, tps_sample


def uniform(low: float, high: float, shape, generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def similar(images, size, angle=0.0, scale=1.0, shift=None, shear=0.0) -> torch.Tensor:
    """Images (B, C, h, w) turned, enlarged and moved from the centre by shift (B, 2) pixels, on a canvas `size`.

    Sheared images have their y axis turned by `shear` more than their x axis.
    """
    angle, scale, shear = (torch.as_tensor(x, dtype=torch.float32).expand(len(images)) for x in (angle, scale, shear))
    shift = torch.zeros(len(images), 2) if shift is None else shift
    half_in, half_out = torch.tensor([*images.shape[:1:-1]]) / 2, torch.tensor([*size[::-1]]) / 2
    turn = params.rotation(-angle)[:, :, :2] / scale[:, None, None]  # output pixels to source pixels
    straight = torch.stack([torch.ones_like(shear), shear.tan(), torch.zeros_like(shear), 1 / shear.cos()], -1)
    turn = straight.unflatten(-1, (2, 2)) @ turn
    linear = turn * half_out / half_in[:, None]
    offset = -(turn @ shift[:, :, None]) / half_in[:, None]
    return affine_sample(images, torch.cat([linear, offset], -1), size)


def rotated(images, generator, degrees: float = 90.0):
    """(R): by an angle within +-degrees; returns images, angle (B,)."""
    limit = math.radians(degrees)
    angle = uniform(-limit, limit, len(images), generator)
    return similar(images, images.shape[-2:], angle), angle


def placed(images, generator, size: int = 60, clutter: int = 6, scale: float = 1.0):
    """(T), (TC): at a random whole pixel of a larger canvas, with squares of other images; returns images, shift."""
    spare = size - round(images.shape[-1] * scale)
    shift = torch.randint(0, spare + 1, (len(images), 2), generator=generator) - spare / 2
    canvas = similar(images, (size, size), scale=scale, shift=shift)
    return cluttered(canvas, images, clutter, generator), shift


def scaled(images, generator, low: float = 0.5, high: float = 4.0, size: int = 112, clutter: int = 6):
    """(S): enlarged by a log-uniform factor, in the middle of a cluttered canvas; returns images, scale (B,)."""
    scale = uniform(math.log(low), math.log(high), len(images), generator).exp()
    canvas = similar(images, (size, size), scale=scale)
    return cluttered(canvas, images, clutter, generator, (low, high)), scale


def cluttered(canvas, images, count: int, generator, scales=(1.0, 1.0), square: int = 6):
    """The canvas (B, 1, H, W) with `count` random squares of random images added at random places."""
    if not count:
        return canvas
    batch, side = len(canvas), canvas.shape[-1]
    source = images[torch.randint(0, len(images), (batch * count,), generator=generator)]
    corner = torch.randint(0, images.shape[-1] - square + 1, (2, len(source)), generator=generator)
    rows, columns = (start[:, None] + torch.arange(square) for start in corner)
    patches = source[torch.arange(len(source))[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)
    scale = uniform(math.log(scales[0]), math.log(scales[1]), len(source), generator).exp()
    shift = torch.randint(0, side - square + 1, (len(source), 2), generator=generator) - (side - square) / 2
    added = similar(patches, canvas.shape[-2:], scale=scale, shift=shift).unflatten(0, (batch, count)).sum(1)
    return (canvas + added).clamp(max=1)


def rts(images, generator, size: int = 42):
    """(RTS): turned by +-45 degrees, enlarged by 0.7 to 1.2, anywhere in 42 x 42; returns images, angle (B,)."""
    angle = uniform(-math.pi / 4, math.pi / 4, len(images), generator)
    scale = uniform(0.7, 1.2, len(images), generator)
    room = (size - images.shape[-1] * scale).clamp(min=0) / 2
    shift = room[:, None] * uniform(-1, 1, (len(images), 2), generator)
    return similar(images, (size, size), angle, scale, shift), angle


def corners_to_homography(corners: torch.Tensor) -> torch.Tensor:
    """The projective map (B, 3, 3) of the corners (-1,-1), (1,-1), (-1,1), (1,1) to corners (B, 4, 2)."""
    x, y = torch.tensor([[-1.0, 1, -1, 1], [-1, -1, 1, 1]], dtype=torch.float64)
    u, v = corners.double().unbind(-1)
    one, zero = torch.ones_like(u), torch.zeros_like(u)
    first = torch.stack([x * one, y * one, one, zero, zero, zero, -u * x, -u * y], -1)
    second = torch.stack([zero, zero, zero, x * one, y * one, one, -v * x, -v * y], -1)
    h = torch.linalg.solve(torch.cat([first, second], 1), torch.cat([u, v], 1))
    return torch.cat([h, torch.ones_like(h[:, :1])], 1).unflatten(1, (3, 3)).to(corners.dtype)


def projected(images, generator, deviation: float = 5.0):
    """(P): shrunk by 0.75 to 1, every corner moved by a normal number of pixels; returns images, corners (B, 4, 2)."""
    corners = torch.tensor([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    corners = corners * uniform(0.75, 1.0, (len(images), 1, 1), generator)
    corners = corners + deviation * 2 / images.shape[-1] * torch.randn(corners.shape, generator=generator)
    return homography_sample(images, params.inverse(corners_to_homography(corners)), images.shape[-2:]), corners


def elastic(images, generator, deviation: float = 1.5):
    """(E): shrunk by 0.75 to 1, 16 control points of a thin-plate spline moved; returns images, points (B, 16, 2)."""
    line = torch.linspace(-1, 1, 4)
    control = torch.cartesian_prod(line, line).flip(-1)
    points = control / uniform(0.75, 1.0, (len(images), 1, 1), generator)
    points = points + deviation * 2 / images.shape[-1] * torch.randn(points.shape, generator=generator)
    return tps_sample(images, points, images.shape[-2:], control_points=control), points


def diffeomorphic(images, generator, size: int = 42, tessellation: Tessellation | None = None, deviation: float = 0.5):
    """(CPAB): moved by a random CPAB transformation, anywhere in the canvas; returns images, parameters (B, d)."""
    tessellation = tessellation or Tessellation((2, 2))
    theta = deviation * torch.randn(len(images), tessellation.dim, generator=generator)
    room = (size - images.shape[-1]) / 2
    shift = room * uniform(-1, 1, (len(images), 2), generator)
    return similar(cpab_sample(images, theta, images.shape[-2:], tessellation), (size, size), shift=shift), theta
