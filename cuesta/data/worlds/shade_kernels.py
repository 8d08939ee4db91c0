"""The Numba kernels that make pictures: one ray a pixel for depth, normal, id and colour, and four
more where the picture has an edge.

Light is the sun or a lamp with hard shadows, and an ambient part that is weaker below and where a
primitive's surroundings are close (`exposures`). Rays have length 1 along the camera's axis, so that
distances along them are depths. Numba keeps compiled kernels by the date of their own file: after a
change to a module whose kernels are called here, remove __pycache__.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cuesta.data.worlds.ray_kernels import (
    ELLIPSOID,
    FAR,
    LANES,
    Packet,
    end_lane,
    put,
    ray_helper,
    ray_kernel,
    send,
)
from cuesta.data.worlds.srgb_kernels import encoded
from cuesta.data.worlds.textures import sky_color, surface_color

BIAS = 1e-4  # metres, and the same share of the distance: how far shadow rays start off a surface
STEEPEST = 0.3  # cosine below which a pixel's foreshortening on a surface is not followed further
FOLIAGE = 11
TILE = 4  # pixels across and down that make a packet
SUB_X = (-0.125, 0.375, 0.125, -0.375)
SUB_Y = (-0.375, -0.125, 0.375, 0.125)


class Workspace(NamedTuple):
    """Hold a thread's memory: rays of eyes and of shadows, and what is known where they end."""

    eye: Packet
    shadow: Packet
    normals: NDArray[np.float64]  # [3, 16], towards the eye
    colors: NDArray[np.float64]  # [3, 16]: albedo, then light
    facing: NDArray[np.float64]  # [16]: the light's strength where no shadow falls
    pixels: NDArray[np.int64]  # [16]: x of the pixel that a lane is of

    @staticmethod
    def new() -> Workspace:
        """Return memory for one thread."""
        normals, colors = np.zeros((3, LANES)), np.zeros((3, LANES))
        pixels = np.zeros(LANES, np.int64)
        return Workspace(Packet.new(), Packet.new(), normals, colors, np.zeros(LANES), pixels)


@ray_helper
def normal_at(shapes, slot, x, y, z):
    """Return the unit normal of a primitive, outward for an ellipsoid."""
    planes = shapes.planes
    if shapes.kinds[slot] == ELLIPSOID:
        nx, ny, nz = (
            (x - planes[slot, 0]) * planes[slot, 3] * planes[slot, 3],
            (y - planes[slot, 1]) * planes[slot, 4] * planes[slot, 4],
            (z - planes[slot, 2]) * planes[slot, 5] * planes[slot, 5],
        )
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        return nx / length, ny / length, nz / length
    return planes[slot, 0], planes[slot, 1], planes[slot, 2]


@ray_helper
def aim(light, space, lane, x, y, z, bias, wrap):
    """Set a lane's shadow ray from a point towards the light; none where it faces away."""
    normals, place = space.normals, light.place
    nx, ny, nz = normals[0, lane], normals[1, lane], normals[2, lane]
    lx, ly, lz, reach, strength = place[0], place[1], place[2], FAR, 1.0
    if light.is_near:
        lx, ly, lz = lx - x, ly - y, lz - z
        square = lx * lx + ly * ly + lz * lz
        length = np.sqrt(square)
        lx, ly, lz = lx / length, ly / length, lz / length
        strength, reach = 1 / (0.35 + 0.13 * square), max(length - 0.25, 0.0)
    facing = (nx * lx + ny * ly + nz * lz + wrap) / (1 + wrap)
    space.facing[lane] = max(facing, 0.0) * strength
    put(
        space.shadow, lane, x + bias * nx, y + bias * ny, z + bias * nz, lx, ly, lz,
        reach if facing > 0 else -1.0,
    )  # fmt: skip


