"""A grammar of facades: walls of storeys and bays with windows in reveals, portals, courses, cornices.

Each rule takes a `Place` whose u runs along the wall, v up and w outward, so that w = 0 is the face
of the wall; panes lie `reveal` behind it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from cuesta.data.worlds.labels import Label, Material
from cuesta.data.worlds.mesh import Finish, Mesh, Place, Span

_ARC = 8  # segments of half a circle


@final
@dataclass(frozen=True, kw_only=True)
class Style:
    """Say what a building is made of and the proportions of its windows."""

    wall: Finish
    plinth: Finish
    trim: Finish
    frame: Finish
    glass: Finish
    door: Finish
    roof: Finish
    reveal: float = 0.22
    window_width: float = 1.1  # metres
    window_height: float = 0.58  # of the storey
    is_arched: bool = False
    has_pilasters: bool = False
    has_pediments: bool = False
    has_shutters: bool = False
    bars: tuple[int, int] = (2, 3)  # panes across and up; 0: plain glass


@final
@dataclass(frozen=True, kw_only=True)
class Storeys:
    """Say how a wall is divided."""

    width: float
    heights: tuple[float, ...]
    bays: int
    portal_bay: int = -1  # in the lowest storey
    arcade_depth: float = 0.0  # above 0: the lowest storey is an arcade


def opening(
    mesh: Mesh, place: Place, u: Span, *, v: Span,  hole: tuple[Span, Span], wall: Finish, depth: float,
    is_arched: bool,
) -> None:  # fmt: skip
    """Add a wall over (u, v) with a hole, and the hole's reveal; the arch takes the hole's upper end."""
    (left, right), (low, high) = hole
    radius = (right - left) / 2
    spring = high - radius if is_arched else high
    for span, rise in (((u[0], left), v), ((right, u[1]), v), ((left, right), (v[0], low))):
        if span[1] > span[0] and rise[1] > rise[0]:
            mesh.panel(place, span, rise, wall)
    angles = np.linspace(np.pi, 0, _ARC + 1) if is_arched else np.array([])
    top = [((left + right) / 2 + radius * np.cos(a), spring + radius * np.sin(a)) for a in angles]
    top = top or [(left, high), (right, high)]
    for a, b in itertools.pairwise(top):
        if v[1] > max(a[1], b[1]):
            corners = (
                place.at(*a, 0),
                place.at(*b, 0),
                place.at(b[0], v[1], 0),
                place.at(a[0], v[1], 0),
            )
            if is_arched:
                mesh.quad(corners, wall)
            else:
                mesh.parallelogram(corners[0], corners[1], corners[3], wall)
    outline = [place.at(*point, 0) for point in ((left, low), *top, (right, low))]
    mesh.prism(outline, -depth * place.out, wall.toned(0.92))


def window(mesh: Mesh, place: Place, u: Span, *, v: Span, style: Style, seed: int) -> None:
    """Add a bay (u, v) of wall with a window: reveal, frame, bars, pane, sill, surround."""
    middle, width = (u[0] + u[1]) / 2, min(style.window_width, 0.72 * (u[1] - u[0]))
    height = style.window_height * (v[1] - v[0])
    low = v[0] + 0.46 * (v[1] - v[0] - height)
    hole = ((middle - width / 2, middle + width / 2), (low, low + height))
    opening(
        mesh,
        place,
        u,
        v=v,
        hole=hole,
        wall=style.wall,
        depth=style.reveal,
        is_arched=style.is_arched,
    )
    pane(mesh, place.moved(0, 0, -style.reveal), hole, style=style, seed=seed)
    (left, right), (low, high) = hole
    trim = style.trim.seeded(seed)
    mesh.block(place, (left - 0.14, right + 0.14), (low - 0.12, low), (-0.02, 0.14), trim)
    if style.is_arched:
        return
    mesh.block(place, (left - 0.15, left), (low, high), (-0.01, 0.05), trim)
    mesh.block(place, (right, right + 0.15), (low, high), (-0.01, 0.05), trim)
    mesh.block(place, (left - 0.15, right + 0.15), (high, high + 0.18), (-0.01, 0.07), trim)
    if style.has_pediments:
        pediment(
            mesh,
            place.moved(middle, high + 0.2, 0),
            width + 0.5,
            height=0.32,
            depth=0.16,
            trim=trim,
        )
    if style.has_shutters:
        for edge in (left - 0.15 - 0.42 * width, right + 0.15):
            shutter = style.door.seeded(seed + int(edge > left))
            mesh.block(place, (edge, edge + 0.42 * width), (low, high), (0.01, 0.06), shutter)


def pane(mesh: Mesh, place: Place, hole: tuple[Span, Span], *, style: Style, seed: int) -> None:
    """Add the glass of a window at w = 0 with its frame and bars before it."""
    (left, right), (low, high) = hole
    across, up = max(style.bars[0], 1), max(style.bars[1], 1)
    for i in range(across):
        for j in range(up):
            u = (left + (right - left) * i / across, left + (right - left) * (i + 1) / across)
            v = (low + (high - low) * j / up, low + (high - low) * (j + 1) / up)
            mesh.panel(place, u, v, style.glass.seeded(7 * seed + (j > up // 2) + 3 * i))
    if not style.bars[0]:
        return
    thick, frame = 0.07, style.frame.seeded(seed)
    for edge in (left, right - thick):
        mesh.block(place, (edge, edge + thick), (low, high), (0, 0.07), frame)
    for edge in (low, high - thick):
        mesh.block(place, (left, right), (edge, edge + thick), (0, 0.07), frame)
    for i in range(1, across):
        upright = left + (right - left) * i / across
        mesh.block(place, (upright - 0.03, upright + 0.03), (low, high), (0, 0.06), frame)
    for j in range(1, up):
        level = low + (high - low) * j / up
        mesh.block(place, (left, right), (level - 0.02, level + 0.02), (0, 0.05), frame)


def pediment(
    mesh: Mesh, place: Place, width: float, *, height: float, depth: float, trim: Finish
) -> None:
    """Add a triangular gable: its field, and the mouldings along its edges."""
    ends = (place.at(-width / 2, 0, 0.04), place.at(width / 2, 0, 0.04), place.at(0, height, 0.04))
    mesh.triangle(*ends, trim.toned(0.9))
    mesh.block(place, (-width / 2, width / 2), (-0.08, 0), (0, depth), trim)
    thick = 0.08 + 0.05 * height
    for sign in (-1.0, 1.0):
        outline = [(sign * width / 2, 0.0), (0.0, height), (0.0, height + thick)]
        outline.append((sign * (width / 2 + thick), 0.0))
        corners = [place.at(*point, 0) for point in outline]
        mesh.prism(corners, depth * place.out, trim)
        mesh.quad([corner + depth * place.out for corner in corners], trim)


def portal(mesh: Mesh, place: Place, u: Span, *, v: Span, style: Style, seed: int) -> None:
    """Add a bay with an arched door between columns, under a pediment, above three steps."""
    middle, width = (u[0] + u[1]) / 2, min(2.2, 0.7 * (u[1] - u[0]))
    high = v[0] + min(0.8 * (v[1] - v[0]), 1.9 * width)
    left, right = middle - width / 2, middle + width / 2
    hole = ((left, right), (v[0], high))
    opening(mesh, place, u, v=v, hole=hole, wall=style.wall, depth=0.45, is_arched=True)
    door, trim = place.moved(0, 0, -0.45), style.trim.seeded(seed)
    leaf = high - width / 2
    mesh.panel(door, (left, right), (v[0], leaf), style.door.seeded(seed))
    mesh.panel(door, (left, right), (leaf, high), style.glass.seeded(seed))
    mesh.block(door, (left, right), (leaf - 0.06, leaf + 0.08), (0, 0.12), trim)
    mesh.block(door, (middle - 0.04, middle + 0.04), (v[0], leaf), (0, 0.06), style.door.toned(0.7))
    for u_panel in (left + 0.12, middle + 0.12):
        for j in range(3):
            low = v[0] + 0.2 + j * (leaf - v[0] - 0.3) / 3
            size = (leaf - v[0]) / 3 - 0.25
            panel = style.door.toned(1.15).seeded(seed + j)
            mesh.block(
                door, (u_panel, u_panel + width / 2 - 0.24), (low, low + size), (0, 0.05), panel
            )
    for edge in (left - 0.35, right + 0.35):
        column(mesh, place.moved(edge, v[0], 0.32), high - v[0], radius=0.17, finish=trim)
    mesh.block(place, (left - 0.7, right + 0.7), (high, high + 0.3), (0, 0.6), trim)
    pediment(
        mesh, place.moved(middle, high + 0.38, 0), width + 1.5, height=0.75, depth=0.6, trim=trim
    )
    for step in range(3):
        rise, run = v[0] - 0.15 * step, 0.65 + 0.35 * step
        tread = style.plinth.seeded(seed + step)
        reach = 0.75 + 0.25 * step
        mesh.block(place, (left - reach, right + reach), (rise - 0.15, rise), (0, run), tread)


def column(mesh: Mesh, place: Place, height: float, *, radius: float, finish: Finish) -> None:
    """Add a column with base, swelling shaft and capital."""
    base, capital = 0.3, 0.34
    mesh.block(
        place, (-1.4 * radius, 1.4 * radius), (0, 0.14), (-1.4 * radius, 1.4 * radius), finish
    )
    shaft = [(1.3, 0.14), (1.3, 0.22), (1.05, base), (1.0, 0.4 * height), (0.85, height - capital)]
    profile = [(radius * factor, v) for factor, v in shaft]
    profile += [(1.0 * radius, height - capital + 0.05), (1.35 * radius, height - 0.14)]
    mesh.lathe(place, profile, finish, sides=16)
    mesh.block(
        place,
        (-1.5 * radius, 1.5 * radius),
        (height - 0.14, height),
        (-1.5 * radius, 1.5 * radius),
        finish,
    )


def cornice(mesh: Mesh, place: Place, width: float, *, finish: Finish, size: float = 0.4) -> None:
    """Add a cornice on top of a wall, v = 0 its lower edge: three steps, and dentils below them."""
    for step, (low, high) in enumerate(((0, 0.35), (0.35, 0.7), (0.7, 1.0))):
        reach = size * (0.35 + 0.4 * step)
        mesh.block(place, (-reach, width + reach), (low * size, high * size), (-0.1, reach), finish)
    count = max(int(width / 0.5), 1)
    for k in range(count):
        u = (k + 0.5) * width / count
        tooth = finish.seeded(k % 7)
        mesh.block(place, (u - 0.11, u + 0.11), (-0.2 * size, 0.35 * size), (0, 0.32 * size), tooth)


def quoins(mesh: Mesh, place: Place, height: float, *, finish: Finish, direction: int) -> None:
    """Add dressed stones up a wall's edge at u = 0, going along u by `direction`."""
    count = int(height / 0.42)
    for k in range(count):
        long = 0.62 if k % 2 else 0.38
        span = (0.0, long) if direction > 0 else (-long, 0.0)
        stone = replace(finish, seed=finish.seed + k)
        mesh.block(place, span, (0.42 * k + 0.015, 0.42 * k + 0.405), (-0.02, 0.05), stone)


