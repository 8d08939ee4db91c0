"""Numba bodies of PatchMatch: sixteen pixels of one colour of a row at a time, one a lane.

A lane follows its own plane into each source and reads there what it needs (`lane_gather`), so that no
sum goes across lanes. Weights of a patch depend on the reference alone: they are made once for all planes and
sources. The state has a margin that no pixel wins from, so that neighbours need no checks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.lane_gather import (
    bilinear,
    clamp,
    load_every_other,
    nearest,
    pack_quads,
    ramp,
    store_every_other,
)
from cuesta.ops.lane_math import exponential, number, where_positive
from cuesta.ops.lanes import WIDTH, load, root, spread, store, zeros
from cuesta.ops.numba_decorators import inlined
from cuesta.ops.numba_support import kernel, num_threads, view
from cuesta.ops.patch_match.rules import (
    ANYWHERE,
    DIRECTIONS,
    LEAST_CHANCE,
    NEARBY,
    NO_MATCH,
    NUM_NEAR,
    REACH,
    SAME,
    TRIALS,
)

_TASKS_PER_THREAD = 8


def patch_match_sweep(
    reference: Tensor,
    sources: Sequence[Tensor],
    matrices: Tensor,
    state: Tensor,
    noise: Tensor,
    inverse_depths: Sequence[Tensor],
    numbers: Sequence[float],
    window: Sequence[int],
    colour: int,
    is_wide: bool,
) -> Tensor:
    """Return the state [4, Y, X] after the pixels of one colour have chosen."""
    radius, step = window
    spatial, color, deviation, sharpness, drift_weight, most_drift, *search = numbers
    height, width = reference.shape
    padded = _padded(view(state), np.inf)
    shape = height, width, padded.shape[2], padded.shape[1] * padded.shape[2]
    taps, falloff = _taps(radius, step, spatial, color)
    views = _views(sources, matrices, inverse_depths)
    directions = len(DIRECTIONS) if is_wide else NUM_NEAR
    width_of = 2 * len(taps) + len(sources) * (directions + 2) + 27
    wrapped = np.concatenate([view(noise), view(noise)[:, :, : 2 * WIDTH]], 2)
    drift_weight = drift_weight if inverse_depths else 0
    settings = _floats((deviation**2, -0.5 / sharpness**2, drift_weight, most_drift))
    _sweep(
        _padded(view(reference)[None].astype(np.float32), None).ravel(), padded.ravel(),
        wrapped, colour, views, settings, taps, falloff,
        _floats(search), directions, _scratch(width_of), shape,
    )  # fmt: skip
    inner = padded[:, REACH : REACH + height, REACH : REACH + width]
    return torch.from_numpy(np.ascontiguousarray(inner))


def patch_match_costs(
    reference: Tensor,
    sources: Sequence[Tensor],
    matrices: Tensor,
    planes: Tensor,
    wanted: Tensor | None,
    numbers: Sequence[float],
    window: Sequence[int],
) -> Tensor:
    """Return the costs [V, Y, X] of planes in each source."""
    radius, step = window
    spatial, color, deviation = numbers
    height, width = reference.shape
    padded = _padded(view(planes), None)
    shape = height, width, padded.shape[2], padded.shape[1] * padded.shape[2]
    taps, falloff = _taps(radius, step, spatial, color)
    out = np.full(len(sources) * height * width + 2 * WIDTH, NO_MATCH, np.float32)
    asked = np.empty((0, 0, 0), np.bool_) if wanted is None else view(wanted)
    for colour in range(2):
        _costs(
            _padded(view(reference)[None].astype(np.float32), None).ravel(), padded.ravel(), out,
            asked, colour, _views(sources, matrices, ()), np.float32(deviation * deviation), taps, falloff,
            _scratch(2 * len(taps)), shape,
        )  # fmt: skip
    return torch.from_numpy(out[: len(sources) * height * width].reshape(-1, height, width))


def _padded(maps, costs):
    """Return maps [., Y, X] with a margin that repeats the border; the last one's is `costs`."""
    margin = (0, 0), (REACH, REACH), (REACH, REACH + 2 * WIDTH)
    padded = np.pad(maps, margin, mode="edge")
    if costs is not None:
        padded[-1] = np.pad(maps[-1], margin[1:], constant_values=costs)
    return padded


