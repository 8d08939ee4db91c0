"""The Numba kernels that make pictures: one ray a pixel for depth, normal, id and colour, and four
more where the picture has an edge.

Light is the sun or a lamp with hard shadows, and an ambient part that is weaker below and where a
primitive's surroundings are close (`exposures`). Rays have length 1 along the camera's axis, so that
distances along them are depths.
"""

import numpy as np

from cuesta.data.worlds.ray_kernels import ELLIPSOID, any_hit, closest_hit, ray_kernel
from cuesta.data.worlds.textures import sky_color, surface_color

BIAS = 1e-4  # metres, and the same share of the distance: how far shadow rays start off a surface
STEEPEST = 0.3  # cosine below which a pixel's foreshortening on a surface is not followed further
FOLIAGE = 11
SUB_X = (-0.125, 0.375, 0.125, -0.375)
SUB_Y = (-0.375, -0.125, 0.375, 0.125)


@ray_kernel
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


@ray_kernel
def lit(world, moving, light, x, y, z, nx, ny, nz, wrap, scratch):
    """Return how strongly the sun or lamp lights a point of unit normal n, in its shadow 0."""
    lx, ly, lz = light.place[0], light.place[1], light.place[2]
    reach, strength = 1e9, 1.0
    if light.is_near:
        lx, ly, lz = lx - x, ly - y, lz - z
        square = lx * lx + ly * ly + lz * lz
        reach = np.sqrt(square)
        lx, ly, lz = lx / reach, ly / reach, lz / reach
        strength = 1 / (0.35 + 0.13 * square)
        reach -= 0.25
    facing = (nx * lx + ny * ly + nz * lz + wrap) / (1 + wrap)
    if facing <= 0:
        return 0.0
    guess = any_hit(
        world.tree,
        world.planes,
        world.kinds,
        x,
        y,
        z,
        lx,
        ly,
        lz,
        0.0,
        reach,
        scratch.guesses[1],
        scratch,
    )
    if guess >= 0:
        scratch.guesses[1] = guess
        return 0.0
    if moving.kinds.shape[0]:
        guess = any_hit(
            moving.tree, moving.planes, moving.kinds, x, y, z, lx, ly, lz, 0.0, reach, -1, scratch
        )
        if guess >= 0:
            return 0.0
    return facing * strength


@ray_kernel
def follow(world, moving, ox, oy, oz, dx, dy, dz, scratch):
    """Return distance, slot (-1 for the sky) and whether it is of something that moves."""
    t, slot = closest_hit(
        world.tree, world.planes, world.kinds, ox, oy, oz, dx, dy, dz, 0.0, np.inf, scratch.guesses[0], scratch,
    )  # fmt: skip
    if slot >= 0:
        scratch.guesses[0] = slot
    if moving.kinds.shape[0]:
        nearer, other = closest_hit(
            moving.tree, moving.planes, moving.kinds, ox, oy, oz, dx, dy, dz, 0.0, t, -1, scratch,
        )  # fmt: skip
        if other >= 0:
            return nearer, other, True
    return t, slot, False


@ray_kernel
def surface_light(world, moving, light, shapes, slot, t, ox, oy, oz, dx, dy, dz, pixel, scratch):
    """Return the colour (linear) of the point at distance t on a ray; `pixel` is a pixel's angle."""
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    nx, ny, nz = normal_at(shapes, slot, x, y, z)
    cosine = (nx * dx + ny * dy + nz * dz) / length
    width = t * length * pixel / max(abs(cosine), STEEPEST)
    material, colors = shapes.materials[slot], shapes.colors
    r, g, b = surface_color(
        material,
        colors[slot, 0],
        colors[slot, 1],
        colors[slot, 2],
        shapes.seeds[slot],
        x,
        y,
        z,
        nx,
        ny,
        nz,
        width,
    )
    if cosine > 0:
        nx, ny, nz = -nx, -ny, -nz
    bias = BIAS * (1 + t)
    wrap = 0.3 if material == FOLIAGE else 0.0
    sun = lit(
        world, moving, light, x + bias * nx, y + bias * ny, z + bias * nz, nx, ny, nz, wrap,
        scratch,
    )  # fmt: skip
    open_ = shapes.exposures[slot]
    above, below = 0.5 + 0.5 * nz, 0.5 - 0.5 * nz
    a, e = light.ambient, light.bounce
    r *= sun * light.color[0] + open_ * (above * a[0] + below * e[0])
    g *= sun * light.color[1] + open_ * (above * a[1] + below * e[1])
    b *= sun * light.color[2] + open_ * (above * a[2] + below * e[2])
    haze = 1 - np.exp(-t * length / light.haze_distance)
    r += haze * (light.haze[0] - r)
    g += haze * (light.haze[1] - g)
    b += haze * (light.haze[2] - b)
    return r, g, b


