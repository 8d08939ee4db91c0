"""The Numba kernels of fusion: what another view adds to this view's points, and normals of depth maps.

Where the other view sees the surface of a point is read as in `cuesta.ops.consistency`: between pixels of
one surface, linearly in 1 / depth, at the very place where the point falls; else at the centre of the
pixel that holds it, as its depth is that of the centre. Both are on the surface, and so is their mean.
"""

import numba
import numpy as np

from cuesta.ops.consistency.rays import SAME_SURFACE
from cuesta.ops.numba_support import inner, kernel

FLAT = 0.01  # of 1 / depth: how far a surface may bend within three pixels and count as smooth


@kernel
def mark_agreeing(pixel_error, depth_error, angle, limits, agrees):
    """Write which pixels are below all limits; `angle` is [0, 0] where there is none."""
    has_angle = angle.size > 0
    for y in numba.prange(agrees.shape[0]):
        for x in range(agrees.shape[1]):
            is_near = pixel_error[y, x] < limits[0] and depth_error[y, x] < limits[1]
            agrees[y, x] = is_near and (not has_angle or angle[y, x] < limits[2])


@kernel
def add_view(uses, here, other, moves, covered, sums):
    """Add what another view sees of the pixels [Y, X] in `uses` to the sums.

    `here` is this view's depth, `other` = (depth, normals, colors, keep), `moves` = (matrix [3, 4] that
    takes (u z, v z, z, 1) to the other view, the one [3, 4] that takes it back, the rotation [3, 3] of
    normals back). `sums` = (positions (u z, v z, z), normals, colors, counts) grow;
    `covered` [Y, X] of the other view becomes 1 where it was used. Exact: each pixel of `sums` has one
    thread, and `covered` one value to become.
    """
    other_depth, other_normals, other_colors, other_keep = other
    matrix, back, rotation = moves
    positions, normals, colors, counts = sums
    height, width = other_depth.shape
    for y in numba.prange(here.shape[0]):
        for x in range(here.shape[1]):
            if uses[y, x]:
                z = np.float64(here[y, x])
                point = ((x + 0.5) * z, (y + 0.5) * z, z)
                u, v = _project(matrix, point)
                column, row = int(u), int(v)
                if 0 <= u < width and 0 <= v < height and other_keep[row, column]:
                    u, v, seen = _seen_at(other_depth, u, v)
                    for axis in range(3):
                        ray = back[axis, 0] * u + back[axis, 1] * v + back[axis, 2]
                        positions[y, x, axis] += ray * seen + back[axis, 3]
                        colors[y, x, axis] += other_colors[row, column, axis]
                        for k in range(3):
                            turned = rotation[axis, k] * other_normals[row, column, k]
                            normals[y, x, axis] += turned
                    counts[y, x] += 1
                    covered[row, column] = 1


@numba.njit(cache=True, nogil=True)
def collect_points(is_point, here, sums, world_from_pixels, rotation, out):
    """Write the means of this view and its sources at the pixels that are points, row after row.

    `here` = (depth, normals, colors), `world_from_pixels` [3, 4] takes (u z, v z, z, 1) to the world,
    `rotation` normals; `out` = (positions [P, 3], normals [P, 3], colors [P, 3], counts [P]).
    """
    depth, own_normals, own_colors = here
    positions, normals, colors, counts = sums
    out_positions, out_normals, out_colors, out_counts = out
    place = 0
    for y in range(depth.shape[0]):
        for x in range(depth.shape[1]):
            if not is_point[y, x]:
                continue
            z, count = np.float64(depth[y, x]), counts[y, x] + 1.0
            mean = (
                ((x + 0.5) * z + positions[y, x, 0]) / count,
                ((y + 0.5) * z + positions[y, x, 1]) / count,
                (z + positions[y, x, 2]) / count,
            )
            normal = (
                np.float64(own_normals[y, x, 0]) + normals[y, x, 0],
                np.float64(own_normals[y, x, 1]) + normals[y, x, 1],
                np.float64(own_normals[y, x, 2]) + normals[y, x, 2],
            )
            length = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
            for axis in range(3):
                position, turned = world_from_pixels[axis, 3], 0.0
                for k in range(3):
                    position += world_from_pixels[axis, k] * mean[k]
                    turned += rotation[axis, k] * normal[k]
                out_positions[place, axis] = position
                out_normals[place, axis] = turned / length if length > 0 else 0.0
                color = (np.float64(own_colors[y, x, axis]) + colors[y, x, axis]) / count
                out_colors[place, axis] = np.uint8(np.rint(color))
            out_counts[place] = count
            place += 1


