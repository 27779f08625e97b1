"""Linearized multi-sampling, by the rules of reference/linearized.py: samples of points and the planes through them.

Samples are gone through one by one, drawn again each time: none is kept. Lengths are in pixels of the input.
"""

import triton
import triton.language as tl

from .coords import (
    axes_of,
    batch_and_sample,
    channel_range,
    kernel,
    offset,
    pixel_steps,
    point_of,
    program_share,
    row_count,
    stored,
    tile_points,
    zeros,
)
from .philox import normal_block
from .samplers import places
from .transforms import source_pixels
from .warp import add_taps, pull_taps

ROUNDS = tl.constexpr(8)  # SINKHORN_ROUNDS


@triton.jit
def number_from(bits, COMPUTE: tl.constexpr):
    """A number whose bits, as COMPUTE, an integer holds: arguments of a kernel that are exact in every type."""
    return (
        bits.to(tl.int32).to(COMPUTE, bitcast=True)
        if tl.float32 == COMPUTE
        else bits.to(tl.int64).to(COMPUTE, bitcast=True)
    )


@triton.jit
def settings_of(
    seed_ptr, offsets_ptr, count, ridge_bits, spread_x, spread_y, spread_z, sizes, ALIGN: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """What all samples have in common: seed, given offsets, K, ridge; by axis spread (normalized) and pixels a unit."""
    bits = axes_of(spread_x, spread_y, spread_z, len(sizes))
    spreads = ()
    scales = ()
    for axis in tl.static_range(len(sizes)):
        spreads = spreads + (number_from(bits[axis], COMPUTE),)  # noqa: RUF005 -- no unpacking in Triton
        scales = scales + ((sizes[axis] - ALIGN).to(COMPUTE) * 0.5,)  # noqa: RUF005
    seed = tl.full([], 0, tl.int64) if seed_ptr is None else tl.load(seed_ptr)
    return seed, offsets_ptr, count, number_from(ridge_bits, COMPUTE), spreads, scales


@triton.jit
def no_numbers(like, N: tl.constexpr):
    """Room for the numbers of some samples in turn: as many as fill blocks of four."""
    return zeros(like.shape, tl.float32, 12 if N == 3 else 4)


@triton.jit
def next_offset(numbers, k, item, number, exists, points, settings, COMPUTE: tl.constexpr):
    """The numbers to go on with, the offset of sample k of points, and whether it counts (1 or 0); else it is 0.

    number: the points', of `points` of the item. k goes up from 1; beyond the last sample offsets mean nothing.
    """
    seed, offsets_ptr, count, _ridge, spreads, scales = settings
    N: tl.constexpr = len(scales)
    normalized = ()
    if offsets_ptr is None:
        TURNS: tl.constexpr = 2 if N == 2 else 4
        BLOCKS: tl.constexpr = TURNS * N // 4
        turn = (k - 1) % TURNS
        if turn == 0:
            drawn = ()
            for i in tl.static_range(BLOCKS):
                drawn = drawn + normal_block(seed, item, number, (k - 1) // TURNS * BLOCKS + i)
            numbers = drawn
        for axis in tl.static_range(N):
            value = numbers[axis]
            for i in tl.static_range(1, TURNS):
                value = tl.where(turn == i, numbers[i * N + axis], value)
            normalized = normalized + (value.to(COMPUTE) * spreads[axis],)  # noqa: RUF005
    else:
        at = offsets_ptr + ((item * count + tl.minimum(k, count - 1)) * points + number) * N
        for axis in tl.static_range(N):
            given = tl.load(at + axis, mask=exists, other=0.0)
            normalized = normalized + (given.to(COMPUTE),)  # noqa: RUF005
    near = tl.abs(normalized[0]) <= 1
    for axis in tl.static_range(1, N):
        near = near & (tl.abs(normalized[axis]) <= 1)
    pixels = ()
    for axis in tl.static_range(N):
        pixels = pixels + (tl.where(near, normalized[axis] * scales[axis], 0.0),)  # noqa: RUF005
    return numbers, pixels, near.to(COMPUTE)


@triton.jit
def inverse(x):
    """1 / x, 0 unless x > 0."""
    return tl.where(x > 0, 1.0 / x, 0.0)


@triton.jit
def matching_row(pixels, counts, settings):
    """A sample's row of the matching's kernel, up to a factor: its three factors along each axis."""
    spreads, scales = settings[4], settings[5]
    factors = ()
    for axis in tl.static_range(len(pixels)):
        units = pixels[axis] / tl.maximum(spreads[axis] * scales[axis], 1.0)
        ahead = tl.exp(2.0 * tl.minimum(tl.maximum(units, -4.0), 4.0))
        first = counts if axis == 0 else tl.full(counts.shape, 1, counts.dtype)
        beside = first * 0.36787944117144233
        factors = factors + ((first, beside * ahead, beside / ahead),)  # noqa: RUF005
    return factors


@triton.jit
def row_entry(factors, j: tl.constexpr):
    """What the row has of place j, of which 0 is the point."""
    value = factors[0][j % 3]
    if len(factors) > 1:
        value = value * factors[1][j // 3 % 3]
    if len(factors) > 2:
        value = value * factors[2][j // 9]
    return value


@triton.jit
def of_sample(factors, of_places):
    """The matching's factor of a sample, 0 if it does not count."""
    total = row_entry(factors, 0) * of_places[0]
    for j in tl.static_range(1, len(of_places)):
        total += row_entry(factors, j) * of_places[j]
    return inverse(total)


@triton.jit
def match(item, number, exists, points, settings, COMPUTE: tl.constexpr):
    """The matching of points: the factors of the places that samples see, and a factor of all weights."""
    N: tl.constexpr = len(settings[5])
    nothing = tl.zeros(exists.shape, COMPUTE)
    of_places = ()
    for _ in tl.static_range(3**N):
        of_places = of_places + (nothing + 1.0,)  # noqa: RUF005
    scale = nothing
    for turn in range(ROUNDS):
        mass = zeros(exists.shape, COMPUTE, 3**N)
        counted = nothing
        numbers = no_numbers(exists, N)
        for k in range(1, settings[2]):
            numbers, pixels, counts = next_offset(numbers, k, item, number, exists, points, settings, COMPUTE)
            factors = matching_row(pixels, counts, settings)
            factor = of_sample(factors, of_places)
            counted += counts
            sums = ()
            for j in tl.static_range(3**N):
                sums = sums + (mass[j] + row_entry(factors, j) * factor,)  # noqa: RUF005
            mass = sums
        scale = counted * inverse(mass[0])
        moved = ()
        for j in tl.static_range(3**N):
            moved = moved + (tl.where(turn < ROUNDS - 1, inverse(mass[j]), of_places[j]),)  # noqa: RUF005
        of_places = moved
    return of_places, scale


@triton.jit
def weight_of(pixels, counts, matching, settings, WEIGHTING: tl.constexpr):
    """The weight of a sample in the fit."""
    spreads, scales = settings[4], settings[5]
    if WEIGHTING == "uniform":
        weight = counts
    elif WEIGHTING == "distance":
        half = tl.full([], 2, counts.dtype)
        squared = tl.zeros(counts.shape, counts.dtype)
        for axis in tl.static_range(len(pixels)):
            half = tl.maximum(half, 2 * spreads[axis] * scales[axis])
            squared += pixels[axis] * pixels[axis]
        reach = half * tl.sqrt(half)
        weight = tl.maximum((1 + reach - tl.sqrt(squared)) / reach, 0.0) * counts
    else:
        of_places, scale = matching
        factors = matching_row(pixels, counts, settings)
        weight = of_sample(factors, of_places) * row_entry(factors, 0) * scale
    return weight


@triton.jit
def add_offset(sums, weight, pixels):
    """Sums over samples, one by one: of weights, and offsets' mean, moments about 0 and about the mean (West 1979)."""
    total, mean, moment, covariance = sums
    total += weight
    part = tl.where(weight > 0, weight / total, 0.0)
    means = ()
    moments = ()
    covariances = ()
    for a in tl.static_range(len(pixels)):
        before = pixels[a] - mean[a]
        means = means + (mean[a] + part * before,)  # noqa: RUF005
        moments = moments + (moment[a] + weight * pixels[a] * pixels[a],)  # noqa: RUF005
        for b in tl.static_range(a + 1):
            last = covariance[a * (a + 1) // 2 + b]
            covariances = covariances + (last + weight * before * (pixels[b] - means[b]),)  # noqa: RUF005
    return total, means, moments, covariances


@triton.jit
def plane_of(sums, ridge):
    """The least squares of points: means, L below its diagonal, inverse pivots, the inverse of the weights' sum, and 1.

    The last is 0 where the samples span no plane, and then all inverses are.
    """
    total, weighted, moment, covariance = sums
    COMPUTE: tl.constexpr = total.dtype
    least = 7.62939453125e-06 if tl.float32 == COMPUTE else 1.4210854715202004e-14  # 64 eps
    inverse_total = inverse(total + ridge)
    solvable = tl.where(total + ridge > 0, 1.0, 0.0).to(COMPUTE)
    mean = ()
    lower = ()
    pivots = ()
    inverses = ()
    for a in tl.static_range(len(weighted)):
        mean = mean + (weighted[a] * total * inverse_total,)  # noqa: RUF005
        for b in tl.static_range(a + 1):
            rest = covariance[a * (a + 1) // 2 + b] + ridge * (mean[a] * mean[b] + (1.0 if a == b else 0.0))
            rest += total * (weighted[a] - mean[a]) * (weighted[b] - mean[b])  # a ridge moves the mean
            for c in tl.static_range(b):
                rest -= lower[a * (a - 1) // 2 + c] * lower[b * (b - 1) // 2 + c] * pivots[c]
            if b < a:
                lower = lower + (rest * inverses[b],)  # noqa: RUF005
            else:
                above = rest > least * moment[a]
                solvable = tl.where(above, solvable, 0.0)
                pivot = tl.where(above, rest, 1.0)
                pivots = pivots + (pivot,)  # noqa: RUF005
                inverses = inverses + (1.0 / pivot,)  # noqa: RUF005
    masked = ()
    for a in tl.static_range(len(weighted)):
        masked = masked + (inverses[a] * solvable,)  # noqa: RUF005
    return mean, lower, masked, inverse_total * solvable, solvable


@triton.jit
def solve(plane, weighted, moments):
    """The slope (by axis) and the bias, from sums over samples with values I: w I, and by axis w (d - mean) I."""
    mean, lower, inverses, inverse_total, _solvable = plane
    N: tl.constexpr = len(moments)
    forward = ()
    for a in tl.static_range(N):
        value = moments[a]
        for c in tl.static_range(a):
            value -= lower[a * (a - 1) // 2 + c] * forward[c]
        forward = forward + (value,)  # noqa: RUF005
    bias = weighted * inverse_total
    back = ()  # the last axis first
    for i in tl.static_range(N):
        value = forward[N - 1 - i] * inverses[N - 1 - i]
        for c in tl.static_range(i):
            value -= lower[(N - 1 - c) * (N - 2 - c) // 2 + N - 1 - i] * back[c]
        back = back + (value,)  # noqa: RUF005
        bias -= value * mean[N - 1 - i]
    slope = ()
    for a in tl.static_range(N):
        slope = slope + (back[N - 1 - a],)  # noqa: RUF005
    return slope, bias


@triton.jit
def moments_of(plane, weight, pixels):
    """w (d - mean) of a sample, by axis."""
    moments = ()
    for a in tl.static_range(len(pixels)):
        moments = moments + (weight * (pixels[a] - plane[0][a]),)  # noqa: RUF005
    return moments


@triton.jit
def fit(item, number, exists, points, settings, WEIGHTING: tl.constexpr, COMPUTE: tl.constexpr):
    """The planes of points, and their matching if it is what weighs."""
    N: tl.constexpr = len(settings[5])
    nothing = tl.zeros(exists.shape, COMPUTE)
    matching = ((), nothing)
    if WEIGHTING == "entropic":
        matching = match(item, number, exists, points, settings, COMPUTE)
    sums = (
        nothing,
        zeros(exists.shape, COMPUTE, N),
        zeros(exists.shape, COMPUTE, N),
        zeros(exists.shape, COMPUTE, N * (N + 1) // 2),
    )
    numbers = no_numbers(exists, N)
    for k in range(1, settings[2]):
        numbers, pixels, counts = next_offset(numbers, k, item, number, exists, points, settings, COMPUTE)
        sums = add_offset(sums, weight_of(pixels, counts, matching, settings, WEIGHTING), pixels)
    return plane_of(sums, settings[3]), matching


@triton.jit
def next_sample(
    numbers, k, item, number, exists, points, source, planes, settings, WEIGHTING: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Sample k of points: where it is read, its weight and its `moments_of`."""
    plane, matching = planes
    numbers, pixels, counts = next_offset(numbers, k, item, number, exists, points, settings, COMPUTE)
    weight = weight_of(pixels, counts, matching, settings, WEIGHTING)
    at = ()
    for axis in tl.static_range(len(source)):
        at = at + (source[axis] + pixels[axis] * plane[4],)  # noqa: RUF005
    return numbers, at, weight, moments_of(plane, weight, pixels)


@triton.jit
def next_share(
    numbers, left, k, item, number, exists, points, source, planes, settings,
    WEIGHTING: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Sample k of points: where it is read, and its coefficient in the value. The centre is k = K, with what is `left`.

    k goes up from 1, and what is left down from 1.
    """
    numbers, moved, weight, moments = next_sample(
        numbers, k, item, number, exists, points, source, planes, settings, WEIGHTING, COMPUTE
    )
    _slope, bias = solve(planes[0], weight, moments)
    is_centre = k == settings[2]
    at = ()
    for axis in tl.static_range(len(source)):
        at = at + (tl.where(is_centre, source[axis], moved[axis]),)  # noqa: RUF005
    return numbers, left - bias, at, tl.where(is_centre, left, bias)


@triton.jit
def read_channels(
    image, input_c, left_channels, steps, at, exists, sizes, CHUNK: tl.constexpr, WHOLE: tl.constexpr,
    PADDING: tl.constexpr, ALIGN: tl.constexpr, COMPUTE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The bilinear values of some channels."""
    taps = places(at, sizes, "bilinear", PADDING, ALIGN)
    reads = zeros(exists.shape, COMPUTE, CHUNK)
    for outer in tl.static_range(2 ** (len(at) - 1)):
        reads = add_taps(
            reads, image, input_c, left_channels, WHOLE, steps, taps, exists, sizes, outer,
            2, "bilinear", PADDING, ALIGN, INDEX, 1,
        )  # fmt: skip
    return reads


@kernel
def linearized_forward(
    input_ptr,  # (B, C, *in)
    params_ptr,
    control_ptr,
    output_ptr,  # (B * S, C, *out)
    seed_ptr,  # one int64, or None:
    offsets_ptr,  # (B * S, K, *out, n), normalized
    slopes_ptr,  # (B * S, n C, *out), normalized; None: not needed
    input_b: tl.int64,  # strides
    input_c: tl.int64,
    input_z: tl.int64,
    input_y: tl.int64,
    input_x: tl.int64,
    output_n: tl.int64,
    output_c: tl.int64,
    output_z: tl.int64,
    output_y: tl.int64,
    output_x: tl.int64,
    slopes_n: tl.int64,
    slopes_c: tl.int64,
    slopes_z: tl.int64,
    slopes_y: tl.int64,
    slopes_x: tl.int64,
    samples: tl.int32,  # transformations an image
    channels: tl.int32,
    width: tl.int32,
    height: tl.int32,
    depth: tl.int32,
    out_width: tl.int32,
    out_height: tl.int32,
    out_depth: tl.int32,
    tile_rows: tl.int32,
    controls: tl.int32,
    count: tl.int32,  # K
    ridge: tl.int64,  # bits: see `number_from`
    spread_x: tl.int64,
    spread_y: tl.int64,
    spread_z: tl.int64,
    WEIGHTING: tl.constexpr,
    N: tl.constexpr,  # these as in warp_forward
    TRANSFORM: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    X_UNIT: tl.constexpr,
    WHOLE: tl.constexpr,
    CHUNK: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    sizes = axes_of(width, height, depth, N)
    out_sizes = axes_of(out_width, out_height, out_depth, N)
    settings = settings_of(
        seed_ptr, offsets_ptr, count, ridge, spread_x, spread_y, spread_z, sizes, ALIGN, COMPUTE
    )  # fmt: skip
    rows = row_count(out_sizes)
    tiles = tl.cdiv(out_width, TILE_W) * tl.cdiv(rows, tile_rows)
    n, chunk, tile = program_share(tiles, tl.cdiv(channels, CHUNK))
    b, _sample = batch_and_sample(n, samples)
    c = chunk * CHUNK + channel_range(1, False)
    left_channels = channels - c
    steps = pixel_steps(input_x, input_y, input_z, N, 1, X_UNIT, INDEX)
    out_steps = pixel_steps(output_x, output_y, output_z, N, 1, X_UNIT, INDEX)
    slopes_steps = axes_of(slopes_x, slopes_y, slopes_z, N)
    image = input_ptr + b * input_b + c * input_c
    output = output_ptr + n * output_n + c * output_c
    x, first_row = tile_points(tile, out_width, tile_rows, TILE_H, TILE_W, False)
    points = rows.to(tl.int64) * out_width
    for row in range(0, tile_rows, TILE_H):
        y = first_row + row
        exists = (x < out_width) & (y < rows)
        point = point_of(x, y, out_sizes)
        source = source_pixels(
            params_ptr, control_ptr, controls, n, point, exists, sizes, out_sizes, TRANSFORM, ALIGN, COMPUTE
        )
        number = y.to(tl.int64) * out_width + x
        planes = fit(n, number, exists, points, settings, WEIGHTING, COMPUTE)
        centre = read_channels(
            image, input_c, left_channels, steps, source, exists, sizes, CHUNK, WHOLE, PADDING, ALIGN, COMPUTE, INDEX
        )
        weighted = zeros(x.shape, COMPUTE, CHUNK)
        moments = zeros(x.shape, COMPUTE, CHUNK * N)
        numbers = no_numbers(x, N)
        for k in range(1, count):
            numbers, at, weight, moment = next_sample(
                numbers, k, n, number, exists, points, source, planes, settings, WEIGHTING, COMPUTE
            )
            reads = read_channels(
                image, input_c, left_channels, steps, at, exists, sizes, CHUNK, WHOLE, PADDING, ALIGN, COMPUTE, INDEX
            )
            sums = ()
            moved = ()
            for i in tl.static_range(CHUNK):
                difference = reads[i] - centre[i]
                sums = sums + (weighted[i] + weight * difference,)  # noqa: RUF005
                for axis in tl.static_range(N):
                    moved = moved + (moments[i * N + axis] + moment[axis] * difference,)  # noqa: RUF005
            weighted = sums
            moments = moved
        to = output + offset(point, out_steps, INDEX)
        for i in tl.static_range(CHUNK):
            in_range = exists & ((i < left_channels) | WHOLE)
            of_channel = ()
            for axis in tl.static_range(N):
                of_channel = of_channel + (moments[i * N + axis],)  # noqa: RUF005
            slope, bias = solve(planes[0], weighted[i], of_channel)
            tl.store(to + i * output_c, stored(centre[i] + bias, output_ptr.dtype.element_ty), mask=in_range)
            if slopes_ptr is not None:
                to_slopes = slopes_ptr + n * slopes_n + offset(point, slopes_steps, tl.int64)
                for axis in tl.static_range(N):
                    value = stored(slope[axis] * settings[5][axis], slopes_ptr.dtype.element_ty)
                    tl.store(to_slopes + (axis * channels + c + i) * slopes_c, value, mask=in_range)


@kernel
def linearized_grad_grid(
    grad_output_ptr,  # (B, S, C, *out)
    slopes_ptr,  # (B, S, n C, *out)
    grad_grid_ptr,  # (B * S, *out, n), of the type of the slopes
    grad_output_b: tl.int64,  # strides
    grad_output_s: tl.int64,
    grad_output_c: tl.int64,
    grad_output_z: tl.int64,
    grad_output_y: tl.int64,
    grad_output_x: tl.int64,
    slopes_b: tl.int64,
    slopes_s: tl.int64,
    slopes_c: tl.int64,
    slopes_z: tl.int64,
    slopes_y: tl.int64,
    slopes_x: tl.int64,
    samples: tl.int32,
    channels: tl.int32,
    out_width: tl.int32,
    out_height: tl.int32,
    out_depth: tl.int32,
    tile_rows: tl.int32,
    N: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """Products of the output's gradient and the slopes, summed over channels."""
    COMPUTE: tl.constexpr = slopes_ptr.dtype.element_ty
    out_sizes = axes_of(out_width, out_height, out_depth, N)
    rows = row_count(out_sizes)
    tiles = tl.cdiv(out_width, TILE_W) * tl.cdiv(rows, tile_rows)
    n, _chunk, tile = program_share(tiles, 1)
    b, sample = batch_and_sample(n, samples)
    grad_steps = axes_of(grad_output_x, grad_output_y, grad_output_z, N)
    slopes_steps = axes_of(slopes_x, slopes_y, slopes_z, N)
    x, first_row = tile_points(tile, out_width, tile_rows, TILE_H, TILE_W, False)
    points = rows.to(tl.int64) * out_width
    for row in range(0, tile_rows, TILE_H):
        y = first_row + row
        exists = (x < out_width) & (y < rows)
        point = point_of(x, y, out_sizes)
        grads = grad_output_ptr + b * grad_output_b + sample * grad_output_s + offset(point, grad_steps, tl.int64)
        slopes = slopes_ptr + b * slopes_b + sample * slopes_s + offset(point, slopes_steps, tl.int64)
        totals = zeros(x.shape, COMPUTE, N)
        for c in range(0, channels):
            grad = tl.load(grads + c * grad_output_c, mask=exists, other=0.0).to(COMPUTE)
            sums = ()
            for axis in tl.static_range(N):
                slope = tl.load(slopes + (axis * channels + c) * slopes_c, mask=exists, other=0.0)
                sums = sums + (totals[axis] + grad * slope,)  # noqa: RUF005
            totals = sums
        to = grad_grid_ptr + (n * points + y.to(tl.int64) * out_width + x) * N
        for axis in tl.static_range(N):
            tl.store(to + axis, totals[axis], mask=exists)


@kernel
def linearized_scatter(
    grad_output_ptr,  # (B, S, C, *out)
    params_ptr,
    control_ptr,
    seed_ptr,  # as in linearized_forward
    offsets_ptr,
    grad_input_ptr,  # (B, C, *in) accumulators of the gradient through all samples, zero before
    fixed_scale_ptr,  # (B,) for int64 accumulators, else None
    grad_output_b: tl.int64,  # strides
    grad_output_s: tl.int64,
    grad_output_c: tl.int64,
    grad_output_z: tl.int64,
    grad_output_y: tl.int64,
    grad_output_x: tl.int64,
    grad_input_b: tl.int64,
    grad_input_c: tl.int64,
    grad_input_z: tl.int64,
    grad_input_y: tl.int64,
    grad_input_x: tl.int64,
    samples: tl.int32,
    channels: tl.int32,
    width: tl.int32,
    height: tl.int32,
    depth: tl.int32,
    out_width: tl.int32,
    out_height: tl.int32,
    out_depth: tl.int32,
    tile_rows: tl.int32,
    controls: tl.int32,
    chunk_size: tl.int32,  # channels a program
    count: tl.int32,
    ridge: tl.int64,
    spread_x: tl.int64,
    spread_y: tl.int64,
    spread_z: tl.int64,
    WEIGHTING: tl.constexpr,
    N: tl.constexpr,  # these as in warp_backward
    TRANSFORM: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGN: tl.constexpr,
    COMPUTE: tl.constexpr,
    INDEX: tl.constexpr,
    X_UNIT: tl.constexpr,
    WHOLE: tl.constexpr,
    CHUNK: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    sizes = axes_of(width, height, depth, N)
    out_sizes = axes_of(out_width, out_height, out_depth, N)
    settings = settings_of(
        seed_ptr, offsets_ptr, count, ridge, spread_x, spread_y, spread_z, sizes, ALIGN, COMPUTE
    )  # fmt: skip
    rows = row_count(out_sizes)
    tiles = tl.cdiv(out_width, TILE_W) * tl.cdiv(rows, tile_rows)
    chunks = tl.cdiv(channels, chunk_size)
    n, chunk, tile = program_share(tiles, chunks)
    b, sample = batch_and_sample(n, samples)
    out_steps = pixel_steps(grad_output_x, grad_output_y, grad_output_z, N, 1, X_UNIT, INDEX)
    to_steps = pixel_steps(grad_input_x, grad_input_y, grad_input_z, N, 1, X_UNIT, INDEX)
    output = grad_output_ptr + b * grad_output_b + sample * grad_output_s
    target = grad_input_ptr + b * grad_input_b
    fixed_scale = 1.0
    if fixed_scale_ptr is not None:
        fixed_scale = tl.load(fixed_scale_ptr + b)
    x, first_row = tile_points(tile, out_width, tile_rows, TILE_H, TILE_W, False)
    points = rows.to(tl.int64) * out_width
    begin = chunk * (chunk_size // CHUNK * CHUNK)
    for row in range(0, tile_rows, TILE_H):
        y = first_row + row
        exists = (x < out_width) & (y < rows)
        point = point_of(x, y, out_sizes)
        source = source_pixels(
            params_ptr, control_ptr, controls, n, point, exists, sizes, out_sizes, TRANSFORM, ALIGN, COMPUTE
        )
        number = y.to(tl.int64) * out_width + x
        planes = fit(n, number, exists, points, settings, WEIGHTING, COMPUTE)
        at_point = offset(point, out_steps, INDEX)
        left = tl.full(x.shape, 1, COMPUTE)
        numbers = no_numbers(x, N)
        for k in range(1, count + 1):
            numbers, left, at, share = next_share(
                numbers, left, k, n, number, exists, points, source, planes, settings, WEIGHTING, COMPUTE
            )
            taps = places(at, sizes, "bilinear", PADDING, ALIGN)
            for first in range(begin, tl.minimum(begin + chunk_size, channels), CHUNK):
                c = first + channel_range(1, False)
                left_channels = channels - c
                shares = ()
                for i in tl.static_range(CHUNK):
                    mask = exists & ((i < left_channels) | WHOLE)
                    grad = tl.load(output + (c + i) * grad_output_c + at_point, mask=mask, other=0.0)
                    shares = shares + (grad.to(COMPUTE) * share,)  # noqa: RUF005
                to = target + c * grad_input_c
                for outer in range(2 ** (N - 1)):
                    pull_taps(
                        (), shares, to, grad_input_c, to, grad_input_c, left_channels, WHOLE,
                        to_steps, to_steps, taps, exists, sizes, fixed_scale, outer, False, True,
                        2, "bilinear", PADDING, ALIGN, INDEX, 1,
                    )  # fmt: skip


@kernel
def linearized_bounds(
    seed_ptr,  # as in linearized_forward
    offsets_ptr,
    bounds_ptr,  # (B * S, tiles): the largest coefficient of a sample in the value
    width: tl.int32,
    height: tl.int32,
    depth: tl.int32,
    out_width: tl.int32,
    out_height: tl.int32,
    out_depth: tl.int32,
    tile_rows: tl.int32,
    count: tl.int32,
    ridge: tl.int64,
    spread_x: tl.int64,
    spread_y: tl.int64,
    spread_z: tl.int64,
    WEIGHTING: tl.constexpr,
    N: tl.constexpr,
    ALIGN: tl.constexpr,
    COMPUTE: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
):
    sizes = axes_of(width, height, depth, N)
    settings = settings_of(
        seed_ptr, offsets_ptr, count, ridge, spread_x, spread_y, spread_z, sizes, ALIGN, COMPUTE
    )  # fmt: skip
    rows = row_count(axes_of(out_width, out_height, out_depth, N))
    tiles = tl.cdiv(out_width, TILE_W) * tl.cdiv(rows, tile_rows)
    n, _chunk, tile = program_share(tiles, 1)
    x, first_row = tile_points(tile, out_width, tile_rows, TILE_H, TILE_W, False)
    points = rows.to(tl.int64) * out_width
    largest = tl.zeros(x.shape, COMPUTE)
    for row in range(0, tile_rows, TILE_H):
        y = first_row + row
        exists = (x < out_width) & (y < rows)
        number = y.to(tl.int64) * out_width + x
        planes = fit(n, number, exists, points, settings, WEIGHTING, COMPUTE)
        left = tl.full(x.shape, 1, COMPUTE)
        numbers = no_numbers(x, N)
        source = zeros(x.shape, COMPUTE, N)
        for k in range(1, count + 1):
            numbers, left, _at, share = next_share(
                numbers, left, k, n, number, exists, points, source, planes, settings, WEIGHTING, COMPUTE
            )
            largest = tl.maximum(largest, tl.where(exists, tl.abs(share), 0.0))
    tl.store(bounds_ptr + n * tiles + tile, tl.max(tl.max(largest, 1), 0))
