"""Two-view pose: how wrong the relative pose is that is found from the matches of two photos.

The protocol of MegaDepth-1500: matches, an essential matrix by RANSAC within `px / f` on the plane
z = 1, the pose it holds, and as error the larger of the angles by which rotation and direction of
translation are off; the direction has no sign. A pair with fewer than five matches, or for which the
estimator fails, is infinitely wrong, and no error is capped (code that caps errors at 10 degrees
inflates AUC@20). Stricter than the protocol, a pose that fewer than five matches agree on is a failure.
Estimators: LO-RANSAC of PoseLib (Chum, Matas and Kittler, DAGM 2003), and RANSAC of
OpenCV, which the protocol names. Points are freed of the lens first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import cv2
import numpy as np
import poselib
import torch
from jaxtyping import Float64

from cuesta.geometry import Camera, Transform
from cuesta.vision.terrasky3d.benchmark.matchers import Matcher, Matches, Photo
from cuesta.vision.terrasky3d.benchmark.table import Row, percent_at
from cuesta.vision.terrasky3d.strata import KINDS, OVERLAPS, kind_of, overlap_of

Estimator = Literal["lo-ransac", "ransac"]
ESTIMATORS: tuple[Estimator, ...] = ("lo-ransac", "ransac")
THRESHOLDS = (5.0, 10.0, 20.0)  # degrees
LEAST_MATCHES = 5


@final
@dataclass(frozen=True, kw_only=True)
class PoseSettings:
    """Say how a relative pose is estimated; `threshold_px` is divided by the mean focal length."""

    estimator: Estimator = "lo-ransac"
    threshold_px: float = 0.75
    confidence: float = 0.99999
    max_iterations: int = 10_000
    seed: int = 0


class FoundPose(NamedTuple):
    """Hold an estimated b_from_a, whose translation has length 1, and how many matches agree."""

    b_from_a: Transform
    num_inliers: int


class TruePair(NamedTuple):
    """Hold a pair of photos and its true pose; `overlap` is None where it is not known."""

    image_a: Photo
    image_b: Photo
    b_from_a: Transform
    overlap: float | None = None


class PairScore(NamedTuple):
    """Hold what came of a pair: its error in degrees, inf where no pose was found, and counts."""

    image_a: str
    image_b: str
    error: float
    num_matches: int
    num_inliers: int
    overlap: float | None


def judge_pairs(
    pairs: Sequence[TruePair],
    matcher: Matcher,
    settings: Sequence[PoseSettings],
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[list[PairScore]]:
    """Return for each of the settings the scores of the pairs, in order; photos are matched once."""
    scores: list[list[PairScore]] = [[] for _ in settings]
    for done, pair in enumerate(pairs):
        on_progress(done, len(pairs))
        matches = matcher(pair.image_a, pair.image_b)
        cameras = (pair.image_a.camera, pair.image_b.camera)
        for own, found in zip(settings, scores, strict=True):
            pose = relative_pose(matches, cameras, own)
            found.append(
                PairScore(
                    pair.image_a.name,
                    pair.image_b.name,
                    np.inf if pose is None else pose_error(pose.b_from_a, pair.b_from_a),
                    len(matches.points_a),
                    0 if pose is None else pose.num_inliers,
                    pair.overlap,
                )
            )
    on_progress(len(pairs), len(pairs))
    return scores


def relative_pose(
    matches: Matches, cameras: tuple[Camera, Camera], settings: PoseSettings
) -> FoundPose | None:
    """Return the pose that the matches agree on, None where five of them do not agree on any.

    `cameras` are those of the two photos; matches where a lens shows nothing are left out.
    """
    plane_a, plane_b = (
        camera.unproject(torch.from_numpy(points).to(camera.params.dtype))[:, :2].double().numpy()
        for camera, points in zip(cameras, matches, strict=True)
    )
    is_seen = np.isfinite(plane_a).all(1) & np.isfinite(plane_b).all(1)
    if is_seen.sum() < LEAST_MATCHES:
        return None
    focal = float(torch.cat([camera.focal().double() for camera in cameras]).mean())
    estimate = {"lo-ransac": _by_poselib, "ransac": _by_opencv}[settings.estimator]
    found = estimate(plane_a[is_seen], plane_b[is_seen], focal, settings)
    return found if found is not None and found.num_inliers >= LEAST_MATCHES else None


def pose_error(found: Transform, true: Transform) -> float:
    """Return the larger angle in degrees by which rotation and direction of translation are off.

    A direction and its opposite are the same; where the true cameras share their centre there is
    none, and the rotation counts alone.

    >>> eye, right = torch.eye(3).double(), torch.tensor([1.0, 0.0, 0.0]).double()
    >>> pose_error(Transform.rigid(eye, right), Transform.rigid(eye, -2 * right))
    0.0
    """
    turn = (found @ true.inverse()).log()[..., 3:6]
    a, b = found.translation, true.translation
    across, along = torch.linalg.vector_norm(torch.linalg.cross(a, b)), (a @ b).abs()
    angle = torch.maximum(torch.linalg.vector_norm(turn), torch.atan2(across, along))
    return float(torch.rad2deg(angle))


def rows_of(scene: str, method: str, scores: Sequence[PairScore]) -> list[Row]:
    """Return a row of all pairs, and one for each stratum that has some."""
    groups = {"all": list(scores)}
    for kind in KINDS:
        groups[kind] = [one for one in scores if kind_of(one.image_a, one.image_b) == kind]
    for overlap in OVERLAPS:
        groups[f"overlap {overlap}"] = [
            one for one in scores if one.overlap is not None and overlap_of(one.overlap) == overlap
        ]
    return [
        Row(scene, method, name, _values(group))
        for name, group in groups.items()
        if group or name == "all"
    ]


def _values(scores: Sequence[PairScore]) -> Mapping[str, float | int]:
    errors = np.array([one.error for one in scores], np.float64)
    counts = np.array([(one.num_matches, one.num_inliers) for one in scores]).reshape(-1, 2)
    middle = np.median(counts, axis=0) if len(counts) else np.zeros(2)
    return {
        "pairs": len(scores),
        "failed": int(np.isinf(errors).sum()),
        **percent_at(errors, THRESHOLDS),
        "median_deg": middle_of(errors),
        "matches": float(middle[0]),
        "inliers": float(middle[1]),
    }


def middle_of(errors: Float64[np.ndarray, " pairs"]) -> float:
    """Return the lower median, which may be inf; NaN of nothing."""
    return float(np.sort(errors)[(len(errors) - 1) // 2]) if len(errors) else np.nan


def _by_poselib(
    a: np.ndarray, b: np.ndarray, focal: float, settings: PoseSettings
) -> FoundPose | None:
    camera = {"model": "SIMPLE_PINHOLE", "width": 1, "height": 1, "params": [focal, 0.0, 0.0]}
    ransac = {
        "max_epipolar_error": settings.threshold_px,
        "success_prob": settings.confidence,
        "max_iterations": settings.max_iterations,
        "min_iterations": min(100, settings.max_iterations),
        "seed": settings.seed,
    }
    pose, about = poselib.estimate_relative_pose(a * focal, b * focal, camera, camera, ransac)
    rotation, translation = np.asarray(pose.R), np.asarray(pose.t)
    if not np.isfinite(rotation).all() or not np.linalg.norm(translation) > 0:
        return None
    return _found(rotation, translation, int(about["num_inliers"]))


def _by_opencv(
    a: np.ndarray, b: np.ndarray, focal: float, settings: PoseSettings
) -> FoundPose | None:
    """OpenCV draws from a generator of its own, so the seed orders the matches."""
    order = np.random.default_rng(settings.seed).permutation(len(a))
    a, b = np.ascontiguousarray(a[order]), np.ascontiguousarray(b[order])
    same = np.eye(3)
    threshold = settings.threshold_px / focal
    try:
        matrices, mask = cv2.findEssentialMat(
            a, b, same, cv2.RANSAC, settings.confidence, threshold, settings.max_iterations
        )
    except cv2.error:  # of matches that leave the matrix open; the pair counts as failed
        return None
    if matrices is None or matrices.shape[0] % 3 or matrices.shape[1] != 3:
        return None
    best: FoundPose | None = None
    for matrix in matrices.reshape(-1, 3, 3):
        count, rotation, translation, _ = cv2.recoverPose(matrix, a, b, same, mask=mask.copy())
        if best is None or count > best.num_inliers:
            best = _found(rotation, translation[:, 0], count)
    return best


def _found(rotation: np.ndarray, translation: np.ndarray, num_inliers: int) -> FoundPose:
    unit = translation / np.linalg.norm(translation)
    parts = (torch.from_numpy(np.array(part, np.float64)) for part in (rotation, unit))
    return FoundPose(Transform.rigid(*parts), num_inliers)
