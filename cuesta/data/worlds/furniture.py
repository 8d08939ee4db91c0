"""Furniture and small things of rooms: shelves with books, tables, chairs, sofas, plants, boxes."""

from __future__ import annotations

import numpy as np

from cuesta.data.worlds.labels import Label, Material
from cuesta.data.worlds.mesh import Color, Finish, Mesh, Place

_WOODS: tuple[Color, ...] = ((0.36, 0.21, 0.11), (0.20, 0.11, 0.06), (0.52, 0.36, 0.20))


def wood_of(draw: np.random.Generator) -> Finish:
    """Draw a kind of wood for furniture."""
    color = _WOODS[int(draw.integers(len(_WOODS)))]
    return Finish(Material.WOOD, Label.FURNITURE, color, int(draw.integers(1000)))


def dye(draw: np.random.Generator, *, low: float = 0.05, high: float = 0.6) -> Color:
    """Draw a colour."""
    red, green, blue = draw.uniform(low, high, 3)
    return float(red), float(green), float(blue)


def shelf(
    mesh: Mesh, place: Place, width: float, *, height: float, draw: np.random.Generator
) -> None:
    """Add a bookcase with its back on w = 0 and its lower left corner at `place`, full of books."""
    wood, deep, thick = wood_of(draw), 0.3, 0.03
    mesh.block(place, (0, width), (0, height), (0, 0.015), wood.toned(0.7))
    for u in (0.0, width - thick):
        mesh.block(place, (u, u + thick), (0, height), (0, deep), wood)
    count = max(int(height / 0.36), 2)
    for k in range(count + 1):
        v = min(k * height / count, height - thick)
        mesh.block(place, (thick, width - thick), (v, v + thick), (0.01, deep), wood.seeded(k))
        if k < count:
            _books(
                mesh,
                place.moved(thick, v + thick, 0),
                width - 2 * thick,
                most=height / count - 0.07,
                draw=draw,
            )


def _books(
    mesh: Mesh, place: Place, width: float, *, most: float, draw: np.random.Generator
) -> None:
    u = 0.0
    while u < width - 0.07:
        thick = float(draw.uniform(0.02, 0.06))
        if draw.random() < 0.12:
            u += float(draw.uniform(0.04, 0.15))
            continue
        tall, deep = most * float(draw.uniform(0.62, 0.98)), float(draw.uniform(0.15, 0.24))
        book = Finish(Material.SPINE, Label.OBJECT, dye(draw), int(draw.integers(1 << 20)))
        mesh.block(place, (u, min(u + thick, width)), (0, tall), (0.03, 0.03 + deep), book)
        u += thick + 0.002


def table(
    mesh: Mesh, place: Place, width: float, *, deep: float, draw: np.random.Generator
) -> None:
    """Add a table round the place's origin, with things on it."""
    wood, high = wood_of(draw), 0.74
    mesh.block(place, (-width / 2, width / 2), (high - 0.04, high), (-deep / 2, deep / 2), wood)
    for u in (-width / 2 + 0.04, width / 2 - 0.1):
        for w in (-deep / 2 + 0.04, deep / 2 - 0.1):
            mesh.block(place, (u, u + 0.06), (0, high - 0.04), (w, w + 0.06), wood)
    top = place.moved(0, high, 0)
    for _ in range(int(draw.integers(4, 8))):
        u, w = float(draw.uniform(-0.4, 0.4)) * width, float(draw.uniform(-0.36, 0.36)) * deep
        thing = Finish(Material.SPINE, Label.OBJECT, dye(draw), int(draw.integers(1 << 20)))
        if draw.random() < 0.5:
            size = draw.uniform(0.08, 0.16, 2)
            thick = float(draw.uniform(0.02, 0.07))
            span = (u - float(size[0]), u + float(size[0]))
            mesh.block(top, span, (0, thick), (w - float(size[1]), w + float(size[1])), thing)
        else:
            r = float(draw.uniform(0.04, 0.08))
            profile = [(0.6 * r, 0), (r, 1.2 * r), (r, 2 * r), (0.5 * r, 3 * r), (0.7 * r, 3.4 * r)]
            mesh.lathe(top.moved(u, 0, w), profile, thing, sides=16)


