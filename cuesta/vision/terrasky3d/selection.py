"""Which pairs of a scene are published: measured there and back through both depth maps, and chosen by
the rules of TerraSky3D for training and for testing.

A pixel of image a goes to b by a's depth, and from where it lands back to a by b's depth; how far from
its beginning it ends tells whether both see the same thing (2.6 of the data set's specification). It
is done at 1600 px at most. We also keep how like the two images are where they meet, and how many
of those pixels the masks keep: nothing of a pair can change without one of these numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations
from typing import Literal, NamedTuple, final

import cv2
import numpy as np
import pycolmap
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cuesta.data.maps import read_map
from cuesta.data.scenes.pair_table import LEAST_PIXELS, LEAST_WITHIN, PairRow
from cuesta.data.scenes.parsing import blaming
from cuesta.data.scenes.release import shared_points
from cuesta.data.scenes.resampling import (
    Target,
    sample_nearest,
    sample_smoothly,
    shrunk,
    source_pixels,
)
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import pixels_from_pixels
from cuesta.ops.consistency import consistency
from cuesta.vision.terrasky3d.selection_kernels import count_pixels
from cuesta.vision.terrasky3d.strata import kind_of

Pair = tuple[str, str]
GraphOf = Literal["verified inliers", "shared points", "overlap of depth"]
_REMEDY = "mend it or make the scene again"
_HELD = 96  # images in memory
_COARSE_SIDE, _COARSE_SHARE = 200, 0.02  # of the first look at scenes without a view graph
_LEAST_LOOKS = 50
_FINE, _BROAD = 1.0, 4.0  # px: details between these make the look of an image


@final
@dataclass(frozen=True, kw_only=True)
class PairRules:
    """Say which pairs are kept.

    For training: more than `least_pixels`, of which a share of more than `least_within` come back
    within 10 px, in both directions. For testing: all mixed pairs, and others with `least_inliers` to
    `most_inliers` verified inliers; without verified inliers, those whose overlap is between
    `least_overlap` and `most_overlap`. Pairs of the view graph have `graph_inliers` at least.
    """

    long_side: int = 1600
    least_pixels: int = LEAST_PIXELS
    least_within: float = LEAST_WITHIN
    graph_inliers: int = 30
    least_inliers: int = 100
    most_inliers: int = 500
    least_overlap: float = 0.1
    most_overlap: float = 0.7


class ViewGraph(NamedTuple):
    """Hold the pairs that show the same things, with how many of them, and what was counted.

    `counts` is None where nothing was counted: overlap is then measured by depth.
    """

    source: GraphOf
    counts: Mapping[Pair, int] | None


class Shrunk(NamedTuple):
    """Hold an image for measuring, without distortion: depth, details of its grey, what masks keep."""

    matrix: Float64[Tensor, "3 3"]
    depth: Float[Tensor, "Y X"]
    detail: Float[np.ndarray, "Y X"]
    keep: Bool[np.ndarray, "Y X"]


def view_graph(scene: Scene, model: pycolmap.Reconstruction, rules: PairRules) -> ViewGraph:
    """Return the view graph: of verified inliers where the scene's matches are at hand, else of the
    sparse points that images share, else none.
    """
    names = {model.image(i).name for i in model.reg_image_ids()}
    record = scene.work / "matches" / "stage.json"
    if record.is_file():
        with blaming(record, f"remove {scene.work}, then shared points are counted instead"):
            found = json.loads(record.read_text(encoding="utf-8"))["result"]["inliers"]
            counts = {(min(a, b), max(a, b)): int(n) for a, b, n in found if {a, b} <= names}
        return ViewGraph("verified inliers", _at_least(counts, rules.graph_inliers))
    shared = shared_points(model)
    if shared:
        return ViewGraph("shared points", _at_least(shared, rules.graph_inliers))
    return ViewGraph("overlap of depth", None)


def measure_pairs(
    scene: Scene,
    views: Views,
    graph: ViewGraph,
    rules: PairRules,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[PairRow]:
    """Return two rows, there and back, for each pair of the view graph; `is_kept` is not said yet.

    Without a view graph, the pairs that see one another at a first, coarse look. Raises `UserError`
    naming a depth map, mask or frame that is missing, broken or of another size.
    """
    pairs = sorted(_coarse_pairs(scene, views) if graph.counts is None else graph.counts)
    read = reader(scene, views, rules.long_side)
    rows: list[PairRow] = []
    for done, (name_a, name_b) in enumerate(pairs):
        on_progress(done, len(pairs))
        inliers = None if graph.counts is None else graph.counts[name_a, name_b]
        for one, other in ((name_a, name_b), (name_b, name_a)):
            rows.append(measure_row(views, (one, other), read)._replace(inliers=inliers))
    on_progress(len(pairs), len(pairs))
    return rows


def measure_row(views: Views, pair: Pair, read: Callable[[str], Shrunk]) -> PairRow:
    """Return the measures of one direction, from `pair[0]` to `pair[1]`."""
    one, other = map(read, pair)
    other_from_one = views.pose(pair[1]) @ views.pose(pair[0]).inverse()
    matrix = pixels_from_pixels(one.matrix, other.matrix, other_from_one).numpy()
    errors = round_trip(one, other, matrix)
    within, counts, sums = np.empty(10, np.int64), np.empty(4, np.int64), np.empty(5)
    details = one.detail, other.detail
    count_pixels(errors, one.depth.numpy(), one.keep, *details, matrix, within, counts, sums)
    count, num_deep, num_kept, num_alike = counts.tolist()
    return PairRow(
        *pair,
        num_pixels=count,
        within=tuple((within / max(count, 1)).tolist()),
        overlap=int(within[-1]) / max(num_deep, 1),
        kept_pixels=num_kept,
        look=_likeness(num_alike, *sums.tolist()),
        stratum=kind_of(*pair),
    )


def round_trip(
    one: Shrunk, other: Shrunk, other_from_one: Float[np.ndarray, "3 4"]
) -> Float[np.ndarray, "Y X"]:
    """Return how many pixels from its beginning each pixel ends; inf where there is no way."""
    found = consistency(one.depth, other.depth, torch.from_numpy(other_from_one))
    return found.pixel_error.numpy()


def choose(
    rows: list[PairRow], split: Literal["train", "test"], graph: ViewGraph, rules: PairRules
) -> list[PairRow]:
    """Return the rows with `is_kept` said, by the rule of the split; both of a pair alike."""
    back = {(row.image_a, row.image_b): row for row in rows}
    return [
        row._replace(is_kept=_is_kept(row, back[row.image_b, row.image_a], split, graph, rules))
        for row in rows
    ]


def reader(scene: Scene, views: Views, long_side: int) -> Callable[[str], Shrunk]:
    """Return what reads an image for measuring; the last ones are held in memory."""

    @cache
    def place(camera_id: int) -> tuple[Target, NDArray[np.float64]]:
        target = shrunk(views.cameras[camera_id], long_side)
        return target, source_pixels(views.cameras[camera_id], target)

    @lru_cache(maxsize=_HELD)
    def read(name: str) -> Shrunk:
        target, pixels = place(views.camera_ids[views.index(name)])
        return _read(scene, views, name, target, pixels)

    return read


def read_mask(path: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an 8-bit mask of this (width, height). Raises `UserError` where it is not one."""
    with blaming(path, _REMEDY), Image.open(path) as image:
        if image.mode != "L" or image.size != size:
            raise ValueError(
                f"a mask of {image.mode} {image.width} x {image.height}, not of 8 bits "
                f"{size[0]} x {size[1]}"
            )
        return np.asarray(image)


