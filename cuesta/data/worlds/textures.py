"""The Numba kernels of materials: the colour of a point on a surface, the same from everywhere.

A texture knows the point, the primitive's normal, base colour and seed, and the side of a pixel on
the surface, by which it drops what is too fine. It does not know where the viewer is: glass has a
fixed, weak tint where other renderers would mirror, so that matching images stays fair. Coordinates
on a flat surface are u (level) and v (up the slope), in metres of the world; round things take noise
in space. Low-frequency dirt and stains differ from place to place on every material, so that
repeated parts of a building do not look alike.
"""

import numpy as np

from cuesta.data.worlds.noise_kernels import (
    joints,
    lattice,
    noise,
    octaves,
    octaves_in_space,
    presence,
    texture_kernel,
)


@texture_kernel
def surface_point(x, y, z, nx, ny, nz):
    """Return u and v of a point on the plane with this normal.

    u of walls and roofs is shifted by the plane, so that no two of them look alike.
    """
    level = np.sqrt(nx * nx + ny * ny)
    if level < 0.3:
        return x, y
    tx, ty = -ny / level, nx / level
    shift = 41.3 * nx + 23.7 * ny + 13.37 * (nx * x + ny * y + nz * z)
    return shift + tx * x + ty * y, -nz * ty * x + nz * tx * y + (nx * ty - ny * tx) * z


@texture_kernel
def tinted(r, g, b, light, hue):
    """Return a colour times 1 + light, warmer by `hue`."""
    light = max(1 + light, 0.15)
    return r * light * (1 + hue), g * light, b * light * (1 - hue)


@texture_kernel
def mixed(r, g, b, other_r, other_g, other_b, share):
    """Return a blend of two colours."""
    return r + share * (other_r - r), g + share * (other_g - g), b + share * (other_b - b)


@texture_kernel
def dirt(u, v, width):
    """Return a stain of walls: broad patches and streaks that run down, at most about 1."""
    patches = octaves(u, v, 5.0, 0.6, 3.0, 11.0, width)
    streaks = noise(u * 4.0, v * 0.35, 12.0) * presence(0.5, width)
    return 0.6 * patches + 0.4 * streaks


@texture_kernel
def spots(u, v, seed, width):
    """Return how much of a point is under lichen, chips and soot: blots of some 5 to 40 cm, 0 to 1."""
    small = octaves(u, v, 0.33, 0.7, 3.0, seed, width)
    large = octaves(u, v, 1.1, 0.7, 4.0, seed + 5, width)
    return 0.6 * min(max(3.5 * (small - 0.30), 0.0), 1.0) + 0.6 * min(
        max(3 * (large - 0.42), 0.0), 1.0
    )


@texture_kernel
def masonry(u, v, length, height, joint, bond, seed, width):
    """Return the share of joints, a number of the stone in [0, 1), and the place in the stone in -1..1."""
    row = np.floor(v / height)
    along = u + length * (bond * row + 0.3 * bond * lattice(row, 7.0, seed))
    column = np.floor(along / length)
    share = 1 - (1 - joints(along, length, joint, width)) * (1 - joints(v, height, joint, width))
    left, low = along / length - column, v / height - row
    return share, lattice(column, row, seed), 2 * left - 1, 2 * low - 1


@texture_kernel
def plaster(r, g, b, u, v, width):
    fine = octaves(u, v, 0.7, 0.8, 6.0, 21.0, width)
    stain = dirt(u, v, width)
    flaked = presence(0.6, width) * min(max(6 * (noise(u * 0.9, v * 0.9, 22.0) - 0.62), 0.0), 1.0)
    light = 0.15 * fine + 0.30 * stain - 0.40 * spots(u, v, 23.0, width)
    r, g, b = tinted(r, g, b, light, 0.05 * stain)
    return mixed(r, g, b, 0.33, 0.22, 0.15, 0.55 * flaked * (0.8 + 0.2 * fine))


