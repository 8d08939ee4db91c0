"""Which pairs of a scene the two-view task judges, with their photos and true poses.

A pairs_calibrated.txt says it all. Without one it is the pairs of each scene that see the same thing:
by true depth where it is at hand (an overlap of 0.1 at least, measured there and back as for published
pairs), else by shared points of the sparse model, else all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from cuesta.data.scenes.colmap import read_reconstruction
from cuesta.data.scenes.read import model_folder
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.terrasky3d import read_calibrated_pairs
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Camera, Transform
from cuesta.vision.terrasky3d.benchmark.matchers import photo_of
from cuesta.vision.terrasky3d.benchmark.places import find_map, images_folder
from cuesta.vision.terrasky3d.benchmark.two_view import TruePair
from cuesta.vision.terrasky3d.selection import PairRules, measure_row, reader, shared_points

LEAST_OVERLAP, LEAST_SHARED = 0.1, 30
_MOST_MEASURED = 2000  # pairs; more are told apart by points, or are listed in a file

_Item = TypeVar("_Item")


class Photos(NamedTuple):
    """Say where images are, None where they usually are, and the longest side to use them at."""

    folder: str | None = None
    max_size: int | None = None


class ScenePairs(NamedTuple):
    """Hold the pairs of a scene and in a few words by which rule they were taken."""

    pairs: list[TruePair]
    rule: str


def pairs_of_scene(
    path: Path,
    views: Views,
    photos: Photos,
    *,
    limit: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ScenePairs:
    """Return the pairs of a scene, or `limit` of them drawn by the seed.

    Raises `UserError` where there are not two images, an image is missing, or no pair sees one thing.
    """
    if len(views) < 2:
        raise UserError(f"{path}: {len(views)} images, which make no pair; name another scene")
    names, overlaps, rule = _chosen(path, views, on_progress)
    if not names:
        raise UserError(f"{path}: no two images see the same thing ({rule}); name pairs by --pairs")
    folder = images_folder(path, views.names[0], photos.folder)
    drawn = _drawn(names, limit, seed)
    ready = {
        name: photo_of(name, folder / name, views.camera(name), max_size=photos.max_size)
        for name in sorted({name for pair in drawn for name in pair})
    }
    pairs = [
        TruePair(
            ready[one],
            ready[other],
            views.pose(other) @ views.pose(one).inverse(),
            overlaps.get((one, other)),
        )
        for one, other in drawn
    ]
    return ScenePairs(pairs, rule)


def pairs_of_file(
    file: Path, scenes: Mapping[str, Path], photos: Photos, *, limit: int | None, seed: int
) -> dict[str, ScenePairs]:
    """Return the pairs that a pairs_calibrated.txt lists, by scene, with the K and poses it gives.

    `limit` is of each scene. Raises `UserError` for a pair of a scene or image that is not there.
    """
    listed = read_calibrated_pairs(file)
    found: dict[str, ScenePairs] = {}
    for scene, path in scenes.items():
        rows = [row for row, (name, _) in enumerate(listed.names) if name.split("/")[0] == scene]
        pairs = []
        for row in _drawn(rows, limit, seed):
            ready = []
            for name, matrix in zip(
                listed.names[row], (listed.matrix_a[row], listed.matrix_b[row]), strict=True
            ):
                own = name.split("/frames/", 1)[1]
                folder = images_folder(path, own, photos.folder)
                bare = photo_of(own, folder / own, None, max_size=None).camera
                params = torch.stack([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])
                camera = Camera("PINHOLE", params, bare.width, bare.height)
                ready.append(photo_of(own, folder / own, camera, max_size=photos.max_size))
            pose = listed.b_from_a
            b_from_a = Transform.rigid(pose.rotation[row], pose.translation[row])
            pairs.append(TruePair(ready[0], ready[1], b_from_a))
        if pairs:
            found[scene] = ScenePairs(pairs, f"the pairs of {file.name}")
    if not found:
        raise UserError(f"{file}: no pair of {', '.join(scenes)}; name the data set that it lists")
    return found


def _chosen(
    path: Path, views: Views, on_progress: Callable[[int, int], None]
) -> tuple[list[tuple[str, str]], dict[tuple[str, str], float], str]:
    """Return pairs of names, their overlaps where these were measured, and the rule."""
    every = list(combinations(sorted(views.names), 2))
    has_depth = all(find_map(path, name) == Scene(path).depth_map(name) for name in views.names)
    if has_depth and len(every) <= _MOST_MEASURED:
        read = reader(Scene(path), views, PairRules().long_side)
        overlaps = {}
        for done, (one, other) in enumerate(every):
            on_progress(done, len(every))
            both = [measure_row(views, pair, read) for pair in ((one, other), (other, one))]
            overlaps[one, other] = min(row.overlap for row in both)
        kept = [pair for pair in every if overlaps[pair] >= LEAST_OVERLAP]
        return kept, overlaps, f"overlap of depth {LEAST_OVERLAP:g} or more"
    model = model_folder(path)
    shared = shared_points(read_reconstruction(model)) if model is not None else {}
    if shared:
        kept = [pair for pair in every if shared.get(pair, 0) >= LEAST_SHARED]
        return kept, {}, f"{LEAST_SHARED} shared points or more"
    return every, {}, "all pairs"


def _drawn(items: Sequence[_Item], limit: int | None, seed: int) -> list[_Item]:
    """Return all items, or `limit` of them drawn by the seed, in their order."""
    if limit is None or limit >= len(items):
        return list(items)
    places = np.random.default_rng(seed).choice(len(items), limit, replace=False)
    return [items[place] for place in np.sort(places)]
