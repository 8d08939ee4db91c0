"""Whether the files of a published scene agree with one another: sizes, masks, sparse points, depth,
cameras and pictures.

A file that was exchanged, or a pose that was changed, need not show in any hash. It shows here: sparse
points leave their depth and their observations, and what was measured of pairs of images when they were
published comes out otherwise now.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image

from cuesta.data.maps import read_map
from cuesta.data.scenes.pair_table import PairRow
from cuesta.data.scenes.parsing import image_size
from cuesta.data.scenes.resampling import sample_nearest
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.selection import Shrunk, measure_row

MOST_DEPTH_DIFFERENCE = 0.01  # of a scene's sparse points, median
MOST_OF_IMAGE = 0.03  # the same of one image
MOST_REPROJECTION = 4 / 1600  # of the longer side, median of an image
_LEAST_POINTS = 20
_PARTNERS = 3  # of each image, that it is measured with again
_SAME_SHARE, _SAME_LOOK = 0.01, 0.05  # how much measures may differ between machines
_NEAR = 1e-3  # of a count


class Finding(NamedTuple):
    """Hold one thing that is wrong: which kind, of which file, image or list, and what about it."""

    kind: str
    where: str
    what: str


def check_files(scene: Scene, views: Views, label: str) -> Iterator[Finding]:
    """Yield what is wrong with frames, depth maps and masks: missing, broken, sizes, values."""
    for name in views.names:
        camera = views.camera(name)
        size = (camera.width, camera.height)
        yield from _check_frame(scene, name, size, label)
        yield from _check_depth(scene, name, size, label)
        for kind, path in (
            ("geometric", scene.geometric_mask(name)),
            ("semantic", scene.semantic_mask(name)),
        ):
            if path.is_file():
                what = _mask_complaint(path, size)
                if what:
                    yield Finding("mask", f"{label}/{name}", f"its {kind} mask {what}")


def check_points(
    scene: Scene, views: Views, model: pycolmap.Reconstruction, label: str
) -> Iterator[Finding]:
    """Yield images whose sparse points are not where depth and observations say, and the scene if so.

    The median of |z - depth| / depth should be below 1 % in the scene and 3 % in an image; that of the
    distance between observations and projected points 4 px of 1600 at most. Nothing is said of images
    of fewer than 20 points.
    """
    differences = []
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        if image.name not in views.names:
            continue
        seen = [point for point in image.points2D if point.has_point3D()]
        if len(seen) < _LEAST_POINTS:
            continue
        observed = np.stack([point.xy for point in seen])
        points = np.stack([model.point3D(point.point3D_id).xyz for point in seen])
        found, error = _point_errors(scene, views, image.name, points, observed)
        differences.append(found)
        camera = views.camera(image.name)
        limit = MOST_REPROJECTION * max(camera.width, camera.height)
        median = _median(found)
        where = f"{label}/{image.name}"
        if not error <= limit:
            yield Finding("pose", where, f"its points are {error:.1f} px from their observations")
        if not median <= MOST_OF_IMAGE:
            yield Finding(
                "depth", where, f"its sparse points differ from its depth by {median:.1%}"
            )
    median = _median(np.concatenate(differences)) if differences else 0.0
    if not median < MOST_DEPTH_DIFFERENCE:
        yield Finding(
            "depth", label, f"sparse points differ from depth by {median:.1%} in the median"
        )


def check_pairs(
    views: Views, rows: Sequence[PairRow], read: Callable[[str], Shrunk], label: str
) -> Iterator[Finding]:
    """Yield images of which pairs.csv says what is not so: measured again with some of their partners.

    An image is named where none of its rows is so any more; what is left is named by pair.
    """
    disagreeing: dict[tuple[str, str], str] = {}
    measured: dict[str, set[tuple[str, str]]] = {}
    for row in _chosen_rows(rows):
        pair = (row.image_a, row.image_b)
        measured.setdefault(row.image_a, set()).add(pair)
        try:
            difference = _difference(row, measure_row(views, pair, read))
        except UserError as error:
            difference = str(error)
        if difference:
            disagreeing[pair] = difference
    wrong = {name for name, pairs in measured.items() if pairs <= set(disagreeing)}
    for name in sorted(wrong):
        pair = min(measured[name])
        yield Finding(
            "content",
            f"{label}/{name}",
            f"its frame, depth, mask or pose is not that of pairs.csv: {disagreeing[pair]} "
            f"({len(measured[name])} rows measured)",
        )
    for pair, difference in sorted(disagreeing.items()):
        if not wrong & set(pair):
            yield Finding("content", f"{label}/{pair[0]} and {pair[1]}", difference)


def _chosen_rows(rows: Sequence[PairRow]) -> list[PairRow]:
    """Return for each image the rows from it to the `_PARTNERS` that show most of it."""
    of_image: dict[str, list[PairRow]] = {}
    for row in rows:
        of_image.setdefault(row.image_a, []).append(row)
    return [
        row
        for found in of_image.values()
        for row in sorted(found, key=lambda row: -row.overlap)[:_PARTNERS]
    ]


def _difference(recorded: PairRow, found: PairRow) -> str:
    """Return in words where two measures of a pair differ by more than machines do, or ''."""
    for name, one, other in (
        ("num_pixels", recorded.num_pixels, found.num_pixels),
        ("kept_pixels", recorded.kept_pixels, found.kept_pixels),
    ):
        if abs(one - other) > _NEAR * max(one, other):
            return f"{name} towards {recorded.image_b} was {one}, is {other}"
    for k, (share, other_share) in enumerate(zip(recorded.within, found.within, strict=True), 1):
        if abs(share - other_share) > _SAME_SHARE:
            return f"{k}px towards {recorded.image_b} was {share:.3f}, is {other_share:.3f}"
    if math.isnan(recorded.look) != math.isnan(found.look) or (
        abs(recorded.look - found.look) > _SAME_LOOK
    ):
        return f"look towards {recorded.image_b} was {recorded.look:.3f}, is {found.look:.3f}"
    return ""


def _point_errors(
    scene: Scene,
    views: Views,
    name: str,
    points: NDArray[np.float64],
    observed: NDArray[np.float64],
) -> tuple[NDArray[np.float64], float]:
    """Return |z - depth| / depth of the points with depth, and the median distance in pixels."""
    pose, camera = views.pose(name), views.camera(name)
    matrix = pose.matrix()[:3].numpy()
    in_camera = points @ matrix[:, :3].T + matrix[:, 3]
    depth_of_points = in_camera[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = in_camera[:, :2] / depth_of_points[:, None]
    pixels = pixels * camera.focal().numpy() + camera.principal_point().numpy()
    pixels[~(depth_of_points > 0)] = np.inf  # behind the camera it is nowhere
    error = _median(np.linalg.norm(pixels - observed, axis=1))
    try:
        depth = read_map(scene.depth_map(name)).astype(np.float64)
    except UserError:  # told by check_files
        return np.zeros(0), error
    found = sample_nearest(depth, pixels[None])[0]
    is_deep = found > 0
    return np.abs(depth_of_points - found)[is_deep] / found[is_deep], error


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _check_frame(scene: Scene, name: str, size: tuple[int, int], label: str) -> Iterator[Finding]:
    try:
        found = image_size(scene.frame(name))
        with Image.open(scene.frame(name)) as image:
            image.load()
    except (OSError, ValueError) as error:
        yield Finding("frame", f"{label}/{name}", f"cannot be read: {_first_line(error)}")
        return
    if found != size:
        yield Finding("frame", f"{label}/{name}", f"is {_times(found)}, its camera {_times(size)}")


def _check_depth(scene: Scene, name: str, size: tuple[int, int], label: str) -> Iterator[Finding]:
    try:
        depth = read_map(scene.depth_map(name))
    except UserError as error:
        yield Finding("depth", f"{label}/{name}", _first_line(error))
        return
    found = (depth.shape[1], depth.shape[0])
    if found != size:
        words = f"its depth is {_times(found)}, its camera {_times(size)}"
        yield Finding("depth", f"{label}/{name}", words)
    if not (np.isfinite(depth) & (depth >= 0)).all():
        yield Finding("depth", f"{label}/{name}", "its depth is negative or not finite somewhere")


def _mask_complaint(path: object, size: tuple[int, int]) -> str:
    try:
        with Image.open(str(path)) as mask:
            found, mode = mask.size, mask.mode
            if found != size:
                return f"is {_times(found)}, its camera {_times(size)}"
            values = np.unique(np.asarray(mask))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be read: {_first_line(error)}"
    if mode != "L" or not set(values.tolist()) <= {0, 255}:
        return f"holds {mode} {values[:4].tolist()}, not 8 bits of 0 and 255 alone"
    return ""


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
