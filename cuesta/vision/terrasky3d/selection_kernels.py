"""The Numba kernel of `selection`: what of one image another shows, counted in one pass over its pixels."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def count_pixels(errors, depth, keep, detail, other_detail, other_from_one, within, counts, sums):
    """Count the pixels [Y, X] of an image by how far from its beginning each ends, `errors`, inf for no way.

    `within[k]` becomes the number of those at most k + 1 px away; `counts` = (those with a way, those with depth,
    those with a way that `keep` holds, those at most 1 px away). Over the last, `sums` = (a, b, a a, b b, a b) of
    the details a and b of both images, b at the pixel that `other_from_one` [3, 4] leads to.
    """
    height, width = other_detail.shape
    within[:], counts[:], sums[:] = 0, 0, 0.0
    for y in range(errors.shape[0]):
        for x in range(errors.shape[1]):
            error = errors[y, x]
            counts[1] += depth[y, x] > 0
            if not error < np.inf:
                continue
            counts[0] += 1
            counts[2] += keep[y, x]
            if error <= within.shape[0]:
                within[max(int(np.ceil(error)), 1) - 1] += 1
            if error <= 1:
                z = np.float64(depth[y, x])
                u, v, w = (x + 0.5) * z, (y + 0.5) * z, z
                across = (
                    other_from_one[0, 0] * u + other_from_one[0, 1] * v + other_from_one[0, 2] * w
                )
                down = (
                    other_from_one[1, 0] * u + other_from_one[1, 1] * v + other_from_one[1, 2] * w
                )
                far = other_from_one[2, 0] * u + other_from_one[2, 1] * v + other_from_one[2, 2] * w
                far += other_from_one[2, 3]
                column = int(np.floor((across + other_from_one[0, 3]) / far))
                row = int(np.floor((down + other_from_one[1, 3]) / far))
                a = np.float64(detail[y, x])
                b = np.float64(
                    other_detail[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
                )
                counts[3] += 1
                sums[0] += a
                sums[1] += b
                sums[2] += a * a
                sums[3] += b * b
                sums[4] += a * b
    for k in range(1, within.shape[0]):
        within[k] += within[k - 1]