def _views(sources, matrices, inverse_depths):
    """Return what the kernels read of the sources: pixels, depths, matrices to and from them, sizes."""
    sizes = np.array([image.shape[::-1] for image in sources], np.int64).reshape(-1, 2)
    ends = np.cumsum(sizes.prod(1))
    quads = np.empty(ends[-1], np.uint32)
    for image, end in zip(sources, ends, strict=True):
        packed = quads[end - image.numel() : end].reshape(image.shape)
        pack_quads(view(image), packed)
    there = np.zeros((len(sizes), 4, 4))
    there[:, :3], there[:, 3, 3] = matrices.double().numpy(), 1
    back = np.linalg.inv(there)[:, :3].reshape(-1, 12).astype(np.float32)
    depths = [view(each).ravel() for each in inverse_depths] or [np.zeros(0, np.float32)]
    matrices = view(matrices).reshape(-1, 12).astype(np.float32)
    return quads, np.concatenate(depths), matrices, back, ends - sizes.prod(1), sizes


def _taps(radius, step, spatial, color):
    """Return the pixels of a patch, right and down of its centre, their weights by distance, and last
    the factor of squared differences of values.
    """
    reach = radius // step * step
    line = np.arange(-reach, reach + 1, step)
    taps = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    falloff = np.exp(-(taps**2).sum(1) / (2 * spatial**2))
    return taps, _floats([*falloff, -0.5 / color**2])


def _floats(numbers):
    return np.array(numbers, np.float32)


def _scratch(num_lanes):
    return np.empty((num_threads() * _TASKS_PER_THREAD, num_lanes * WIDTH), np.float32)


@inlined
def _patch(image, stride, here, taps, falloff, noise, weights, products):
    """Write the weights of a patch's pixels, and weights times values; return the centre's value, one
    over the sum of weights, mean and variance, values counted from the centre's.
    """
    centre = load_every_other(image, here)
    total, first, second = zeros(), zeros(), zeros()
    for k in range(taps.shape[0]):
        value = load_every_other(image, here + taps[k, 1] * stride + taps[k, 0]) - centre
        weight = spread(falloff[k]) * exponential(value * value * spread(falloff[taps.shape[0]]))
        product = weight * value
        store(weights, k * WIDTH, weight)
        store(products, k * WIDTH, product)
        total = total + weight
        first = first + product
        second = second + product * value
    share = number(1.0) / total
    mean = first * share
    return centre, share, mean, second * share - mean * mean + spread(noise)


@inlined
def _form(matrix, v, row, x, y, w):
    """Return row `row` of a view's 3 x 4 matrix times (x, y, 1, w)."""
    across = spread(matrix[v, 4 * row]) * x + spread(matrix[v, 4 * row + 1]) * y
    return across + spread(matrix[v, 4 * row + 2]) + spread(matrix[v, 4 * row + 3]) * w


@inlined
def _slope(matrix, v, row, axis, slope):
    return spread(matrix[v, 4 * row + axis]) + spread(matrix[v, 4 * row + 3]) * slope


@inlined
def _cost(views, v, pixel, plane, taps, weights, products, moments, noise):
    """Return 1 - the correlation of the patch with what view v shows of it, `NO_MATCH` where that view
    does not see its centre.
    """
    quads, _, matrices, _, starts, sizes = views
    x, y = pixel
    w, slope_x, slope_y = plane
    centre, share, mean, variance = moments
    width, height = np.float32(sizes[v, 0]), np.float32(sizes[v, 1])
    z = _form(matrices, v, 2, x, y, w)
    scale = number(1.0) / z
    u, t = _form(matrices, v, 0, x, y, w) * scale, _form(matrices, v, 1, x, y, w) * scale
    z_x, z_y = _slope(matrices, v, 2, 0, slope_x), _slope(matrices, v, 2, 1, slope_y)
    u_x = (_slope(matrices, v, 0, 0, slope_x) - u * z_x) * scale
    u_y = (_slope(matrices, v, 0, 1, slope_y) - u * z_y) * scale
    t_x = (_slope(matrices, v, 1, 0, slope_x) - t * z_x) * scale
    t_y = (_slope(matrices, v, 1, 1, slope_y) - t * z_y) * scale
    first, second, cross = zeros(), zeros(), zeros()
    left, top = u - number(0.5), t - number(0.5)
    for k in range(taps.shape[0]):
        right, down = spread(np.float32(taps[k, 0])), spread(np.float32(taps[k, 1]))
        column = clamp(left + u_x * right + u_y * down, np.float32(0), width - np.float32(1))
        row = clamp(top + t_x * right + t_y * down, np.float32(0), height - np.float32(1))
        value = bilinear(quads, starts[v], sizes[v, 0], column, row) - centre
        weighted = load(weights, k * WIDTH) * value
        first = first + weighted
        second = second + weighted * value
        cross = cross + load(products, k * WIDTH) * value
    first = first * share
    other = second * share - first * first
    other = where_positive(other, other, zeros()) + spread(noise)
    cost = number(1.0) - (cross * share - mean * first) / root(variance * other)
    none = number(NO_MATCH)
    cost = where_positive(z, cost, none)
    cost = where_positive(u, cost, none)
    cost = where_positive(t, cost, none)
    cost = where_positive(spread(width) - u, cost, none)
    return where_positive(spread(height) - t, cost, none)


