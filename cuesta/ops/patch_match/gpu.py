"""Triton bodies of PatchMatch: a pixel a thread, and two launches for the pixels of one colour.

The first launch prices the pixel's own and its neighbours' planes, a program for each block of pixels
and source: sources run side by side, and how much a source counts for a pixel needs nothing of the
others. These costs lie in memory between the launches, since their number is known only at run time
and registers cannot be indexed; bands of pixels keep them small. The second launch weighs them and
prices random planes, one after another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.patch_match.gpu_costs import clamp, cost_of, drift_of, moments, plane_of, size_of
from cuesta.ops.patch_match.rules import (
    ANYWHERE,
    DIRECTIONS,
    LEAST_CHANCE,
    NEARBY,
    NO_MATCH,
    NUM_NEAR,
    SAME,
    TRIALS,
)

PIXELS = 128  # of a program
BAND_BYTES = 1 << 27  # of costs between two launches
_SAME, _NEARBY, _ANYWHERE = tl.constexpr(SAME), tl.constexpr(NEARBY), tl.constexpr(ANYWHERE)
_LEAST_CHANCE = tl.constexpr(LEAST_CHANCE)
_NUM_PIXELS = tl.constexpr(DIRECTIONS.shape[1])  # of a direction
_TRIALS = tl.constexpr(DIRECTIONS.size)  # where trials begin in the table of rules
_NO_MATCH = tl.constexpr(NO_MATCH)
_INFINITY = tl.constexpr(float("inf"))


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
    spatial, color, deviation, sharpness, drift_weight, most_drift, *search = numbers
    height, width = reference.shape
    num_views, num_planes = len(sources), 1 + (len(DIRECTIONS) if is_wide else NUM_NEAR)
    num_pixels = height * ((width + 1) // 2)
    band = max(BAND_BYTES // (4 * num_views * (num_planes + 1)) // PIXELS, 1) * PIXELS
    costs = state.new_empty(num_views, num_planes + 1, min(band, num_pixels))
    views = (*_views(sources, matrices), *_ways_back(matrices, inverse_depths))
    rules = torch.tensor([*DIRECTIONS.flat, *TRIALS.flat], device=state.device)
    patch = (*_falloff(spatial, color), deviation * deviation)
    given = (reference, state, rules, *views, costs)
    sizes = (num_pixels, costs.shape[2], height, width)
    out = state.clone()
    for first in range(0, num_pixels, band):
        num_blocks = triton.cdiv(min(band, num_pixels - first), PIXELS)
        _propose_kernel[num_blocks, num_views](
            *given, first, *sizes, num_planes, colour, *patch, -0.5 / sharpness**2, drift_weight,
            most_drift, *search[:2], *_reach(window), PIXELS,
        )  # fmt: skip
        _choose_kernel[num_blocks,](
            *given, noise, out, first, *sizes, num_planes, num_views, noise.shape[0] // 3,
            noise.shape[1], colour, *patch, drift_weight, most_drift, *search,
            *_reach(window), PIXELS,
        )  # fmt: skip
    return out


def patch_match_costs(
    reference: Tensor,
    sources: Sequence[Tensor],
    matrices: Tensor,
    planes: Tensor,
    wanted: Tensor | None,
    numbers: Sequence[float],
    window: Sequence[int],
) -> Tensor:
    spatial, color, deviation = numbers
    out = planes.new_empty(len(sources), *reference.shape)
    _costs_kernel[triton.cdiv(reference.numel(), PIXELS), len(sources)](
        reference, planes, wanted, *_views(sources, matrices), out, *reference.shape,
        *_falloff(spatial, color), deviation * deviation, *_reach(window), PIXELS,
    )  # fmt: skip
    return out


def _views(sources: Sequence[Tensor], matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sources' pixels, each with its neighbours in 32 bits, one image after another; where
    each begins, its height and width; and the matrices.
    """
    starts, table = 0, []
    for image in sources:
        table.append((starts, *image.shape))
        starts += image.numel()
    sizes = torch.tensor(table, device=matrices.device)  # [V, 3]
    flat = torch.cat([image.flatten() for image in sources])
    quads = torch.empty_like(flat, dtype=torch.int32)
    largest = max(image.numel() for image in sources)
    _pack_kernel[triton.cdiv(largest, PIXELS), len(sources)](flat, sizes, quads, PIXELS)
    return quads, sizes, matrices


