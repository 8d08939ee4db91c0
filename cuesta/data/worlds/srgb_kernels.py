"""The Numba kernel that ends a pixel: linear brightness to an 8-bit sRGB number (IEC 61966-2-1), by
table, a power costing more than the rest of the ending.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cuesta.data.worlds.ray_kernels import ray_kernel


def srgb_tables(steps: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return at which linear brightness each 8-bit sRGB number ends, and the numbers of brightnesses
    i / steps: where to begin to look.
    """
    encoded = (np.arange(255) + 0.5) / 255
    ends = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    begins = np.searchsorted(ends, np.arange(steps + 1) / steps, side="right")
    return np.append(ends, np.inf), begins.astype(np.uint8)


SRGB_STEPS = 4096
SRGB_ENDS, SRGB_FROM = srgb_tables(SRGB_STEPS)


@ray_kernel
def encoded(x):
    """Return a linear brightness as an 8-bit sRGB number."""
    x = min(max(x, 0.0), 1.0)
    number = SRGB_FROM[np.int64(SRGB_STEPS * x)]
    while x >= SRGB_ENDS[number]:
        number += 1
    return number
