"""Smoothing along rows and columns that stops at the edges of a picture: the kernels of `completion`.

Each line is a tridiagonal system, (1 + step a + step b) u_i - step a u_(i-1) - step b u_(i+1) = f_i with a, b the
likeness of neighbouring pixels; it is eliminated forwards and substituted backwards, in float64.
"""

from __future__ import annotations

import numba
import numpy as np

from cuesta.ops.numba_support import kernel

_LEAST_LIKENESS = 1e-4  # across the sharpest edge
_COLUMNS = 64  # a task's share


@kernel
def likeness(picture, inverse_sigma, across, down):
    """Write exp(-|difference| / sigma) of each pixel to the next on its right and below; 0 at the end."""
    height, width = picture.shape
    for y in numba.prange(height):
        for x in range(width):
            here = np.float64(picture[y, x])
            across[y, x], down[y, x] = 0.0, 0.0
            if x + 1 < width:
                gap = abs(np.float64(picture[y, x + 1]) - here)
                across[y, x] = np.exp(-gap * inverse_sigma) + _LEAST_LIKENESS
            if y + 1 < height:
                gap = abs(np.float64(picture[y + 1, x]) - here)
                down[y, x] = np.exp(-gap * inverse_sigma) + _LEAST_LIKENESS


@kernel
def smooth_rows(values, across, carry, step):
    """Solve every row of values [2, Y, X] in place; `carry` [Y, X] is scratch."""
    height, width = across.shape
    for y in numba.prange(height):
        for x in range(width):
            before = step * across[y, x - 1] if x > 0 else 0.0
            after = step * across[y, x]
            previous = carry[y, x - 1] if x > 0 else 0.0
            part = 1.0 / (1.0 + before + after - before * previous)
            carry[y, x] = after * part
            for k in range(2):
                known = before * values[k, y, x - 1] if x > 0 else 0.0
                values[k, y, x] = (values[k, y, x] + known) * part
        for x in range(width - 2, -1, -1):
            for k in range(2):
                values[k, y, x] += carry[y, x] * values[k, y, x + 1]


@kernel
def smooth_columns(values, down, carry, step):
    """Solve every column of values [2, Y, X] in place; `carry` [Y, X] is scratch."""
    height, width = down.shape
    num_tasks = -(-width // _COLUMNS)
    for task in numba.prange(num_tasks):
        first, last = task * _COLUMNS, min((task + 1) * _COLUMNS, width)
        for y in range(height):
            for x in range(first, last):
                before = step * down[y - 1, x] if y > 0 else 0.0
                after = step * down[y, x]
                previous = carry[y - 1, x] if y > 0 else 0.0
                part = 1.0 / (1.0 + before + after - before * previous)
                carry[y, x] = after * part
                for k in range(2):
                    known = before * values[k, y - 1, x] if y > 0 else 0.0
                    values[k, y, x] = (values[k, y, x] + known) * part
        for y in range(height - 2, -1, -1):
            for x in range(first, last):
                for k in range(2):
                    values[k, y, x] += carry[y, x] * values[k, y + 1, x]


@kernel
def average_planes(planes, radius, tolerance, out):
    """Write each pixel's mean of the planes around that pass within `tolerance` of its inverse depth.

    Planes [3, Y, X] are continued to the pixel first, so that slanted surfaces stay; its own is one.
    """
    height, width = planes.shape[1:]
    for y in numba.prange(height):
        top, bottom = max(y - radius, 0), min(y + radius + 1, height)
        for x in range(width):
            own = planes[0, y, x]
            limit = tolerance * own
            total, slope_x, slope_y, count = np.float32(0), np.float32(0), np.float32(0), 0
            for row in range(top, bottom):
                for column in range(max(x - radius, 0), min(x + radius + 1, width)):
                    right, down = planes[1, row, column], planes[2, row, column]
                    there = planes[0, row, column] + right * (x - column) + down * (y - row)
                    if abs(there - own) <= limit:
                        total += there
                        slope_x += right
                        slope_y += down
                        count += 1
            share = np.float32(1) / np.float32(count)
            out[0, y, x] = total * share
            out[1, y, x] = slope_x * share
            out[2, y, x] = slope_y * share