@inlined
def _drift(views, v, pixel, w, most):
    """Return how many px off a pixel comes back by view v's own depth, `most` at most."""
    _, inverse_depths, matrices, back, starts, sizes = views
    x, y = pixel
    z = _form(matrices, v, 2, x, y, w)
    scale = number(1.0) / z
    u, t = _form(matrices, v, 0, x, y, w) * scale, _form(matrices, v, 1, x, y, w) * scale
    column = clamp(u, np.float32(0), np.float32(sizes[v, 0] - 1))
    row = clamp(t, np.float32(0), np.float32(sizes[v, 1] - 1))
    theirs = nearest(inverse_depths, starts[v], sizes[v, 0], column, row)
    again = _form(back, v, 2, u, t, theirs)
    scale = number(1.0) / again
    right = _form(back, v, 0, u, t, theirs) * scale - x
    down = _form(back, v, 1, u, t, theirs) * scale - y
    limit = spread(most)
    drift = root(right * right + down * down)
    drift = where_positive(limit - drift, drift, limit)
    for condition in (z, again, theirs):
        drift = where_positive(condition, drift, limit)
    return drift


@inlined
def _neighbours(state, area, stride, here, directions, numbers, planes):
    """Write the pixel's own plane, then of each direction that of the neighbour with the least cost."""
    w, slope_x, slope_y = _state(state, area, here)
    store(planes, 0, w)
    store(planes, WIDTH, slope_x)
    store(planes, 2 * WIDTH, slope_y)
    for d in range(directions):
        best = number(1e30)
        best_w, best_x, best_y = w, slope_x, slope_y
        for k in range(DIRECTIONS.shape[1]):
            right, down = DIRECTIONS[d, k, 0], DIRECTIONS[d, k, 1]
            there = here + down * stride + right
            cost = load_every_other(state, 3 * area + there)
            there_w, x, y = _state(state, area, there)
            away = x * spread(np.float32(right)) + y * spread(np.float32(down))
            gain = best - cost
            best_w = where_positive(gain, there_w - away, best_w)
            best_x, best_y = where_positive(gain, x, best_x), where_positive(gain, y, best_y)
            best = where_positive(gain, cost, best)
        store(planes, (3 * d + 3) * WIDTH, clamp(best_w, numbers[0], numbers[1]))
        store(planes, (3 * d + 4) * WIDTH, best_x)
        store(planes, (3 * d + 5) * WIDTH, best_y)


@inlined
def _trial(trial, w, slope_x, slope_y, numbers, noise, at_noise):
    """Return a plane near the one given, or anywhere, as the kind of the trial says."""
    low, high, steepest, near_depth, near_slope = numbers
    one = number(1.0)
    random = load_every_other(noise[3 * trial], at_noise)
    right = load_every_other(noise[3 * trial + 1], at_noise)
    down = load_every_other(noise[3 * trial + 2], at_noise)
    if TRIALS[trial, 0] == ANYWHERE:
        w = spread(low) + random * spread(high - low)
    elif TRIALS[trial, 0] == NEARBY:
        w = w * (one + spread(near_depth) * (random + random - one))
    w = clamp(w, low, high)
    reach, keep = steepest, number(0.0)
    if TRIALS[trial, 1] == NEARBY:
        reach, keep = steepest * near_slope, one
    if TRIALS[trial, 1] != SAME:
        slope_x = keep * slope_x + spread(reach) * w * (right + right - one)
        slope_y = keep * slope_y + spread(reach) * w * (down + down - one)
    return w, slope_x, slope_y


@inlined
def _chances(costs, num_planes, num_views, sharpness, chances):
    """Write how much each view counts for the pixels: by how well neighbours' planes match in it."""
    total = zeros()
    for v in range(num_views):
        chance = number(LEAST_CHANCE)
        for h in range(1, num_planes):
            cost = load(costs, (h * num_views + v) * WIDTH)
            chance = chance + exponential(cost * cost * spread(sharpness))
        store(chances, v * WIDTH, chance)
        total = total + chance
    part = number(1.0) / total
    for v in range(num_views):
        store(chances, v * WIDTH, load(chances, v * WIDTH) * part)