@ray_kernel
def look(world, moving, light, ox, oy, oz, dx, dy, dz, pixel, scratch):
    """Return distance, slot, whether it moves, and red, green, blue (linear, tone-mapped) of a ray."""
    t, slot, is_moving = follow(world, moving, ox, oy, oz, dx, dy, dz, scratch)
    if slot < 0:
        length = np.sqrt(dx * dx + dy * dy + dz * dz)
        r, g, b = sky_color(
            dx / length, dy / length, dz / length, light.sky, light.cloud_cover, light.cloud_seed
        )
    elif is_moving:
        r, g, b = surface_light(
            world, moving, light, moving, slot, t, ox, oy, oz, dx, dy, dz, pixel, scratch
        )
    else:
        r, g, b = surface_light(
            world, moving, light, world, slot, t, ox, oy, oz, dx, dy, dz, pixel, scratch
        )
    return t, slot, is_moving, toned(r), toned(g), toned(b)


@ray_kernel
def toned(x):
    """Return a brightness in [0, 1): nearly linear when dark, saturating when bright."""
    return x * (1 + 0.12 * x) / (1 + 0.55 * x)


@ray_kernel
def render_rows(
    world,
    moving,
    light,
    rays,
    rotation,
    centre,
    pixel,
    begin,
    end,
    depth,
    normals,
    ids,
    slots,
    rgb,
    scratch,
):
    """Write rows begin .. end from one ray a pixel; `slots` are -1 for sky, below that what moves."""
    m = rotation  # cam_from_world
    for y in range(begin, end):
        for x in range(rays.shape[1]):
            dx = m[0, 0] * rays[y, x, 0] + m[1, 0] * rays[y, x, 1] + m[2, 0] * rays[y, x, 2]
            dy = m[0, 1] * rays[y, x, 0] + m[1, 1] * rays[y, x, 1] + m[2, 1] * rays[y, x, 2]
            dz = m[0, 2] * rays[y, x, 0] + m[1, 2] * rays[y, x, 1] + m[2, 2] * rays[y, x, 2]
            t, slot, is_moving, r, g, b = look(
                world, moving, light, centre[0], centre[1], centre[2], dx, dy, dz, pixel, scratch,
            )  # fmt: skip
            rgb[y, x, 0], rgb[y, x, 1], rgb[y, x, 2] = r, g, b
            slots[y, x] = -2 - slot if is_moving else slot
            if slot < 0:
                depth[y, x], ids[y, x], normals[y, x, :] = 0, 0, 0
                continue
            shapes = moving if is_moving else world
            depth[y, x] = t
            ids[y, x] = shapes.labels[slot]
            px, py, pz = centre[0] + t * dx, centre[1] + t * dy, centre[2] + t * dz
            nx, ny, nz = normal_at(shapes, slot, px, py, pz)
            sign = -1.0 if nx * dx + ny * dy + nz * dz > 0 else 1.0
            for k in range(3):
                normals[y, x, k] = sign * (m[k, 0] * nx + m[k, 1] * ny + m[k, 2] * nz)


@ray_kernel
def is_edge(y, x, other_y, other_x, depth, normals, ids, slots, rgb):
    """Return whether two neighbouring pixels differ in what they show, and visibly."""
    if slots[y, x] == slots[other_y, other_x]:
        return False
    contrast = 0.0
    for k in range(3):
        contrast += abs(np.sqrt(rgb[y, x, k]) - np.sqrt(rgb[other_y, other_x, k]))
    if contrast < 0.06:
        return False
    if ids[y, x] != ids[other_y, other_x]:
        return True
    cosine = 0.0
    for k in range(3):
        cosine += normals[y, x, k] * normals[other_y, other_x, k]
    a, b = depth[y, x], depth[other_y, other_x]
    return cosine < 0.99 or abs(a - b) > 0.02 * min(a, b)


