"""Numba body of `consistency`: rows of pixels in parallel, in float64; each row in passes, so that all
but the reading of the other view is done in lanes, and that without branches.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.consistency.rays import ARCTAN, SAME_SURFACE, other_centre
from cuesta.ops.lanes import at
from cuesta.ops.numba_decorators import inner
from cuesta.ops.numba_support import kernel, num_threads

TASKS_PER_THREAD = 8
# Lines of a task's scratch: a row's places in the other view, and what that view has there.
_U, _V, _Z, _SEEN, _NORMAL = 0, 1, 2, 3, 4
_LINES, _LINES_OF_NORMALS = 4, 7
_RIGHT_ANGLE, _DEGREES = np.pi / 2, 180 / np.pi


def consistency(
    depth: Tensor,
    other_depth: Tensor,
    matrix: Tensor,
    normal: Tensor | None,
    other_normal: Tensor | None,
    rotation: Tensor | None,
) -> Tensor:
    out = depth.new_empty(2 if normal is None else 3, *depth.shape)
    tasks, lines = num_threads() * TASKS_PER_THREAD, _LINES if normal is None else _LINES_OF_NORMALS
    scratch = torch.empty(tasks, lines, depth.shape[1], dtype=torch.float64).numpy()
    flat, centre = tuple(matrix.flatten().tolist()), tuple(other_centre(matrix).tolist())
    given = (depth.numpy(), other_depth.numpy(), flat, centre)
    if normal is None:
        _check(*given, scratch, out.numpy())
    else:
        normals = (normal.flatten(1).numpy(), other_normal.flatten(1).numpy())  # [Y, X * 3]
        turn = tuple(rotation.flatten().tolist())
        _check_with_normals(*given, *normals, turn, scratch, out.numpy())
    return out


@kernel
def _check(depth, other_depth, matrix, centre, scratch, out):
    tasks, rows = scratch.shape[0], depth.shape[0]
    for task in numba.prange(tasks):
        for y in range(rows * task // tasks, rows * (task + 1) // tasks):
            _check_row(depth, other_depth, y, matrix, centre, scratch[task], out)


@kernel
def _check_with_normals(
    depth, other_depth, matrix, centre, normal, other_normal, rotation, scratch, out
):
    tasks, rows = scratch.shape[0], depth.shape[0]
    for task in numba.prange(tasks):
        for y in range(rows * task // tasks, rows * (task + 1) // tasks):
            _check_row(depth, other_depth, y, matrix, centre, scratch[task], out)
            _read_normals(other_normal, out[0, y], scratch[task])
            _compare(normal[y], rotation, scratch[task], out[0, y], out[2, y])


@inner
def _check_row(depth, other_depth, y, matrix, centre, lines, out):
    _project(depth[y], y + 0.5, matrix, lines)
    _read_depths(other_depth, lines)
    _return(depth[y], y + 0.5, centre, lines, out[0, y], out[1, y])


@inner
def _project(depth, v, matrix, lines):
    """Find where the other view has the pixels of a row, and at what depth."""
    a, b, c, d, e, f, g, h, i, j, k, m = matrix
    start_u, start_v, start_z = b * v + c, f * v + g, j * v + k
    for x in range(depth.size):
        u, z = x + 0.5, np.float64(depth[x])
        other_z = z * (i * u + start_z) + m
        scale = 1 / other_z
        lines[_U, x] = (z * (a * u + start_u) + d) * scale
        lines[_V, x] = (z * (e * u + start_v) + h) * scale
        lines[_Z, x] = other_z


@inner
def _read_depths(depth, lines):
    """Read the other view's depths at the places, 0 where there is none."""
    height, width = depth.shape
    flat = depth.reshape(depth.size)
    for x in range(lines.shape[1]):
        u, v, z = lines[_U, x], lines[_V, x], lines[_Z, x]
        is_inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        lines[_SEEN, x] = _depth_at(flat, u, v, height, width) if is_inside else 0.0