@kernel
def normals_of(depth, focal_x, focal_y, centre_x, centre_y, normals):
    """Write the unit normals [Y, X, 3] of a depth map, towards the camera; 0 where it has no slope.

    1 / z is linear in the pixel on a plane: w = a u + b v + c has the normal (fx a, fy b, w - a (u - cx)
    - b (v - cy)). Slopes are central where the three pixels are smooth, else of the nearer neighbour.
    """
    height, width = depth.shape
    for y in numba.prange(height):
        for x in range(width):
            normals[y, x] = 0
            if depth[y, x] > 0:
                w = 1.0 / depth[y, x]
                left = _inverse(depth, y, x - 1)
                right = _inverse(depth, y, x + 1)
                above = _inverse(depth, y - 1, x)
                below = _inverse(depth, y + 1, x)
                across, down = _slope(left, w, right), _slope(above, w, below)
                if not (np.isnan(across) or np.isnan(down)):
                    a, b = focal_x * across, focal_y * down
                    c = w - across * (x + 0.5 - centre_x) - down * (y + 0.5 - centre_y)
                    length = np.sqrt(a * a + b * b + c * c)
                    normals[y, x, 0] = -a / length
                    normals[y, x, 1] = -b / length
                    normals[y, x, 2] = -c / length


@inner
def _project(matrix, point):
    u = matrix[0, 0] * point[0] + matrix[0, 1] * point[1] + matrix[0, 2] * point[2] + matrix[0, 3]
    v = matrix[1, 0] * point[0] + matrix[1, 1] * point[1] + matrix[1, 2] * point[2] + matrix[1, 3]
    z = matrix[2, 0] * point[0] + matrix[2, 1] * point[1] + matrix[2, 2] * point[2] + matrix[2, 3]
    return u / z, v / z


@inner
def _seen_at(depth, u, v):
    """Return a place at or near this one, inside the image, and the depth there."""
    column, row = int(u), int(v)
    nearest = (column + 0.5, row + 0.5, np.float64(depth[row, column]))
    left, top = int(np.floor(u - 0.5)), int(np.floor(v - 0.5))
    if left < 0 or top < 0 or left + 1 >= depth.shape[1] or top + 1 >= depth.shape[0]:
        return nearest
    a, b = np.float64(depth[top, left]), np.float64(depth[top, left + 1])
    c, d = np.float64(depth[top + 1, left]), np.float64(depth[top + 1, left + 1])
    least = min(min(a, b), min(c, d))
    if not (least > 0 and max(max(a, b), max(c, d)) <= SAME_SURFACE * least):
        return nearest
    x, y = u - 0.5 - left, v - 0.5 - top
    return u, v, 1.0 / ((1 - y) * ((1 - x) / a + x / b) + y * ((1 - x) / c + x / d))


@inner
def _inverse(depth, y, x):
    if 0 <= y < depth.shape[0] and 0 <= x < depth.shape[1] and depth[y, x] > 0:
        return 1.0 / depth[y, x]
    return np.nan


@inner
def _slope(before, w, after):
    """Return the change of 1 / depth a pixel; NaN where neither neighbour is there."""
    if np.isnan(before) or np.isnan(after):
        return after - w if np.isnan(before) else w - before
    if abs(before + after - 2 * w) <= FLAT * w:
        return (after - before) / 2
    return after - w if abs(after - w) < abs(before - w) else w - before