@texture_kernel
def brick(r, g, b, u, v, width):
    share, stone, _, _ = masonry(u, v, 0.30, 0.10, 0.016, 0.5, 31.0, width)
    left = presence(0.16, width)
    tone = left * (stone - 0.5)
    fine = octaves(u, v, 0.5, 0.8, 5.0, 32.0, width)
    r, g, b = tinted(
        r,
        g,
        b,
        0.6 * tone + 0.16 * fine + 0.3 * dirt(u, v, width) - 0.3 * spots(u, v, 33.0, width),
        0.12 * left * (stone * 7 % 1 - 0.5),
    )
    return mixed(r, g, b, 0.42, 0.39, 0.34, share)


@texture_kernel
def ashlar(r, g, b, u, v, width):
    share, stone, across, up = masonry(u, v, 0.85, 0.42, 0.022, 0.5, 41.0, width)
    left = presence(0.5, width)
    bevel = left * 0.10 * (up**5 - across**5)
    fine = octaves(u, v, 0.6, 0.85, 6.0, 42.0, width)
    light = 0.50 * left * (stone - 0.5) + 0.17 * fine + 0.30 * dirt(u, v, width) + bevel
    light -= 0.42 * spots(u, v, 43.0, width)
    r, g, b = tinted(r, g, b, light, 0.08 * left * (stone * 13 % 1 - 0.5))
    return mixed(r, g, b, 0.20 * r + 0.05, 0.20 * g + 0.05, 0.20 * b + 0.05, share)


@texture_kernel
def stone(r, g, b, seed, x, y, z, width):
    fine = octaves_in_space(x, y, z, 0.9, 0.85, 6.0, 51.0, width)
    broad = noise(0.5 * x + 0.3 * z, 0.5 * y - 0.3 * z, 52.0)
    soot = 0.35 * min(max(3.5 * (fine - 0.6), 0.0), 1.0)
    return tinted(
        r,
        g,
        b,
        0.16 * fine + 0.12 * broad - soot + 0.10 * (lattice(seed, 1.0, 53.0) - 0.5),
        0.03 * broad,
    )


@texture_kernel
def tiles(r, g, b, u, v, width):
    row = np.floor(v / 0.36)
    column = np.floor(u / 0.26 + 0.5 * row)
    low = v / 0.36 - row
    profile = np.cos(2 * np.pi * (u / 0.26 + 0.5 * row)) * presence(0.26, width)
    left = presence(0.36, width)
    number = lattice(column, row, 61.0)
    moss = min(max(3 * (octaves(u, v, 3.0, 0.7, 5.0, 62.0, width) - 0.45), 0.0), 1.0)
    light = left * (0.55 * (number - 0.5) + 0.35 * (low - 0.5)) - 0.16 * profile
    light += 0.22 * octaves(u, v, 1.2, 0.8, 4.0, 63.0, width)
    r, g, b = tinted(r, g, b, light, 0.14 * left * (number * 11 % 1 - 0.5))
    return mixed(r, g, b, 0.16, 0.17, 0.10, 0.5 * moss)


@texture_kernel
def wood(r, g, b, seed, u, v, width):
    share, plank, _, _ = masonry(
        v + 31 * lattice(seed, 2.0, 70.0), u, 2.4, 0.17, 0.008, 0.37, seed, width
    )
    grain = noise(u * 45 + 9 * plank, v * 2.2, 71.0) * presence(0.045, width)
    broad = octaves(u * 3, v * 0.7, 0.9, 0.7, 4.0, 72.0, 2 * width)
    r, g, b = tinted(
        r, g, b, 0.4 * (plank - 0.5) * presence(0.2, width) + 0.13 * grain + 0.2 * broad, 0.03
    )
    return mixed(r, g, b, 0.2 * r, 0.2 * g, 0.2 * b, share)


