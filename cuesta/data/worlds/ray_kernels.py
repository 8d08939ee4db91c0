"""The Numba kernels that follow rays through a bounding-volume hierarchy, in float64.

A flat primitive is kept as three planes (Baldwin and Weber, "Fast ray-triangle intersections by
coordinate transformation", 2016): its own, and two whose distances are its coordinates u and v. A hit
is where the ray meets the plane itself, exact to rounding.
"""
# ruff: noqa: PLR0913
# A kernel's arguments are numbers: what would be one object elsewhere.

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

TRIANGLE, PARALLELOGRAM, ELLIPSOID = 0, 1, 2
STACK = 128
SLACK = 1e-9  # in u and v: no ray slips between two flat primitives that share an edge
BOX_SLACK = 1 + 1e-9  # of distances to boxes, which are padded, so that ties are looked into

# Without _nrt=False each call counts references to the arrays it passes on, atomically, which costs
# more than the rays; such a kernel allocates nothing.
ray_kernel = numba.njit(
    cache=True,
    nogil=True,
    _nrt=False,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "nnan"},
)


class Scratch(NamedTuple):
    """Hold a thread's memory: nodes yet to visit, and where a ray enters them."""

    stack: NDArray[np.int32]
    entries: NDArray[np.float64]

    @staticmethod
    def new() -> Scratch:
        """Return memory for one thread."""
        return Scratch(np.empty(STACK, np.int32), np.empty(STACK))


@ray_kernel
def safe_inverse(x):
    """Return 1 / x, huge instead of infinite for 0, so that no product with 0 is undefined."""
    return 1 / x if abs(x) > 1e-200 else 1e200


@ray_kernel
def distance_to(planes, kinds, slot, ox, oy, oz, dx, dy, dz, near, far):
    """Return where in [near, far] the ray first meets a primitive, in lengths of its direction, or -1."""
    kind = kinds[slot]
    if kind == ELLIPSOID:
        px, py, pz = (
            (ox - planes[slot, 0]) * planes[slot, 3],
            (oy - planes[slot, 1]) * planes[slot, 4],
            (oz - planes[slot, 2]) * planes[slot, 5],
        )
        qx, qy, qz = dx * planes[slot, 3], dy * planes[slot, 4], dz * planes[slot, 5]
        a = qx * qx + qy * qy + qz * qz
        middle = -(px * qx + py * qy + pz * qz) / a
        x, y, z = px + middle * qx, py + middle * qy, pz + middle * qz
        square = (1 - (x * x + y * y + z * z)) / a
        if not square >= 0:
            return -1.0
        half = np.sqrt(square)
        if near <= middle - half <= far:
            return middle - half
        return middle + half if near <= middle + half <= far else -1.0
    slope = planes[slot, 0] * dx + planes[slot, 1] * dy + planes[slot, 2] * dz
    t = (
        planes[slot, 3] - (planes[slot, 0] * ox + planes[slot, 1] * oy + planes[slot, 2] * oz)
    ) / slope
    if not near <= t <= far:
        return -1.0
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    u = planes[slot, 4] * x + planes[slot, 5] * y + planes[slot, 6] * z + planes[slot, 7]
    if u < -SLACK or u > 1 + SLACK:
        return -1.0
    v = planes[slot, 8] * x + planes[slot, 9] * y + planes[slot, 10] * z + planes[slot, 11]
    most = 1 - u if kind == TRIANGLE else 1.0
    return t if -SLACK <= v <= most + SLACK else -1.0


