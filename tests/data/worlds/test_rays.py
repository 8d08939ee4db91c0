"""Rays meet what they meet when every primitive is tested, whichever rays go with them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cuesta.data.worlds.bvh import build_bvh
from cuesta.data.worlds.mesh import Mesh
from cuesta.data.worlds.ray_kernels import (
    ELLIPSOID,
    LANES,
    TRIANGLE,
    Packet,
    closest_hits,
    put,
    send,
)
from cuesta.data.worlds.shapes import Finishes, Shapes, build_shapes
from tests.data.worlds.worlds import STONE, rays, soup

EPS = float(np.finfo(np.float64).eps)


def cast(
    shapes: Shapes, origins: NDArray[np.float64], directions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    distances, slots = np.empty(len(origins)), np.empty(len(origins), np.int64)
    closest_hits(
        shapes.tree,
        shapes.planes,
        shapes.kinds,
        origins,
        directions,
        distances,
        slots,
        Packet.new(),
    )
    return distances, slots


def blocked(
    shapes: Shapes, origins: NDArray[np.float64], directions: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return whether shadow rays of length 1 meet anything."""
    packet, met = Packet.new(), np.empty(len(origins), bool)
    for first in range(0, len(origins), LANES):
        for lane in range(LANES):
            put(packet, lane, *origins[first + lane], *directions[first + lane], 1.0)
        send(shapes.tree, shapes.planes, shapes.kinds, packet, False, True)
        met[first : first + LANES] = packet.slots >= 0
    return met