def wall(mesh: Mesh, place: Place, storeys: Storeys, *, style: Style, seed: int) -> None:
    """Add a whole facade, v = 0 its foot: plinth, storeys, courses between them, corners, pilasters."""
    bay, v = storeys.width / storeys.bays, 0.0
    for number, height in enumerate(storeys.heights):
        for k in range(storeys.bays):
            u, rise = (k * bay, (k + 1) * bay), (v, v + height)
            own = 1000 * seed + 50 * number + k
            if number == 0 and k == storeys.portal_bay:
                portal(mesh, place, u, v=(v + 0.45, v + height), style=style, seed=own)
                mesh.panel(place, u, (v, v + 0.45), style.plinth)
            elif number == 0 and storeys.arcade_depth > 0:
                arcade(mesh, place, u, v=rise, style=style, depth=storeys.arcade_depth)
            else:
                window(mesh, place, u, v=rise, style=style, seed=own)
        v += height
        if number < len(storeys.heights) - 1:
            course = style.trim.seeded(number)
            mesh.block(
                place, (-0.06, storeys.width + 0.06), (v - 0.14, v + 0.06), (-0.02, 0.12), course
            )
    _foot_and_corners(mesh, place, storeys, style=style, height=v)


def arcade(mesh: Mesh, place: Place, u: Span, *, v: Span, style: Style, depth: float) -> None:
    """Add a bay of an arcade: an arch, and behind it a passage with a wall at `depth`."""
    hole = ((u[0] + 0.35, u[1] - 0.35), (v[0], v[0] + 0.86 * (v[1] - v[0])))
    opening(mesh, place, u, v=v, hole=hole, wall=style.plinth, depth=0.5, is_arched=True)
    mesh.panel(place, u, v, style.wall.toned(0.9), w=-depth)
    mesh.panel(place, (u[0] + 0.9, u[1] - 0.9), (v[0], v[0] + 2.2), style.door, w=-depth + 0.04)