@ray_kernel
def closest_hit(tree, planes, kinds, ox, oy, oz, dx, dy, dz, near, far, guess, scratch):
    """Return the distance in [near, far] and the slot of the closest hit, (far, -1) for none.

    `guess` is a slot that the ray may well hit, or -1: a good one saves most of the way. Of equal
    distances the lowest primitive wins.
    """
    bounds, children, order = tree.bounds, tree.children, tree.order
    stack, entries = scratch.stack, scratch.entries
    ix, iy, iz = safe_inverse(dx), safe_inverse(dy), safe_inverse(dz)
    sx, sy, sz = 0 if ix >= 0 else 3, 1 if iy >= 0 else 4, 2 if iz >= 0 else 5
    ex, ey, ez = 3 - sx, 5 - sy, 7 - sz
    best, slot = far, -1
    if guess >= 0:
        t = distance_to(planes, kinds, guess, ox, oy, oz, dx, dy, dz, near, far)
        if t >= 0:
            best, slot = t, guess
    size, node = 0, 0
    while True:
        if node >= 0:
            near_l = max(
                (bounds[node, sx] - ox) * ix,
                (bounds[node, sy] - oy) * iy,
                (bounds[node, sz] - oz) * iz,
                near,
            )
            far_l = min(
                (bounds[node, ex] - ox) * ix,
                (bounds[node, ey] - oy) * iy,
                (bounds[node, ez] - oz) * iz,
                best,
            )
            near_r = max(
                (bounds[node, 6 + sx] - ox) * ix,
                (bounds[node, 6 + sy] - oy) * iy,
                (bounds[node, 6 + sz] - oz) * iz,
                near,
            )
            far_r = min(
                (bounds[node, 6 + ex] - ox) * ix,
                (bounds[node, 6 + ey] - oy) * iy,
                (bounds[node, 6 + ez] - oz) * iz,
                best,
            )
            is_left, is_right = near_l <= far_l * BOX_SLACK, near_r <= far_r * BOX_SLACK
            left, right = children[node, 0], children[node, 1]
            if is_left and is_right:
                if near_r < near_l:
                    left, right = right, left
                    near_l, near_r = near_r, near_l
                stack[size], entries[size] = right, near_r
                size += 1
                node = left
                continue
            if is_left:
                node = left
                continue
            if is_right:
                node = right
                continue
        else:
            first, count = ~node >> 3, ~node & 7
            for place in range(first, first + count):
                t = distance_to(planes, kinds, place, ox, oy, oz, dx, dy, dz, near, best)
                if t >= 0 and (t < best or slot < 0 or order[place] < order[slot]):
                    best, slot = t, place
        while size and entries[size - 1] > best * BOX_SLACK:
            size -= 1
        if not size:
            return best, slot
        size -= 1
        node = stack[size]


@ray_kernel
def any_hit(tree, planes, kinds, ox, oy, oz, dx, dy, dz, near, far, guess, scratch):
    """Return the slot of a primitive that the ray meets in [near, far], or -1; `guess` goes first."""
    bounds, children, stack = tree.bounds, tree.children, scratch.stack
    if guess >= 0 and distance_to(planes, kinds, guess, ox, oy, oz, dx, dy, dz, near, far) >= 0:
        return guess
    ix, iy, iz = safe_inverse(dx), safe_inverse(dy), safe_inverse(dz)
    sx, sy, sz = 0 if ix >= 0 else 3, 1 if iy >= 0 else 4, 2 if iz >= 0 else 5
    ex, ey, ez = 3 - sx, 5 - sy, 7 - sz
    size, node = 0, 0
    while True:
        if node >= 0:
            near_l = max(
                (bounds[node, sx] - ox) * ix,
                (bounds[node, sy] - oy) * iy,
                (bounds[node, sz] - oz) * iz,
                near,
            )
            far_l = min(
                (bounds[node, ex] - ox) * ix,
                (bounds[node, ey] - oy) * iy,
                (bounds[node, ez] - oz) * iz,
                far,
            )
            near_r = max(
                (bounds[node, 6 + sx] - ox) * ix,
                (bounds[node, 6 + sy] - oy) * iy,
                (bounds[node, 6 + sz] - oz) * iz,
                near,
            )
            far_r = min(
                (bounds[node, 6 + ex] - ox) * ix,
                (bounds[node, 6 + ey] - oy) * iy,
                (bounds[node, 6 + ez] - oz) * iz,
                far,
            )
            is_left, is_right = near_l <= far_l * BOX_SLACK, near_r <= far_r * BOX_SLACK
            if is_left:
                if is_right:
                    stack[size] = children[node, 1]
                    size += 1
                node = children[node, 0]
                continue
            if is_right:
                node = children[node, 1]
                continue
        else:
            first, count = ~node >> 3, ~node & 7
            for place in range(first, first + count):
                if distance_to(planes, kinds, place, ox, oy, oz, dx, dy, dz, near, far) >= 0:
                    return place
        if not size:
            return -1
        size -= 1
        node = stack[size]


@ray_kernel
def closest_hits(tree, planes, kinds, origins, directions, distances, slots, scratch):
    """Write distance and slot of the closest hit of each ray."""
    guess = -1
    for i in range(origins.shape[0]):
        distances[i], guess = closest_hit(
            tree, planes, kinds, origins[i, 0], origins[i, 1], origins[i, 2],
            directions[i, 0], directions[i, 1], directions[i, 2], 0.0, np.inf, guess, scratch
        )  # fmt: skip
        slots[i] = guess
