"""The CPAB operators on Triton kernels."""

import torch
import triton

from ..reference.cpab import lattice_points
from ..reference.sampling import compute_dtype
from . import warp_ops
from .cpab_fields import Fields
from .cpab_fixed import cpab_fixed_backward, cpab_fixed_forward
from .cpab_points import cpab_backward, cpab_forward
from .launch import INTERPRETED, LONG, launch

BLOCK = 1024 if INTERPRETED else 32  # a warp a program
PROGRAMS = 1 if INTERPRETED else 4096  # of the backward, whose scratch memory goes with them
SLOTS = 16  # steps of a path kept
MOST_NUMBERS = 2**24  # in the scratch memory of fixed steps
FUSED_CHANNELS = 8  # one program's: with more the coordinates are written, once, as integrating costs more than reading


def cpab_transform(points, velocities, integers, reals, shape, steps):
    output = velocities.new_empty((*velocities.shape[:-2], *points.shape[-2:]))
    if output.numel() == 0:
        return output
    fields = Fields(velocities, integers, reals, shape, velocities.dtype)
    programs = fields.lead.numel() * triton.cdiv(points.shape[-2], BLOCK)
    arguments = _arguments(points, fields, steps) | {"output_ptr": output}
    launch(cpab_fixed_forward if steps else cpab_forward, programs, arguments, options=LONG)
    return output