def brute_force(
    mesh: Mesh, origins: NDArray[np.float64], directions: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return distances by Cramer's rule and the quadratic formula over all primitives."""
    best = np.full(len(origins), np.inf)
    for corners, is_triangle in zip(mesh.corners, mesh.is_triangle, strict=True):
        one, two = corners[1] - corners[0], corners[2] - corners[0]
        across = np.cross(directions, two)
        volume = across @ one
        if np.linalg.norm(np.cross(one, two)) < 1e-12 * np.linalg.norm(one) * np.linalg.norm(two):
            continue
        with np.errstate(all="ignore"):
            away = origins - corners[0]
            u = (across * away).sum(1) / volume
            turned = np.cross(away, one)
            v = (turned * directions).sum(1) / volume
            t = turned @ two / volume
            limit = 1 - u if is_triangle else np.ones_like(u)
            is_hit = (u >= 0) & (u <= 1) & (v >= 0) & (v <= limit) & (t >= 0)
        best = np.where(is_hit, np.minimum(best, t), best)
    for centre, radii in mesh.ellipsoids:
        p, q = (origins - centre) / radii, directions / radii
        a, b, c = (q * q).sum(1), (p * q).sum(1), (p * p).sum(1) - 1
        square = b * b - a * c
        root = np.sqrt(np.maximum(square, 0))
        for t in ((-b - root) / a, (-b + root) / a):
            best = np.where((square >= 0) & (t >= 0), np.minimum(best, t), best)
    return best


@settings(max_examples=12)
@given(seed=st.integers(0, 1 << 30), count=st.integers(0, 90))
def test_the_hierarchy_finds_what_testing_everything_finds(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    mesh = soup(draw, count)
    origins, directions = rays(draw, 320)
    distances, slots = cast(mesh.shapes(), origins, directions)
    expected = brute_force(mesh, origins, directions)
    is_hit = np.isfinite(expected)
    assert np.array_equal(slots >= 0, is_hit)
    error = np.abs(distances[is_hit] / expected[is_hit] - 1)
    assert (
        error.max(initial=0) < 1e7 * EPS
    )  # grazing rays lose digits; a wrong primitive is far off


@settings(max_examples=12)
@given(seed=st.integers(0, 1 << 30), count=st.integers(0, 90))
def test_company_changes_nothing_and_shadows_end_where_they_should(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    shapes = soup(draw, count).shapes()
    origins, directions = rays(draw, 320)
    distances, _ = cast(shapes, origins, directions)
    order = draw.permutation(320)
    assert np.array_equal(cast(shapes, origins[order], directions[order])[0], distances[order])
    alone = [cast(shapes, origins[k : k + 1], directions[k : k + 1])[0][0] for k in range(5)]
    assert alone == distances[:5].tolist()
    assert np.array_equal(blocked(shapes, origins, directions), distances <= 1)


def test_planes_and_spheres_are_exact() -> None:
    draw = np.random.default_rng(0)
    corners = np.array([[[-9.0, -9.0, -2.0], [9.0, -9.0, -2.0], [-9.0, 9.0, -2.0]]])
    ball = np.array([[[0.0, 0.0, 1.0], [0.7, 0.7, 0.7]]])
    shapes = build_shapes(corners, np.array([False]), ball, finishes=finishes(2))
    origins = draw.uniform([-3, -3, 2], [3, 3, 8], (500, 3))
    directions = draw.uniform([-1, -1, -4], [1, 1, -2], (500, 3))
    distances, slots = cast(shapes, origins, directions)
    points = origins + distances[:, None] * directions
    is_round = shapes.kinds[slots] == ELLIPSOID
    assert 10 < is_round.sum() < 490
    assert np.abs(points[~is_round, 2] + 2).max() < 100 * EPS
    off = np.linalg.norm(points[is_round] - [0, 0, 1], axis=1) - 0.7
    assert np.abs(off).max() < 1e6 * EPS  # at grazing incidence; 2e-10 m


def test_no_ray_slips_between_neighbours() -> None:
    mesh, draw = Mesh(), np.random.default_rng(1)
    ticks = np.cumsum(draw.uniform(0.1, 0.3, 30))
    grid = np.stack(np.meshgrid(ticks, ticks, [1 / 3], indexing="ij"), -1)[:, :, 0]

    for i in range(29):
        for j in range(29):
            around = [grid[i + a, j + b] for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
            mesh.quad(around, STONE)
    origins = draw.uniform(1, 3, (800, 3)) * [1, 1, 0] - [0, 0, 2]
    targets = grid[draw.integers(1, 29, 800), draw.integers(1, 29, 800)].copy()
    targets[:400, 0] = draw.uniform(ticks[1], ticks[-2], 400)  # along edges; the others at corners
    _, slots = cast(mesh.shapes(), origins, targets - origins)
    assert (slots >= 0).all()


def test_boxes_of_one_place_make_a_shallow_tree() -> None:
    low = np.zeros((3000, 3))
    tree = build_bvh(low, low + 1)
    assert sorted(tree.order.tolist()) == list(range(3000))
    leaves = tree.children[tree.children < 0]
    assert (~leaves & 7).sum() == 3000
    deepest, depth = {0: 0}, 0
    for node in range(len(tree.children)):
        for child in tree.children[node]:
            if child >= 0:
                deepest[int(child)] = deepest[node] + 1
                depth = max(depth, deepest[int(child)])
    assert depth <= 12


def test_mistakes_are_named() -> None:
    corners, none = np.zeros((1, 3, 3)), np.zeros((0, 2, 3))
    with pytest.raises(ValueError, match="1 flat and 0 round primitives need 1 finishes"):
        build_shapes(corners, np.array([True]), none, finishes=finishes(2))
    with pytest.raises(ValueError, match="radii of ellipsoids must be above 0"):
        build_shapes(corners[:0], np.zeros(0, bool), np.zeros((1, 2, 3)), finishes=finishes(1))
    degenerate = build_shapes(corners, np.array([True]), none, finishes=finishes(1))
    assert degenerate.kinds[0] == TRIANGLE
    _, slots = cast(degenerate, np.zeros((1, 3)), np.ones((1, 3)))
    assert slots[0] == -1


def finishes(count: int) -> Finishes:
    return Finishes(
        np.zeros(count, np.uint8),
        np.zeros(count, np.uint8),
        np.zeros((count, 3), np.float32),
        np.zeros(count, np.int64),
    )