@texture_kernel
def glass(r, g, b, seed, u, v, width):
    drawn = lattice(seed, 3.0, 81.0)
    blotch = octaves(u + 3 * drawn, v, 1.1, 0.7, 4.0, seed, width)
    light = 0.55 * blotch + 1.1 * (lattice(seed, 4.0, 81.0) - 0.4)
    r, g, b = tinted(r, g, b, light, 0.25 * (drawn - 0.5))
    if drawn < 0.45:  # a curtain, whose folds and edge differ from pane to pane
        folds = 0.5 + 0.3 * noise(u * 14, v * 0.4, seed + 1) * presence(0.14, width)
        cover = min(max(8 * (noise(u * 1.6, v * 0.25, seed + 2) + 0.25), 0.0), 1.0)
        tone = 0.20 + 0.30 * lattice(seed, 5.0, 81.0)
        r, g, b = mixed(
            r,
            g,
            b,
            tone * folds * 1.1,
            tone * folds,
            tone * folds * 0.85,
            0.8 * cover * presence(0.5, width),
        )
    return r, g, b


@texture_kernel
def cobbles(r, g, b, u, v, width):
    broad = octaves(u, v, 6.0, 0.7, 4.0, 93.0, width)
    u, v = 0.866 * u - 0.5 * v, 0.5 * u + 0.866 * v
    share, sett, across, up = masonry(u, v, 0.19, 0.15, 0.022, 0.5, 91.0, width)
    left = presence(0.2, width)
    round_ = left * (0.12 - 0.18 * (across**4 + up**4))
    fine = octaves(u, v, 0.4, 0.8, 4.0, 92.0, width)
    light = 0.60 * left * (sett - 0.5) + round_ + 0.16 * fine + 0.18 * broad
    light -= 0.30 * spots(u, v, 94.0, width)
    r, g, b = tinted(r, g, b, light, 0.10 * left * (sett * 17 % 1 - 0.5) + 0.03 * broad)
    return mixed(r, g, b, 0.11, 0.10, 0.08, 0.8 * share)


@texture_kernel
def grass(r, g, b, u, v, width):
    blades = octaves(u, v, 0.45, 0.9, 5.0, 101.0, width)
    broad = octaves(u, v, 7.0, 0.75, 4.0, 102.0, width)
    bare = min(max(3 * (octaves(u, v, 2.2, 0.7, 4.0, 103.0, width) - 0.55), 0.0), 1.0)
    r, g, b = tinted(r, g, b, 0.22 * blades + 0.22 * broad, 0.12 * broad)
    return mixed(r, g, b, 0.25, 0.19, 0.11, 0.7 * bare)


@texture_kernel
def soil(r, g, b, u, v, width):
    fine = octaves(u, v, 0.6, 0.9, 6.0, 111.0, width)
    broad = octaves(u, v, 5.0, 0.7, 3.0, 112.0, width)
    return tinted(r, g, b, 0.17 * fine + 0.18 * broad, 0.05 * broad)


@texture_kernel
def foliage(r, g, b, seed, x, y, z, width):
    leaves = octaves_in_space(x, y, z, 0.5, 0.9, 5.0, 121.0, width)
    tone = lattice(seed, 6.0, 122.0) - 0.5
    return tinted(r, g, b, 0.42 * leaves + 0.35 * tone, 0.14 * tone + 0.08 * leaves)


@texture_kernel
def cloth(r, g, b, seed, x, y, z, width):
    fine = octaves_in_space(x, y, z, 0.35, 0.85, 4.0, seed, width)
    return tinted(r, g, b, 0.2 * fine, 0.05 * fine)


