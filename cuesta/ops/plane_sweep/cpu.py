"""Numba bodies of plane_sweep: features of a pixel side by side, taken sixteen at a time.

Features are first copied so that a pixel's lie together, channel j of group g at j * G + g for G
groups padded to a power of two, with a border of zeros: a tap is one run of memory, a mean over a
group's channels adds registers, and no tap needs a test. Grey images are compared row by row of a
plane, in sums of float64; windows at hypotheses of each pixel are walked. Positions are float64.

Gradients of sources are summed in bands of the reference's rows, which the shapes alone choose,
each in memory of its own, then over the bands in their order: bits do not depend on threads.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.extending import intrinsic
from torch import Tensor

from cuesta.ops.lanes import WIDTH, lanes, load_upto, spread, store_upto, zeros
from cuesta.ops.numba_decorators import inlined, inner
from cuesta.ops.numba_support import kernel, narrow, num_threads, view, widen
from cuesta.ops.plane_sweep.windows import (
    compare_backward,
    compare_pixels,
    compare_planes,
    position,
    window_moments,
)

TASKS_PER_THREAD = 4
BAND = 64  # rows of a plane that a task compares
PARTS = 16  # tasks of a backward, at least


def plane_sweep(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor, groups: int
) -> Tensor:
    width = _padded_groups(groups)
    batch, _channels, height, columns = reference.shape
    out = reference.new_empty(batch, sources.shape[1], groups, depths.shape[1], height, columns)
    num_tasks = num_threads() * TASKS_PER_THREAD
    _correlate(
        _by_pixel(reference, groups), _by_pixel(sources.flatten(0, 1), groups),
        _numbers(source_from_reference.flatten(0, 1)), view(depths), view(out),
        tuple(sources.shape[3:]), width, reference.shape[1] // groups,
        *_row_scratch(num_tasks, columns, width),
    )  # fmt: skip
    return out


def plane_sweep_backward(
    grad: Tensor, reference: Tensor, sources: Tensor, source_from_reference: Tensor,
    depths: Tensor, groups: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    width = _padded_groups(groups)
    (batch, channels, _height, columns), num_views = reference.shape, sources.shape[1]
    left, right = _by_pixel(reference, groups), _by_pixel(sources.flatten(0, 1), groups)
    bands = -(-PARTS // max(batch * num_views, 1))
    left_parts = np.zeros((batch, num_views, left.shape[1]), np.float32)
    right_parts = np.zeros((batch * num_views, bands, right.shape[1]), np.float32)
    num_threads()
    _correlate_backward(
        view(grad), left, right, _numbers(source_from_reference.flatten(0, 1)), view(depths),
        left_parts, right_parts, tuple(sources.shape[3:]), width, channels // groups,
        *_row_scratch(batch * num_views * bands, columns, width),
    )  # fmt: skip
    reference_grad, sources_grad = torch.empty_like(reference), torch.empty_like(sources)
    _add_parts(left_parts, view(reference_grad), width, groups)
    _add_parts(right_parts, view(sources_grad.flatten(0, 1)), width, groups)
    return reference_grad, sources_grad


def plane_sweep_zncc(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor,
    radius: int, epsilon: float,
) -> Tensor:  # fmt: skip
    height, width = reference.shape
    out = reference.new_empty(sources.shape[0], depths.shape[0], height, width)
    poses, num_tasks = _numbers(source_from_reference), num_threads() * TASKS_PER_THREAD
    given = view(reference), view(sources), poses, view(depths), view(out), radius, epsilon
    if depths.shape[1:] == reference.shape:
        compare_pixels(*given)
        return out
    means, variances = np.empty((2, height, width), np.float64)
    window_moments(view(reference), means, variances, radius)
    rows = np.empty((num_tasks, 2 * radius + 1, width), np.float32)
    sums = np.empty((num_tasks, 6, width), np.float64)
    compare_planes(*given, means, variances, BAND, rows, sums)
    return out


def plane_sweep_zncc_backward(
    grad: Tensor, reference: Tensor, sources: Tensor, source_from_reference: Tensor,
    depths: Tensor, radius: int, epsilon: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    num_views, num_planes = sources.shape[0], depths.shape[0]
    parts = min(-(-PARTS // max(num_views, 1)), max(num_planes, 1))
    left = np.zeros((num_views, parts, *reference.shape), np.float32)
    right = np.zeros((num_views, parts, *sources.shape[1:]), np.float32)
    num_threads()
    compare_backward(
        view(grad), view(reference), view(sources), _numbers(source_from_reference), view(depths),
        left, right, radius, epsilon,
    )  # fmt: skip
    return (
        torch.from_numpy(left.sum((0, 1))).to(reference.dtype),
        torch.from_numpy(right.sum(1)).to(sources.dtype),
    )


def _numbers(poses: Tensor) -> np.ndarray:
    return poses.double().numpy()


def _padded_groups(groups: int) -> int:
    """Return how many lanes the groups take: a power of two up to 16, then a multiple of it."""
    return -(-groups // WIDTH) * WIDTH if groups > WIDTH else 1 << (groups - 1).bit_length()


def _row_scratch(num_tasks: int, columns: int, width: int) -> tuple[np.ndarray, ...]:
    """Return a row's places, weights across and down, and numbers of groups, for every task."""
    return (
        np.empty((num_tasks, columns), np.int64),
        np.empty((num_tasks, 2, columns), np.float32),
        np.empty((num_tasks, columns * width + WIDTH), np.float32),
    )


