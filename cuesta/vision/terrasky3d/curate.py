"""What must not be in a data set: cameras that jump out of their clip, and a place in both of its
splits, told by GPS, by name or by pictures that are nearly the same.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cuesta.data.scenes.parsing import blaming
from cuesta.data.scenes.scene import Json, Scene, read_about
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.gates import LEAST_FRAMES, ImageQuality, jumping_frames
from cuesta.vision.terrasky3d.photos import UnreadableError, motion_between, read_photo

LEAST_APART_M = 200.0
NEAR_BITS = 6  # of 64, by which the hashes of near duplicates differ at most
NEAR_MOTION = 0.02  # of the width, which they have moved at most
_EARTH_M = 6371008.8
_ROUTES = {"ground", "aerial", "mixed", "train", "test"}  # words that tell views, not places

Place = tuple[float, float]  # degrees north and east


class SceneFacts(NamedTuple):
    """Hold what leaks are found by: places where photos were taken, landmark, hashes of its images."""

    places: tuple[Place, ...]
    landmark: str
    hashes: Mapping[str, int]


class Leak(NamedTuple):
    """Hold why a scene for training and one for testing are of one place."""

    train: str
    test: str
    reason: str


def facts_of(scene: Scene, views: Views) -> SceneFacts:
    """Return the facts of a scene: from its manifest, its verdict and its images."""
    about = read_about(scene)
    name = about.get("landmark", about.get("name", scene.root.name))
    hashes = {}
    for image in views.names:
        try:
            hashes[image] = read_photo(scene.frame(image)).hash_bits
        except UnreadableError as error:
            raise UserError(f"{scene.frame(image)}: {error}; make the scene again") from error
    return SceneFacts(_places(scene, about), landmark_of(str(name)), hashes)


def landmark_of(name: str) -> str:
    """Return a landmark's name without case, accents, signs and words for kinds of views.

    >>> landmark_of("Graz_Hauptplatz-aerial"), landmark_of("graz hauptplatz (Ground)")
    ('graz hauptplatz', 'graz hauptplatz')
    """
    letters = unicodedata.normalize("NFKD", name.casefold())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    words = re.findall(r"\w+", plain.replace("_", " "))
    return " ".join(word for word in words if word not in _ROUTES) or plain


def distance_m(one: Place, other: Place) -> float:
    """Return the distance of two places along the ground, on a sphere (haversine).

    >>> round(distance_m((47.0, 15.0), (47.001, 15.0)))
    111
    """
    (north_a, east_a), (north_b, east_b) = (map(math.radians, place) for place in (one, other))
    across = math.cos(north_a) * math.cos(north_b) * math.sin((east_b - east_a) / 2) ** 2
    square = math.sin((north_b - north_a) / 2) ** 2 + across
    return 2 * _EARTH_M * math.asin(min(1.0, math.sqrt(square)))


def find_leaks(
    train: Mapping[str, SceneFacts],
    test: Mapping[str, SceneFacts],
    scenes: Mapping[str, Scene],
) -> list[Leak]:
    """Return every pair of a train and a test scene that are of one place, with the first reason.

    Nearer than 200 m by GPS, the same landmark by name, or two images that are nearly the same: their
    hashes differ in `NEAR_BITS` at most, and what they show has not moved.
    """
    leaks = []
    for name_a, a in train.items():
        for name_b, b in test.items():
            reason = _reason(a, b, scenes[name_a], scenes[name_b])
            if reason:
                leaks.append(Leak(name_a, name_b, reason))
    return leaks


def outlier_cameras(scene: Scene, views: Views) -> list[str]:
    """Return the frames of clips that jump away from their neighbours; none where no clip is known."""
    images = read_about(scene).get("images")
    clips: dict[str, list[ImageQuality]] = {}
    if not isinstance(images, dict):
        return []
    centres = views.centres().tolist()
    for name, (x, y, z) in sorted(zip(views.names, centres, strict=True)):
        about = images.get(name)
        clip = about.get("clip") if isinstance(about, dict) else None
        is_counted = PurePosixPath(name).stem.rpartition("_")[2].isdigit()
        if isinstance(clip, str) and is_counted:
            clips.setdefault(clip, []).append(ImageQuality(name, 0, math.nan, math.nan, (x, y, z)))
    judged = (frames for frames in clips.values() if len(frames) >= LEAST_FRAMES)
    return [name for frames in judged for name in jumping_frames(frames)]


def near_duplicates(one: Mapping[str, int], other: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the pairs of images, one of each, whose hashes differ in few bits; nearest first."""
    if not one or not other:
        return []
    names_a, names_b = list(one), list(other)
    bits_a, bits_b = (np.array(list(bits.values()), np.uint64) for bits in (one, other))
    differ: NDArray[np.uint8] = np.bitwise_count(bits_a[:, None] ^ bits_b)
    places = np.argwhere(differ <= NEAR_BITS)
    nearest = sorted(places.tolist(), key=lambda place: int(differ[place[0], place[1]]))
    return [(names_a[i], names_b[j]) for i, j in nearest]


def _reason(a: SceneFacts, b: SceneFacts, scene_a: Scene, scene_b: Scene) -> str:
    apart = min((distance_m(p, q) for p in a.places for q in b.places), default=math.inf)
    if apart < LEAST_APART_M:
        return f"they are {apart:.0f} m apart by GPS, less than {LEAST_APART_M:g} m"
    if a.landmark == b.landmark:
        return f"both are of the landmark {a.landmark!r}"
    for name_a, name_b in near_duplicates(a.hashes, b.hashes):
        if motion_between(scene_a.frame(name_a), scene_b.frame(name_b)) < NEAR_MOTION:
            return f"{name_a} and {name_b} are nearly the same picture"
    return ""


def _places(scene: Scene, about: Mapping[str, Json]) -> tuple[Place, ...]:
    """Return where the photos were taken, else the origin of the scene, else nothing."""
    images = about.get("images")
    photos = images.values() if isinstance(images, dict) else ()
    found = [photo.get("gps") for photo in photos if isinstance(photo, dict)]
    found.append(about.get("origin"))
    verdict = scene.root / "verdict.json"
    if verdict.is_file():
        with blaming(verdict, "make the scene again"):
            metric = json.loads(verdict.read_text(encoding="utf-8")).get("metric") or {}
            found.append(metric.get("origin"))
    return tuple(sorted({place for one in found for place in _place_of(one)}))


def _place_of(value: Json) -> Sequence[Place]:
    if not isinstance(value, list) or len(value) < 2:
        return []
    north, east = value[0], value[1]
    if not isinstance(north, int | float) or not isinstance(east, int | float):
        return []
    return [(float(north), float(east))]
