"""Rooms: four walls with windows, a door and pictures, and the furniture of a living room, lit by a
lamp.

One corner of the floor is the origin, x and y run along the walls, z is up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from cuesta.data.worlds import furniture
from cuesta.data.worlds.facade import Style, opening, pane
from cuesta.data.worlds.labels import Label, Material
from cuesta.data.worlds.mesh import Finish, Mesh, Place
from cuesta.data.worlds.render import Light, World


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Room:
    """Hold a world and its size in metres, along x, y and z."""

    world: World
    width: float
    depth: float
    height: float


def build_room(seed: int) -> Room:
    """Return the room of a seed."""
    draw = np.random.default_rng([seed, 3])
    width, depth = float(draw.uniform(5.2, 7.5)), float(draw.uniform(4.4, 6.0))
    height = float(draw.uniform(2.6, 3.1))
    mesh = Mesh()
    _shell(mesh, width, depth, height=height, draw=draw)
    _furnish(mesh, width, depth, height=height, draw=draw)
    lamp = np.array([width / 2, depth / 2, height - 0.75])
    light = Light(
        place=lamp,
        is_near=True,
        color=np.array([1.25, 1.1, 0.9]),
        ambient=np.array([0.46, 0.46, 0.47]),
        bounce=np.array([0.40, 0.37, 0.33]),
        haze=np.zeros(3),
        haze_distance=1e6,
        sky=1.0,
        cloud_cover=0.0,
        cloud_seed=0,
    )
    return Room(
        world=World(shapes=mesh.shapes(), light=light), width=width, depth=depth, height=height
    )


def _walls(width: float, depth: float) -> list[tuple[Place, float]]:
    """Return each wall's place, which faces into the room, and its length."""
    return [
        (Place.turned(0, depth, 0), width),
        (Place.turned(0, 0, 0, angle=np.pi / 2), depth),
        (Place.turned(width, 0, 0, angle=np.pi), width),
        (Place.turned(width, depth, 0, angle=-np.pi / 2), depth),
    ]


def _shell(
    mesh: Mesh, width: float, depth: float, *, height: float, draw: np.random.Generator
) -> None:
    floor_material = Material.PARQUET if draw.random() < 0.7 else Material.PAVING
    floor = Finish(floor_material, Label.FLOOR, (0.42, 0.27, 0.15))
    ceiling = Finish(Material.PLASTER, Label.CEILING, (0.68, 0.66, 0.62))
    corner, x, y = np.zeros(3), np.array([width, 0.0, 0.0]), np.array([0.0, depth, 0.0])
    up = np.array([0.0, 0.0, height])
    mesh.parallelogram(corner, corner + x, corner + y, floor)
    mesh.parallelogram(corner + up, corner + up + x, corner + up + y, ceiling)
    beam = Finish(Material.WOOD, Label.CEILING, (0.26, 0.16, 0.09))
    place = Place.turned(0, 0, height)
    for k in range(1, 5):
        u = k * width / 5
        mesh.block(place, (u - 0.07, u + 0.07), (-0.16, 0.0), (-depth, 0.0), beam.seeded(k))
    kinds = (Material.WALLPAPER, Material.WALLPAPER, Material.PLASTER, Material.BRICK)
    for number, (side, length) in enumerate(_walls(width, depth)):
        material = kinds[int(draw.integers(len(kinds)))]
        color = (
            (0.45, 0.2, 0.14)
            if material == Material.BRICK
            else furniture.dye(draw, low=0.38, high=0.68)
        )
        finish = Finish(material, Label.WALL, color, 11 + number)
        _wall(mesh, side, length, height=height, finish=finish, number=number)
        _pictures(mesh, side, length, number=number, draw=draw)


