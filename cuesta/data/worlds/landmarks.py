"""Landmarks: a public building on a square, other houses round it, the sun above, people before it.

Everything is drawn from a seed: the kind of building, its materials and proportions, the weather.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from cuesta.data.worlds import surroundings
from cuesta.data.worlds.facade import Style, glass_of
from cuesta.data.worlds.kinds import church, house, palace, townhall
from cuesta.data.worlds.labels import Label, Material
from cuesta.data.worlds.mesh import Color, Finish, Mesh, Place
from cuesta.data.worlds.render import Light, World

KINDS = ("palace", "church", "townhall")
_BUILDERS = {"palace": palace, "church": church, "townhall": townhall}
_RED_TILES, _SLATE, _COPPER = (0.40, 0.155, 0.085), (0.13, 0.135, 0.155), (0.19, 0.36, 0.30)
# material and colour of walls, colour of trim, colours to choose a roof from
_PALETTES: tuple[tuple[Material, Color, Color, tuple[Color, ...]], ...] = (
    (Material.BRICK, (0.42, 0.17, 0.11), (0.60, 0.53, 0.42), (_SLATE, _COPPER)),
    (Material.PLASTER, (0.70, 0.48, 0.19), (0.72, 0.68, 0.58), (_RED_TILES, _COPPER)),
    (Material.ASHLAR, (0.55, 0.45, 0.31), (0.62, 0.53, 0.39), (_SLATE, _COPPER, _RED_TILES)),
    (Material.PLASTER, (0.66, 0.62, 0.54), (0.42, 0.40, 0.37), (_RED_TILES, _SLATE)),
    (Material.PLASTER, (0.58, 0.31, 0.25), (0.70, 0.64, 0.54), (_RED_TILES, _SLATE)),
    (Material.ASHLAR, (0.47, 0.46, 0.43), (0.58, 0.56, 0.51), (_SLATE, _COPPER)),
)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Landmark:
    """Hold a world and what a camera crew must know of it; the building's middle is the origin."""

    world: World
    kind: str
    half_width: float  # of the building's body, along x
    half_depth: float


def build_landmark(seed: int, *, kind: str | None = None, palette: int = 0) -> Landmark:
    """Return the landmark of a seed, of one of `KINDS` where given.

    `palette` picks the materials, so that a set of scenes goes through all. Its front faces -y.
    Raises `ValueError` for an unknown kind.
    """
    draw = np.random.default_rng([seed, 1])
    kind = str(draw.choice(KINDS)) if kind is None else kind
    if kind not in _BUILDERS:
        raise ValueError(
            f"no kind of landmark is called {kind!r}; choose one of {', '.join(KINDS)}"
        )
    mesh, style = Mesh(), public_style(draw, palette=palette)
    trial = _BUILDERS[kind](
        Mesh(), Place.turned(0, 0, 0), style, draw=np.random.default_rng([seed, 2])
    )
    front = Place.turned(0, -trial[1] / 2, 0)
    width, depth = _BUILDERS[kind](mesh, front, style, draw=np.random.default_rng([seed, 2]))
    colors = ((0.34, 0.32, 0.29), (0.40, 0.36, 0.30), (0.30, 0.29, 0.29))
    material = Material.COBBLES if draw.random() < 0.6 else Material.PAVING
    square = Finish(material, Label.GROUND, colors[int(draw.integers(3))])
    surroundings.ground(mesh, square=square, draw=draw)
    _town(mesh, draw)
    _furniture(mesh, width / 2, depth / 2, draw=draw)
    world = World(shapes=mesh.shapes(), light=_daylight(draw))
    return Landmark(world=world, kind=kind, half_width=width / 2, half_depth=depth / 2)


def public_style(draw: np.random.Generator, *, palette: int) -> Style:
    """Draw what a public building looks like."""
    material, wall, trim, roofs = _PALETTES[palette % len(_PALETTES)]
    return Style(
        wall=Finish(material, Label.BUILDING, wall),
        plinth=Finish(Material.ASHLAR, Label.BUILDING, (0.40, 0.37, 0.33)),
        trim=Finish(Material.STONE, Label.BUILDING, trim),
        frame=Finish(Material.PLAIN, Label.WINDOW, (0.62, 0.60, 0.55)),
        glass=glass_of((0.05, 0.065, 0.085)),
        door=Finish(Material.WOOD, Label.BUILDING, (0.19, 0.105, 0.05)),
        roof=Finish(Material.TILES, Label.ROOF, roofs[int(draw.integers(len(roofs)))]),
        reveal=float(draw.uniform(0.18, 0.3)),
        window_width=float(draw.uniform(1.0, 1.35)),
        window_height=float(draw.uniform(0.54, 0.64)),
        is_arched=bool(draw.random() < 0.35),
        has_pilasters=bool(draw.random() < 0.5),
        has_pediments=bool(draw.random() < 0.5),
        bars=(2, int(draw.integers(3, 5))),
    )