def _by_pixel(images: Tensor, groups: int) -> np.ndarray:
    """Return images [B, C, Y, X] as [B, (Y + 2) (X + 2) D], D the channels of the padded groups."""
    batch, channels, height, width = images.shape
    padded = channels // groups * _padded_groups(groups)
    out = images.new_zeros(batch, (height + 2) * (width + 2) * padded)
    num_threads()
    _turn_channels(view(images), view(out), _padded_groups(groups), groups)
    return view(out)


@kernel
def _turn_channels(images, out, width, groups):
    batch, channels, height, columns = images.shape
    size = channels // groups
    for item in numba.prange(batch * height):
        b, y = item // height, item % height
        for first in range(0, columns, WIDTH):
            for g in range(groups):
                for j in range(size):
                    at = ((y + 1) * (columns + 2) + 1) * size * width + j * width + g
                    for x in range(first, min(first + WIDTH, columns)):
                        out[b, at + x * size * width] = images[b, g * size + j, y, x]


@kernel
def _add_parts(parts, out, width, groups):
    """Add gradients by pixel [B, parts, ...] over the parts, and write them as [B, C, Y, X]."""
    batch, channels, height, columns = out.shape
    size = channels // groups
    for item in numba.prange(batch * height):
        b, y = item // height, item % height
        for first in range(0, columns, WIDTH):
            for g in range(groups):
                for j in range(size):
                    at = ((y + 1) * (columns + 2) + 1) * size * width + j * width + g
                    for x in range(first, min(first + WIDTH, columns)):
                        total = np.float32(0)
                        for part in range(parts.shape[1]):
                            total += parts[b, part, at + x * size * width]
                        out[b, g * size + j, y, x] = narrow(total, out)