@ray_helper
def touch(shapes, light, space, lane, slot, pixel):
    """Find normal and albedo where a lane's ray ends, and set its shadow ray."""
    rays, t = space.eye.rays, space.eye.best[lane]
    dx, dy, dz = rays[3, lane], rays[4, lane], rays[5, lane]
    x, y, z = rays[0, lane] + t * dx, rays[1, lane] + t * dy, rays[2, lane] + t * dz
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    nx, ny, nz = normal_at(shapes, slot, x, y, z)
    cosine = (nx * dx + ny * dy + nz * dz) / length
    width = t * length * pixel / max(abs(cosine), STEEPEST)
    material, colors = shapes.materials[slot], shapes.colors
    r, g, b = surface_color(
        material, colors[slot, 0], colors[slot, 1], colors[slot, 2], shapes.seeds[slot], x, y, z,
        nx, ny, nz, width,
    )  # fmt: skip
    sign = -1.0 if cosine > 0 else 1.0
    space.colors[0, lane], space.colors[1, lane], space.colors[2, lane] = r, g, b
    normals = space.normals
    normals[0, lane], normals[1, lane], normals[2, lane] = sign * nx, sign * ny, sign * nz
    aim(light, space, lane, x, y, z, BIAS * (1 + t), 0.3 if material == FOLIAGE else 0.0)


@ray_helper
def light_up(light, space, lane, exposure):
    """Turn a lane's albedo into the light that its ray brings back."""
    colors, rays = space.colors, space.eye.rays
    is_lit = space.shadow.slots[lane] == -1
    direct = space.facing[lane] if is_lit else 0.0
    up = space.normals[2, lane]
    dx, dy, dz = rays[3, lane], rays[4, lane], rays[5, lane]
    distance = space.eye.best[lane] * np.sqrt(dx * dx + dy * dy + dz * dz)
    haze = 1 - np.exp(-distance / light.haze_distance)
    for k in range(3):
        ambient = (0.5 + 0.5 * up) * light.ambient[k] + (0.5 - 0.5 * up) * light.bounce[k]
        value = colors[k, lane] * (direct * light.color[k] + exposure * ambient)
        colors[k, lane] = toned(value + haze * (light.haze[k] - value))


@ray_helper
def trace(world, moving, eye):
    """Follow the eye's 16 rays to what they meet first."""
    send(world.tree, world.planes, world.kinds, eye, False, False)
    if moving.kinds.shape[0]:
        send(moving.tree, moving.planes, moving.kinds, eye, True, False)


@ray_helper
def shade(world, moving, light, pixel, space):
    """Find the colours (linear, tone-mapped) that the eye's rays bring back."""
    eye, shadow, colors = space.eye, space.shadow, space.colors
    for lane in range(LANES):
        slot = eye.slots[lane]
        end_lane(shadow, lane)
        if slot >= 0:
            touch(world, light, space, lane, slot, pixel)
        elif slot < -1:
            touch(moving, light, space, lane, -2 - slot, pixel)
        elif eye.best[lane] > 0:
            dx, dy, dz = eye.rays[3, lane], eye.rays[4, lane], eye.rays[5, lane]
            length = np.sqrt(dx * dx + dy * dy + dz * dz)
            r, g, b = sky_color(
                dx / length, dy / length, dz / length, light.sky, light.cloud_cover,
                light.cloud_seed,
            )  # fmt: skip
            colors[0, lane], colors[1, lane], colors[2, lane] = toned(r), toned(g), toned(b)
    send(world.tree, world.planes, world.kinds, shadow, False, True)
    if moving.kinds.shape[0]:
        send(moving.tree, moving.planes, moving.kinds, shadow, True, True)
    for lane in range(LANES):
        slot = eye.slots[lane]
        if slot >= 0:
            light_up(light, space, lane, world.exposures[slot])
        elif slot < -1:
            light_up(light, space, lane, moving.exposures[-2 - slot])


@ray_helper
def toned(x):
    """Return a brightness in [0, 1): nearly linear when dark, saturating when bright."""
    return x * (1 + 0.12 * x) / (1 + 0.55 * x)


@ray_helper
def put_eye(space, lane, rotation, centre, x, y):
    """Set a lane's eye ray through the point (x, y, 1) of the camera's frame."""
    m = rotation  # cam_from_world
    put(
        space.eye, lane, centre[0], centre[1], centre[2],
        m[0, 0] * x + m[1, 0] * y + m[2, 0],
        m[0, 1] * x + m[1, 1] * y + m[2, 1],
        m[0, 2] * x + m[1, 2] * y + m[2, 2],
        FAR,
    )  # fmt: skip


