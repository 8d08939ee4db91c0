"""Kinds of buildings: palaces, churches and town halls for landmarks, houses to stand round them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cuesta.data.worlds.building import Body, body, chimneys, gable_roof, hip_roof, tower
from cuesta.data.worlds.facade import Storeys, Style, pane, pediment, wall, window
from cuesta.data.worlds.mesh import Mesh, Place


def palace(
    mesh: Mesh, place: Place, style: Style, *, draw: np.random.Generator
) -> tuple[float, float]:
    """Add a palace or town hall with a raised middle; return its width and depth."""
    bays = 2 * int(draw.integers(3, 5)) + 1
    width, depth = 2.5 * bays, float(draw.uniform(10, 13))
    heights = (4.4, 4.0, 3.4)[: int(draw.integers(2, 4))]
    has_arcade = bool(draw.random() < 0.4)
    shape = Body(
        width=width,
        depth=depth,
        heights=heights,
        bays=(bays, 4),
        portal_bay=-1 if has_arcade else bays // 2,
        arcade_depth=2.5 if has_arcade else 0.0,
    )
    body(mesh, place, shape, style=style, seed=1)
    roof = place.moved(0, shape.height + 0.4, 0)
    hip_roof(mesh, roof, width, depth=depth, rise=0.42 * depth, roof=style.roof, dormers=bays // 2)
    gable = roof.moved(0, 0, 0.15)
    pediment(mesh, gable, 0.36 * width, height=0.09 * width, depth=0.5, trim=style.trim)
    chimneys(mesh, roof, width, depth=depth, style=style)
    if draw.random() < 0.75:
        back = place.moved(0, shape.height - 1.0, -depth / 2 + 2.2)
        tower(
            mesh,
            back,
            4.4,
            heights=(4.6, 4.6),
            style=style,
            top=str(draw.choice(["dome", "spire"])),
            seed=9,
        )
    return width, depth


def church(
    mesh: Mesh, place: Place, style: Style, *, draw: np.random.Generator
) -> tuple[float, float]:
    """Add a church: a tower before a nave with buttresses and a round choir; return width and depth."""
    width, length = float(draw.uniform(10, 12)), float(draw.uniform(17, 21))
    tall = replace(style, is_arched=True, window_width=1.5, window_height=0.74, bars=(3, 6))
    shape = Body(width=width, depth=length, heights=(8.2,), bays=(3, 6), portal_bay=1)
    nave = place.moved(0, 0, 0)
    body(mesh, nave, shape, style=replace(tall, has_pilasters=False), seed=2)
    rise = 0.62 * width
    gable_roof(
        mesh,
        nave.moved(0, 8.6, 0),
        width,
        depth=length,
        rise=rise,
        finishes=(style.roof, style.wall),
    )
    for k in range(7):
        for sign in (-1.0, 1.0):
            w = -0.35 - k * (length - 0.7) / 6
            foot = nave.moved(sign * (width / 2 + 0.35), 0, w)
            mesh.block(foot, (-0.45, 0.45), (0, 4.6), (-0.35, 0.35), style.trim.seeded(k))
            mesh.block(
                foot,
                (-0.35 - 0.1 * sign, 0.35 - 0.1 * sign),
                (4.6, 7.2),
                (-0.3, 0.3),
                style.trim.seeded(k),
            )
    size = 4.6
    top = str(draw.choice(["spire", "dome", "roof"]))
    tower_place = nave.moved(float(draw.choice([-1.0, 1.0])) * (width / 2 + size / 2 - 0.6), 0, 0.8)
    tower(
        mesh,
        tower_place,
        size,
        heights=(5.5, 5.0, 5.0),
        style=replace(style, window_width=0.8),
        top=top,
        seed=5,
    )
    choir = nave.moved(0, 0, -length)
    radius = 0.4 * width
    mesh.lathe(
        choir,
        [(radius, 0), (radius, 7.4), (radius + 0.35, 7.6), (radius + 0.35, 7.9)],
        style.wall,
        sides=12,
    )
    mesh.lathe(choir, [(radius + 0.4, 7.8), (0, 11.0)], style.roof, sides=12)
    rose = replace(nave.moved(0, 8.6 + 0.38 * rise, 0), up=nave.out, out=-nave.up)
    mesh.lathe(rose, [(1.25, -0.05), (1.25, 0.18), (1.0, 0.18), (0.95, 0.05)], style.trim, sides=24)
    mesh.lathe(rose, [(0.95, 0.05), (0, 0.05)], style.glass, sides=12)
    return width, length


def townhall(
    mesh: Mesh, place: Place, style: Style, *, draw: np.random.Generator
) -> tuple[float, float]:
    """Add a hall with stepped gables and a tower at its side; return its width and depth."""
    width, depth = float(draw.uniform(13, 16)), float(draw.uniform(11, 13))
    heights = (4.4, 3.8, 3.4)
    has_arcade = bool(draw.random() < 0.6)
    shape = Body(
        width=width,
        depth=depth,
        heights=heights,
        bays=(5, 4),
        portal_bay=-1 if has_arcade else 2,
        arcade_depth=2.2 if has_arcade else 0.0,
    )
    body(mesh, place, shape, style=replace(style, has_pilasters=False), seed=3)
    eaves = place.moved(0, shape.height + 0.4, 0)
    rise = 0.5 * width
    gable_roof(mesh, eaves, width, depth=depth, rise=rise, finishes=(style.roof, style.wall))
    steps = 7
    for k in range(steps):
        reach = width / 2 * (1 - k / steps)
        low = rise * k / steps
        for w in ((-0.35, 0.25), (-depth - 0.25, -depth + 0.35)):
            stone = style.wall
            mesh.block(eaves, (-reach, reach), (low, low + rise / steps + 0.45), w, stone)
            for sign in (-1.0, 1.0):
                edge = sorted((sign * reach, sign * (reach - 0.9)))
                cap = (low + rise / steps + 0.45, low + rise / steps + 0.6)
                mesh.block(
                    eaves, (edge[0], edge[1]), cap, (w[0] - 0.08, w[1] + 0.08), style.trim.seeded(k)
                )
    for k, (u, v) in enumerate(((-2.2, 0.9), (0.0, 0.9), (2.2, 0.9), (0.0, 3.4))):
        hole = ((u - 0.5, u + 0.5), (v, v + 1.5))
        pane(mesh, eaves.moved(0, 0, 0.27), hole, style=style, seed=40 + k)
        mesh.block(eaves, (u - 0.65, u + 0.65), (v - 0.15, v), (0.2, 0.45), style.trim)
    side = float(draw.choice([-1.0, 1.0]))
    top = str(draw.choice(["spire", "dome"]))
    tower(
        mesh,
        place.moved(side * (width / 2 + 1.6), 0, -1.5),
        4.2,
        heights=(6, 5, 5),
        style=style,
        top=top,
        seed=6,
    )
    return width, depth


def house(mesh: Mesh, place: Place, style: Style, *, draw: np.random.Generator, seed: int) -> None:
    """Add a plain house of a street; `place` is the middle of its front's foot."""
    bays = int(draw.integers(3, 6))
    width, depth = float(bays * draw.uniform(2.1, 2.8)), float(draw.uniform(8, 11))
    heights = (3.4, 3.1, 3.0, 2.9)[: int(draw.integers(2, 5))]
    shape = Storeys(width=width, heights=heights, bays=bays, portal_bay=-1)
    corner = place.moved(-width / 2, -0.6, 0)
    tall = replace(shape, heights=(heights[0] + 0.6, *heights[1:]))
    high = sum(tall.heights)
    wall(mesh, corner, tall, style=style, seed=seed)
    wall(
        mesh,
        corner.side(width, -depth, quarters=2),
        tall,
        style=replace(style, bars=(0, 0)),
        seed=seed + 1,
    )
    for side in (corner.side(width, 0, quarters=1), corner.side(0, -depth, quarters=3)):
        side_wall = replace(style, bars=(0, 0), has_shutters=False, window_width=0.8)
        for k in range(2):
            window(
                mesh,
                side,
                (k * depth / 2, (k + 1) * depth / 2),
                v=(0, high),
                style=replace(side_wall, window_height=0.14),
                seed=seed + k,
            )
    roof = place.moved(0, high - 0.6, 0)
    finishes = (style.roof, style.wall)
    if draw.random() < 0.6:
        turned = roof.side(width / 2, -depth / 2, quarters=1)
        gable_roof(mesh, turned, depth, depth=width, rise=0.42 * depth, finishes=finishes)
    else:
        hip_roof(
            mesh, roof, width, depth=depth, rise=0.35 * depth, roof=style.roof, dormers=bays // 2
        )
    chimneys(mesh, roof, width, depth=depth, style=style)
