"""Parts of buildings out of facades: bodies, gable and hip roofs, towers with spires or domes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from cuesta.data.worlds.facade import Storeys, Style, cornice, opening, wall
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
        mesh.quad((low, high, high - 0.18 * place.up, edge), gable.toned(0.8))
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
    mesh.quad((a, b, right, left), roof)
    mesh.quad((c, d, left, right), roof)
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


def chimneys(mesh: Mesh, roof: Place, width: float, *, depth: float, style: Style) -> None:
    """Add two chimneys to a roof."""
    for k, u in enumerate((-0.27 * width, 0.22 * width)):
        stack = style.plinth.toned(0.8).seeded(k)
        mesh.block(
            roof,
            (u - 0.4, u + 0.4),
            (0, 0.5 * depth + 0.4),
            (-0.62 * depth, -0.62 * depth + 0.6),
            stack,
        )
