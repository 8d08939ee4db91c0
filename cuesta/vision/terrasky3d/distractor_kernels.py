"""The Numba kernels of `distractors`: surfaces of other views seen from this one, and how their colours differ."""

from __future__ import annotations

import numba
import numpy as np

from cuesta.ops.numba_support import kernel


@numba.njit(cache=True, nogil=True)
def keep_nearest(at, depth, target):
    """Lower the depths [Y, X] in `target` to those of points [P] that fall there; `at` [P, 2] is in pixels."""
    height, width = target.shape
    for n in range(at.shape[0]):
        u, v = at[n, 0], at[n, 1]
        if 0 < u < width and 0 < v < height:
            row, column = int(v), int(u)
            target[row, column] = min(target[row, column], depth[n])


@kernel
def agreed_surface(seen, ratio, surface):
    """Write the least depth [Y, X] that another of `seen` [V, Y, X] is at most `ratio` times of, 0 for none."""
    num_views = seen.shape[0]
    for y in numba.prange(surface.shape[0]):
        for x in range(surface.shape[1]):
            nearest = np.float32(np.inf)
            for k in range(num_views):
                depth = seen[k, y, x]
                if depth < nearest:
                    for other in range(num_views):
                        if other != k and depth <= seen[other, y, x] <= depth * ratio:
                            nearest = depth
            surface[y, x] = nearest if nearest < np.inf else 0


@kernel
def look_up(at, z, depth, color, agrees, found, is_shown):
    """Write the colours [P, 3] of another view at `at` [P, 2], and whether its depth there is z [P]."""
    height, width = depth.shape
    for n in numba.prange(at.shape[0]):
        u, v = at[n, 0], at[n, 1]
        is_shown[n] = False
        if 0 <= u < width and 0 <= v < height:
            there = depth[int(v), int(u)]
            is_shown[n] = there > 0 and abs(there - z[n]) <= agrees * z[n]
        if is_shown[n]:
            x, y = max(u - 0.5, 0.0), max(v - 0.5, 0.0)
            left, top = int(x), int(y)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            x, y = x - left, y - top
            for k in range(3):
                above = (1 - x) * color[top, left, k] + x * color[top, right, k]
                below = (1 - x) * color[bottom, left, k] + x * color[bottom, right, k]
                found[n, k] = (1 - y) * above + y * below


@kernel
def keep_least_change(own, found, gain, is_shown, least):
    """Lower `least` [P] to the largest difference of a channel between own [P, 3] and gain * found [P, 3]."""
    for n in numba.prange(least.shape[0]):
        if is_shown[n]:
            change = np.float32(0)
            for k in range(3):
                change = max(change, abs(own[n, k] - gain[k] * found[n, k]))
            least[n] = min(least[n], change)