@ray_kernel
def render_rows(
    world, moving, light, rays, rotation, centre, pixel, begin, end, depth, normals, ids, slots, rgb,
    space,
):  # fmt: skip
    """Write rows begin .. end from one ray a pixel; `slots` are -1 for sky, below that what moves."""
    m, eye, width = rotation, space.eye, rays.shape[1]
    for top in range(begin, end, TILE):
        for left in range(0, width, TILE):
            for lane in range(LANES):
                y, x = top + lane // TILE, left + lane % TILE
                if y < end and x < width:
                    put_eye(space, lane, rotation, centre, rays[y, x, 0], rays[y, x, 1])
                else:
                    end_lane(eye, lane)
            trace(world, moving, eye)
            shade(world, moving, light, pixel, space)
            for lane in range(LANES):
                y, x = top + lane // TILE, left + lane % TILE
                if y >= end or x >= width:
                    continue
                slot = eye.slots[lane]
                slots[y, x] = slot
                depth[y, x], ids[y, x] = 0, 0
                if slot != -1:
                    depth[y, x] = eye.best[lane]
                    ids[y, x] = world.labels[slot] if slot >= 0 else moving.labels[-2 - slot]
                for k in range(3):
                    rgb[y, x, k], normals[y, x, k] = space.colors[k, lane], 0
                    if slot != -1:
                        for axis in range(3):
                            normals[y, x, k] += m[k, axis] * space.normals[axis, lane]


@ray_helper
def is_edge(y, x, other_y, other_x, depth, normals, ids, slots, rgb):
    """Return whether two neighbouring pixels differ in what they show, and visibly."""
    if slots[y, x] == slots[other_y, other_x]:
        return False
    contrast = 0.0
    for k in range(3):
        contrast += abs(np.sqrt(rgb[y, x, k]) - np.sqrt(rgb[other_y, other_x, k]))
    if contrast < 0.24:
        return False
    if ids[y, x] != ids[other_y, other_x]:
        return True
    cosine = 0.0
    for k in range(3):
        cosine += normals[y, x, k] * normals[other_y, other_x, k]
    a, b = depth[y, x], depth[other_y, other_x]
    return cosine < 0.99 or abs(a - b) > 0.02 * min(a, b)


@ray_helper
def has_edge(y, x, depth, normals, ids, slots, rgb):
    """Return whether a pixel visibly differs from one of its four neighbours."""
    up, down = max(y - 1, 0), min(y + 1, depth.shape[0] - 1)
    left, right = max(x - 1, 0), min(x + 1, depth.shape[1] - 1)
    return (
        is_edge(y, x, y, right, depth, normals, ids, slots, rgb)
        or is_edge(y, x, down, x, depth, normals, ids, slots, rgb)
        or is_edge(y, x, y, left, depth, normals, ids, slots, rgb)
        or is_edge(y, x, up, x, depth, normals, ids, slots, rgb)
    )


@ray_helper
def put_around(space, lane, rays, rotation, centre, y, x):
    """Set four lanes to rays round a pixel's centre, at the differences of its neighbours' rays."""
    up, down = max(y - 1, 0), min(y + 1, rays.shape[0] - 1)
    left, right = max(x - 1, 0), min(x + 1, rays.shape[1] - 1)
    for k in range(4):
        sx, sy = SUB_X[k] / max(right - left, 1), SUB_Y[k] / max(down - up, 1)
        px = sx * (rays[y, right, 0] - rays[y, left, 0]) + sy * (rays[down, x, 0] - rays[up, x, 0])
        py = sx * (rays[y, right, 1] - rays[y, left, 1]) + sy * (rays[down, x, 1] - rays[up, x, 1])
        put_eye(space, lane + k, rotation, centre, rays[y, x, 0] + px, rays[y, x, 1] + py)
        space.pixels[lane + k] = x


@ray_helper
def reuse(space, y, count, slots, rgb):
    """Give lanes that meet what their pixel or a neighbour shows its colour, and end them."""
    eye = space.eye
    for lane in range(count):
        x, is_known = space.pixels[lane], False
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                row, column = y + dy, x + dx
                if is_known or row < 0 or column < 0:
                    continue
                if row >= slots.shape[0] or column >= slots.shape[1]:
                    continue
                if slots[row, column] == eye.slots[lane]:
                    is_known = True
                    for k in range(3):
                        space.colors[k, lane] = rgb[row, column, k]
        if is_known:
            end_lane(eye, lane)