@texture_kernel
def poster(r, g, b, seed, u, v, width):
    """Blocks of colour at two sizes, and lines like print."""
    share = presence(0.30, width)
    big = lattice(np.floor(u / 0.37), np.floor(v / 0.29), seed)
    other_r, other_g, other_b = (
        0.1 + 0.8 * (big * 3 % 1),
        0.1 + 0.7 * (big * 7 % 1),
        0.1 + 0.7 * (big * 11 % 1),
    )
    r, g, b = mixed(r, g, b, other_r, other_g, other_b, 0.75 * share * (big > 0.35))
    line = np.floor(v / 0.07)
    print_ = lattice(np.floor(u / 0.05), line, seed + 1) > 0.45 and lattice(line, 8.0, seed) > 0.5
    r, g, b = mixed(r, g, b, 0.04, 0.04, 0.05, 0.8 * print_ * presence(0.10, width))
    return tinted(r, g, b, 0.12 * octaves(u, v, 0.5, 0.7, 5.0, seed, width), 0.0)


@texture_kernel
def paving(r, g, b, u, v, width):
    share, slab, _, _ = masonry(u, v, 0.9, 0.6, 0.014, 0.5, 131.0, width)
    left = presence(0.6, width)
    fine = octaves(u, v, 0.5, 0.85, 6.0, 132.0, width)
    broad = octaves(u, v, 6.0, 0.7, 3.0, 133.0, width)
    r, g, b = tinted(
        r,
        g,
        b,
        0.36 * left * (slab - 0.5) + 0.13 * fine + 0.16 * broad - 0.3 * spots(u, v, 134.0, width),
        0.08 * left * (slab * 13 % 1 - 0.5),
    )
    return mixed(r, g, b, 0.12, 0.11, 0.10, 0.8 * share)


@texture_kernel
def parquet(r, g, b, u, v, width):
    share, plank, _, _ = masonry(u, v, 1.1, 0.11, 0.004, 0.41, 141.0, width)
    grain = noise(u * 4 + 40 * plank, v * 70, 142.0) * presence(0.03, width)
    knots = octaves(u * 0.6, v * 2, 0.5, 0.8, 5.0, 143.0, 2 * width)
    light = 0.6 * (plank - 0.5) * presence(0.2, width) + 0.12 * grain + 0.16 * knots
    r, g, b = tinted(r, g, b, light, 0.08 * (plank * 7 % 1 - 0.5))
    return mixed(r, g, b, 0.3 * r, 0.3 * g, 0.3 * b, share)


@texture_kernel
def wallpaper(r, g, b, seed, u, v, width):
    """A print of blots in a staggered grid, each of another tone and size, on a worn ground."""
    row = np.floor(v / 0.24)
    along = u / 0.24 + 0.5 * row
    column = np.floor(along)
    drawn = lattice(column, row, seed)
    across = along - column - 0.5 + 0.3 * (drawn * 5 % 1 - 0.5)
    up = v / 0.24 - row - 0.5 + 0.3 * (drawn * 9 % 1 - 0.5)
    bend = noise(u * 30, v * 30, seed + 1) * presence(0.066, width)
    radius = 0.15 + 0.16 * drawn
    inside = min(max((radius - np.sqrt(across * across + up * up) + 0.05 * bend) * 16, 0.0), 1.0)
    stripe = 0.06 * np.cos(2 * np.pi * u / 0.48) * presence(0.48, width)
    worn = octaves(u, v, 2.4, 0.75, 7.0, seed + 2, width)
    r, g, b = tinted(r, g, b, stripe + 0.14 * worn, 0.03 * worn)
    tone = 0.35 + 0.9 * (drawn * 13 % 1)
    hue = 0.6 * (drawn * 17 % 1) - 0.3
    other_r, other_g, other_b = tinted(r * tone, g * tone * 0.9, b * tone * 0.8, 0.0, hue)
    return mixed(r, g, b, other_r, other_g, other_b, inside * presence(0.24, width))


