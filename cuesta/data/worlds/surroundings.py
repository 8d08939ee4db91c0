"""What stands round a landmark: ground, trees, lamps, benches, a fountain, people and cars."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from cuesta.data.worlds.labels import Label, Material
from cuesta.data.worlds.mesh import Color, Finish, Mesh, Place, Point

PLAZA = 28.0  # half the side of the paved square, metres
_EDGE, _CELL = 124.0, 4.0  # of the ground that has relief
_BARK = Finish(Material.WOOD, Label.VEGETATION, (0.16, 0.11, 0.07))
_IRON = Finish(Material.PLAIN, Label.BUILDING, (0.03, 0.035, 0.03))


def ground_height(x: float, y: float) -> float:
    """Return the height of the ground in metres: 0 on the square, gentle waves beyond it."""
    outside = max(abs(x), abs(y))
    fade = min(max((outside - PLAZA) / 16, 0.0), 1.0) * min(max((_EDGE - outside) / 20, 0.0), 1.0)
    waves = np.sin(0.21 * x + 1.3) * np.cos(0.17 * y + 0.4) + 0.5 * np.sin(0.43 * x - 0.37 * y)
    return float(0.4 * fade * waves)


def ground(mesh: Mesh, *, square: Finish, draw: np.random.Generator) -> None:
    """Add the square, and round it meadows crossed by streets, with relief."""
    grass = Finish(Material.GRASS, Label.GRASS, (0.13, 0.19, 0.055))
    street = Finish(Material.PAVING, Label.GROUND, (0.33, 0.31, 0.29))
    mesh.parallelogram(*_rectangle(-PLAZA, PLAZA, -PLAZA, high=PLAZA, z=0.0), square)
    far = 700.0
    mesh.parallelogram(*_rectangle(-far, far, -far, high=far, z=-0.7), grass)
    ticks = np.arange(-_EDGE, _EDGE, _CELL)
    for x in ticks:
        for y in ticks:
            middle = max(abs(x + _CELL / 2), abs(y + _CELL / 2))
            if middle < PLAZA:
                continue
            is_street = (
                min(abs(x + _CELL / 2), abs(y + _CELL / 2)) < _CELL or middle < PLAZA + 2 * _CELL
            )
            corners = [
                np.array([x + dx, y + dy, ground_height(x + dx, y + dy)])
                for dx, dy in ((0, 0), (_CELL, 0), (_CELL, _CELL), (0, _CELL))
            ]
            mesh.quad(corners, street if is_street else grass)
    for _ in range(int(draw.integers(2, 5))):
        _lawn(mesh, grass, draw)


def _lawn(mesh: Mesh, grass: Finish, draw: np.random.Generator) -> None:
    angle, distance = draw.uniform(0, 2 * np.pi), draw.uniform(21, 25)
    x, y = distance * np.cos(angle), distance * np.sin(angle)
    place = Place.turned(x, y, 0.0, angle=float(draw.choice([0.0, np.pi / 2])))
    u, w = float(draw.uniform(1.5, 3.5)), float(draw.uniform(1.5, 2.5))
    kerb = Finish(Material.STONE, Label.GROUND, (0.45, 0.43, 0.4))
    mesh.block(place, (-u, u), (-0.05, 0.14), (-w, w), kerb, top=grass)
    for k in range(int(draw.integers(4, 9))):
        centre = place.at(float(draw.uniform(-u, u)) * 0.8, 0.3, float(draw.uniform(-w, w)) * 0.8)
        _bush(mesh, centre, float(draw.uniform(0.3, 0.55)), seed=k, draw=draw)


def _bush(mesh: Mesh, centre: Point, size: float, *, seed: int, draw: np.random.Generator) -> None:
    tone = Finish(Material.FOLIAGE, Label.VEGETATION, (0.07, 0.14, 0.035))
    for k in range(9):
        shift = draw.normal(0, 0.5 * size, 3) * [1, 1, 0.5]
        mesh.ellipsoid(
            centre + shift, size * draw.uniform(0.35, 0.6, 3), tone.seeded(seed * 31 + k)
        )


def tree(mesh: Mesh, x: float, y: float, *, height: float, draw: np.random.Generator) -> None:
    """Add a trunk with boughs and a crown of many leafy clumps."""
    foot = Place.turned(x, y, ground_height(x, y) - 0.1)
    clear, radius = 0.34 * height, 0.24 * height
    mesh.lathe(foot, [(0.34, 0), (0.22, 0.5), (0.17, clear), (0.08, 0.7 * height)], _BARK, sides=8)
    hue = float(draw.uniform(-0.03, 0.03))
    leaf = Finish(Material.FOLIAGE, Label.VEGETATION, (0.085 + hue, 0.155, 0.035))
    count = int(draw.integers(80, 120))
    for _ in range(count):
        direction = draw.normal(size=3)
        direction /= np.linalg.norm(direction)
        reach = radius * draw.uniform(0.35, 1.0) ** 0.5
        centre = foot.at(0, clear + 0.42 * (height - clear), 0) + direction * reach * [1, 1, 1.35]
        clump = (
            radius * draw.uniform(0.13, 0.27) * np.array([1, 1, 0.75]) * draw.uniform(0.8, 1.2, 3)
        )
        mesh.ellipsoid(centre, clump, leaf.seeded(int(draw.integers(1 << 30))))


def lamp_post(mesh: Mesh, x: float, y: float) -> None:
    """Add a street lamp."""
    foot = Place.turned(x, y, ground_height(x, y))
    profile = [(0.2, 0), (0.2, 0.25), (0.1, 0.5), (0.07, 0.9), (0.05, 3.6), (0.1, 3.7), (0.03, 3.8)]
    mesh.lathe(foot, profile, _IRON, sides=8)
    glass = Finish(Material.PLAIN, Label.BUILDING, (0.8, 0.78, 0.65))
    mesh.lathe(foot, [(0.12, 3.8), (0.2, 4.25)], glass, sides=6)
    mesh.lathe(foot, [(0.26, 4.25), (0.05, 4.5), (0.0, 4.65)], _IRON, sides=6)


def bench(mesh: Mesh, x: float, y: float, *, angle: float) -> None:
    """Add a wooden bench on iron feet."""
    foot = Place.turned(x, y, ground_height(x, y), angle=angle)
    plank = Finish(Material.WOOD, Label.BUILDING, (0.30, 0.17, 0.08))
    for k in range(3):
        mesh.block(
            foot, (-0.9, 0.9), (0.42, 0.46), (-0.25 + 0.17 * k, -0.11 + 0.17 * k), plank.seeded(k)
        )
        mesh.block(
            foot,
            (-0.9, 0.9),
            (0.55 + 0.13 * k, 0.65 + 0.13 * k),
            (-0.3, -0.27),
            plank.seeded(k + 3),
        )
    for u in (-0.75, 0.7):
        mesh.block(foot, (u, u + 0.05), (0, 0.42), (-0.28, 0.25), _IRON)
        mesh.block(foot, (u, u + 0.05), (0.42, 0.92), (-0.33, -0.28), _IRON)


def fountain(mesh: Mesh, x: float, y: float, *, draw: np.random.Generator) -> None:
    """Add a round basin with a column and a figure."""
    foot = Place.turned(x, y, 0.0)
    rim = Finish(Material.STONE, Label.BUILDING, (0.5, 0.46, 0.4), int(draw.integers(99)))
    water = Finish(Material.GLASS, Label.GROUND, (0.05, 0.08, 0.08), 3)
    mesh.lathe(
        foot, [(2.3, 0), (2.3, 0.12), (2.0, 0.14), (2.0, 0.6), (2.12, 0.64), (2.12, 0.74)], rim
    )
    mesh.lathe(foot, [(2.12, 0.74), (1.8, 0.74), (1.8, 0.5)], rim)
    mesh.lathe(foot, [(1.85, 0.55), (0, 0.55)], water)
    shaft = [
        (0.6, 0.5),
        (0.5, 0.9),
        (0.3, 1.1),
        (0.26, 2.0),
        (0.5, 2.2),
        (0.5, 2.35),
        (0.3, 2.45),
        (0.0, 2.45),
    ]
    mesh.lathe(foot, shaft, rim, sides=12)
    bronze = Finish(Material.STONE, Label.BUILDING, (0.13, 0.2, 0.16), 5)
    _figure(mesh, foot.moved(0, 2.4, 0), (bronze, bronze, bronze), height=1.9)


def person(mesh: Mesh, place: Place, *, draw: np.random.Generator) -> None:
    """Add somebody in clothes of their own, walking."""
    coat, trousers = (
        Finish(Material.CLOTH, Label.MOVING, _dyed(draw), int(draw.integers(1 << 20)))
        for _ in range(2)
    )
    skin = Finish(Material.PLAIN, Label.MOVING, (0.55, 0.36, 0.26))
    _figure(mesh, place, (coat, trousers, skin), height=float(draw.uniform(1.6, 1.9)))


def _figure(
    mesh: Mesh, place: Place, finishes: tuple[Finish, Finish, Finish], *, height: float
) -> None:
    coat, trousers, skin = finishes
    s = height / 1.8
    for sign in (-1.0, 1.0):
        stride = 0.16 * sign * s
        mesh.ellipsoid(
            place.at(0.1 * sign * s, 0.62 * s, 0.4 * stride),
            (0.11 * s, 0.11 * s, 0.34 * s),
            trousers,
        )
        mesh.ellipsoid(
            place.at(0.1 * sign * s, 0.24 * s, stride), (0.085 * s, 0.085 * s, 0.26 * s), trousers
        )
        mesh.ellipsoid(
            place.at(0.1 * sign * s, 0.05 * s, stride + 0.06 * s),
            (0.08 * s, 0.08 * s, 0.05 * s),
            skin.toned(0.2),
        )
        mesh.ellipsoid(
            place.at(0.25 * sign * s, 1.18 * s, -0.5 * stride), (0.07 * s, 0.07 * s, 0.32 * s), coat
        )
        mesh.ellipsoid(
            place.at(0.26 * sign * s, 0.86 * s, -stride), (0.045 * s, 0.045 * s, 0.08 * s), skin
        )
    mesh.ellipsoid(place.at(0, 1.16 * s, 0), (0.2 * s, 0.16 * s, 0.36 * s), coat)
    mesh.ellipsoid(place.at(0, 1.36 * s, 0), (0.23 * s, 0.14 * s, 0.13 * s), coat)
    mesh.ellipsoid(place.at(0, 1.53 * s, 0), (0.06 * s, 0.06 * s, 0.08 * s), skin)
    mesh.ellipsoid(place.at(0, 1.67 * s, 0), (0.095 * s, 0.105 * s, 0.13 * s), skin)
    mesh.ellipsoid(
        place.at(0, 1.70 * s, -0.02 * s), (0.1 * s, 0.11 * s, 0.12 * s), trousers.toned(0.3)
    )


def car(mesh: Mesh, place: Place, *, draw: np.random.Generator) -> None:
    """Add a small car; its length runs along u."""
    paint = Finish(Material.PLAIN, Label.MOVING, _dyed(draw), int(draw.integers(1 << 20)))
    glass = Finish(Material.GLASS, Label.MOVING, (0.05, 0.06, 0.08), int(draw.integers(99)))
    tyre = Finish(Material.PLAIN, Label.MOVING, (0.02, 0.02, 0.02))
    outline = [
        (-2.1, 0.35),
        (-2.12, 0.75),
        (-1.9, 0.92),
        (-1.3, 0.97),
        (1.0, 0.95),
        (1.95, 0.82),
        (2.1, 0.6),
    ]
    cabin = [(-1.75, 0.95), (-1.35, 1.42), (0.25, 1.45), (1.0, 0.95)]
    for profile, half, finish in (([*outline, (2.1, 0.35)], 0.82, paint), (cabin, 0.7, glass)):
        points = [place.at(u, v, -half) for u, v in profile]
        mesh.prism(points, 2 * half * place.out, finish)
        for w in (-half, half):
            face = [place.at(u, v, w) for u, v in profile]
            for b, c in itertools.pairwise(face[1:]):
                mesh.triangle(face[0], b, c, finish)
    mesh.block(place, (-1.4, 0.3), (1.42, 1.47), (-0.66, 0.66), paint)
    for u in (-1.3, 1.3):
        for w in (-0.76, 0.62):
            flat = replace(place.moved(u, 0.33, w), up=place.out, out=-place.up)
            mesh.lathe(flat, [(0.33, 0), (0.33, 0.2), (0.2, 0.2), (0, 0.18)], tyre, sides=12)
            mesh.lathe(flat, [(0.33, 0), (0, 0.02)], tyre, sides=12)


def _dyed(draw: np.random.Generator) -> Color:
    red, green, blue = draw.uniform(0.03, 0.55, 3)
    return float(red), float(green), float(blue)


def _rectangle(
    left: float, right: float, low: float, *, high: float, z: float
) -> tuple[Point, Point, Point]:
    return np.array([left, low, z]), np.array([right, low, z]), np.array([left, high, z])