def _foot_and_corners(
    mesh: Mesh, place: Place, storeys: Storeys, *, style: Style, height: float
) -> None:
    bay = storeys.width / storeys.bays
    if storeys.arcade_depth == 0:
        for k in range(storeys.bays):
            if k != storeys.portal_bay:
                mesh.block(place, (k * bay, (k + 1) * bay), (0, 0.7), (-0.02, 0.1), style.plinth)
    if not style.has_pilasters:
        quoins(mesh, place, height, finish=style.trim, direction=1)
        quoins(mesh, place.moved(storeys.width, 0, 0), height, finish=style.trim, direction=-1)
        return
    for k in range(storeys.bays + 1):
        u = min(max(k * bay, 0.24), storeys.width - 0.24)
        pilaster = style.trim.seeded(k)
        mesh.block(place, (u - 0.22, u + 0.22), (0.75, height - 0.45), (-0.02, 0.13), pilaster)
        mesh.block(place, (u - 0.3, u + 0.3), (0.4, 0.75), (-0.02, 0.19), pilaster)
        mesh.block(place, (u - 0.3, u + 0.3), (height - 0.45, height), (-0.02, 0.19), pilaster)


def glass_of(color: tuple[float, float, float]) -> Finish:
    """Return the finish of panes."""
    return Finish(Material.GLASS, Label.WINDOW, color)
