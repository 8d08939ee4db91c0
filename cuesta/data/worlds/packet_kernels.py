"""The Numba kernels that take 16 rays through a hierarchy together.

Rays of neighbouring pixels visit much the same nodes: a packet visits their union once, and tests the
16 against a box or a plane in the lanes of the processor's vectors. Source: Wald and others,
"Interactive rendering with coherent ray tracing", 2001. Boxes are tested in float32 with slack,
primitives in float64 and by the formulas of `ray_kernels`.
"""
# ruff: noqa: PLR0913
# A kernel's arguments are numbers: what would be one object elsewhere.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cuesta.data.worlds.ray_kernels import (
    ELLIPSOID,
    SLACK,
    STACK,
    TRIANGLE,
    distance_to,
    ray_kernel,
)

LANES = 16
LOOSE = np.float32(1 + 1e-5)  # what boxes are given for the rounding of float32
TINY = 1e-30


class Packet(NamedTuple):
    """Hold 16 rays and a thread's stack. A lane whose `best` is negative takes no part."""

    rays: NDArray[np.float64]  # [6, 16]: origins x, y, z, directions x, y, z
    loose: NDArray[np.float32]  # [7, 16]: origins, inverse directions, how far
    best: NDArray[np.float64]  # [16]: in, how far to look; out, the distance, or -1 where blocked
    slots: NDArray[np.int64]  # [16]: what was met; -1 nothing; of moving primitives -2 - slot
    stack: NDArray[np.int32]  # twice the node, and which child

    @staticmethod
    def new() -> Packet:
        """Return memory for one thread."""
        rays, loose = np.zeros((6, LANES)), np.zeros((7, LANES), np.float32)
        best, slots = np.full(LANES, -1.0), np.full(LANES, -1)
        return Packet(
            rays,
            loose,
            best,
            slots,
            np.empty(STACK, np.int32),
        )


@ray_kernel
def put(packet, lane, ox, oy, oz, dx, dy, dz, reach):
    """Set a lane's ray."""
    rays, loose = packet.rays, packet.loose
    rays[0, lane], rays[1, lane], rays[2, lane] = ox, oy, oz
    rays[3, lane], rays[4, lane], rays[5, lane] = dx, dy, dz
    for axis in range(3):
        d = rays[3 + axis, lane]
        loose[axis, lane] = rays[axis, lane]
        loose[3 + axis, lane] = 1 / d if abs(d) > TINY else 1 / TINY
    packet.best[lane], packet.slots[lane] = reach, -1


@ray_kernel
def count_entries(bounds, node, side, loose):
    """Return how many rays meet a child's box before they end, and their distances to it together."""
    lx, ly, lz = bounds[node, side], bounds[node, side + 1], bounds[node, side + 2]
    hx, hy, hz = bounds[node, side + 3], bounds[node, side + 4], bounds[node, side + 5]
    count, total = np.int32(0), np.float32(0)
    for i in range(LANES):
        ax, bx = (lx - loose[0, i]) * loose[3, i], (hx - loose[0, i]) * loose[3, i]
        ay, by = (ly - loose[1, i]) * loose[4, i], (hy - loose[1, i]) * loose[4, i]
        az, bz = (lz - loose[2, i]) * loose[5, i], (hz - loose[2, i]) * loose[5, i]
        near = max(max(min(ax, bx), min(ay, by)), max(min(az, bz), np.float32(0)))
        far = min(min(max(ax, bx), max(ay, by)), min(max(az, bz), loose[6, i]))
        is_met = near <= far * LOOSE
        count += np.int32(1) if is_met else np.int32(0)
        total += near if is_met else np.float32(0)
    return count, total


@ray_kernel
def count_hits(planes, kinds, slot, rays, best):
    """Return how many rays meet a flat primitive before their `best`, or nearly so."""
    a, b, c, d = planes[slot, 0], planes[slot, 1], planes[slot, 2], planes[slot, 3]
    ua, ub, uc, ud = planes[slot, 4], planes[slot, 5], planes[slot, 6], planes[slot, 7]
    va, vb, vc, vd = planes[slot, 8], planes[slot, 9], planes[slot, 10], planes[slot, 11]
    share = 1.0 if kinds[slot] == TRIANGLE else 0.0
    count = 0
    for i in range(LANES):
        slope = a * rays[3, i] + b * rays[4, i] + c * rays[5, i]
        slope = slope if abs(slope) > TINY else TINY
        t = (d - (a * rays[0, i] + b * rays[1, i] + c * rays[2, i])) / slope
        x, y, z = (
            rays[0, i] + t * rays[3, i],
            rays[1, i] + t * rays[4, i],
            rays[2, i] + t * rays[5, i],
        )
        u = ua * x + ub * y + uc * z + ud
        v = va * x + vb * y + vc * z + vd
        inside = min(min(u, v), min(1 - u, 1 - share * u - v)) + 2 * SLACK
        ahead = min(t, best[i] - t)
        count += 1 if min(inside, ahead) >= 0 else 0
    return count


@ray_kernel
def refresh(packet):
    """Copy how far rays look to float32; return whether any still looks."""
    best, loose, is_any = packet.best, packet.loose, False
    for i in range(LANES):
        loose[6, i] = best[i]
        is_any |= best[i] >= 0
    return is_any


@ray_kernel
def meet(planes, kinds, slot, packet, is_moving, is_shadow):
    """Test a primitive against every ray; return whether any met it."""
    rays, best = packet.rays, packet.best
    if kinds[slot] != ELLIPSOID and count_hits(planes, kinds, slot, rays, best) == 0:
        return False
    is_met = False
    for i in range(LANES):
        if best[i] < 0:
            continue
        t = distance_to(
            planes, kinds, slot, rays[0, i], rays[1, i], rays[2, i], rays[3, i], rays[4, i],
            rays[5, i], 0.0, best[i],
        )  # fmt: skip
        if t >= 0:
            best[i] = -1.0 if is_shadow else t
            packet.slots[i] = -2 - slot if is_moving else slot
            is_met = True
    return is_met


@ray_kernel
def send(tree, planes, kinds, packet, is_moving, is_shadow):
    """Follow 16 rays: to their closest hits, or for shadows to any, which ends a lane."""
    bounds, children, stack, loose = tree.bounds, tree.children, packet.stack, packet.loose
    is_any = refresh(packet)
    size, node = 0, 0
    while is_any:
        if node >= 0:
            num_left, left = count_entries(bounds, node, 0, loose)
            num_right, right = count_entries(bounds, node, 6, loose)
            if num_left and num_right:
                is_swapped = left * num_right > right * num_left
                stack[size] = 2 * node + (0 if is_swapped else 1)
                size += 1
                node = children[node, 1 if is_swapped else 0]
                continue
            if num_left or num_right:
                node = children[node, 0 if num_left else 1]
                continue
        else:
            is_met = False
            first, count = ~node >> 3, ~node & 7
            for place in range(first, first + count):
                is_met |= meet(planes, kinds, place, packet, is_moving, is_shadow)
            if is_met:
                is_any = refresh(packet)
        num_left = 0
        while size and not num_left:  # of what waits, much is no longer before a ray's end
            size -= 1
            node = stack[size] >> 1
            side = stack[size] & 1
            num_left, _ = count_entries(bounds, node, 6 * side, loose)
            node = children[node, side]
        if not num_left:
            return
