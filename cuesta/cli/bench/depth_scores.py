"""How right depth maps are: against truth, against one another, and against triangulated points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.cli.bench.depth_cases import DepthCase
from cuesta.data.maps import Map
from cuesta.ops.consistency import consistency
from cuesta.vision.terrasky3d.sparse_points import SparsePoints
from cuesta.vision.terrasky3d.stereo import Picture

TRACK_SHARES = (0.0025, 0.005, 0.01)
_TEXTURE_PX, _LEAST_STD = 7, 4.0  # grey levels

Mask = NDArray[np.bool_]


class Limits(NamedTuple):
    """Say by how many px and which share of depth two views may differ, and how many must agree."""

    pixels: float
    depth: float
    least: int = 2


CROSS_CHECK, CONSISTENT = Limits(2.0, 0.02), Limits(2.0, 0.01)


class Score(NamedTuple):
    """Hold measures over pixels with a true depth: of those with an estimate the mean and median of
    |d - t| / t, and the share that is within a limit; the share of all that have an estimate.
    """

    mean: float
    median: float
    within: Mapping[float, float]
    complete: float


def score(
    case: DepthCase, maps: Mapping[str, Map], kept: Mapping[str, Mask] | None = None
) -> Score:
    """Return the measures of all references' pixels together, `kept` ones alone if given."""
    errors = np.concatenate(
        [
            _errors(maps[name], case.truth[name], None if kept is None else kept[name])
            for name in case.references
        ]
    )
    found = errors[np.isfinite(errors)]
    if not len(found):
        return Score(np.inf, np.inf, dict.fromkeys((0.01, 0.05), 0.0), 0.0)
    within = {limit: float((found <= limit).mean()) for limit in (0.01, 0.05)}
    return Score(
        float(found.mean()), float(np.median(found)), within, len(found) / max(len(errors), 1)
    )


def agreeing(
    case: DepthCase, maps: Mapping[str, Map], name: str, others: tuple[str, ...], limits: Limits
) -> Mask:
    """Return which pixels enough of the other views' own depth maps confirm."""
    view, depth = case.pictures[name], torch.from_numpy(maps[name])
    count = torch.zeros(depth.shape, dtype=torch.int32)
    for other in others:
        matrix = view.other_from_this(case.pictures[other])
        errors = consistency(depth, torch.from_numpy(maps[other]), matrix)
        count += (errors.pixel_error < limits.pixels) & (errors.depth_error < limits.depth)
    return (count >= limits.least).numpy()


def cross_checked(case: DepthCase, maps: Mapping[str, Map]) -> dict[str, Mask]:
    """Return what the sources of each reference confirm."""
    return {
        name: agreeing(case, maps, name, case.sources[name], CROSS_CHECK)
        for name in case.references
    }


class Consistency(NamedTuple):
    """Hold the share of textured pixels that other views confirm, and how many pixels are textured."""

    consistent: float
    textured: float


def consistent_share(case: DepthCase, maps: Mapping[str, Map]) -> Consistency:
    """Return how much of the textured pixels any two other views confirm at 2 px and 1 %."""
    num_confirmed = num_textured = num_pixels = 0
    for name in case.references:
        others = tuple(other for other in case.references if other != name)
        is_textured = textured(case.pictures[name])
        confirmed = agreeing(case, maps, name, others, CONSISTENT)
        num_confirmed += int((confirmed & is_textured).sum())
        num_textured += int(is_textured.sum())
        num_pixels += is_textured.size
    return Consistency(num_confirmed / num_textured, num_textured / num_pixels)


def textured(view: Picture) -> Mask:
    """Return where the standard deviation of 7 x 7 px is above 4 grey levels."""
    grey = view.grey.numpy().astype(np.float64)
    window = (_TEXTURE_PX, _TEXTURE_PX)
    variance = cv2.blur(grey**2, window) - cv2.blur(grey, window) ** 2
    return np.asarray(variance > _LEAST_STD**2)


def track_shares(
    case: DepthCase, maps: Mapping[str, Map], points: SparsePoints
) -> dict[float, float]:
    """Return the shares of observations of points whose depth map is within each of `TRACK_SHARES`."""
    errors = []
    for name in case.references:
        view, depth = case.pictures[name], maps[name]
        places = view.cam_from_world @ torch.from_numpy(points.positions[points.seen[name]])
        pixels = (places @ view.matrix.mT).numpy()
        x, y = np.floor(pixels[:, :2] / pixels[:, 2:]).astype(np.int64).T
        is_inside = (x >= 0) & (y >= 0) & (x < depth.shape[1]) & (y < depth.shape[0])
        z = places[:, 2].numpy()[is_inside]
        errors.append(np.abs(depth[y[is_inside], x[is_inside]] / z - 1))
    error = np.concatenate(errors)
    return {share: float((error <= share).mean()) for share in TRACK_SHARES}


def _errors(estimate: Map, truth: Map, kept: Mask | None) -> NDArray[np.float64]:
    """Return the relative errors of the pixels that have a true depth, NaN without an estimate."""
    has_truth = np.isfinite(truth) & (truth > 0)
    is_estimate = np.isfinite(estimate) & (estimate > 0)
    if kept is not None:
        is_estimate &= kept
    true = truth[has_truth].astype(np.float64)
    return np.where(is_estimate[has_truth], np.abs(estimate[has_truth] / true - 1), np.nan)