@kernel
def _sweep(
    image, state, noise, colour, views, window, taps, falloff, numbers, directions, scratch, shape
):
    height, width, stride, area = shape
    num_views, num_taps = views[2].shape[0], taps.shape[0]
    num_planes, num_trials, side = directions + 1, noise.shape[0] // 3, noise.shape[1]
    patch_noise, sharpness, drift_weight, most_drift = window
    for task in numba.prange(scratch.shape[0]):
        mine = scratch[task]
        weights, mine = mine[: num_taps * WIDTH], mine[num_taps * WIDTH :]
        products, mine = mine[: num_taps * WIDTH], mine[num_taps * WIDTH :]
        chances, mine = mine[: num_views * WIDTH], mine[num_views * WIDTH :]
        planes, costs = mine[: 27 * WIDTH], mine[27 * WIDTH :]
        for y in range(height * task // scratch.shape[0], height * (task + 1) // scratch.shape[0]):
            for x in range((y + colour) % 2, width, 2 * WIDTH):
                here = (y + REACH) * stride + REACH + x
                at_noise = (y % side) * noise.shape[2] + x % side
                moments = _patch(image, stride, here, taps, falloff, patch_noise, weights, products)
                pixel = _centres(x, y)
                _neighbours(state, area, stride, here, directions, numbers, planes)
                for h in range(num_planes):
                    plane = _plane(planes, h)
                    for v in range(num_views):
                        cost = _cost(
                            views, v, pixel, plane, taps, weights, products, moments, patch_noise
                        )
                        store(costs, (h * num_views + v) * WIDTH, cost)
                _chances(costs, num_planes, num_views, sharpness, chances)
                best = number(1e30)
                w, slope_x, slope_y = _plane(planes, 0)
                for h in range(num_planes + num_trials):
                    plane = _plane(planes, min(h, num_planes - 1))
                    if h >= num_planes:
                        plane = _trial(
                            h - num_planes, w, slope_x, slope_y, numbers, noise, at_noise
                        )
                    cost = zeros()
                    for v in range(num_views):
                        if h < num_planes:
                            each = load(costs, (h * num_views + v) * WIDTH)
                        else:
                            each = _cost(
                                views, v, pixel, plane, taps, weights, products, moments,
                                patch_noise,
                            )  # fmt: skip
                        if drift_weight > 0:
                            drift = _drift(views, v, pixel, plane[0], most_drift)
                            each = each + spread(drift_weight) * drift
                        cost = cost + load(chances, v * WIDTH) * each
                    gain = best - cost
                    w = where_positive(gain, plane[0], w)
                    slope_x = where_positive(gain, plane[1], slope_x)
                    slope_y = where_positive(gain, plane[2], slope_y)
                    best = where_positive(gain, cost, best)
                count = min(WIDTH, (width - x + 1) // 2)
                store_every_other(state, here, w, count)
                store_every_other(state, area + here, slope_x, count)
                store_every_other(state, 2 * area + here, slope_y, count)
                store_every_other(state, 3 * area + here, best, count)


@kernel
def _costs(image, planes, out, asked, colour, views, patch_noise, taps, falloff, scratch, shape):
    height, width, stride, area = shape
    num_taps = taps.shape[0]
    for task in numba.prange(scratch.shape[0]):
        mine = scratch[task]
        weights, products = mine[: num_taps * WIDTH], mine[num_taps * WIDTH :]
        for y in range(height * task // scratch.shape[0], height * (task + 1) // scratch.shape[0]):
            for x in range((y + colour) % 2, width, 2 * WIDTH):
                here = (y + REACH) * stride + REACH + x
                count = min(WIDTH, (width - x + 1) // 2)
                if not _any_wanted(asked, 0, views[2].shape[0], y, x, count):
                    continue
                moments = _patch(image, stride, here, taps, falloff, patch_noise, weights, products)
                pixel, plane = _centres(x, y), _state(planes, area, here)
                for v in range(views[2].shape[0]):
                    if not _any_wanted(asked, v, v + 1, y, x, count):
                        continue
                    cost = _cost(
                        views, v, pixel, plane, taps, weights, products, moments, patch_noise
                    )
                    at = (v * height + y) * width + x
                    store_every_other(out, at, cost, count)
                    for i in range(count if asked.shape[0] > 0 else 0):
                        if not asked[v, y, x + 2 * i]:
                            out[at + 2 * i] = NO_MATCH


@inlined
def _any_wanted(asked, first, last, y, x, count):
    """Return whether a view from `first` to before `last` is asked about one of the pixels x, x + 2, ... of row y."""
    if asked.shape[0] == 0:
        return True
    for v in range(first, last):
        for i in range(count):
            if asked[v, y, x + 2 * i]:
                return True
    return False


@inlined
def _centres(x, y):
    """Return the positions of the centres of pixels x, x + 2, ... of row y."""
    across = ramp(np.float32(x) + np.float32(0.5), np.float32(2))
    return across, spread(np.float32(y) + np.float32(0.5))


@inlined
def _plane(planes, place):
    start = 3 * place * WIDTH
    return load(planes, start), load(planes, start + WIDTH), load(planes, start + 2 * WIDTH)


@inlined
def _state(state, area, here):
    return (
        load_every_other(state, here),
        load_every_other(state, area + here),
        load_every_other(state, 2 * area + here),
    )