@ray_kernel
def smooth_rows(
    world,
    moving,
    light,
    rays,
    rotation,
    centre,
    pixel,
    begin,
    end,
    depth,
    normals,
    ids,
    slots,
    rgb,
    image,
    scratch,
):
    """Write rows begin .. end of the 8-bit image, with four more rays a pixel on edges."""
    m = rotation
    height, width = rays.shape[0], rays.shape[1]
    for y in range(begin, end):
        up, down = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            r, g, b, count = rgb[y, x, 0], rgb[y, x, 1], rgb[y, x, 2], 1
            if (
                is_edge(y, x, y, right, depth, normals, ids, slots, rgb)
                or is_edge(y, x, down, x, depth, normals, ids, slots, rgb)
                or is_edge(y, x, y, left, depth, normals, ids, slots, rgb)
                or is_edge(y, x, up, x, depth, normals, ids, slots, rgb)
            ):
                for k in range(4):
                    sx, sy = SUB_X[k] / max(right - left, 1), SUB_Y[k] / max(down - up, 1)
                    ex = rays[y, x, 0] + sx * (rays[y, right, 0] - rays[y, left, 0])
                    ex += sy * (rays[down, x, 0] - rays[up, x, 0])
                    ey = rays[y, x, 1] + sx * (rays[y, right, 1] - rays[y, left, 1])
                    ey += sy * (rays[down, x, 1] - rays[up, x, 1])
                    dx = m[0, 0] * ex + m[1, 0] * ey + m[2, 0] * rays[y, x, 2]
                    dy = m[0, 1] * ex + m[1, 1] * ey + m[2, 1] * rays[y, x, 2]
                    dz = m[0, 2] * ex + m[1, 2] * ey + m[2, 2] * rays[y, x, 2]
                    _, _, _, more_r, more_g, more_b = look(
                        world, moving, light, centre[0], centre[1], centre[2], dx, dy, dz, pixel,
                        scratch,
                    )  # fmt: skip
                    r, g, b, count = r + more_r, g + more_g, b + more_b, count + 1
            image[y, x, 0] = encoded(r / count)
            image[y, x, 1] = encoded(g / count)
            image[y, x, 2] = encoded(b / count)


@ray_kernel
def encoded(x):
    """Return a linear brightness as an 8-bit sRGB number."""
    x = min(max(x, 0.0), 1.0)
    y = 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055
    return np.uint8(255 * y + 0.5)


@ray_kernel
def expose(shapes, directions, reach, sizes, exposures, scratch):
    """Write the share of `directions` (on a sphere) from each primitive that are free up to `reach`.

    A flat one takes its freer side; large ones, whose surroundings differ from end to end, stay at 1.
    """
    count = directions.shape[0]
    for slot in range(shapes.kinds.shape[0]):
        planes = shapes.planes
        is_round = shapes.kinds[slot] == ELLIPSOID
        weight = min(max(1.3 - sizes[slot, 3], 0.0), 1.0)
        if weight == 0:
            exposures[slot] = 1
            continue
        free, total, other_free, other_total = 0.0, 0.0, 0.0, 0.0
        for k in range(count):
            if is_round:
                x, y, z = (
                    planes[slot, 0] + 1.01 * directions[k, 0] / planes[slot, 3],
                    planes[slot, 1] + 1.01 * directions[k, 1] / planes[slot, 4],
                    planes[slot, 2] + 1.01 * directions[k, 2] / planes[slot, 5],
                )
                cosine = 1.0
            else:
                cosine = (
                    planes[slot, 0] * directions[k, 0]
                    + planes[slot, 1] * directions[k, 1]
                    + planes[slot, 2] * directions[k, 2]
                )
                shift = 1e-3 if cosine > 0 else -1e-3
                x, y, z = (
                    sizes[slot, 0] + shift * planes[slot, 0],
                    sizes[slot, 1] + shift * planes[slot, 1],
                    sizes[slot, 2] + shift * planes[slot, 2],
                )
            hit = any_hit(
                shapes.tree,
                shapes.planes,
                shapes.kinds,
                x,
                y,
                z,
                directions[k, 0],
                directions[k, 1],
                directions[k, 2],
                0.0,
                reach,
                -1,
                scratch,
            )
            is_free = 1.0 if hit < 0 else 0.0
            if cosine > 0:
                total += cosine
                free += is_free * cosine
            else:
                other_total -= cosine
                other_free -= is_free * cosine
        best = max(free / max(total, 1e-9), other_free / max(other_total, 1e-9))
        exposures[slot] = 1 - 0.8 * weight * (1 - best)