@kernel
def _correlate(
    reference, sources, poses, depths, out, extent, width, size, places, weights, sums
):  # fmt: skip
    batch, num_views, groups, num_planes, height, columns = out.shape
    num_tasks, num_items, num_channels = places.shape[0], batch * num_views * height, width * size
    row_step, scale = (extent[1] + 2) * num_channels, np.float32(1 / size)
    for task in numba.prange(num_tasks):
        place, across, down, total = places[task], weights[task, 0], weights[task, 1], sums[task]
        for item in range(num_items * task // num_tasks, num_items * (task + 1) // num_tasks):
            pair, y = item // height, item % height
            b, v = pair // num_views, pair % num_views
            left, right = reference[b], sources[pair]
            at = ((y + 1) * (columns + 2) + 1) * num_channels
            for k in range(num_planes):
                _place_row(poses[pair], depths[b, k], y, extent, place, across, down)
                for x in range(columns):
                    _correlate_pixel(
                        left, at + x * num_channels, right, place[x], row_step, num_channels,
                        across[x], down[x], width, total, x * width,
                    )  # fmt: skip
                for g in range(groups):
                    row = out[b, v, g, k, y]
                    for x in range(columns):
                        row[x] = narrow(total[x * width + g] * scale, out)


@inlined
def _correlate_pixel(
    reference, at, source, place, row_step, num_channels, across, down, width, out, first_out
):  # fmt: skip
    """Write the sums over channels of a pixel's products for each group."""
    step = max(width, WIDTH)
    for first in range(0, width, WIDTH):
        total = zeros()
        if place >= 0:
            here = place * num_channels
            tops = spread((np.float32(1) - across) * (np.float32(1) - down))
            top_next = spread(across * (np.float32(1) - down))
            bottoms = spread((np.float32(1) - across) * down)
            bottom_next = spread(across * down)
            for c in range(first, num_channels, step):
                count = num_channels - c
                warped = _warped(
                    source, here + c, num_channels, row_step, count,
                    tops, top_next, bottoms, bottom_next,
                )  # fmt: skip
                total = total + warped * load_upto(reference, at + c, count)
        store_upto(out, first_out + first, _folded(total, width), WIDTH)


@inlined
def _warped(source, place, next_step, row_step, count, tops, top_next, bottoms, bottom_next):
    """Return the bilinear sample of up to sixteen channels."""
    return (
        tops * load_upto(source, place, count)
        + top_next * load_upto(source, place + next_step, count)
        + bottoms * load_upto(source, place + row_step, count)
        + bottom_next * load_upto(source, place + row_step + next_step, count)
    )


@kernel
def _correlate_backward(
    grad, reference, sources, poses, depths, reference_grad, sources_grad, extent, width, size,
    places, weights, slopes,
):  # fmt: skip
    batch, num_views, groups, num_planes, height, columns = grad.shape
    bands, num_channels = sources_grad.shape[1], width * size
    row_step, scale = (extent[1] + 2) * num_channels, np.float32(1 / size)
    for item in numba.prange(batch * num_views * bands):
        pair, band = item // bands, item % bands
        b, v = pair // num_views, pair % num_views
        place, across, down, slope = places[item], weights[item, 0], weights[item, 1], slopes[item]
        left, right = reference[b], sources[pair]
        left_grad, right_grad = reference_grad[b, v], sources_grad[pair, band]
        for y in range(height * band // bands, height * (band + 1) // bands):
            at = ((y + 1) * (columns + 2) + 1) * num_channels
            for k in range(num_planes):
                _place_row(poses[pair], depths[b, k], y, extent, place, across, down)
                for g in range(groups):
                    row = grad[b, v, g, k, y]
                    for x in range(columns):
                        slope[x * width + g] = widen(row[x]) * scale
                for x in range(columns):
                    if place[x] >= 0:
                        _correlate_pixel_backward(
                            left, left_grad, at + x * num_channels, right, right_grad,
                            place[x] * num_channels, row_step, num_channels,
                            across[x], down[x], slope, x * width, width, groups,
                        )  # fmt: skip


@inlined
def _correlate_pixel_backward(
    left, left_grad, at, right, right_grad, place, row_step, num_channels,
    across, down, slope, first_slope, width, groups,
):  # fmt: skip
    """Add a pixel's gradients to those of its features and of its sample's four taps."""
    tops = spread((np.float32(1) - across) * (np.float32(1) - down))
    top_next = spread(across * (np.float32(1) - down))
    bottoms = spread((np.float32(1) - across) * down)
    bottom_next = spread(across * down)
    for first in range(0, width, WIDTH):
        moved = _folded(load_upto(slope, first_slope + first, groups - first), width)
        for c in range(first, num_channels, max(width, WIDTH)):
            count = num_channels - c
            warped = _warped(
                right, place + c, num_channels, row_step, count,
                tops, top_next, bottoms, bottom_next,
            )  # fmt: skip
            _add(left_grad, at + c, moved * warped, count)
            product = moved * load_upto(left, at + c, count)
            _add(right_grad, place + c, tops * product, count)
            _add(right_grad, place + c + num_channels, top_next * product, count)
            _add(right_grad, place + c + row_step, bottoms * product, count)
            _add(right_grad, place + c + row_step + num_channels, bottom_next * product, count)


@inlined
def _add(array, at, value, count):
    store_upto(array, at, load_upto(array, at, count) + value, count)


def _turned(by: int):
    @intrinsic
    def turned(typing_context, value):
        def generate(context, builder, signature, arguments):
            order = [(lane + by) % WIDTH for lane in range(WIDTH)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), order)
            return builder.shuffle_vector(arguments[0], arguments[0], mask)

        return lanes(lanes), generate

    return turned


_turned_8, _turned_4, _turned_2, _turned_1 = _turned(8), _turned(4), _turned(2), _turned(1)


@inlined
def _folded(value, width):
    """Return sums of the lanes that are equal modulo `width`, in each of those lanes."""
    if width <= 8:
        value = value + _turned_8(value)
    if width <= 4:
        value = value + _turned_4(value)
    if width <= 2:
        value = value + _turned_2(value)
    if width <= 1:
        value = value + _turned_1(value)
    return value


@inner
def _place_row(pose, depths, y, extent, places, across, down):
    """Write for a row of pixels the place of the first tap in the bordered source, -1 outside, and
    how far the position lies from it.
    """
    height, width = extent
    v = y + 0.5
    is_plane, num_rows = depths.shape[1] == 1, depths.shape[0]
    for x in range(places.size):
        z = np.float64(depths[min(y, num_rows - 1), 0 if is_plane else x])
        right, below = position(pose, x + 0.5, v, z)
        right, below = right + 0.5, below + 0.5  # as places in the bordered source
        places[x] = -1
        if 0 <= right <= width + 1 and 0 <= below <= height + 1:
            column, row = min(int(right), width), min(int(below), height)
            places[x] = row * (width + 2) + column
            across[x], down[x] = np.float32(right - column), np.float32(below - row)