def _wall(
    mesh: Mesh, place: Place, length: float, *, height: float, finish: Finish, number: int
) -> None:
    """Add a wall; the first two have a window, the third a door."""
    board = Finish(Material.PLAIN, Label.WALL, (0.6, 0.58, 0.52), number)
    door = Finish(Material.WOOD, Label.FURNITURE, (0.33, 0.2, 0.11), 3)
    style = Style(
        wall=finish,
        plinth=board,
        trim=replace(board, label=Label.WINDOW),
        frame=Finish(Material.PLAIN, Label.WINDOW, (0.7, 0.69, 0.65)),
        glass=Finish(Material.GLASS, Label.WINDOW, (0.5, 0.6, 0.72)),
        door=door,
        roof=board,
    )
    span, middle = (0.0, length), length / 2
    if number < 2:
        hole = ((middle - 0.75, middle + 0.75), (0.9, min(2.2, height - 0.3)))
        opening(
            mesh, place, span, v=(0, height), hole=hole, wall=finish, depth=0.22, is_arched=False
        )
        pane(mesh, place.moved(0, 0, -0.22), hole, style=style, seed=17 + number)
        mesh.block(
            place, (hole[0][0] - 0.1, hole[0][1] + 0.1), (0.86, 0.9), (-0.02, 0.16), style.trim
        )
        cloth = Finish(Material.CLOTH, Label.FURNITURE, (0.5, 0.16 + 0.2 * number, 0.14), number)
        for edge in (hole[0][0] - 0.42, hole[0][1] + 0.02):
            for k in range(5):
                u = edge + 0.08 * k
                mesh.block(
                    place,
                    (u, u + 0.07),
                    (0.1, hole[1][1] + 0.15),
                    (0.03, 0.07 + 0.03 * (k % 2)),
                    cloth.seeded(k),
                )
        mesh.block(place, (0.0, length), (0, 0.1), (-0.01, 0.02), board)
        return
    if number == 2:
        left = 0.7
        hole = ((left, left + 0.95), (0.0, 2.05))
        opening(
            mesh, place, span, v=(0, height), hole=hole, wall=finish, depth=0.1, is_arched=False
        )
        leaf = place.moved(0, 0, -0.1)
        mesh.panel(leaf, *hole, door)
        for v in ((0.2, 0.9), (1.1, 1.9)):
            mesh.block(leaf, (left + 0.13, left + 0.82), v, (0, 0.02), door.toned(1.2))
        mesh.ellipsoid(leaf.at(left + 0.86, 1.02, 0.05), (0.03, 0.03, 0.03), board)
        mesh.block(place, (left + 0.95, length), (0, 0.1), (-0.01, 0.02), board)
        return
    mesh.panel(place, span, (0, height), finish)
    mesh.block(place, span, (0, 0.1), (-0.01, 0.02), board)


def _pictures(
    mesh: Mesh, place: Place, length: float, *, number: int, draw: np.random.Generator
) -> None:
    middle = length / 2
    free = {
        0: [(0.4, middle - 1.3), (middle + 1.3, length - 0.4)],
        1: [(0.4, middle - 1.3), (middle + 1.3, length - 0.4)],
        2: [(1.9, length - 0.4)],
        3: [(0.3, length - 1.9)],
    }[number]
    for begin, end in free:
        u = begin
        while u + 0.4 < end:
            width = min(float(draw.uniform(0.35, 0.9)), end - u)
            height = float(draw.uniform(0.35, 0.75))
            furniture.picture(
                mesh,
                place.moved(u, float(draw.uniform(1.25, 1.6)), 0),
                width,
                height=height,
                draw=draw,
            )
            u += width + float(draw.uniform(0.1, 0.4))


def _furnish(
    mesh: Mesh, width: float, depth: float, *, height: float, draw: np.random.Generator
) -> None:
    walls = [place for place, _ in _walls(width, depth)]
    rug = Finish(Material.RUG, Label.FLOOR, furniture.dye(draw, low=0.2), int(draw.integers(1000)))
    middle = Place.turned(width / 2, depth / 2, 0, angle=float(draw.uniform(-0.15, 0.15)))
    mesh.block(middle, (-1.5, 1.5), (0.0, 0.015), (-1.1, 1.1), rug)
    furniture.table(mesh, middle, 1.4, deep=0.8, draw=draw)
    for u, angle in ((-0.35, 0.0), (0.4, 0.15)):
        for sign in (-1.0, 1.0):
            seat = middle.moved(u, 0, sign * 0.62)
            turn = float(np.arctan2(middle.along[1], middle.along[0])) + (np.pi if sign < 0 else 0)
            facing = Place.turned(*seat.origin, angle=turn + np.pi + angle)
            furniture.chair(mesh, facing, draw=draw)
    tall = min(2.1, height - 0.3)
    furniture.shelf(mesh, walls[3].moved(depth - 1.7, 0, 0.0), 1.4, height=tall, draw=draw)
    furniture.shelf(mesh, walls[2].moved(width - 1.5, 0, 0.0), 1.1, height=0.95, draw=draw)
    furniture.sofa(mesh, walls[0].moved(0.35 * width, 0, 0.02), 1.9, draw=draw)
    furniture.plant(mesh, Place.turned(width - 0.45, depth - 0.45, 0), draw=draw)
    furniture.plant(mesh, Place.turned(0.45, 0.5, 0), draw=draw)
    furniture.boxes(mesh, Place.turned(0.5, depth - 0.5, 0, angle=0.4), draw=draw)
    furniture.boxes(mesh, Place.turned(width - 0.5, 0.6, 0, angle=-0.9), draw=draw)
    hung = Place.turned(width / 2, depth / 2, 0)
    metal = Finish(Material.PLAIN, Label.OBJECT, (0.06, 0.06, 0.07))
    shade = Finish(Material.PLAIN, Label.OBJECT, (0.75, 0.68, 0.5))
    mesh.lathe(hung, [(0.012, height - 0.55), (0.012, height)], metal, sides=6)
    mesh.lathe(
        hung, [(0.2, height - 0.8), (0.09, height - 0.55), (0.0, height - 0.55)], shade, sides=20
    )
