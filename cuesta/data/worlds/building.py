"""Whole buildings out of facades: bodies with roofs, towers with spires or domes, three kinds of
landmark and plain houses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from cuesta.data.worlds.facade import Storeys, Style, cornice, opening, pane, pediment, wall, window
from cuesta.data.worlds.labels import Label
from cuesta.data.worlds.mesh import Finish, Mesh, Place


@final
@dataclass(frozen=True, kw_only=True)
class Body:
    """Say what a rectangular part of a building is like; its front is the wall that faces w."""

    width: float
    depth: float
    heights: tuple[float, ...]
    bays: tuple[int, int]  # of the front and back, of the sides
    portal_bay: int = -1
    arcade_depth: float = 0.0

    @property
    def height(self) -> float:
        return sum(self.heights)


def body(mesh: Mesh, place: Place, shape: Body, *, style: Style, seed: int) -> None:
    """Add four walls with a cornice; `place` is the middle of the front's foot."""
    half = shape.width / 2
    corner = place.moved(-half, 0, 0)
    fronts = Storeys(
        width=shape.width,
        heights=shape.heights,
        bays=shape.bays[0],
        portal_bay=shape.portal_bay,
        arcade_depth=shape.arcade_depth,
    )
    sides = Storeys(width=shape.depth, heights=shape.heights, bays=shape.bays[1])
    backs = replace(fronts, portal_bay=-1, arcade_depth=0.0)
    walls = [
        (corner, fronts),
        (corner.side(shape.width, 0, quarters=1), sides),
        (corner.side(shape.width, -shape.depth, quarters=2), backs),
        (corner.side(0, -shape.depth, quarters=3), sides),
    ]
    for number, (side, storeys) in enumerate(walls):
        wall(mesh, side, storeys, style=style, seed=4 * seed + number)
        cornice(mesh, side.moved(0, shape.height, 0), storeys.width, finish=style.trim)


def gable_roof(
    mesh: Mesh,
    place: Place,
    width: float,
    *,
    depth: float,
    rise: float,
    finishes: tuple[Finish, Finish],
) -> None:
    """Add a roof with its ridge along w over the part behind `place`, and the two gables.

    `finishes` are the roof's and the gables'.
    """
    roof, gable = finishes
    over, half = 0.45, width / 2
    drop = rise * over / half
    for sign in (-1.0, 1.0):
        low, high = place.at(sign * (half + over), -drop, over), place.at(0, rise, over)
        mesh.parallelogram(low, low - (depth + 2 * over) * place.out, high, roof)
        edge = place.at(sign * (half + over), -drop - 0.18, over)
        mesh.parallelogram(edge, edge - (depth + 2 * over) * place.out, low, gable.toned(0.8))
        mesh.quad(low, high, high - 0.18 * place.up, edge, gable.toned(0.8))
    for w in (0.0, -depth):
        mesh.triangle(place.at(-half, 0, w), place.at(half, 0, w), place.at(0, rise, w), gable)
    mesh.block(
        place, (-0.1, 0.1), (rise - 0.05, rise + 0.1), (-depth - over, over), roof.toned(0.8)
    )


def hip_roof(
    mesh: Mesh,
    place: Place,
    width: float,
    *,
    depth: float,
    rise: float,
    roof: Finish,
    dormers: int = 0,
) -> None:
    """Add a roof that slopes to all four sides, with dormers on the front and the back."""
    over, half = 0.35, width / 2
    inset = min(width, depth) / 2 * 0.95
    a, b = place.at(-half - over, 0, over), place.at(half + over, 0, over)
    c, d = place.at(half + over, 0, -depth - over), place.at(-half - over, 0, -depth - over)
    left, right = (
        place.at(-half + inset, rise, -depth / 2),
        place.at(half - inset, rise, -depth / 2),
    )
    mesh.quad(a, b, right, left, roof)
    mesh.quad(c, d, left, right, roof)
    mesh.triangle(b, c, right, roof)
    mesh.triangle(d, a, left, roof)
    slope = rise / (depth / 2 + over)
    flip = replace(place.moved(0, 0, -depth), along=-place.along, out=-place.out)
    for side in (place, flip):
        for k in range(dormers):
            u = -half + width * (k + 0.5) / dormers
            if abs(u) < half - inset * 0.6:
                _dormer(
                    mesh, side.moved(u, 0.25 * rise, over - 0.25 * rise / slope), slope, roof=roof
                )


def _dormer(mesh: Mesh, place: Place, slope: float, *, roof: Finish) -> None:
    width, height, depth = 1.2, 1.1, 1.9 / slope
    mesh.block(place, (-width / 2, width / 2), (-0.2, height), (-depth, 0.05), roof.toned(1.25))
    glass = Finish(roof.material, Label.WINDOW, (0.05, 0.06, 0.08))
    mesh.block(place, (-0.38, 0.38), (0.2, 0.95), (0, 0.07), glass)
    gable_roof(
        mesh,
        place.moved(0, height, 0),
        width,
        depth=depth,
        rise=0.5,
        finishes=(roof, roof.toned(1.25)),
    )


