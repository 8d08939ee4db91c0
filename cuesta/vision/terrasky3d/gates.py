"""Quality gates: is the scene good enough to use, in numbers and in words.

Limits are those of the data set's tool: 95 % of the images placed, a mean reprojection error of at
most 0.7 px at 1600 px and 1 px at 4K, tracks of 4 images on average, one connected model, aerial and
ground images that hang together, no camera whose points are all seen under tiny angles, no frame of a
clip that jumps away from its neighbours, and lenses that were calibrated well if at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from statistics import median_low
from typing import Any, Literal, NamedTuple

import numpy as np
import pycolmap
from numpy.typing import NDArray

from cuesta.vision.terrasky3d.boards import LEAST_COVERAGE, LEAST_VIEWS, MOST_RMS_AT_4K

LEAST_PLACED = 0.95
LEAST_TRACK = 4.0
LEAST_ANGLE = 2.0  # degrees
MOST_STEP, LEAST_FRAMES = 5.0, 5  # over the median of the clip; in it
LEAST_LINKS, LEAST_LINK_SHARE = 50, 0.01
_SAMPLED = 200

Grade = Literal["good", "usable", "poor"]


class Gate(NamedTuple):
    """Hold one check: what it is, the value and the limit in words, whether it is met.

    A scene that misses a gate that `is_hard` is poor, one that misses another is usable.
    """

    name: str
    value: str
    limit: str
    is_met: bool
    is_hard: bool
    remedy: str


class ImageQuality(NamedTuple):
    """Hold what one placed image shows: points, mean error in px, median triangulation angle; and
    where it was taken, in the model's frame.
    """

    name: str
    num_points: int
    mean_error_px: float
    angle_deg: float
    centre: tuple[float, float, float]


def judge(
    images: Sequence[ImageQuality],
    model: Mapping[str, Any],
    others: Sequence[Mapping[str, Any]],
    photos: Sequence[Mapping[str, Any]],
    inliers: Sequence[Sequence[Any]],
    lenses: Sequence[Mapping[str, Any]],
) -> tuple[Grade, list[Gate]]:
    """Return the grade and every gate of a model; `others` are models of images that it lacks.

    `photos` and `lenses` are the images of the ingest and the cameras of the calibration.
    """
    side = max(max(photo["width"], photo["height"]) for photo in photos)
    most_error = error_limit(side)
    placed, error = len(images) / len(photos), model["mean_reprojection_px"]
    track, weak = model["mean_track_length"], weak_images(images)
    gates = [
        Gate(
            "images placed",
            f"{len(images)} of {len(photos)} ({placed:.0%})",
            f"at least {LEAST_PLACED:.0%}",
            placed >= LEAST_PLACED,
            placed < 0.5,
            "take more photos between the placed ones and the rest",
        ),
        Gate(
            "mean reprojection error",
            f"{error:.2f} px",
            f"at most {most_error:.2f} px for images of {side} px",
            error <= most_error,
            error > 2 * most_error,
            "calibrate the lens, switch off stabilisation, drop blurred photos",
        ),
        Gate(
            "mean track length",
            f"{track:.1f} images",
            f"at least {LEAST_TRACK:g}",
            track >= LEAST_TRACK,
            track < 2.2,
            "take more photos of the same things: each should be in four",
        ),
        Gate(
            "connected models",
            f"{1 + len(others)}",
            "1",
            not others,
            False,
            "take photos that lead from one part to the other",
        ),
        Gate(
            "images with a wide enough view of their points",
            f"{len(images) - len(weak)} of {len(images)}",
            f"all, at {LEAST_ANGLE:g} degrees",
            not weak,
            len(weak) > len(images) / 2,
            f"move sideways, do not only turn: {', '.join(weak[:5])}",
        ),
        *_aerial_gate(images, inliers),
        *_clip_gate(images, photos),
        *_calibration_gate(lenses),
    ]
    missed = [gate for gate in gates if not gate.is_met]
    if any(gate.is_hard for gate in missed):
        return "poor", gates
    return ("usable" if missed else "good"), gates


def error_limit(side_px: int) -> float:
    """Return the limit of the mean reprojection error: 0.7 px up to 1600 px, 1 px from 4K on.

    >>> [round(error_limit(side), 2) for side in (1024, 1600, 2720, 3840)]
    [0.7, 0.7, 0.85, 1.0]
    """
    return float(np.interp(side_px, [1600, 3840], [0.7, 1.0]))


def weak_images(images: Sequence[ImageQuality]) -> list[str]:
    """Return the images whose points are seen under less than `LEAST_ANGLE` degrees in the median."""
    return [image.name for image in images if not image.angle_deg >= LEAST_ANGLE]


def jumping_frames(frames: Sequence[ImageQuality]) -> list[str]:
    """Return the frames of a clip, in its order, that jump away from their neighbours.

    Too long is a step of more than `MOST_STEP` medians; steps over frames that are missing are divided
    by their number. Of a frame that is off, both steps are too long; where a part of the clip is, its
    first frame is named.
    """
    numbers = [int(PurePosixPath(frame.name).stem.rpartition("_")[2]) for frame in frames]
    lengths = np.linalg.norm(np.diff([frame.centre for frame in frames], axis=0), axis=1)
    steps = (lengths / np.diff(numbers)).tolist()
    usual = median_low(steps)
    is_long = [True, *(step > MOST_STEP * usual for step in steps), True]  # beyond the ends is none
    off = {i for i in range(len(frames)) if is_long[i] and is_long[i + 1]}
    parts = {i for i in range(1, len(frames)) if is_long[i] and not {i - 1, i} & off}
    return [frames[i].name for i in sorted(off | parts)]


def measure_images(model: pycolmap.Reconstruction) -> list[ImageQuality]:
    """Return the quality of each placed image, by name; angles are of 200 of its points."""
    positions = {i: point.xyz for i, point in model.points3D.items()}
    errors = {i: point.error for i, point in model.points3D.items()}
    centres = {i: model.image(i).projection_center() for i in model.reg_image_ids()}
    measured = []
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        seen = [point.point3D_id for point in image.get_observation_points2D()]
        step = max(1, len(seen) // _SAMPLED)
        angles = [
            _widest_angle(positions[i], centres[image_id], _observers(model, i, centres))
            for i in seen[::step]
        ]
        mean_error = float(np.mean([errors[i] for i in seen])) if seen else math.nan
        angle = math.degrees(float(np.median(angles))) if angles else math.nan
        x, y, z = centres[image_id].tolist()
        measured.append(ImageQuality(image.name, len(seen), mean_error, angle, (x, y, z)))
    return sorted(measured)


def _observers(
    model: pycolmap.Reconstruction, point: int, centres: Mapping[int, NDArray[np.float64]]
) -> NDArray[np.float64]:
    elements = model.point3D(point).track.elements
    return np.stack([centres[element.image_id] for element in elements])


def _widest_angle(
    point: NDArray[np.float64], centre: NDArray[np.float64], others: NDArray[np.float64]
) -> float:
    """Return the largest angle in radians at a point between one camera and the others."""
    ray, rays = point - centre, point - others
    cosine = rays @ ray / (np.linalg.norm(rays, axis=1) * np.linalg.norm(ray))
    return float(np.arccos(np.clip(cosine, -1, 1)).max())


def _aerial_gate(images: Sequence[ImageQuality], inliers: Sequence[Sequence[Any]]) -> list[Gate]:
    """Return the gate of mixed scenes: pairs of an aerial and a ground image, told by their names."""
    aerial = {image.name for image in images if "aerial" in image.name}
    if not aerial or len(aerial) == len(images):
        return []
    links = sum((first in aerial) != (second in aerial) for first, second, _ in inliers)
    share = links / max(len(inliers), 1)
    return [
        Gate(
            "pairs that link aerial and ground images",
            f"{links} ({share:.0%})",
            f"at least {LEAST_LINKS}, or {LEAST_LINK_SHARE:.0%}",
            links >= LEAST_LINKS or share >= LEAST_LINK_SHARE,
            links == 0,
            "fly an arc at 5 to 15 m that leads from the ground to the air",
        )
    ]


def _clip_gate(images: Sequence[ImageQuality], photos: Sequence[Mapping[str, Any]]) -> list[Gate]:
    """Return the gate of the clips of which enough frames are placed, if there are any."""
    clip_of = {photo["name"]: photo["clip"] for photo in photos}
    clips: dict[str, list[ImageQuality]] = {}
    for image in sorted(images):
        if clip_of[image.name] is not None:
            clips.setdefault(clip_of[image.name], []).append(image)
    judged = [frames for frames in clips.values() if len(frames) >= LEAST_FRAMES]
    jumping = [name for frames in judged for name in jumping_frames(frames)]
    if not judged:
        return []
    return [
        Gate(
            "frames near their neighbours in the clip",
            f"{len(jumping)} of {sum(map(len, judged))} jump",
            f"none by more than {MOST_STEP:g} times the clip's median step",
            not jumping,
            False,
            f"look at these, and take them out: {', '.join(jumping[:5])}",
        )
    ]


def _calibration_gate(lenses: Sequence[Mapping[str, Any]]) -> list[Gate]:
    """Return the gate of the lenses that were fitted to a target, if there are any."""
    fitted = [lens for lens in lenses if lens["complaints"] is not None]
    told = [f"{lens['folder']}: {words}" for lens in fitted for words in lens["complaints"]]
    if not fitted:
        return []
    return [
        Gate(
            "calibration",
            "; ".join(told) or f"{len(fitted)} of {len(fitted)} lenses are known well",
            f"RMS {MOST_RMS_AT_4K:g} px at 4K, {LEAST_VIEWS} views, {LEAST_COVERAGE:.0%} covered",
            not told,
            False,
            "film the target again: slowly, from near, up to the corners of the image",
        )
    ]