def _ways_back(
    matrices: Tensor, inverse_depths: Sequence[Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the matrices from sources to the reference, and the sources' inverse depths."""
    if not inverse_depths:
        return None, None
    last = matrices.new_tensor([0, 0, 0, 1]).expand(len(matrices), 1, 4)
    back = torch.linalg.inv(torch.cat([matrices, last], 1).double())[:, :3]
    depths = torch.cat([each.flatten() for each in inverse_depths])
    return back.to(matrices.dtype).contiguous(), depths


def _falloff(spatial: float, color: float) -> tuple[float, float]:
    return -0.5 / spatial**2, -0.5 / color**2


def _reach(window: Sequence[int]) -> tuple[int, int]:
    radius, step = window
    return radius // step * step, step


@triton.jit
def _pack_kernel(flat, sizes, quads, PIXELS: tl.constexpr):
    start, height, width = size_of(sizes, tl.program_id(1))
    place = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)  # [Y * X]
    mask = place < height * width
    right = tl.where(place % width < width - 1, 1, 0)
    below = tl.where(place // width < height - 1, width, 0)
    flat += start
    packed = tl.load(flat + place, mask=mask, other=0).to(tl.int32)
    packed |= tl.load(flat + place + right, mask=mask, other=0).to(tl.int32) << 8
    packed |= tl.load(flat + place + below, mask=mask, other=0).to(tl.int32) << 16
    packed |= tl.load(flat + place + below + right, mask=mask, other=0).to(tl.int32) << 24
    tl.store(quads + start + place, packed, mask=mask)


@triton.jit(do_not_specialize=["height", "width"])
def _costs_kernel(
    image, planes, wanted, quads, sizes, matrices, out, height, width, by_distance, by_value, noise,
    REACH: tl.constexpr, STEP: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    v = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)  # [Y * X]
    mask, x, y = pixel < height * width, pixel % width, pixel // width
    at = v * height * width + pixel
    is_wanted = mask
    if wanted is not None:
        is_wanted = tl.load(wanted + at, mask=mask, other=0) != 0
    centre, share, mean, variance = moments(
        image, x, y, is_wanted, height, width, by_distance, by_value, REACH, STEP
    )
    w, slope_x, slope_y = plane_of(planes, pixel, height * width, is_wanted)
    cost = cost_of(
        image, quads, sizes, matrices, v, x, y, is_wanted, height, width, w, slope_x, slope_y,
        centre, share, mean, variance, by_distance, by_value, noise, REACH, STEP,
    )  # fmt: skip
    tl.store(out + at, tl.where(is_wanted, cost, _NO_MATCH), mask=mask)


@triton.jit(do_not_specialize=["first", "num_pixels", "band", "height", "width", "colour"])
def _propose_kernel(
    image, state, rules, quads, sizes, matrices, back, inverse_depths, costs,
    first, num_pixels, band, height, width, num_planes, colour, by_distance, by_value, noise,
    sharpness, drift_weight, most_drift, low, high,
    REACH: tl.constexpr, STEP: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Write what each plane costs in a source, and last how much that source counts."""
    v = tl.program_id(1).to(tl.int64)
    i, x, y, mask = _pixels(first, num_pixels, band, width, colour, PIXELS)
    centre, share, mean, variance = moments(
        image, x, y, mask, height, width, by_distance, by_value, REACH, STEP
    )
    at = costs + v * (num_planes + 1) * band + i
    chance = tl.full([PIXELS], _LEAST_CHANCE, tl.float32)
    for h in range(num_planes):
        w, slope_x, slope_y = _proposed(
            state, rules, h, x, y, mask, height, width, low, high, PIXELS
        )
        cost = cost_of(
            image, quads, sizes, matrices, v, x, y, mask, height, width, w, slope_x, slope_y,
            centre, share, mean, variance, by_distance, by_value, noise, REACH, STEP,
        )  # fmt: skip
        chance += tl.where(h > 0, tl.exp(cost * cost * sharpness), 0.0)
        if inverse_depths is not None:
            cost += drift_weight * drift_of(
                inverse_depths, sizes, matrices, back, v, x, y, mask, w, most_drift
            )
        tl.store(at + h * band, cost, mask=mask)
    tl.store(at + num_planes * band, chance, mask=mask)


@triton.jit(do_not_specialize=["first", "num_pixels", "band", "height", "width", "side", "colour"])
def _choose_kernel(
    image, state, rules, quads, sizes, matrices, back, inverse_depths, costs, random, out,
    first, num_pixels, band, height, width, num_planes, num_views, num_trials, side, colour,
    by_distance, by_value, noise, drift_weight, most_drift,
    low, high, steepest, near_depth, near_slope,
    REACH: tl.constexpr, STEP: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Write the cheapest of the planes proposed and of those changed at random."""
    i, x, y, mask = _pixels(first, num_pixels, band, width, colour, PIXELS)
    centre, share, mean, variance = moments(
        image, x, y, mask, height, width, by_distance, by_value, REACH, STEP
    )
    area, pixel, all_costs = height * width, y * width + x, (num_planes + 1) * band
    chances = costs + num_planes * band + i
    total = tl.zeros([PIXELS], tl.float32)
    for v in range(num_views):
        total += tl.load(chances + v * all_costs, mask=mask, other=1.0)
    part = 1.0 / total
    w, slope_x, slope_y = plane_of(state, pixel, area, mask)
    best = tl.full([PIXELS], _INFINITY, tl.float32)
    for h in range(num_planes + num_trials):
        if h < num_planes:
            new_w, new_x, new_y = _proposed(
                state, rules, h, x, y, mask, height, width, low, high, PIXELS
            )
        else:
            new_w, new_x, new_y = _changed(
                random, rules + _TRIALS, h - num_planes, side, x, y, mask, w, slope_x, slope_y,
                low, high, steepest, near_depth, near_slope,
            )  # fmt: skip
        cost = tl.zeros([PIXELS], tl.float32)
        for v in range(num_views):
            if h < num_planes:
                each = tl.load(costs + v * all_costs + h * band + i, mask=mask, other=0.0)
            else:
                each = cost_of(
                    image, quads, sizes, matrices, v, x, y, mask, height, width,
                    new_w, new_x, new_y, centre, share, mean, variance,
                    by_distance, by_value, noise, REACH, STEP,
                )  # fmt: skip
                if inverse_depths is not None:
                    each += drift_weight * drift_of(
                        inverse_depths, sizes, matrices, back, v, x, y, mask, new_w, most_drift
                    )
            cost += part * tl.load(chances + v * all_costs, mask=mask, other=1.0) * each
        is_better = cost < best
        w, best = tl.where(is_better, new_w, w), tl.where(is_better, cost, best)
        slope_x = tl.where(is_better, new_x, slope_x)
        slope_y = tl.where(is_better, new_y, slope_y)
    out += pixel
    tl.store(out, w, mask=mask)
    tl.store(out + area, slope_x, mask=mask)
    tl.store(out + 2 * area, slope_y, mask=mask)
    tl.store(out + 3 * area, best, mask=mask)


@triton.jit
def _pixels(first, num_pixels, band, width, colour, PIXELS: tl.constexpr):
    """Return which pixels of the band a program takes, of one colour: places, columns, rows, mask."""
    i = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    pixel, half = first + i, (width + 1) // 2
    y = pixel // half
    x = 2 * (pixel % half) + (y + colour) % 2
    return i, x, y, (i < band) & (pixel < num_pixels) & (x < width)


@triton.jit
def _proposed(state, rules, h, x, y, mask, height, width, low, high, PIXELS: tl.constexpr):
    """Return the pixel's own plane for h = 0, else that of direction h - 1 where it costs least."""
    area = height * width
    w, slope_x, slope_y = plane_of(state, y * width + x, area, mask)
    if h > 0:
        best = tl.full([PIXELS], _INFINITY, tl.float32)
        pixels = rules + (h - 1) * 2 * _NUM_PIXELS
        for k in range(_NUM_PIXELS):
            right, down = tl.load(pixels + 2 * k), tl.load(pixels + 2 * k + 1)
            column, row = x + right, y + down
            is_there = mask & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = row * width + column
            cost = tl.load(state + 3 * area + place, mask=is_there, other=_INFINITY)
            is_better = cost < best
            there_w, there_x, there_y = plane_of(state, place, area, is_better)
            there_w -= there_x * right + there_y * down
            w, best = tl.where(is_better, there_w, w), tl.where(is_better, cost, best)
            slope_x = tl.where(is_better, there_x, slope_x)
            slope_y = tl.where(is_better, there_y, slope_y)
        w = clamp(w, low, high)
    return w, slope_x, slope_y


@triton.jit
def _changed(
    random, rules, trial, side, x, y, mask, w, slope_x, slope_y,
    low, high, steepest, near_depth, near_slope,
):  # fmt: skip
    """Return a plane near the one given, or anywhere, as the kind of the trial says."""
    depth_from, slopes_from = tl.load(rules + 2 * trial), tl.load(rules + 2 * trial + 1)
    random += 3 * trial * side * side
    amount, right, down = plane_of(random, (y % side) * side + x % side, side * side, mask)
    near = w * (1 + near_depth * (2 * amount - 1))
    w = tl.where(depth_from == _NEARBY, near, w)
    w = tl.where(depth_from == _ANYWHERE, low + amount * (high - low), w)
    w = clamp(w, low, high)
    reach = steepest * tl.where(slopes_from == _NEARBY, near_slope, 1.0) * w
    kept = tl.where(slopes_from == _NEARBY, 1.0, 0.0)
    new_x = kept * slope_x + reach * (2 * right - 1)
    new_y = kept * slope_y + reach * (2 * down - 1)
    is_same = slopes_from == _SAME
    return w, tl.where(is_same, slope_x, new_x), tl.where(is_same, slope_y, new_y)