@texture_kernel
def rug(r, g, b, seed, u, v, width):
    cell = lattice(np.floor(u / 0.18), np.floor(v / 0.12), seed)
    dash = lattice(np.floor((u + v) / 0.05), np.floor((u - v) / 0.05), seed + 1)
    fine = octaves(u, v, 0.4, 0.85, 5.0, seed, width)
    light = 1.1 * (cell - 0.45) * presence(0.15, width) + 0.5 * (dash - 0.5) * presence(0.06, width)
    return tinted(r, g, b, light + 0.15 * fine, 0.5 * (cell * 7 % 1 - 0.5) * presence(0.15, width))


@texture_kernel
def spine(r, g, b, seed, u, v, width):
    """The back of a book: bands and a title across it."""
    band = lattice(np.floor(v / 0.018), 9.0, seed)
    light = -0.5 * (band > 0.75) + 0.7 * (band < 0.18)
    fine = octaves(u, v, 0.2, 0.8, 4.0, seed, width)
    return tinted(r, g, b, light * presence(0.04, width) + 0.12 * fine, 0.0)


@texture_kernel
def plain(r, g, b, seed, x, y, z, width):
    return tinted(r, g, b, 0.09 * octaves_in_space(x, y, z, 0.6, 0.8, 5.0, seed % 97, width), 0.0)


@texture_kernel
def outdoor_color(material, r, g, b, seed, u, v, width):
    if material == 1:
        return plaster(r, g, b, u, v, width)
    if material == 2:
        return brick(r, g, b, u, v, width)
    if material == 3:
        return ashlar(r, g, b, u, v, width)
    if material == 5:
        return tiles(r, g, b, u, v, width)
    if material == 6:
        return wood(r, g, b, seed, u, v, width)
    if material == 7:
        return glass(r, g, b, seed, u, v, width)
    if material == 8:
        return cobbles(r, g, b, u, v, width)
    if material == 9:
        return grass(r, g, b, u, v, width)
    return soil(r, g, b, u, v, width)


@texture_kernel
def indoor_color(material, r, g, b, seed, u, v, width):
    if material == 13:
        return poster(r, g, b, seed, u, v, width)
    if material == 14:
        return paving(r, g, b, u, v, width)
    if material == 15:
        return parquet(r, g, b, u, v, width)
    if material == 16:
        return wallpaper(r, g, b, seed, u, v, width)
    if material == 17:
        return rug(r, g, b, seed, u, v, width)
    return spine(r, g, b, seed, u, v, width)


@texture_kernel
def surface_color(material, r, g, b, seed, x, y, z, nx, ny, nz, width):
    """Return the albedo (linear red, green, blue) of a point; materials are numbered as `Material`."""
    if material == 0:
        return plain(r, g, b, seed, x, y, z, width)
    if material == 4:
        return stone(r, g, b, seed, x, y, z, width)
    if material == 11:
        return foliage(r, g, b, seed, x, y, z, width)
    if material == 12:
        return cloth(r, g, b, seed, x, y, z, width)
    u, v = surface_point(x, y, z, nx, ny, nz)
    if material <= 10:
        return outdoor_color(material, r, g, b, seed, u, v, width)
    return indoor_color(material, r, g, b, seed, u, v, width)


@texture_kernel
def sky_color(dx, dy, dz, blue, cover, seed):
    """Return the sky's colour (linear) in a unit direction: a gradient and clouds far away."""
    height = max(dz, 0.0)
    fade = (1 - height) ** 5
    r, g, b = mixed(0.16 * blue, 0.33 * blue, 0.75 * blue, 0.62, 0.70, 0.80, fade)
    if dz > 0.02:
        u, v = dx / (dz + 0.25), dy / (dz + 0.25)
        cloud = octaves(u, v, 1.6, 0.55, 5.0, seed, 0.02) + cover
        share = min(max(1.3 * cloud, 0.0), 1.0) * min(8 * (dz - 0.02), 1.0)
        r, g, b = mixed(r, g, b, 0.86, 0.87, 0.90, 0.85 * share)
    return r, g, b
