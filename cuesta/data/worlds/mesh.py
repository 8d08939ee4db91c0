"""`Mesh`: primitives while a world is being built, and the solids that they make up.

Solids stand in a `Place`: an origin with an axis along (u), one up (v) and one outward (w), so that
the same words build any wall of a house, whichever way it faces.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from cuesta.data.worlds.labels import Label, Material
from cuesta.data.worlds.shapes import Finishes, Shapes, build_shapes

Point = NDArray[np.float64]
Color = tuple[float, float, float]
Span = tuple[float, float]


@final
@dataclass(frozen=True)
class Finish:
    """Say what a surface is made of, its linear colour and the seed of what is drawn on it."""

    material: Material
    label: Label
    color: Color
    seed: int = 0

    def toned(self, factor: float) -> Finish:
        """Return the finish with its colour brighter by `factor`."""
        red, green, blue = self.color
        return replace(self, color=(red * factor, green * factor, blue * factor))

    def seeded(self, seed: int) -> Finish:
        """Return the finish with another seed."""
        return replace(self, seed=seed)


@final
@dataclass(frozen=True, eq=False)
class Place:
    """Hold an origin and three unit axes at right angles: u along, v up, w outward."""

    origin: Point
    along: Point
    up: Point
    out: Point

    @staticmethod
    def turned(x: float, y: float, z: float, *, angle: float = 0.0) -> Place:
        """Return a place upright in the world: u is the x-axis turned by `angle`, v is up."""
        cosine, sine = np.cos(angle), np.sin(angle)
        along, out = np.array([cosine, sine, 0.0]), np.array([sine, -cosine, 0.0])
        return Place(np.array([x, y, z], float), along, np.array([0.0, 0.0, 1.0]), out)

    def at(self, u: float, v: float, w: float) -> Point:
        """Return a point of the world."""
        return self.origin + u * self.along + v * self.up + w * self.out

    def moved(self, u: float, v: float, w: float) -> Place:
        """Return the place with its origin elsewhere."""
        return replace(self, origin=self.at(u, v, w))

    def side(self, u: float, w: float, *, quarters: int) -> Place:
        """Return the place at (u, 0, w) turned by quarters of a circle, to the left seen from above."""
        place = self.moved(u, 0, w)
        for _ in range(quarters % 4):
            place = replace(place, along=-place.out, out=place.along)
        return place


@final
@dataclass(eq=False)
class Mesh:
    """Collect primitives; `shapes` makes them ready for rays.

    Its methods take points, or a place and spans along its axes, and then the finish: what reads like
    geometry stands in its order.
    """

    corners: list[Point] = field(default_factory=list)
    is_triangle: list[bool] = field(default_factory=list)
    flat_finishes: list[Finish] = field(default_factory=list)
    ellipsoids: list[Point] = field(default_factory=list)
    round_finishes: list[Finish] = field(default_factory=list)

    def shapes(self) -> Shapes:
        """Return the primitives with their hierarchy."""
        finishes = [*self.flat_finishes, *self.round_finishes]
        columns = Finishes(
            np.array([finish.material for finish in finishes], np.uint8),
            np.array([finish.label for finish in finishes], np.uint8),
            np.array([finish.color for finish in finishes], np.float32).reshape(-1, 3),
            np.array([finish.seed for finish in finishes], np.int64),
        )
        corners = np.array(self.corners, float).reshape(-1, 3, 3)
        ellipsoids = np.array(self.ellipsoids, float).reshape(-1, 2, 3)
        return build_shapes(corners, np.array(self.is_triangle, bool), ellipsoids, finishes=columns)

    def triangle(self, a: Point, b: Point, c: Point, finish: Finish) -> None:
        """Add a triangle."""
        self._flat(a, b, c, finish, is_triangle=True)

    def parallelogram(self, a: Point, b: Point, c: Point, finish: Finish) -> None:
        """Add the parallelogram of a corner and its two neighbours."""
        self._flat(a, b, c, finish, is_triangle=False)

    def quad(self, corners: Sequence[Point], finish: Finish) -> None:
        """Add a quadrilateral, its four corners in order round it, as two triangles."""
        a, b, c, d = corners
        self.triangle(a, b, c, finish)
        self.triangle(a, c, d, finish)

    def ellipsoid(self, centre: Point, radii: Point | Sequence[float], finish: Finish) -> None:
        """Add an ellipsoid with its axes along those of the world."""
        self.ellipsoids.append(np.stack([centre, np.asarray(radii, float)]))
        self.round_finishes.append(finish)

    def panel(self, place: Place, u: Span, v: Span, finish: Finish, *, w: float = 0.0) -> None:
        """Add a rectangle across the w-axis."""
        corners = (place.at(u[0], v[0], w), place.at(u[1], v[0], w), place.at(u[0], v[1], w))
        self.parallelogram(*corners, finish)

    def block(
        self, place: Place, u: Span, v: Span, w: Span, finish: Finish, *, top: Finish | None = None
    ) -> None:
        """Add a box of six rectangles."""
        a, (du, dv, dw) = (
            place.at(u[0], v[0], w[0]),
            np.eye(3)
            @ np.stack(
                [place.along * (u[1] - u[0]), place.up * (v[1] - v[0]), place.out * (w[1] - w[0])]
            ),
        )
        upper = finish if top is None else top
        for start, one, two, paint in (
            (a, du, dv, finish),
            (a + dw, du, dv, finish),
            (a, dw, dv, finish),
            (a + du, dw, dv, finish),
            (a, du, dw, finish),
            (a + dv, du, dw, upper),
        ):
            self.parallelogram(start, start + one, start + two, paint)

    def lathe(
        self, place: Place, profile: Sequence[Span], finish: Finish, *, sides: int = 20
    ) -> None:
        """Add what a profile of (radius, height) sweeps round the v-axis, in flat facets."""
        angles = 2 * np.pi * np.arange(sides + 1) / sides
        rings = [
            [place.at(r * np.cos(angle), v, r * np.sin(angle)) for angle in angles]
            for r, v in profile
        ]
        for (low, high), (below, above) in zip(
            itertools.pairwise(rings), itertools.pairwise(profile), strict=True
        ):
            for k in range(sides):
                if below[0] > 0 and below[0] == above[0]:
                    self.parallelogram(low[k], low[k + 1], high[k], finish)
                    continue
                if below[0] > 0:
                    self.triangle(low[k], low[k + 1], high[k], finish)
                if above[0] > 0:
                    self.triangle(high[k + 1], high[k], low[k + 1], finish)

    def prism(self, outline: Sequence[Point], sweep: Point, finish: Finish) -> None:
        """Add the sides that an outline sweeps along a vector, without its ends."""
        for a, b in zip(outline, [*outline[1:], outline[0]], strict=True):
            self.parallelogram(a, b, a + sweep, finish)

    def _flat(self, a: Point, b: Point, c: Point, finish: Finish, *, is_triangle: bool) -> None:
        self.corners.append(np.stack([a, b, c]))
        self.is_triangle.append(is_triangle)
        self.flat_finishes.append(finish)