def _read(
    scene: Scene, views: Views, name: str, target: Target, pixels: NDArray[np.float64]
) -> Shrunk:
    camera = views.camera(name)
    size = (camera.width, camera.height)
    depth = read_map(scene.depth_map(name))
    if depth.shape != size[::-1]:
        raise UserError(
            f"{scene.depth_map(name)}: {depth.shape[1]} x {depth.shape[0]} pixels, its camera has "
            f"{size[0]} x {size[1]}; make it again with --max-image-size 0"
        )
    with blaming(scene.frame(name), _REMEDY), Image.open(scene.frame(name)) as image:
        if image.size != size:
            raise ValueError(
                f"{image.width} x {image.height} pixels, its camera has {size[0]} x {size[1]}"
            )
        gray = np.asarray(image.convert("L"))
    keep = np.full(depth.shape, 255, np.uint8)
    for path in (scene.geometric_mask(name), scene.semantic_mask(name)):
        if path.is_file():
            keep = keep & read_mask(str(path), size)
    scale = target.camera.width / camera.width
    fine = sample_smoothly(gray, pixels, scale).astype(np.float32)
    detail = cv2.GaussianBlur(fine, (0, 0), _FINE) - cv2.GaussianBlur(fine, (0, 0), _BROAD)
    return Shrunk(
        target.camera.matrix(),
        torch.from_numpy(sample_nearest(depth, pixels)),
        np.asarray(detail),
        sample_nearest(keep, pixels) == 255,
    )


def _likeness(count: int, a: float, b: float, aa: float, bb: float, ab: float) -> float:
    """Return the correlation of details by their sums over pixels that both images see; NaN for too few."""
    if count < _LEAST_LOOKS:
        return math.nan
    spread = math.sqrt(max(aa - a * a / count, 0) * max(bb - b * b / count, 0))
    return (ab - a * b / count) / spread if spread > 0 else math.nan


def _coarse_pairs(scene: Scene, views: Views) -> set[Pair]:
    """Return the pairs of which either image shows a little of the other at `_COARSE_SIDE` px."""
    read = reader(scene, views, _COARSE_SIDE)
    held = {name: read(name) for name in views.names}
    found = set()
    for name_a, name_b in combinations(sorted(views.names), 2):
        for pair in ((name_a, name_b), (name_b, name_a)):
            one, other = held[pair[0]], held[pair[1]]
            pose = views.pose(pair[1]) @ views.pose(pair[0]).inverse()
            errors = round_trip(
                one, other, pixels_from_pixels(one.matrix, other.matrix, pose).numpy()
            )
            if (errors <= 2).sum() > _COARSE_SHARE * max(int((one.depth > 0).sum()), 1):
                found.add((name_a, name_b))
    return found


def _at_least(counts: Mapping[Pair, int], least: int) -> dict[Pair, int]:
    return {pair: count for pair, count in counts.items() if count >= least}


def _is_kept(there: PairRow, back: PairRow, split: str, graph: ViewGraph, rules: PairRules) -> bool:
    is_good = all(
        row.num_pixels > rules.least_pixels and row.within[9] > rules.least_within
        for row in (there, back)
    )
    if split == "train":
        return is_good
    if graph.source == "verified inliers":
        count = there.inliers or 0
        is_between = rules.least_inliers <= count <= rules.most_inliers
        return there.stratum == "mixed" or is_between
    overlap = min(there.overlap, back.overlap)
    is_between = rules.least_overlap <= overlap < rules.most_overlap
    return is_good and (there.stratum == "mixed" or is_between)
