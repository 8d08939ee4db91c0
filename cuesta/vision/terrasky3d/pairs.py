"""Which pairs of images are matched: all of a small set; of a large one those near in time, place or
looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from cuesta.errors import UserError
from cuesta.vision.terrasky3d.settings import MatchSettings

Pairs = set[tuple[str, str]]
_WORDS = 64
_SAMPLED = 512  # descriptors of an image that vote for its look
_ROUNDS = 10


def choose_pairs(
    database: Path, photos: Sequence[dict[str, Any]], settings: MatchSettings, seed: int
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Return the pairs of names, sorted, and how many each rule gave.

    Raises `UserError` for spatial matching without GPS.
    """
    names = sorted(photo["name"] for photo in photos)
    method = settings.method
    if method == "exhaustive" or (method == "auto" and len(names) <= settings.exhaustive_up_to):
        return sorted(combinations(names, 2)), {"exhaustive": len(names) * (len(names) - 1) // 2}
    located = [photo for photo in photos if photo["gps"]]
    if method == "spatial" and len(located) < 2:
        raise UserError(
            "matching.method spatial needs GPS in the photos' EXIF, which fewer than two have; "
            "choose retrieval or sequential"
        )
    found: dict[str, Pairs] = {}
    if method in ("auto", "sequential"):
        found["sequential"] = sequential_pairs(photos, settings.overlap)
    if method == "spatial" or (method == "auto" and len(located) >= 2):
        found["spatial"] = spatial_pairs(located, settings.neighbours, settings.max_distance_m)
    if method in ("auto", "retrieval"):
        looks = looks_of(database, seed)
        found["retrieval"] = similar_pairs(looks, settings.retrieved)
    together = set[tuple[str, str]]().union(*found.values())
    return sorted(together), {name: len(pairs) for name, pairs in found.items()}


def sequential_pairs(photos: Sequence[dict[str, Any]], overlap: int) -> Pairs:
    """Return each image with the `overlap` next of its clip or folder and those 2^k further on."""
    clips: dict[str, list[str]] = {}
    for photo in photos:
        clips.setdefault(photo["clip"] or photo["name"].split("/")[0], []).append(photo["name"])
    pairs: Pairs = set()
    for names in clips.values():
        names.sort()
        steps = {*range(1, overlap + 1), *(2**k for k in range(len(names).bit_length()))}
        for first, name in enumerate(names):
            pairs |= {(name, names[first + s]) for s in steps if first + s < len(names)}
    return pairs


def spatial_pairs(
    located: Sequence[dict[str, Any]], neighbours: int, max_distance_m: float
) -> Pairs:
    """Return each image with its nearest by GPS, along the ground; altitudes are too poor to count."""
    names = [photo["name"] for photo in located]
    positions = enu_of([photo["gps"] for photo in located])[0][:, :2]
    pairs: Pairs = set()
    for number, position in enumerate(positions):
        distance = np.linalg.norm(positions - position, axis=1)
        for other in np.argsort(distance, kind="stable")[: neighbours + 1]:
            if other != number and distance[other] <= max_distance_m:
                first, second = sorted((names[number], names[other]))
                pairs.add((first, second))
    return pairs


def similar_pairs(looks: dict[str, NDArray[np.float32]], retrieved: int) -> Pairs:
    """Return each image with the `retrieved` of the most similar look (inner product)."""
    names = sorted(looks)
    table = np.stack([looks[name] for name in names])
    pairs: Pairs = set()
    for number, name in enumerate(names):
        similarity = table @ table[number]
        similarity[number] = -np.inf
        for other in np.argsort(-similarity, kind="stable")[:retrieved]:
            first, second = sorted((name, names[other]))
            pairs.add((first, second))
    return pairs - {(name, name) for name in names}


def looks_of(database: Path, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return a unit vector of `_WORDS` x 128 numbers for each image: its VLAD.

    Each descriptor adds its difference from the nearest of 64 words, which are the k-means of the
    set's own descriptors; each word's sum, then the whole, is scaled to length 1 (Jégou et al., CVPR
    2010; Arandjelović and Zisserman, CVPR 2013).
    """
    generator = np.random.default_rng(seed)
    sampled: dict[str, NDArray[np.float32]] = {}
    with pycolmap.Database.open(database) as opened:
        for image in sorted(opened.read_all_images(), key=lambda image: image.name):
            rows = np.asarray(opened.read_descriptors(image.image_id).data)
            chosen = generator.permutation(len(rows))[:_SAMPLED]
            sampled[image.name] = rows[np.sort(chosen)].astype(np.float32)
    if not any(len(rows) for rows in sampled.values()):
        return {name: np.zeros(1, np.float32) for name in sampled}
    words = _k_means(np.concatenate(list(sampled.values())), generator)
    return {name: _vlad(rows, words) for name, rows in sampled.items()}


def enu_of(
    positions: Sequence[Sequence[float | None]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return metres east, north and up [P, 3] of the median place, and that place (degrees, metres).

    Positions are (latitude, longitude, altitude); where altitudes are missing, they are the median's.
    """
    table = np.array([[np.nan if x is None else x for x in row] for row in positions], np.float64)
    altitudes = table[:, 2]
    known = altitudes[~np.isnan(altitudes)]
    table[:, 2] = np.where(np.isnan(altitudes), np.median(known) if len(known) else 0.0, altitudes)
    middle = np.median(table, axis=0)
    return pycolmap.GPSTransform().ellipsoid_to_enu(table, *middle), middle


def _k_means(rows: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    words = rows[np.sort(generator.permutation(len(rows))[:_WORDS])]
    for _ in range(_ROUNDS):
        nearest = _nearest(rows, words)
        counts = np.bincount(nearest, minlength=len(words))
        sums = np.zeros_like(words)
        np.add.at(sums, nearest, rows)
        is_used = counts > 0
        words[is_used] = sums[is_used] / counts[is_used, None]
    return words


def _nearest(rows: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.argmax(rows @ words.T - (words**2).sum(1) / 2, axis=1)


def _vlad(rows: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.float32]:
    nearest = _nearest(rows, words)
    look = np.zeros_like(words)
    np.add.at(look, nearest, rows - words[nearest])
    look /= np.maximum(np.linalg.norm(look, axis=1, keepdims=True), 1e-12)
    return (look / max(float(np.linalg.norm(look)), 1e-12)).ravel()
