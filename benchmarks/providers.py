"""Who is measured: a provider turns a case into a function of its tensors, or says why it does not take part."""

import contextlib
import functools
import importlib.util
import unittest.mock
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import stn_kernels
from stn_kernels._library import device_of
from stn_kernels.ops._tps_system import default_control_points
from stn_kernels.reference import tps
from stn_kernels.reference.cpab import lattice_points

from . import libcpab_compiled
from .cases import SECOND, Case

EAGER = "torch eager"


@dataclass(frozen=True)
class Provider:
    """make(case) gives f(**tensors) -> the public function's result, or None for a case it has no part in."""

    name: str
    make: Callable[[Case], Callable | None]
    differentiable: bool = True


def _grid_sample(input, grid, mode="bilinear"):
    """torch's grid_sample; a sample dimension is folded into rows, which copies no image (the best that eager has).

    A signal is an image of one row, and its points lie on that row.
    """
    dtype = input.dtype
    wide = input.to(grid.dtype)  # torch wants one dtype for both
    if grid.shape[-1] == 1:
        rows = torch.cat([grid, torch.zeros_like(grid)], -1).unsqueeze(1)
        return F.grid_sample(wide.unsqueeze(2), rows, mode, align_corners=False).squeeze(2).to(dtype)
    if grid.dim() == input.dim():
        return F.grid_sample(wide, grid, mode, align_corners=False).to(dtype)
    batch, samples, height, width, _ = grid.shape
    rows = F.grid_sample(wide, grid.reshape(batch, samples * height, width, 2), align_corners=False)
    return rows.reshape(batch, -1, samples, height, width).movedim(2, 1).to(dtype)


def _composed_grid_sample(input, grid):
    """Bilinear sampling composed of torch's operations, whose second backward is two to three times as fast as its own.

    The weights of the four pixels around every point, times what one gather each reads there; zeros outside.
    """
    height, width = input.shape[2:]
    x, y = ((grid[..., 0] + 1) * width - 1) / 2, ((grid[..., 1] + 1) * height - 1) / 2
    left, top = x.floor(), y.floor()
    right_weight, bottom_weight = x - left, y - top
    pixels, output = input.flatten(2), 0
    for row, row_weight in ((top, 1 - bottom_weight), (top + 1, bottom_weight)):
        for column, column_weight in ((left, 1 - right_weight), (left + 1, right_weight)):
            i, j = row.long(), column.long()
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            index = (i.clamp(0, height - 1) * width + j.clamp(0, width - 1)).flatten(1).unsqueeze(1)
            values = pixels.gather(2, index.expand(-1, input.shape[1], -1)).unflatten(2, grid.shape[1:3])
            output = output + values * (column_weight * row_weight * inside).unsqueeze(1)
    return output


def _affine_grid(theta, size):
    if len(size) == 1:  # which torch does not have
        lattice = (2 * torch.arange(*size, device=theta.device, dtype=theta.dtype) + 1) / size[0] - 1
        return theta[..., :1] * lattice[:, None] + theta[..., 1:]
    grid = F.affine_grid(theta.flatten(0, -3), (theta[..., 0, 0].numel(), 1, *size), align_corners=False)
    return grid.reshape(*theta.shape[:-2], *size, len(size))


def _homography_grid(matrix, size):
    grid = _affine_grid(torch.eye(2, 3, dtype=matrix.dtype, device=matrix.device).expand(1, 2, 3), size)
    homogeneous = torch.cat([grid, torch.ones_like(grid[..., :1])], -1).flatten(0, 2)
    projected = homogeneous @ matrix.mT
    return (projected[..., :2] / projected[..., 2:]).unflatten(-2, size)


def _tps_grid(points, size):
    """The usual composition: a matrix of radial functions (pixels, 16 or 64), once, times the weights."""
    n = len(size)
    control = default_control_points(n).to(points)
    lattice = _affine_grid(torch.eye(n, n + 1, dtype=points.dtype, device=points.device).unsqueeze(0), size)
    return (tps.basis(lattice.flatten(0, -2), control) @ (_tps_solver(n).to(points) @ points)).unflatten(-2, size)


@functools.cache
def _tps_solver(n=2):
    return tps.solver(default_control_points(n))


def _cpab_transform(points, theta, tessellation, steps=50):
    """libcpab's algorithm: an exponential a cell, then steps, each in the cell of the point."""
    n = tessellation.n
    basis = tessellation.basis.to(theta)
    generator = (theta @ basis.T).unflatten(-1, (tessellation.cells, n, n + 1))
    square = torch.cat([generator, torch.zeros_like(generator[..., :1, :])], -2)
    maps = torch.linalg.matrix_exp(square / steps)[..., :n, :].flatten(-2)
    x = points.expand(*theta.shape[:-1], -1, -1)
    for _ in range(steps):
        cell = tessellation.cell_index(x.detach()).unsqueeze(-1).expand(*x.shape[:-1], n * (n + 1))
        step = maps.gather(-2, cell).unflatten(-1, (n, n + 1))
        x = (step[..., :n] @ x.unsqueeze(-1)).squeeze(-1) + step[..., n]
    return x


