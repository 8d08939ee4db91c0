"""Which other images each image is compared with, and between which depths: from sparse points.

An image scores by the points that it shares, each weighted by the angle between its two rays as in MVSNet
(Yao et al., ECCV 2018, section 4.1); the range is that of the authors' dense helper, 0.75 of the 1 % quantile
of depths, and beyond the 99 % quantile, where what no point is on may lie.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cuesta.data.scenes.views import Views
from cuesta.vision.terrasky3d.settings import StereoSettings
from cuesta.vision.terrasky3d.sparse_points import SparsePoints
from cuesta.vision.terrasky3d.stereo import Range

LEAST_SHARED = 5  # points
_BEST_DEGREES, _NARROWER, _WIDER = 8.0, 4.0, 15.0  # the best angle; the widths of its weight
_LEAST_DEGREES = 1.0  # at the 75 % quantile: below, two images see no depth
_NEARER, _FARTHER = 0.25, 4.0


class Choice(NamedTuple):
    """Hold what an image is matched with: other images, the best first, the points it shares with each,
    the median angle to each in degrees; and its depth range.
    """

    sources: tuple[str, ...]
    shared: tuple[int, ...]
    degrees: tuple[float, ...]
    within: Range


def choose_sources(
    views: Views, points: SparsePoints, settings: StereoSettings
) -> tuple[dict[str, Choice], dict[str, str]]:
    """Return the choice for each image that can be matched, and for the others why they cannot."""
    centres = views.centres().double().numpy()
    chosen, refused = {}, {}
    for place, name in enumerate(views.names):
        seen = points.seen.get(name, np.zeros(0, np.int64))
        others = _ranked(name, views, points, centres, place)[: settings.num_sources]
        if not others:
            refused[name] = (
                f"it shares no {LEAST_SHARED} points with another image seen from another place; take "
                "photographs that overlap, from places apart, of things with texture"
            )
            continue
        pose = views.pose(name)
        rotation, translation = pose.rotation.double().numpy(), pose.translation.double().numpy()
        depths = points.positions[seen] @ rotation[2] + translation[2]
        within = _range(depths[depths > 0], settings)
        if not within.nearest < within.farthest:
            refused[name] = (
                f"its depth range is empty: {within.nearest:g} to {within.farthest:g}; give --nearest and "
                "--farthest in the unit of the model"
            )
            continue
        _, names, shared, degrees = zip(*others, strict=True)
        chosen[name] = Choice(names, shared, degrees, within)
    return chosen, refused


def _ranked(
    name: str, views: Views, points: SparsePoints, centres: NDArray[np.float64], place: int
) -> list[tuple[float, str, int, float]]:
    """Return score, name, shared points and median angle of the images worth comparing, best first."""
    seen = points.seen.get(name, np.zeros(0, np.int64))
    ranked = []
    for other_place, other in enumerate(views.names):
        shared = np.intersect1d(seen, points.seen.get(other, seen[:0]), assume_unique=True)
        if other == name or len(shared) < LEAST_SHARED:
            continue
        here, there = (points.positions[shared] - centres[k] for k in (place, other_place))
        cosine = (here * there).sum(1) / np.maximum(
            np.linalg.norm(here, axis=1) * np.linalg.norm(there, axis=1), np.finfo(float).tiny
        )
        degrees = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        if np.quantile(degrees, 0.75) < _LEAST_DEGREES:
            continue
        width = np.where(degrees < _BEST_DEGREES, _NARROWER, _WIDER)
        score = np.exp(-((degrees - _BEST_DEGREES) ** 2) / (2 * width**2)).sum()
        ranked.append((float(score), other, len(shared), float(np.median(degrees))))
    return sorted(ranked, key=lambda each: (-each[0], each[1]))


def _range(depths: NDArray[np.float64], settings: StereoSettings) -> Range:
    nearest, farthest = settings.nearest, settings.farthest
    if len(depths):
        low, high = np.quantile(depths, [0.01, 0.99])
        nearest = nearest or float(low) * _NEARER
        farthest = farthest or float(high) * _FARTHER
    return Range(nearest, farthest)