def tower(
    mesh: Mesh,
    place: Place,
    size: float,
    *,
    heights: tuple[float, ...],
    style: Style,
    top: str,
    seed: int,
) -> None:
    """Add a square tower whose front's foot is at `place`, with a belfry under a spire or a dome."""
    shaft = Body(width=size, depth=size, heights=heights, bays=(1, 1))
    body(mesh, place, shaft, style=replace(style, has_pilasters=False), seed=seed)
    above = place.moved(0, shaft.height + 0.4, 0)
    high, half = 0.95 * size, size / 2
    for quarter in range(4):
        side = (
            above.moved(0, 0, -half)
            .side(0, 0, quarters=quarter)
            .moved(-half + 0.15, 0, half - 0.15)
        )
        wide = size - 0.3
        hole = ((0.28 * wide, 0.72 * wide), (0.3, 0.8 * high))
        opening(
            mesh,
            side,
            (0, wide),
            v=(0, high),
            hole=hole,
            wall=style.wall,
            depth=0.4,
            is_arched=True,
        )
        slats = style.door.toned(0.6)
        for k in range(9):
            v = 0.3 + k * (0.8 * high - 0.3) / 9
            mesh.block(side, hole[0], (v, v + 0.12), (-0.4, -0.22), slats)
        mesh.panel(side, hole[0], hole[1], slats.toned(0.3), w=-0.45)
        cornice(mesh, side.moved(0, high, 0), wide, finish=style.trim, size=0.5)
    _clocks(mesh, place, size, height=shaft.height - 0.5 * heights[-1], style=style)
    peak = above.moved(0, high + 0.5, -half)
    if top == "dome":
        _dome(mesh, peak, half, style=style)
    else:
        _spire(mesh, peak, half, height=size * (2.4 if top == "spire" else 0.9), style=style)


def _clocks(mesh: Mesh, place: Place, size: float, *, height: float, style: Style) -> None:
    face = replace(style.trim, color=(0.75, 0.72, 0.62))
    for quarter in range(4):
        side = (
            place.moved(0, 0, -size / 2)
            .side(0, 0, quarters=quarter)
            .moved(0, height + 1.4, size / 2)
        )
        flat = replace(side, up=side.out, out=-side.up)
        mesh.lathe(
            flat, [(0.85, -0.02), (0.85, 0.12), (0.72, 0.12), (0.70, 0.08), (0.0, 0.08)], face
        )
        dark = replace(style.door, color=(0.03, 0.03, 0.03))
        for k in range(12):
            angle = k * np.pi / 6
            u, v = 0.6 * np.sin(angle), 0.6 * np.cos(angle)
            mesh.block(side, (u - 0.03, u + 0.03), (v - 0.05, v + 0.05), (0.08, 0.11), dark)
        mesh.block(side, (-0.03, 0.03), (-0.1, 0.52), (0.1, 0.13), dark)
        mesh.block(side, (-0.08, 0.36), (-0.03, 0.03), (0.1, 0.13), dark)


def _spire(mesh: Mesh, peak: Place, half: float, *, height: float, style: Style) -> None:
    reach = half + 0.3
    profile = [(1.414 * reach, 0.0), (1.1 * reach, 0.12 * height), (0.0, height)]
    turned = replace(
        peak,
        along=(peak.along + peak.out) / 2**0.5,
        out=(peak.out - peak.along) / 2**0.5,
    )
    mesh.lathe(turned, profile, style.roof, sides=4)
    mesh.lathe(peak, [(0.05, height - 0.3), (0.05, height + 1.0)], style.trim, sides=6)
    mesh.ellipsoid(
        peak.at(0, height + 0.2, 0), (0.2, 0.2, 0.2), replace(style.trim, color=(0.6, 0.45, 0.1))
    )


def _dome(mesh: Mesh, peak: Place, half: float, *, style: Style) -> None:
    radius = half + 0.2
    bulb = [
        (1.0, 0.0),
        (1.12, 0.25),
        (1.12, 0.5),
        (0.95, 0.85),
        (0.65, 1.15),
        (0.35, 1.35),
        (0.3, 1.5),
    ]
    lantern = [(0.3, 1.9), (0.42, 1.95), (0.3, 2.2), (0.06, 2.5), (0.02, 3.2)]
    profile = [(radius * r, radius * v) for r, v in bulb + lantern]
    mesh.lathe(peak, profile, style.roof, sides=24)
    mesh.lathe(peak, [(0.02, 3.2 * radius), (0.02, 3.2 * radius + 1)], style.trim, sides=6)


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
    _chimneys(mesh, roof, width, depth=depth, style=style)
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
    _chimneys(mesh, roof, width, depth=depth, style=style)


def _chimneys(mesh: Mesh, roof: Place, width: float, *, depth: float, style: Style) -> None:
    for k, u in enumerate((-0.27 * width, 0.22 * width)):
        stack = style.plinth.toned(0.8).seeded(k)
        mesh.block(
            roof,
            (u - 0.4, u + 0.4),
            (0, 0.5 * depth + 0.4),
            (-0.62 * depth, -0.62 * depth + 0.6),
            stack,
        )