def _cpab(case: Case, transform: Callable) -> Callable:
    """The operator of a CPAB case by a transformation of points (points, theta) -> (B, P, n)."""
    if case.op == "cpab_transform":
        return transform
    if case.op == "cpab_jacobian":
        return lambda points, theta: torch.func.vmap(torch.func.jacfwd(lambda t: transform(points, t)))(theta)
    points = lattice_points(case.size, False, torch.float32, "cpu")

    def sample(input, theta):
        grid = (2 * transform(points.to(theta), theta) - 1).unflatten(1, case.size)
        return _grid_sample(input, grid)

    return sample


def _to_peer(basis, case: Case) -> torch.Tensor:
    """(d, d'): our parameters to those of another basis of the same fields."""
    return torch.linalg.lstsq(torch.as_tensor(basis).double(), case.tessellation.basis).solution.float().T


def libcpab(case: Case) -> Callable | None:
    """libcpab from PyPI, 50 steps."""
    if case.op not in ("cpab_transform", "cpab_sample") or not importlib.util.find_spec("libcpab"):
        return None
    import libcpab

    peer = libcpab.Cpab(list(case.cells))
    to_peer = _to_peer(peer.params.basis, case)

    def transform(points, theta):
        return peer.transform_grid(points.T, theta @ to_peer.to(theta.device)).mT

    return _cpab(case, transform)


def compiled_libcpab(op: str) -> Callable[[Case], Callable | None]:
    """libcpab's extension, where $LIBCPAB_DIR has it, in the cases of one operator."""

    def make(case):
        if case.op != op or not libcpab_compiled.available():
            return None
        return _cpab(case, libcpab_compiled.transform(case))

    return make


def difw(case: Case) -> Callable | None:
    """difw from PyPI, 1-D: its closed form in torch, whose backward raises; what it compiles gives other values."""
    if case.op != "cpab_transform" or len(case.cells) != 1 or not importlib.util.find_spec("difw"):
        return None
    uncompiled = unittest.mock.patch("torch.utils.cpp_extension.load", side_effect=RuntimeError)
    with uncompiled, contextlib.redirect_stdout(None):
        import difw

        peer = difw.Cpab(*case.cells, backend="pytorch")
    peer.params.use_slow = True
    to_peer = _to_peer(peer.params.B, case)

    def transform(points, theta):
        return peer.transform_grid(points[:, 0], theta @ to_peer.to(theta.device), "closed_form").unsqueeze(-1)

    return transform


def _linearized(input, grid, offsets):
    """Linearized multi-sampling as it was published: K copies of the image and batched matrices."""
    batch, samples = offsets.shape[:2]
    grids = (grid.unsqueeze(1) + offsets).detach().flatten(0, 1)
    values = F.grid_sample(input.repeat_interleave(samples, 0), grids, align_corners=False)
    values = values.unflatten(0, (batch, samples)).permute(0, 3, 4, 1, 2)  # (B, Ho, Wo, K, C)
    rows = offsets[:, 1:].permute(0, 2, 3, 1, 4)
    inside = (rows.abs() <= 1).all(-1, keepdim=True)
    rows = torch.cat([rows, torch.ones_like(rows[..., :1])], -1) * inside
    planes = torch.linalg.inv(rows.mT @ rows) @ rows.mT @ (values[..., 1:, :] - values[..., :1, :])
    moved = torch.cat([grid - grid.detach(), torch.ones_like(grid[..., :1])], -1)
    return (values[..., :1, :] + moved.unsqueeze(-2) @ planes.detach()).squeeze(-2).permute(0, 3, 1, 2)


def eager(case: Case) -> Callable:
    if case.cells:
        return _cpab(case, functools.partial(_cpab_transform, tessellation=case.tessellation))
    grids = {"homography": _homography_grid, "tps": _tps_grid}
    if (transform := case.op.split("_")[0]) in grids:
        grid = functools.partial(grids[transform], size=case.size)
        if case.op.endswith("_grid"):
            return lambda **parameters: grid(*parameters.values())
        return lambda input, **parameters: _grid_sample(input, grid(*parameters.values()))
    if case.linearized:
        offsets_on = functools.cache(lambda device: case.mode(device).offsets)  # made before the measurement
        return lambda input, theta: _linearized(input, _affine_grid(theta, case.size), offsets_on(input.device))
    if case.op == "affine_sample":
        return lambda input, theta: _grid_sample(input, _affine_grid(theta, case.size), case.sampler)
    if case.op == "grid_sample":
        return functools.partial(_grid_sample, mode=case.sampler)
    return lambda theta: _affine_grid(theta, case.size)