def chair(mesh: Mesh, place: Place, *, draw: np.random.Generator) -> None:
    """Add a chair round the place's origin that faces w."""
    wood = wood_of(draw)
    seat = Finish(Material.CLOTH, Label.FURNITURE, dye(draw), int(draw.integers(1000)))
    mesh.block(place, (-0.21, 0.21), (0.42, 0.47), (-0.21, 0.21), seat)
    for u in (-0.21, 0.17):
        mesh.block(place, (u, u + 0.04), (0, 0.42), (0.17, 0.21), wood)
        mesh.block(place, (u, u + 0.04), (0, 0.95), (-0.21, -0.17), wood)
    for v in (0.6, 0.74, 0.88):
        mesh.block(place, (-0.17, 0.17), (v, v + 0.07), (-0.2, -0.18), wood.seeded(int(10 * v)))


def sofa(mesh: Mesh, place: Place, width: float, *, draw: np.random.Generator) -> None:
    """Add a sofa with its back on w = 0, centred on the place's origin."""
    cloth = Finish(Material.CLOTH, Label.FURNITURE, dye(draw), int(draw.integers(1000)))
    mesh.block(place, (-width / 2, width / 2), (0.08, 0.3), (0.02, 0.86), cloth.toned(0.8))
    mesh.block(place, (-width / 2, width / 2), (0.3, 0.82), (0.02, 0.24), cloth)
    for u in (-width / 2, width / 2 - 0.18):
        mesh.block(place, (u, u + 0.18), (0.3, 0.6), (0.24, 0.86), cloth)
    for k in range(2):
        u = -width / 2 + 0.2 + k * (width - 0.4) / 2
        seat = cloth.toned(1.15).seeded(k + 5)
        mesh.block(place, (u, u + (width - 0.4) / 2 - 0.02), (0.3, 0.44), (0.24, 0.84), seat)
    for _ in range(3):
        u = float(draw.uniform(-0.35, 0.35)) * width
        pillow = Finish(Material.WALLPAPER, Label.OBJECT, dye(draw), int(draw.integers(1000)))
        mesh.ellipsoid(place.at(u, 0.6, 0.36), (0.19, 0.19, 0.17), pillow)


def plant(mesh: Mesh, place: Place, *, draw: np.random.Generator) -> None:
    """Add a plant in a pot."""
    pot = Finish(Material.STONE, Label.OBJECT, (0.45, 0.24, 0.15), int(draw.integers(99)))
    mesh.lathe(place, [(0.13, 0), (0.19, 0.34), (0.2, 0.36), (0.17, 0.36), (0.0, 0.33)], pot)
    leaf = Finish(Material.FOLIAGE, Label.VEGETATION, (0.07, 0.17, 0.05))
    for k in range(36):
        centre = place.at(0, 0.75, 0) + draw.normal(0, 1, 3) * [0.13, 0.13, 0.18]
        mesh.ellipsoid(
            centre, draw.uniform(0.03, 0.1, 3), leaf.seeded(k + int(draw.integers(1000)))
        )


def boxes(mesh: Mesh, place: Place, *, draw: np.random.Generator) -> None:
    """Add a stack of cardboard boxes with labels."""
    v = 0.0
    for k in range(int(draw.integers(2, 4))):
        wide, tall, deep = (float(size) for size in draw.uniform(0.22, 0.42, 3))
        shift = float(draw.uniform(-0.05, 0.05))
        paper = Finish(
            Material.WOOD, Label.OBJECT, (0.45, 0.31, 0.18), k + int(draw.integers(1000))
        )
        label = Finish(Material.POSTER, Label.OBJECT, dye(draw, low=0.3), int(draw.integers(1000)))
        mesh.block(
            place, (shift - wide / 2, shift + wide / 2), (v, v + tall), (-deep / 2, deep / 2), paper
        )
        span = (shift - 0.3 * wide, shift + 0.3 * wide)
        mesh.panel(place, span, (v + 0.2 * tall, v + 0.8 * tall), label, w=deep / 2 + 0.002)
        v += tall


def picture(
    mesh: Mesh, place: Place, width: float, *, height: float, draw: np.random.Generator
) -> None:
    """Add a framed print on a wall, its lower left corner at the place's origin."""
    frame = wood_of(draw)
    for v in (0.0, height - 0.04):
        mesh.block(place, (0, width), (v, v + 0.04), (0, 0.03), frame)
    for u in (0.0, width - 0.04):
        mesh.block(place, (u, u + 0.04), (0.04, height - 0.04), (0, 0.03), frame)
    print_ = Finish(
        Material.POSTER, Label.OBJECT, dye(draw, low=0.2, high=0.8), int(draw.integers(1 << 20))
    )
    mesh.panel(place, (0.04, width - 0.04), (0.04, height - 0.04), print_, w=0.01)