def house_style(draw: np.random.Generator) -> Style:
    """Draw what a plain house looks like."""
    red, green, blue = 0.62 * np.array([1.0, 0.86, 0.66]) + draw.uniform(-0.14, 0.12, 3)
    material = Material.BRICK if draw.random() < 0.25 else Material.PLASTER
    color = (
        (0.38, 0.17, 0.11)
        if material == Material.BRICK
        else (float(red), float(green), float(blue))
    )
    shutter = draw.uniform(0.04, 0.3, 3)
    roof = _RED_TILES if draw.random() < 0.7 else _SLATE
    return Style(
        wall=Finish(material, Label.BUILDING, color),
        plinth=Finish(Material.STONE, Label.BUILDING, (0.36, 0.34, 0.31)),
        trim=Finish(Material.STONE, Label.BUILDING, (0.60, 0.57, 0.50)),
        frame=Finish(Material.PLAIN, Label.WINDOW, (0.66, 0.65, 0.60)),
        glass=glass_of((0.05, 0.06, 0.08)),
        door=Finish(
            Material.WOOD, Label.BUILDING, (float(shutter[0]), float(shutter[1]), float(shutter[2]))
        ),
        roof=Finish(Material.TILES, Label.ROOF, roof),
        reveal=0.15,
        has_shutters=bool(draw.random() < 0.5),
        bars=(2, 2),
    )


def movers(
    landmark: Landmark, camera_centre: tuple[float, float], draw: np.random.Generator
) -> Mesh:
    """Draw three to five people and cars on the square, none of them within 3 m of a camera.

    Every picture draws its own: what is there in one is gone in the next.
    """
    mesh, left = Mesh(), int(draw.integers(3, 6))
    while left:
        angle, away = draw.uniform(0, 2 * np.pi), draw.uniform(2.5, 12.0)
        x, y = ring_point(landmark, float(angle), float(away))
        if np.hypot(x - camera_centre[0], y - camera_centre[1]) < 3:
            continue
        turn = float(draw.uniform(0, 2 * np.pi))
        place = Place.turned(x, y, surroundings.ground_height(x, y), angle=turn)
        if draw.random() < 0.72:
            surroundings.person(mesh, place, draw=draw)
        elif away > 4:
            surroundings.car(mesh, place, draw=draw)
        else:
            continue
        left -= 1
    return mesh


def ring_point(landmark: Landmark, angle: float, away: float) -> tuple[float, float]:
    """Return the point in direction `angle` that is `away` metres off the building's walls.

    Seen from above, points of equal distance form a rounded rectangle; angle 0 is +x.
    """
    a, b = landmark.half_width, landmark.half_depth
    cosine, sine = np.cos(angle), np.sin(angle)
    low, high = 0.0, 400.0
    for _ in range(50):
        middle = (low + high) / 2
        outside = np.hypot(max(abs(middle * cosine) - a, 0), max(abs(middle * sine) - b, 0))
        low, high = (middle, high) if outside < away else (low, middle)
    return float(low * cosine), float(low * sine)


def _town(mesh: Mesh, draw: np.random.Generator) -> None:
    """Add houses and trees round the square, with gaps where streets leave it."""
    count = 16
    start = float(draw.uniform(0, 2 * np.pi))
    for k in range(count):
        angle = start + 2 * np.pi * (k + float(draw.uniform(-0.15, 0.15))) / count
        distance = float(draw.uniform(46, 56))
        x, y = distance * np.cos(angle), distance * np.sin(angle)
        if draw.random() < 0.12:
            continue
        turned = angle - np.pi / 2 + float(draw.uniform(-0.12, 0.12))
        place = Place.turned(x, y, surroundings.ground_height(x, y), angle=turned)
        house(mesh, place, house_style(draw), draw=draw, seed=100 + 10 * k)
    for _ in range(int(draw.integers(12, 18))):
        angle, distance = draw.uniform(0, 2 * np.pi), draw.uniform(36, 43)
        x, y = float(distance * np.cos(angle)), float(distance * np.sin(angle))
        surroundings.tree(mesh, x, y, height=float(draw.uniform(6, 10)), draw=draw)
    for _ in range(10):
        angle, distance = draw.uniform(0, 2 * np.pi), draw.uniform(70, 110)
        x, y = float(distance * np.cos(angle)), float(distance * np.sin(angle))
        surroundings.tree(mesh, x, y, height=float(draw.uniform(9, 15)), draw=draw)


def _furniture(
    mesh: Mesh, half_width: float, half_depth: float, *, draw: np.random.Generator
) -> None:
    x = float(draw.choice([-1.0, 1.0])) * 0.6 * half_width
    surroundings.fountain(mesh, x, -half_depth - float(draw.uniform(6, 8)), draw=draw)
    for k in range(8):
        angle = 2 * np.pi * (k + 0.5) / 8
        reach = 5.5
        u, v = np.cos(angle), np.sin(angle)
        surroundings.lamp_post(
            mesh, float(u * (half_width + reach)), float(v * (half_depth + reach))
        )
    for k in range(6):
        angle = 2 * np.pi * (k + float(draw.uniform(0, 0.6))) / 6
        u, v = np.cos(angle), np.sin(angle)
        bench_x, bench_y = float(u * (half_width + 4)), float(v * (half_depth + 4))
        surroundings.bench(mesh, bench_x, bench_y, angle=angle - np.pi / 2)


def _daylight(draw: np.random.Generator) -> Light:
    height, turn = np.radians(draw.uniform(34, 52)), np.radians(draw.uniform(205, 335))
    sun = np.array([np.cos(height) * np.cos(turn), np.cos(height) * np.sin(turn), np.sin(height)])
    return Light(
        place=sun,
        is_near=False,
        color=np.array([1.60, 1.44, 1.20]),
        ambient=np.array([0.55, 0.62, 0.74]),
        bounce=np.array([0.36, 0.34, 0.30]),
        haze=np.array([0.62, 0.70, 0.80]),
        haze_distance=900.0,
        sky=1.0,
        cloud_cover=float(draw.uniform(-0.35, 0.15)),
        cloud_seed=int(draw.integers(1000)),
    )