def cpab_transform_backward(
    grad_output, points, velocities, integers, reals, shape, steps, need_points, need_velocities
):
    images, count, n = velocities.shape[:-2].numel(), points.shape[-2], points.shape[-1]
    if grad_output.numel() == 0:
        needs = (points, need_points), (velocities, need_velocities)
        return tuple(t.new_zeros(t.shape if need else 0) for t, need in needs)
    fields = Fields(velocities, integers, reals, shape, velocities.dtype)
    parts = min(triton.cdiv(count, BLOCK), max(1, _most_programs(n, steps) // images))
    grad_points = velocities.new_empty((images, count, n)) if need_points else None
    sums = velocities.new_zeros((images, parts, fields.cells if steps else fields.count, n, n + 1))
    arguments = _arguments(points, fields, steps) | {
        "grad_ptr": grad_output.contiguous(),
        "grad_points_ptr": grad_points,
        "sums_ptr": sums if need_velocities else None,
        "parts": parts,
    }
    if steps:
        arguments["visits_ptr"] = velocities.new_empty((images * parts, steps, n, BLOCK))
        launch(cpab_fixed_backward, images * parts, arguments, options=LONG)
    else:
        launch(cpab_backward, images * parts, arguments | _scratch(velocities, images * parts, n), options=LONG)
    if need_points:
        lead = (1, images) if points.dim() == 2 else (points.shape[0], images // points.shape[0])
        grad_points = grad_points.unflatten(0, lead).sum(1).reshape(points.shape).to(points.dtype)
    if need_velocities:
        total = sums.sum(1, dtype=torch.float64)
        gradient = fields.maps_gradient(total, steps) if steps else fields.records_gradient(total)
    return (
        grad_points if need_points else points.new_empty(0),
        gradient.to(velocities.dtype) if need_velocities else velocities.new_empty(0),
    )


def cpab_jacobian(points, velocities, integers, reals, shape, steps):
    """A gradient of every coordinate of every point, each in sums of its own."""
    *lead, vertices, n = velocities.shape
    images, count = velocities.shape[:-2].numel(), points.shape[-2]
    jacobian = velocities.new_zeros((*lead, count, n, vertices, n))
    if jacobian.numel() == 0:
        return jacobian
    rows = _fixed_rows if steps else _exact_rows
    for i, unit in enumerate(torch.eye(n, dtype=velocities.dtype, device=velocities.device)):
        grads = rows(unit, points, velocities, (integers, reals, shape, steps), images)
        jacobian.select(-3, i).copy_(grads.reshape(*lead, count, vertices, n))
    return jacobian


def _fixed_rows(unit, points, velocities, tables, images):
    """The gradient of every point for one cotangent: every point is an image."""
    shared = points.dim() == 2
    own = points.expand(images, -1, -1) if shared else points.repeat_interleave(images // points.shape[0], 0)
    starts = own.reshape(-1, 1, points.shape[-1])
    each = velocities.reshape(images, 1, *velocities.shape[-2:]).expand(-1, points.shape[-2], -1, -1).flatten(0, 1)
    return cpab_transform_backward(unit.expand_as(starts), starts, each, *tables, False, True)[1]


def _exact_rows(unit, points, velocities, tables, images):
    """The same from one launch, with sums of its own for every point."""
    count, n = points.shape[-2:]
    fields = Fields(velocities, *tables[:3], velocities.dtype)
    parts = min(triton.cdiv(count, BLOCK), max(1, PROGRAMS // images))
    sums = velocities.new_zeros((images * count, fields.count, n, n + 1))
    arguments = _arguments(points, fields, 0) | {
        "grad_ptr": unit.expand(images, count, n).contiguous(),
        "grad_points_ptr": None,
        "sums_ptr": sums,
        "parts": parts,
        **_scratch(velocities, images * parts, n),
        "PER_POINT": True,
    }
    launch(cpab_backward, images * parts, arguments, options=LONG)
    return fields.records_gradient(sums)


def cpab_sample(input, velocities, affine, integers, reals, shape, steps, size, mode, padding_mode, align_corners):
    lead = velocities.shape[:-2]
    options = size, mode, padding_mode, align_corners
    if steps == 0 and input.shape[1] <= FUSED_CHANNELS:
        fields = Fields(velocities, integers, reals, shape, compute_dtype(input, velocities), affine)
        control = fields.geometry, fields.count
        return warp_ops.forward("cpab", input, fields.field, lead, *options, control)
    grid = _grid(input, velocities, affine, integers, reals, shape, steps, size, align_corners)[1]
    return warp_ops.forward("grid", input, grid, lead, *options)


def cpab_sample_backward(
    grad_output,
    input,
    velocities,
    affine,
    integers,
    reals,
    shape,
    steps,
    size,
    mode,
    padding_mode,
    align_corners,
    need_input,
    need_velocities,
    need_affine,
    deterministic,
):
    """Through coordinates in memory, and their gradient there."""
    n, tables = len(shape), (integers, reals, shape, steps)
    moved, grid = _grid(input, velocities, affine, *tables, size, align_corners)
    need_grid = need_velocities or need_affine
    needs = mode, padding_mode, align_corners, need_input, need_grid, deterministic
    grad_output = warp_ops.like_input(grad_output, input)
    grad_input, grad_grid = warp_ops.backward("grid", grad_output, input, grid, *needs)
    grad_velocities = velocities.new_zeros(velocities.shape if need_velocities else 0)
    grad_affine = affine.new_zeros(affine.shape) if need_affine else velocities.new_empty(0)
    if grad_grid is None:
        return grad_input, grad_velocities, grad_affine
    grad = grad_grid.flatten(-n - 1, -2)  # (B[, S], P, n)
    if need_affine:
        wide = torch.cat([moved, torch.ones_like(moved[..., :1])], -1)
        grad_affine = (grad.unsqueeze(-1) * wide.unsqueeze(-2)).sum(-3).to(affine.dtype)
    if need_velocities:
        if affine is not None:
            grad = (grad.unsqueeze(-1) * affine[..., :-1].to(grad).unsqueeze(-3)).sum(-2)
        points = lattice_points(size, align_corners, torch.float64, input.device).to(grad.dtype)
        wide = velocities.to(grad.dtype)
        grad_velocities = cpab_transform_backward(2 * grad, points, wide, *tables, False, True)[1].to(velocities.dtype)
    return grad_input, grad_velocities, grad_affine


def _grid(input, velocities, affine, integers, reals, shape, steps, size, align_corners):
    """Normalized coordinates before the affine map (B[, S], P, n), and after it (B[, S], *size, n)."""
    dtype = compute_dtype(input, velocities)
    points = lattice_points(size, align_corners, torch.float64, input.device).to(dtype)
    moved = 2 * cpab_transform(points, velocities.to(dtype), integers, reals, shape, steps) - 1
    source = moved
    if affine is not None:
        matrix = affine.to(dtype).unsqueeze(-3)
        source = (matrix[..., :-1] * moved.unsqueeze(-2)).sum(-1) + matrix[..., -1]
    return moved, source.unflatten(-2, tuple(size))


def _arguments(points, fields, steps):
    lead = fields.lead
    own = points.dim() == 3
    arguments = {
        "points_ptr": points.to(fields.dtype).contiguous(),
        "geometry_ptr": fields.geometry,
        "points": points.shape[-2],
        "samples": (lead[1] if len(lead) == 2 else 1) if own else 0,
        "N": fields.n,
        "BLOCK": BLOCK,
    }
    if steps:
        return arguments | {"maps_ptr": fields.maps(steps), "cells": fields.cells, "steps": steps}
    return arguments | {"field_ptr": fields.field, "regions": fields.count}


def _scratch(velocities, programs, n):
    visited = torch.empty((programs, SLOTS, BLOCK), dtype=torch.int32, device=velocities.device)
    visits = velocities.new_empty((programs, SLOTS, n + 1, BLOCK))
    return {"visits_ptr": visits, "visited_ptr": visited, "SLOTS": SLOTS, "PER_POINT": False}


def _most_programs(n, steps):
    return min(PROGRAMS, max(1, MOST_NUMBERS // (steps * n * BLOCK))) if steps else PROGRAMS


IMPLEMENTATIONS = {
    "cpab_transform": cpab_transform,
    "_cpab_transform_backward": cpab_transform_backward,
    "cpab_jacobian": cpab_jacobian,
    "cpab_sample": cpab_sample,
    "_cpab_sample_backward": cpab_sample_backward,
}
