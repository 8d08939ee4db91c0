"""The kernels of `stereo_peers`: correlations of windows, the better half of them, semi-global aggregation of a
cost volume [Y, X, planes] along eight paths, and the best plane.

Along a path, L(p, k) = C(p, k) + min(L(q, k), L(q, k - 1) + P1, L(q, k + 1) + P1, min L(q) + P2) - min L(q) with q the
pixel before p (Hirschmüller, TPAMI 2008, equation 13).
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from cuesta.ops.numba_decorators import inner
from cuesta.ops.numba_support import kernel

Volume = NDArray[np.float32]
Plane = NDArray[np.float32]
Penalties = tuple[np.float32, np.float32, np.float32]


@kernel
def write_moments(grey: Plane, warped: Plane, moments: Volume) -> None:
    """Write the warped picture, its square, and its product with the reference, [Y, X, 3]."""
    height, width = grey.shape
    for y in numba.prange(height):
        for x in range(width):
            value = warped[y, x]
            moments[y, x, 0] = value
            moments[y, x, 1] = value * value
            moments[y, x, 2] = value * grey[y, x]


@kernel
def keep_best(own: Volume, other: Volume, best: Volume) -> None:
    """Put the correlation from the means of moments, [Y, X, 3], among the best so far, [kept, Y, X] in order.

    The variances have a grey level's square added, so that flat windows correlate with nothing.
    """
    height, width, _ = own.shape
    for y in numba.prange(height):
        for x in range(width):
            mean, other_mean = own[y, x, 0], other[y, x, 0]
            variance = max(own[y, x, 1] - mean * mean, np.float32(0)) + np.float32(1)
            other_variance = max(other[y, x, 1] - other_mean * other_mean, np.float32(0))
            covariance = other[y, x, 2] - mean * other_mean
            alike = covariance / np.sqrt(variance * (other_variance + np.float32(1)))
            for k in range(best.shape[0]):
                place = best[k, y, x]
                best[k, y, x] = max(place, alike)
                alike = min(place, alike)


@inner
def _advance(
    costs: Plane, before: Plane, now: Plane, total: Plane, one: np.float32, more: np.float32
) -> None:
    """Write L of a pixel from that of the one before; rows have a plane more on each side, of infinity."""
    count = costs.size
    least = before[1]
    for k in range(2, count + 1):
        least = min(least, before[k])
    for k in range(count):
        low = min(before[k + 1], least + more)
        low = min(low, before[k] + one)
        low = min(low, before[k + 2] + one)
        value = costs[k] + (low - least)
        now[k + 1] = value
        total[k] += value


@inner
def _penalty(penalties: Penalties, here: np.float32, there: np.float32) -> np.float32:
    """Return the penalty of a jump between two pixels, at least that of one plane."""
    one, more, inverse_edge = penalties
    return max(more / (np.float32(1) + abs(here - there) * inverse_edge), one)


@kernel
def aggregate_across(
    costs: Volume, grey: Plane, penalties: Penalties, step: int, total: Volume
) -> None:
    """Add the paths along rows, from the left (step 1) or the right (-1)."""
    height, width, count = costs.shape
    for y in numba.prange(height):
        paths = np.full((2, count + 2), np.float32(np.inf), np.float32)
        first = 0 if step > 0 else width - 1
        paths[0, 1:-1] = costs[y, first]
        total[y, first] += costs[y, first]
        for n in range(1, width):
            x = first + n * step
            more = _penalty(penalties, grey[y, x], grey[y, x - step])
            before, now = paths[(n - 1) % 2], paths[n % 2]
            _advance(costs[y, x], before, now, total[y, x], penalties[0], more)


@kernel
def aggregate_down(
    costs: Volume, grey: Plane, penalties: Penalties, step: tuple[int, int], total: Volume
) -> None:
    """Add the paths that go one row and step[1] columns on at a time, down (step[0] = 1) or up (-1)."""
    height, width, count = costs.shape
    down, slant = step
    paths = np.full((2, width, count + 2), np.float32(np.inf), np.float32)
    first = 0 if down > 0 else height - 1
    for n in range(height):
        y = first + n * down
        for x in numba.prange(width):
            before_x = x - slant
            if n == 0 or before_x < 0 or before_x >= width:
                paths[n % 2, x, 1:-1] = costs[y, x]
                total[y, x] += costs[y, x]
            else:
                more = _penalty(penalties, grey[y, x], grey[y - down, before_x])
                before, now = paths[(n + 1) % 2, before_x], paths[n % 2, x]
                _advance(costs[y, x], before, now, total[y, x], penalties[0], more)


@kernel
def best_planes(total: Volume, first: np.float32, gap: np.float32, depth: Plane) -> None:
    """Write the depth of the cheapest plane, moved to the lowest point of the parabola through its neighbours."""
    height, width, count = total.shape
    for y in numba.prange(height):
        for x in range(width):
            k = np.argmin(total[y, x])
            offset = np.float32(0)
            if 0 < k < count - 1:
                left, middle, right = total[y, x, k - 1], total[y, x, k], total[y, x, k + 1]
                bend = left - np.float32(2) * middle + right
                if bend > 0:
                    offset = np.float32(0.5) * (left - right) / bend
            depth[y, x] = np.float32(1) / (first + (np.float32(k) + offset) * gap)
