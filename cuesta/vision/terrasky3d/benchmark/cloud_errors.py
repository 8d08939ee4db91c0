"""A cloud against the true one: distances as DTU has them, precision and recall as Tanks and Temples.

DTU (Aanaes et al., IJCV 2016): accuracy is the mean distance of found points to the nearest true one,
completeness that of true points to the nearest found one, overall their mean. Distances above a cap,
20 mm there, are left out of the means; we say how many they were. Its observability mask is a mask of
found points here, and without one all count; its thinning of dense clouds is a step of its own, `thin`.

Tanks and Temples (Knapitsch et al., SIGGRAPH 2017): precision is the share of found points nearer than
a threshold to the truth, recall the share of true points nearer to what was found, F their harmonic
mean. Its alignment is left to the caller: clouds are compared in the frame that they are in.

The nearest neighbour is exact: OpenCV's FLANN, one k-d tree, in float32 around the middle of the truth
to choose it and in float64 to measure it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import cv2
import numpy as np
from jaxtyping import Bool, Float64

Positions = Float64[np.ndarray, "P 3"]
Distances = Float64[np.ndarray, " P"]
_ONE_TREE = 4  # FLANN_INDEX_KDTREE_SINGLE: exact, made for few dimensions


class CloudScores(NamedTuple):
    """Hold the measures of a cloud, lengths in its unit and shares from 0 to 1.

    Means are inf where no distance is below the cap; `accuracy_outliers` and `completeness_outliers`
    are the shares above it. `precision`, `recall` and `f_score` have one entry a threshold.
    """

    accuracy: float
    completeness: float
    overall: float
    accuracy_outliers: float
    completeness_outliers: float
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f_score: tuple[float, ...]


@final
@dataclass(frozen=True, kw_only=True)
class CloudSettings:
    """Say the cap of distances and the thresholds of the F-score, both in the clouds' unit.

    `cap` is DTU's 20 mm where the unit is a metre.
    """

    cap: float = 0.02
    thresholds: Sequence[float] = (0.02,)


def compare_clouds(
    found: Positions,
    true: Positions,
    settings: CloudSettings,
    *,
    is_observed: Bool[np.ndarray, " P"] | None = None,
) -> CloudScores:
    """Return the measures of found points [P, 3] against the true ones, of another number.

    `is_observed` says which found points lie where the truth was seen; others count for nothing but
    completeness. A cloud without points is infinitely far from everything.

    >>> plane = np.array([[0.0, 0, 0], [1, 0, 0]])
    >>> compare_clouds(plane + 0.01, plane, CloudSettings()).f_score
    (1.0,)
    """
    counted = found if is_observed is None else found[is_observed]
    forth, back = nearest_distances(counted, true), nearest_distances(true, found)
    accuracy, completeness = (_mean_below(part, settings.cap) for part in (forth, back))
    precision, recall = (
        tuple(_share(part < threshold) for threshold in settings.thresholds)
        for part in (forth, back)
    )
    return CloudScores(
        accuracy,
        completeness,
        (accuracy + completeness) / 2,
        _share(forth >= settings.cap),
        _share(back >= settings.cap),
        precision,
        recall,
        tuple(
            2 * p * r / (p + r) if p + r > 0 else 0.0
            for p, r in zip(precision, recall, strict=True)
        ),
    )


def nearest_distances(points: Positions, targets: Positions) -> Distances:
    """Return how far each point is from the nearest target; inf where there is none."""
    if not len(points) or not len(targets):
        return np.full(len(points), np.inf)
    middle = (targets.min(0) + targets.max(0)) / 2
    held = (targets - middle).astype(np.float32)
    tree = cv2.flann.Index(held, {"algorithm": _ONE_TREE})
    places, _ = tree.knnSearch((points - middle).astype(np.float32), 1, params={"checks": -1})
    return np.linalg.norm(points - targets[places[:, 0]], axis=1)


def thin(positions: Positions, spacing: float) -> Positions:
    """Return the first point in each cube of this edge, in order: clouds of an even density.

    DTU thins to 0.2 mm and Tanks and Temples to half the threshold, so that a place that was sampled
    densely does not count for more.

    >>> thin(np.array([[0.0, 0, 0], [0.4, 0, 0], [1.2, 0, 0]]), 1.0).tolist()
    [[0.0, 0.0, 0.0], [1.2, 0.0, 0.0]]
    """
    if not spacing > 0:
        raise ValueError(f"the spacing must be above 0, got {spacing}")
    cells = np.floor(positions / spacing).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    return positions[np.sort(first)]


def _mean_below(distances: Distances, cap: float) -> float:
    kept = distances[distances < cap]
    return float(kept.mean()) if len(kept) else np.inf


def _share(is_met: Bool[np.ndarray, " P"]) -> float:
    return float(is_met.mean()) if len(is_met) else 0.0
