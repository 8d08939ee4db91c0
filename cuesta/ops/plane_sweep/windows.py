"""Numba kernels of plane_sweep on windows of grey images, and where a pixel lies in a source.

A plane is compared row by row: each row of the warped source is made once, of the last
2 radius + 1 rows columns are summed first, then runs of columns. Where pixels have hypotheses of
their own, or gradients are wanted, windows are walked. Positions and sums are float64, in which
squares of float32 are exact, so that no mean need be known before. A sample outside is NaN.
"""

from __future__ import annotations

import numba
import numpy as np

from cuesta.ops.numba_decorators import inlined, inner
from cuesta.ops.numba_support import kernel, narrow, widen


@inlined
def position(pose, x, y, z):
    """Return where (x, y) at depth z lies in the source; NaN where not in front of both."""
    near = 1.0 / z if z > 0 else np.nan
    w = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] + pose[2, 3] * near
    far = 1.0 / w if w > 0 else np.nan
    return (
        (pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] + pose[0, 3] * near) * far,
        (pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] + pose[1, 3] * near) * far,
    )


@kernel
def window_moments(image, means, variances, radius):
    """Write mean and variance of the window around every pixel, as far as it lies in the image."""
    height, width = image.shape
    for y in numba.prange(height):
        top, bottom = max(y - radius, 0), min(y + radius + 1, height)
        for x in range(width):
            left, right = max(x - radius, 0), min(x + radius + 1, width)
            total, squares = 0.0, 0.0
            for row in range(top, bottom):
                for column in range(left, right):
                    value = np.float64(widen(image[row, column]))
                    total += value
                    squares += value * value
            count = (bottom - top) * (right - left)
            mean = total / count
            means[y, x], variances[y, x] = mean, max(squares / count - mean * mean, 0.0)