def eager_expand(case: Case) -> Callable | None:
    """S copies of the image, as most code does it."""
    if case.samples is None or case.op not in ("affine_sample", "grid_sample"):
        return None

    def sample(input, coords):
        batch, samples = coords.shape[:2]
        copies = input.unsqueeze(1).expand(-1, samples, -1, -1, -1).flatten(0, 1)
        grid = _affine_grid(coords, case.size) if case.op == "affine_sample" else coords
        return _grid_sample(copies, grid.flatten(0, 1)).unflatten(0, (batch, samples))

    return lambda input, **coords: sample(input, *coords.values())


def composed(case: Case) -> Callable | None:
    return _composed_grid_sample if SECOND in case.passes else None


def compiled(case: Case) -> Callable | None:
    if SECOND in case.passes:  # its graphs refuse create_graph
        return None
    torch._dynamo.reset()
    return torch.compile(eager(case), fullgraph=True, dynamic=False)


def kornia(case: Case) -> Callable | None:
    """kornia.geometry; warp_affine takes the matrix from source to output pixels: ours is rescaled and inverted first.

    The conversion is part of the call, as it is for a user who has theta.
    """
    if (
        case.samples is not None
        or case.linearized
        or case.suite in ("samplers", "second", "volumes")
        or not importlib.util.find_spec("kornia")
    ):
        return None
    from kornia.geometry import transform

    if case.op == "grid_sample":
        height, width = case.shape[2:]

        def remap(input, grid):
            extent = torch.tensor([width, height], dtype=grid.dtype, device=grid.device)
            pixels = ((grid + 1) * extent - 1) / 2  # which remap normalizes as align_corners=True does
            return transform.remap(input.to(grid.dtype), pixels[..., 0], pixels[..., 1], align_corners=True).to(
                input.dtype
            )

        return remap
    if case.op == "tps_sample":

        def warp_tps(input, points):
            """Its warp; its own solver centres the functions elsewhere. Its radial function is half of ours."""
            control = default_control_points().to(points).expand(len(points), -1, -1)
            weights = _tps_solver().to(points) @ points
            return transform.warp_image_tps(input, control, 2 * weights[:, :-3], weights[:, -3:])

        return warp_tps
    if case.op not in ("affine_sample", "homography_sample"):
        return None
    (height, width), (out_height, out_width) = case.shape[2:], case.size

    def warp(input, theta):
        # Output pixels -> normalized (edges at -0.5 and W - 0.5) -> theta -> source pixels, then inverted.
        to_normalized = torch.tensor(
            [[2 / out_width, 0, 1 / out_width - 1], [0, 2 / out_height, 1 / out_height - 1], [0, 0, 1]],
            dtype=theta.dtype,
            device=theta.device,
        )
        to_pixels = torch.tensor(
            [[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]],
            dtype=theta.dtype,
            device=theta.device,
        )
        if case.op == "affine_sample":
            last = torch.tensor([[[0.0, 0.0, 1.0]]], dtype=theta.dtype, device=theta.device)
            theta = torch.cat([theta, last.expand(theta.shape[0], -1, -1)], 1)
        forward = torch.linalg.inv(to_pixels @ theta @ to_normalized)
        # kornia normalizes pixels as align_corners=True does, which maps pixel centres to pixel centres.
        options = {"mode": "bilinear", "align_corners": True}
        if case.op == "affine_sample":
            output = transform.warp_affine(input.to(theta.dtype), forward[:, :2], case.size, **options)
        else:
            output = transform.warp_perspective(input.to(theta.dtype), forward, case.size, **options)
        return output.to(input.dtype)

    return lambda input, **parameters: warp(input, *parameters.values())


def ours(backend: str) -> Provider:
    def make(case):
        options = {} if case.op in ("grid_sample", "cpab_transform", "cpab_jacobian") else {"size": case.size}
        options |= {"tessellation": case.tessellation} if case.cells else {}
        if case.op in ("affine_sample", "grid_sample"):
            options["mode"] = case.mode(device_of(backend))
        return functools.partial(getattr(stn_kernels, case.op), **options, backend=backend)

    return Provider(f"stn_kernels {backend}", make)


def providers(backends: list[str], compile_wanted: bool = True) -> list[Provider]:
    """torch eager (of CPAB: libcpab's algorithm) first, its variants and peers, then each of our backends."""
    found = [Provider(EAGER, eager), Provider("torch eager, S copies", eager_expand)]
    found.append(Provider("torch eager, composed", composed))
    if compile_wanted:
        found.append(Provider("torch.compile", compiled))
    found += [Provider("kornia", kornia), Provider("libcpab", libcpab), Provider("difw", difw, differentiable=False)]
    found += [
        Provider(libcpab_compiled.NAME, compiled_libcpab("cpab_transform"), differentiable=False),  # not to points
        Provider(libcpab_compiled.NAME, compiled_libcpab("cpab_sample")),
    ]
    return [*found, *map(ours, backends)]