@inner
def _depth_at(depth, u, v, height, width):
    """Return the depth at a place inside; both ways of reading it are taken, which no branch misses."""
    left, top = int(np.floor(u - 0.5)), int(np.floor(v - 0.5))
    is_within = (left >= 0) & (left < width - 1) & (top >= 0) & (top < height - 1)
    right, down = min(width - 1, 1), min(height - 1, 1) * width
    upper = max(min(top, height - 2), 0) * width + max(min(left, width - 2), 0)
    lower = upper + down
    a, b, c, d = (
        at(depth, upper),
        at(depth, upper + right),
        at(depth, lower),
        at(depth, lower + right),
    )
    low, high = np.float64(min(min(a, b), min(c, d))), np.float64(max(max(a, b), max(c, d)))
    a, b, c, d = np.float64(a), np.float64(b), np.float64(c), np.float64(d)
    is_surface = (low > 0) & (high <= SAME_SURFACE * low) & (a + b + c + d < np.inf)
    x, y, ab, cd = u - 0.5 - left, v - 0.5 - top, a * b, c * d
    between = ab * cd / ((1 - y) * cd * ((1 - x) * b + x * a) + y * ab * ((1 - x) * d + x * c))
    held = np.float64(at(depth, int(v) * width + int(u)))
    held = held if (held > 0) & (held < np.inf) else 0.0
    return between if is_within & is_surface else held


@inner
def _return(depth, v, centre, lines, pixel_error, depth_error):
    """Move the pixels of a row along the other view's rays; write how far they went."""
    centre_u, centre_v, centre_z = centre
    ray_v = v * centre_z - centre_v
    for x in range(depth.size):
        u, z, seen = x + 0.5, np.float64(depth[x]), lines[_SEEN, x]
        share, from_centre, ray_u = seen / lines[_Z, x] - 1, z - centre_z, u * centre_z - centre_u
        back_z = z + share * from_centre
        is_valid = (z > 0) & (seen > 0) & (back_z > 0)
        distance = abs(share) * np.sqrt(ray_u * ray_u + ray_v * ray_v) / back_z
        pixel_error[x] = distance if is_valid else np.inf
        depth_error[x] = abs(share * from_centre) / z if is_valid else np.inf


@inner
def _read_normals(normal, pixel_error, lines):
    """Read the normals of the pixels that hold the places, of no length where no check is possible."""
    width = normal.shape[1]
    flat = normal.reshape(normal.size)
    for x in range(pixel_error.size):
        p, q, r = 0.0, 0.0, 0.0
        if pixel_error[x] < np.inf:
            place = int(lines[_V, x]) * width + 3 * int(lines[_U, x])
            p, q, r = at(flat, place), at(flat, place + 1), at(flat, place + 2)
        lines[_NORMAL, x], lines[_NORMAL + 1, x], lines[_NORMAL + 2, x] = p, q, r


@inner
def _compare(normal, rotation, lines, pixel_error, angle):
    """Write the degrees between the normals of a row and those read, inf where one has no length."""
    a, b, c, d, e, f, g, h, i = rotation
    for j in range(angle.size):
        p, q, r = normal[3 * j], normal[3 * j + 1], normal[3 * j + 2]
        x, y, z = a * p + b * q + c * r, d * p + e * q + f * r, g * p + h * q + i * r
        p, q, r = lines[_NORMAL, j], lines[_NORMAL + 1, j], lines[_NORMAL + 2, j]
        cosine = x * p + y * q + z * r
        p, q, r = y * r - z * q, z * p - x * r, x * q - y * p
        sine, length = np.sqrt(p * p + q * q + r * r), abs(cosine)
        is_steep = sine > length
        size, smaller = (sine, length) if is_steep else (length, sine)
        ratio = smaller / size
        turn = ratio * _arctan_per(ratio * ratio)
        turn = _RIGHT_ANGLE - turn if is_steep else turn
        turn = 2 * _RIGHT_ANGLE - turn if cosine < 0 else turn
        angle[j] = _DEGREES * turn if size > 0 else np.inf


@inner
def _arctan_per(square):
    """Return arctan t / t of t * t, at most 1."""
    a, b, c, d, e, f, g, h, i = ARCTAN
    fourth = square * square
    high = (a * fourth + (b * square + c)) * fourth + (d * square + e)
    return (high * fourth + (f * square + g)) * fourth + (h * square + i)