@ray_kernel
def smooth_rows(
    world, moving, light, rays, rotation, centre, pixel, begin, end, depth, normals, ids, slots, rgb,
    image, space,
):  # fmt: skip
    """Write rows begin .. end of the 8-bit image, with four more rays a pixel on edges."""
    width = rays.shape[1]
    for y in range(begin, end):
        lane = 0
        for x in range(width):
            for k in range(3):
                image[y, x, k] = encoded(rgb[y, x, k])
            if has_edge(y, x, depth, normals, ids, slots, rgb):
                put_around(space, lane, rays, rotation, centre, y, x)
                lane += 4
            if lane < LANES and x < width - 1:
                continue
            for rest in range(lane, LANES):
                end_lane(space.eye, rest)
            if lane:
                trace(world, moving, space.eye)
                reuse(space, y, lane, slots, rgb)
                shade(world, moving, light, pixel, space)
            for first in range(0, lane, 4):
                target = space.pixels[first]
                for k in range(3):
                    total = float(rgb[y, target, k])
                    for more in range(first, first + 4):
                        total += space.colors[k, more]
                    image[y, target, k] = encoded(total / 5)
            lane = 0


@ray_kernel
def expose(shapes, directions, reach, sizes, exposures, packet):
    """Write the share of `directions` (on a sphere) from each primitive that are free up to `reach`.

    A flat one takes its freer side; large ones, whose surroundings differ from end to end, stay at 1.
    `sizes` [slots, 4] are the middle of each primitive's box and its diagonal.
    """
    planes = shapes.planes
    for slot in range(shapes.kinds.shape[0]):
        is_round = shapes.kinds[slot] == ELLIPSOID
        weight = min(max(1.3 - sizes[slot, 3], 0.0), 1.0)
        if weight == 0:
            continue
        free, total, other_free, other_total = 0.0, 0.0, 0.0, 0.0
        for first in range(0, directions.shape[0], LANES):
            for lane in range(LANES):
                dx, dy, dz = (
                    directions[first + lane, 0],
                    directions[first + lane, 1],
                    directions[first + lane, 2],
                )
                x, y, z = sizes[slot, 0], sizes[slot, 1], sizes[slot, 2]
                if is_round:
                    x += 1.01 * dx / planes[slot, 3]
                    y += 1.01 * dy / planes[slot, 4]
                    z += 1.01 * dz / planes[slot, 5]
                put(packet, lane, x + 1e-3 * dx, y + 1e-3 * dy, z + 1e-3 * dz, dx, dy, dz, reach)
            send(shapes.tree, planes, shapes.kinds, packet, False, True)
            for lane in range(LANES):
                cosine = 1.0
                if not is_round:
                    cosine = planes[slot, 0] * directions[first + lane, 0]
                    cosine += planes[slot, 1] * directions[first + lane, 1]
                    cosine += planes[slot, 2] * directions[first + lane, 2]
                is_free = 1.0 if packet.slots[lane] == -1 else 0.0
                if cosine > 0:
                    total += cosine
                    free += is_free * cosine
                else:
                    other_total -= cosine
                    other_free -= is_free * cosine
        best = max(free / max(total, 1e-9), other_free / max(other_total, 1e-9))
        exposures[slot] = 1 - 0.8 * weight * (1 - best)


@ray_kernel
def reflect(shapes, origins, directions, distances, slots, cosines, albedos):
    """Write incidence (cosine) and brightness of the surface for each ray of unit direction that hits."""
    for i in range(slots.shape[0]):
        slot = slots[i]
        if slot < 0:
            continue
        t, dx, dy, dz = distances[i], directions[i, 0], directions[i, 1], directions[i, 2]
        x, y, z = origins[i, 0] + t * dx, origins[i, 1] + t * dy, origins[i, 2] + t * dz
        nx, ny, nz = normal_at(shapes, slot, x, y, z)
        cosines[i] = abs(nx * dx + ny * dy + nz * dz)
        colors = shapes.colors
        r, g, b = surface_color(
            shapes.materials[slot], colors[slot, 0], colors[slot, 1], colors[slot, 2],
            shapes.seeds[slot], x, y, z, nx, ny, nz, 0.003 * t,
        )  # fmt: skip
        albedos[i] = min(0.2 * r + 0.4 * g + 0.4 * b, 1.0)