@kernel
def compare_planes(
    reference, sources, poses, depths, out, radius, epsilon, means, variances, band, rows, sums
):  # fmt: skip
    num_views, num_planes, height, width = out.shape
    num_tasks, num_rows, bands = rows.shape[0], rows.shape[1], -(-height // band)
    num_items = num_views * num_planes * bands
    for task in numba.prange(num_tasks):
        for item in range(num_items * task // num_tasks, num_items * (task + 1) // num_tasks):
            pair, first = item // bands, item % bands * band
            v, k = pair // num_planes, pair % num_planes
            z, ready = np.float64(depths[k, 0, 0]), max(first - radius, 0)
            for y in range(first, min(first + band, height)):
                bottom = min(y + radius + 1, height)
                while ready < bottom:
                    _warp_row(sources[v], poses[v], z, ready, rows[task, ready % num_rows])
                    ready += 1
                top = max(y - radius, 0)
                _sum_windows(reference, rows[task], top, bottom, radius, sums[task])
                for x in range(width):
                    across = min(x + radius + 1, width) - max(x - radius, 0)
                    scale = 1.0 / ((bottom - top) * across)
                    mean = sums[task, 3, x] * scale
                    variance = max(sums[task, 4, x] * scale - mean * mean, 0.0) + epsilon
                    covariance = sums[task, 5, x] * scale - means[y, x] * mean
                    similarity = covariance / np.sqrt(variance * (variances[y, x] + epsilon))
                    is_taken = similarity == similarity
                    out[v, k, y, x] = narrow(np.float32(similarity if is_taken else 0.0), out)


@inner
def _warp_row(source, pose, z, y, out):
    """Write the samples of a row of the reference's pixels at depth z."""
    for x in range(out.size):
        right, below = position(pose, x + 0.5, y + 0.5, z)
        out[x] = _sample(source, right, below)


@inner
def _sum_windows(reference, rows, top, bottom, radius, sums):
    """Write to sums[3 .. 5] the sums of s, s s and r s over every window of rows top .. bottom."""
    width = rows.shape[1]
    sums[:] = 0.0
    for row in range(top, bottom):
        samples, values = rows[row % rows.shape[0]], reference[row]
        for x in range(width):
            s, r = np.float64(samples[x]), np.float64(widen(values[x]))
            sums[0, x] += s
            sums[1, x] += s * s
            sums[2, x] += r * s
    for step in range(-radius, radius + 1):
        for x in range(max(-step, 0), min(width, width - step)):
            sums[3, x] += sums[0, x + step]
            sums[4, x] += sums[1, x + step]
            sums[5, x] += sums[2, x + step]


@inlined
def _sample(image, x, y):
    """Return the bilinear sample of an image at (x, y), NaN outside it."""
    height, width = image.shape
    value = np.float32(np.nan)
    if 0 <= x <= width and 0 <= y <= height:
        column, row, across, down = _corner(x, y, width, height)
        next_column, next_row = min(column + 1, width - 1), min(row + 1, height - 1)
        top, bottom = image[row], image[next_row]
        a, b = widen(top[column]), widen(bottom[column])
        a += across * (widen(top[next_column]) - a)
        b += across * (widen(bottom[next_column]) - b)
        value = a + down * (b - a)
    return value


@inlined
def _corner(x, y, width, height):
    """Return column and row of the first tap at a place inside an image, and the other taps'
    weights.
    """
    x, y = max(x - 0.5, 0.0), max(y - 0.5, 0.0)
    column, row = min(np.uint64(x), np.uint64(width - 1)), min(np.uint64(y), np.uint64(height - 1))
    return np.int64(column), np.int64(row), np.float32(x - column), np.float32(y - row)


@kernel
def compare_pixels(reference, sources, poses, depths, out, radius, epsilon):
    num_views, num_planes, height, width = out.shape
    for item in numba.prange(num_views * num_planes * height):
        pair, y = item // height, item % height
        v, k = pair // num_planes, pair % num_planes
        for x in range(width):
            z = np.float64(depths[k, y, x])
            window = _window(reference, sources[v], poses[v], z, y, x, radius)
            count, _mean, _other, a, b, covariance = window
            similarity = covariance / np.sqrt((a + epsilon) * (b + epsilon))
            out[v, k, y, x] = narrow(np.float32(similarity if count else 0.0), out)


@inner
def _window(reference, source, pose, z, y, x, radius):
    """Return how many pixels a window has, 0 if any is missing; both means and variances, and the
    covariance.
    """
    height, width = reference.shape
    total, squares, other, other_squares, products, count = 0.0, 0.0, 0.0, 0.0, 0.0, 0
    for row in range(max(y - radius, 0), min(y + radius + 1, height)):
        for column in range(max(x - radius, 0), min(x + radius + 1, width)):
            right, below = position(pose, column + 0.5, row + 0.5, z)
            s = np.float64(_sample(source, right, below))
            r = np.float64(widen(reference[row, column]))
            if s * r != s * r:
                return 0, 0.0, 0.0, 0.0, 0.0, 0.0
            total += r
            squares += r * r
            other += s
            other_squares += s * s
            products += r * s
            count += 1
    mean, other_mean = total / count, other / count
    return (
        count, mean, other_mean,
        max(squares / count - mean * mean, 0.0),
        max(other_squares / count - other_mean * other_mean, 0.0),
        products / count - mean * other_mean,
    )  # fmt: skip


@kernel
def compare_backward(
    grad, reference, sources, poses, depths, reference_grad, sources_grad, radius, epsilon
):
    num_views, num_planes, height, width = grad.shape
    parts, is_plane = sources_grad.shape[1], depths.shape[1:] != (height, width)
    for item in numba.prange(num_views * parts):
        v, part = item // parts, item % parts
        for k in range(num_planes * part // parts, num_planes * (part + 1) // parts):
            for y in range(height):
                for x in range(width):
                    z = np.float64(depths[k, 0, 0] if is_plane else depths[k, y, x])
                    slope = np.float64(widen(grad[v, k, y, x]))
                    if slope != 0:
                        _compare_window_backward(
                            slope, reference, sources[v], poses[v], z, y, x, radius, epsilon,
                            reference_grad[v, part], sources_grad[v, part],
                        )  # fmt: skip


@inner
def _compare_window_backward(
    slope, reference, source, pose, z, y, x, radius, epsilon, reference_grad, source_grad
):
    """Add the gradients of a window's similarity c / sqrt(a b) to those of both images."""
    count, mean, other_mean, a, b, covariance = _window(reference, source, pose, z, y, x, radius)
    if count == 0:
        return
    a, b = a + epsilon, b + epsilon
    cross = slope / (count * np.sqrt(a * b))
    own, others = cross * covariance / a, cross * covariance / b
    height, width = reference.shape
    for row in range(max(y - radius, 0), min(y + radius + 1, height)):
        for column in range(max(x - radius, 0), min(x + radius + 1, width)):
            right, below = position(pose, column + 0.5, row + 0.5, z)
            s = np.float64(_sample(source, right, below)) - other_mean
            r = np.float64(widen(reference[row, column])) - mean
            reference_grad[row, column] += np.float32(cross * s - own * r)
            _spread(source_grad, right, below, np.float32(cross * r - others * s))


@inlined
def _spread(image, x, y, value):
    """Add a value to the four taps of the sample at (x, y), which lies inside the image."""
    height, width = image.shape
    column, row, across, down = _corner(x, y, width, height)
    next_column, next_row = min(column + 1, width - 1), min(row + 1, height - 1)
    top, bottom = value * (np.float32(1) - down), value * down
    image[row, column] += top * (np.float32(1) - across)
    image[row, next_column] += top * across
    image[next_row, column] += bottom * (np.float32(1) - across)
    image[next_row, next_column] += bottom * across
