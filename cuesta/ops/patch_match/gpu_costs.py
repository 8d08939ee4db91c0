"""What a plane costs in a source, for the Triton bodies of PatchMatch: correlation and drift of pixels.

Weights of a patch are computed anew for each plane: an exponential costs less than keeping them.
Sources are read in packed form, four neighbours of 8 bits at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cuesta.ops.patch_match.rules import NO_MATCH

_NO_MATCH = tl.constexpr(NO_MATCH)


@triton.jit
def plane_of(planes, pixel, area, mask):
    w = tl.load(planes + pixel, mask=mask, other=0.0)
    slope_x = tl.load(planes + area + pixel, mask=mask, other=0.0)
    return w, slope_x, tl.load(planes + 2 * area + pixel, mask=mask, other=0.0)


@triton.jit
def size_of(sizes, v):
    """Return where an image begins, its height and its width."""
    return tl.load(sizes + 3 * v), tl.load(sizes + 3 * v + 1), tl.load(sizes + 3 * v + 2)


@triton.jit
def _row(matrix, x, y, w):
    """Return a row of a matrix times (x, y, 1, w)."""
    across = tl.load(matrix) * x + tl.load(matrix + 1) * y
    return across + tl.load(matrix + 2) + tl.load(matrix + 3) * w


@triton.jit
def _slope(matrix, axis: tl.constexpr, slope):
    """Return how a row times (x, y, 1, w) grows along x (axis 0) or y."""
    return tl.load(matrix + axis) + tl.load(matrix + 3) * slope


@triton.jit
def clamp(value, low, high):
    """Return `value` within [low, high], `low` for NaN."""
    return tl.minimum(tl.where(value > low, value, low), high)


@triton.jit
def _tap(image, x, y, right, down, mask, height, width, centre, by_distance, by_value):
    """Return a pixel of each patch, counted from the centre's value, and its weight."""
    column = tl.minimum(tl.maximum(x + right, 0), width - 1)
    row = tl.minimum(tl.maximum(y + down, 0), height - 1)
    value = tl.load(image + row * width + column, mask=mask, other=0).to(tl.float32) - centre
    distance = (right * right + down * down) * by_distance
    return value, tl.exp(value * value * by_value + distance)


@triton.jit
def moments(
    image, x, y, mask, height, width, by_distance, by_value, REACH: tl.constexpr, STEP: tl.constexpr
):
    """Return the centre's value, one over the sum of a patch's weights, mean and variance of its
    values counted from the centre's.
    """
    centre = tl.load(image + y * width + x, mask=mask, other=0).to(tl.float32)
    total, first, second = centre * 0, centre * 0, centre * 0
    for down in range(-REACH, REACH + 1, STEP):
        for right in range(-REACH, REACH + 1, STEP):
            value, weight = _tap(
                image, x, y, right, down, mask, height, width, centre, by_distance, by_value
            )
            total += weight
            first += weight * value
            second += weight * value * value
    share = 1.0 / total
    mean = first * share
    return centre, share, mean, second * share - mean * mean


@triton.jit
def cost_of(
    image, quads, sizes, matrices, v, x, y, mask, height, width, w, slope_x, slope_y,
    centre, share, mean, variance, by_distance, by_value, noise,
    REACH: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Return 1 - the correlation of the patch with what source v shows of it, `_NO_MATCH` where the
    source does not see its centre.
    """
    start, source_height, source_width = size_of(sizes, v)
    to_u = matrices + 12 * v
    to_v, to_z = to_u + 4, to_u + 8
    across, along = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
    z = _row(to_z, across, along, w)
    scale = 1.0 / z
    u, t = _row(to_u, across, along, w) * scale, _row(to_v, across, along, w) * scale
    is_seen = mask & (z > 0) & (u > 0) & (t > 0) & (u < source_width) & (t < source_height)
    z_x, z_y = _slope(to_z, 0, slope_x), _slope(to_z, 1, slope_y)
    u_x = (_slope(to_u, 0, slope_x) - u * z_x) * scale
    u_y = (_slope(to_u, 1, slope_y) - u * z_y) * scale
    t_x = (_slope(to_v, 0, slope_x) - t * z_x) * scale
    t_y = (_slope(to_v, 1, slope_y) - t * z_y) * scale
    left, top = u - 0.5, t - 0.5
    most_left, most_top = (source_width - 1).to(tl.float32), (source_height - 1).to(tl.float32)
    first, second, cross = share * 0, share * 0, share * 0
    for down in range(-REACH, REACH + 1, STEP):
        for right in range(-REACH, REACH + 1, STEP):
            value, weight = _tap(
                image, x, y, right, down, is_seen, height, width, centre, by_distance, by_value
            )
            column = clamp(left + u_x * right + u_y * down, 0.0, most_left)
            row = clamp(top + t_x * right + t_y * down, 0.0, most_top)
            other = _bilinear(quads + start, source_width, column, row, is_seen) - centre
            weighted = weight * other
            first += weighted
            second += weighted * other
            cross += weighted * value
    first *= share
    spread = tl.maximum(second * share - first * first, 0.0) + noise
    cost = 1.0 - (cross * share - mean * first) / tl.sqrt((variance + noise) * spread)
    return tl.where(is_seen, cost, _NO_MATCH)


@triton.jit
def _bilinear(quads, width, column, row, mask):
    """Return samples of an image whose pixels hold their neighbours too."""
    left, top = column.to(tl.int32), row.to(tl.int32)
    quad = tl.load(quads + top * width + left, mask=mask, other=0)
    a, b = (quad & 255).to(tl.float32), ((quad >> 8) & 255).to(tl.float32)
    c, d = ((quad >> 16) & 255).to(tl.float32), ((quad >> 24) & 255).to(tl.float32)
    right = column - left.to(tl.float32)
    upper, lower = a + (b - a) * right, c + (d - c) * right
    return upper + (lower - upper) * (row - top.to(tl.float32))


@triton.jit
def drift_of(inverse_depths, sizes, matrices, back, v, x, y, mask, w, most):
    """Return how many px off a pixel comes back by source v's own depth, `most` at most."""
    start, height, width = size_of(sizes, v)
    across, along = x.to(tl.float32) + 0.5, y.to(tl.float32) + 0.5
    there, back = matrices + 12 * v, back + 12 * v
    z = _row(there + 8, across, along, w)
    scale = 1.0 / z
    u, t = _row(there, across, along, w) * scale, _row(there + 4, across, along, w) * scale
    column = clamp(u, 0.0, (width - 1).to(tl.float32)).to(tl.int32)
    row = clamp(t, 0.0, (height - 1).to(tl.float32)).to(tl.int32)
    theirs = tl.load(inverse_depths + start + row * width + column, mask=mask, other=0.0)
    again = _row(back + 8, u, t, theirs)
    scale = 1.0 / again
    right = _row(back, u, t, theirs) * scale - across
    down = _row(back + 4, u, t, theirs) * scale - along
    drift = tl.sqrt(right * right + down * down)
    is_known = (z > 0) & (again > 0) & (theirs > 0) & (drift < most)
    return tl.where(is_known, drift, most)
