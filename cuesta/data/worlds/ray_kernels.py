"""The Numba kernels that take 16 rays through a bounding-volume hierarchy together.

Rays of neighbouring pixels visit much the same nodes: a packet visits their union once, and tests the
16 against a box or a plane in the lanes of the processor's vectors (Wald and others, "Interactive
rendering with coherent ray tracing", 2001). Boxes are tested in float32 with slack, primitives in
float64. A flat primitive is kept as three planes: its own, and two whose distances are its coordinates
u and v (Baldwin and Weber, "Fast ray-triangle intersections by coordinate transformation", 2016); a
hit is where the ray meets the plane itself, exact to rounding.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from cuesta.ops.numba_decorators import FROM_KERNELS

TRIANGLE, PARALLELOGRAM, ELLIPSOID = 0, 1, 2
STACK = 128  # deeper than a hierarchy is
SLACK = 1e-9  # in u and v: no ray slips between two flat primitives that share an edge
LANES = 16
LOOSE = np.float32(1 + 1e-5)  # what boxes are given for the rounding of float32
TINY = 1e-30
FAR = 1e30

# Without _nrt=False each call counts references to the arrays it passes on, atomically, which costs
# more than the rays; such a kernel allocates nothing.
_ray = partial(
    numba.njit,
    cache=True,
    nogil=True,
    _nrt=False,
    error_model="numpy",
    fastmath={"contract", "reassoc", "nsz", "nnan"},
)
ray_kernel = _ray()
ray_helper = _ray(**FROM_KERNELS)


class Packet(NamedTuple):
    """Hold 16 rays and a thread's stack. A lane whose `best` is negative takes no part."""

    rays: NDArray[np.float64]  # [6, 16]: origins x, y, z, directions x, y, z
    loose: NDArray[np.float32]  # [7, 16]: origins over directions, 1 over directions, how far
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
        inverse = 1 / d if abs(d) > TINY else 1 / TINY
        loose[axis, lane], loose[3 + axis, lane] = rays[axis, lane] * inverse, inverse
    packet.best[lane], packet.slots[lane] = reach, -1


@ray_helper
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


@ray_helper
def count_entries(bounds, node, side, loose):
    """Return how many rays meet a child's box before they end, and their distances to it together."""
    lx, ly, lz = bounds[node, side], bounds[node, side + 1], bounds[node, side + 2]
    hx, hy, hz = bounds[node, side + 3], bounds[node, side + 4], bounds[node, side + 5]
    count, total = np.int32(0), np.float32(0)
    for i in range(LANES):
        ax, bx = lx * loose[3, i] - loose[0, i], hx * loose[3, i] - loose[0, i]
        ay, by = ly * loose[4, i] - loose[1, i], hy * loose[4, i] - loose[1, i]
        az, bz = lz * loose[5, i] - loose[2, i], hz * loose[5, i] - loose[2, i]
        near = max(max(min(ax, bx), min(ay, by)), max(min(az, bz), np.float32(0)))
        far = min(min(max(ax, bx), max(ay, by)), min(max(az, bz), loose[6, i]))
        is_met = near <= far * LOOSE
        count += np.int32(1) if is_met else np.int32(0)
        total += near if is_met else np.float32(0)
    return count, total


@ray_helper
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


@ray_helper
def refresh(packet):
    """Copy how far rays look to float32; return whether any still looks."""
    best, loose, is_any = packet.best, packet.loose, False
    for i in range(LANES):
        loose[6, i] = best[i]
        is_any |= best[i] >= 0
    return is_any


@ray_helper
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


@ray_helper
def end_lane(packet, lane):
    """Take a lane out of the packet."""
    packet.best[lane], packet.slots[lane] = -1.0, -1


@ray_kernel
def closest_hits(tree, planes, kinds, origins, directions, distances, slots, packet):
    """Write distance (infinity for none) and slot (-1) of the closest hit of each of many rays."""
    for first in range(0, origins.shape[0], LANES):
        count = min(LANES, origins.shape[0] - first)
        for lane in range(LANES):
            i = first + lane
            if lane >= count:
                end_lane(packet, lane)
                continue
            put(
                packet, lane, origins[i, 0], origins[i, 1], origins[i, 2],
                directions[i, 0], directions[i, 1], directions[i, 2], FAR,
            )  # fmt: skip
        send(tree, planes, kinds, packet, False, False)
        for lane in range(count):
            slots[first + lane] = packet.slots[lane]
            distances[first + lane] = packet.best[lane] if packet.slots[lane] >= 0 else np.inf
