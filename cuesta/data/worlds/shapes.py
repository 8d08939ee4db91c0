"""`Shapes`: triangles, parallelograms and ellipsoids, each with a finish, ready for rays.

A parallelogram is one primitive instead of two triangles: most of a town is made of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cuesta.data.worlds.bvh import Bvh, build_bvh
from cuesta.data.worlds.ray_kernels import ELLIPSOID, PARALLELOGRAM, TRIANGLE, Packet
from cuesta.data.worlds.shade_kernels import expose

_NEARBY, _NUM_DIRECTIONS = 1.2, 48  # metres and rays that tell how open surroundings are
_PAD = 1e-6  # of boxes, relative to the scene, against rounding at their faces


class Shapes(NamedTuple):
    """Hold primitives in the order of their hierarchy's leaves, called slots.

    A flat primitive stores its plane n . x = d and the affine maps of a point to u and v, in 12
    numbers; an ellipsoid its centre and the inverses of its three radii, along the axes.
    """

    tree: Bvh
    planes: NDArray[np.float64]  # [slots, 12]
    kinds: NDArray[np.uint8]  # [slots]
    materials: NDArray[np.uint8]  # [slots]
    labels: NDArray[np.uint8]  # [slots]
    colors: NDArray[np.float32]  # [slots, 3], linear
    seeds: NDArray[np.int64]  # [slots]
    exposures: NDArray[np.float32]  # [slots], the share of ambient light


class Finishes(NamedTuple):
    """Hold what primitives look like and are, one row each."""

    materials: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    colors: NDArray[np.float32]  # [rows, 3], linear
    seeds: NDArray[np.int64]


def build_shapes(
    corners: NDArray[np.float64],
    is_triangle: NDArray[np.bool_],
    ellipsoids: NDArray[np.float64],
    *,
    finishes: Finishes,
) -> Shapes:
    """Return the primitives with their hierarchy.

    `corners` [flat, 3, 3] are a corner of each flat primitive and its two neighbours; `ellipsoids`
    [round, 2, 3] centres and radii. `finishes` has a row for each, flat ones first. A flat primitive
    without an area is legal and never hit. Raises `ValueError` where rows do not agree in number or a
    radius is not above 0.
    """
    num_shapes = len(corners) + len(ellipsoids)
    if {len(rows) for rows in finishes} != {num_shapes} or len(is_triangle) != len(corners):
        raise ValueError(
            f"{len(corners)} flat and {len(ellipsoids)} round primitives need {num_shapes} finishes "
            f"and {len(corners)} kinds, got {[len(rows) for rows in finishes]}, {len(is_triangle)}"
        )
    if not (ellipsoids[:, 1] > 0).all():
        raise ValueError("radii of ellipsoids must be above 0")
    last = corners[:, 1] + corners[:, 2] - corners[:, 0]
    all_corners = np.concatenate([corners, last[:, None]], 1)
    all_corners[is_triangle, 3] = all_corners[is_triangle, 0]
    centres, radii = ellipsoids[:, 0], ellipsoids[:, 1]
    low = np.concatenate([all_corners.min(1), centres - radii])
    high = np.concatenate([all_corners.max(1), centres + radii])
    pad = _PAD * (1 + np.abs(low).max(initial=0) + np.abs(high).max(initial=0))
    tree = build_bvh(low - pad, high + pad)
    planes = np.zeros((num_shapes, 12))
    planes[: len(corners)] = _planes_of(corners)
    planes[len(corners) :, :3] = centres
    planes[len(corners) :, 3:6] = 1 / radii
    flat_kinds = np.where(is_triangle, TRIANGLE, PARALLELOGRAM)
    kinds = np.concatenate([flat_kinds, np.full(len(ellipsoids), ELLIPSOID)]).astype(np.uint8)
    order = tree.order
    shapes = Shapes(
        tree=tree,
        planes=planes[order],
        kinds=kinds[order],
        materials=finishes.materials[order],
        labels=finishes.labels[order],
        colors=finishes.colors[order],
        seeds=finishes.seeds[order],
        exposures=np.ones(num_shapes, np.float32),
    )
    return shapes._replace(
        exposures=_exposures(shapes, ((low + high) / 2)[order], (high - low)[order])
    )


def _exposures(
    shapes: Shapes, middles: NDArray[np.float64], sides: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return how open each primitive's surroundings are."""
    number = np.arange(_NUM_DIRECTIONS) + 0.5
    height, turn = 1 - 2 * number / _NUM_DIRECTIONS, np.pi * (1 + 5**0.5) * number
    radius = np.sqrt(1 - height**2)
    directions = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], 1)
    sizes = np.concatenate([middles, np.linalg.norm(sides, axis=1, keepdims=True)], 1)
    exposures = np.ones(len(middles), np.float32)
    expose(shapes, directions, _NEARBY, sizes, exposures, Packet.new())
    return exposures


def _planes_of(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the planes of flat primitives [flat, 12]; zeros, which no ray meets, without an area.

    With e1, e2 the edges from corner a and m = e1 x e2: u = (e2 x m) . (x - a) / |m|^2, and
    v = (m x e1) . (x - a) / |m|^2.
    """
    first, one, two = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    cross = np.cross(one, two)
    square = (cross**2).sum(1, keepdims=True)
    is_flat = square > 1e-24 * (one**2).sum(1, keepdims=True) * (two**2).sum(1, keepdims=True)
    square = np.where(is_flat, square, 1.0)
    normal, u, v = (
        cross / np.sqrt(square),
        np.cross(two, cross) / square,
        np.cross(cross, one) / square,
    )
    offsets = [(part * first).sum(1, keepdims=True) for part in (normal, u, v)]
    rows = [normal, offsets[0], u, -offsets[1], v, -offsets[2]]
    return np.where(is_flat, np.concatenate(rows, 1), 0.0)
