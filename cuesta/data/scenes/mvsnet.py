"""MVSNet's folders: images with cameras, ranges of depth, and for each view the views to match it with.

```
images/00000000.jpg
cams/00000000_cam.txt    cam_from_world, K, and min interval [num max] of depth
pair.txt                 for each view its source views, best first, with scores
```

K says nothing of lenses or sizes: images are undistorted, their size is that of the file. Its
principal point is taken as one in our pixels, whose centres are at 0.5, as COLMAP's are.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64

from cuesta.data.files import atomic_folder
from cuesta.data.scenes.parsing import (
    blaming,
    check_pinholes,
    checked,
    image_size,
    number,
    numbers,
    pinhole_of,
    read_text,
    rigid,
    shared,
    whole,
)
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Camera
from cuesta.ragged import Ragged

_REMEDY = "mend it or name another folder"
_SUFFIXES = (".jpg", ".png", ".jpeg")


class MvsnetScene(NamedTuple):
    """Hold V views, and of each its range of depth and its source views.

    `depth_ranges` are (min, interval, num, max) of the planes of a sweep in metres, with NaN for num
    and max where a file has the first two only. `pairs` are int64: the places in `views` of the V
    views' sources, best first; `scores` are float64, of the same offsets.
    """

    views: Views
    depth_ranges: Float64[np.ndarray, "V 4"]
    pairs: Ragged
    scores: Ragged


def read_mvsnet(folder: str | Path) -> MvsnetScene:
    """Return the scene in a folder; its views are named by their files below images/.

    Raises `UserError` naming the file that is missing or broken.
    """
    folder = Path(folder)
    found = (re.fullmatch(r"(\d{1,18})_cam\.txt", path.name) for path in folder.glob("cams/*"))
    ids = sorted(int(match[1]) for match in found if match)
    if not ids:
        raise UserError(f"{folder}: no cams/00000000_cam.txt and so on; name an MVSNet folder")
    names, cameras, matrices, ranges = [], [], [], []
    for view in ids:
        image = _image(folder, view)
        path = _cam_file(folder, view)
        with blaming(path, _REMEDY):
            camera, matrix, depths = _parse_cam(read_text(path), image_size(image))
        names.append(image.name)
        cameras.append(camera)
        matrices.append(matrix)
        ranges.append(depths)
    with blaming(folder / "cams", _REMEDY):
        poses = rigid(torch.tensor(matrices, dtype=torch.float64).reshape(-1, 4, 4), names)
        views = Views(tuple(names), *shared(cameras), poses)
    with blaming(folder / "pair.txt", _REMEDY):
        pairs, scores = _parse_pairs(read_text(folder / "pair.txt").split(), ids)
    return MvsnetScene(views, np.array(ranges), pairs, scores)


def write_mvsnet(folder: str | Path, scene: MvsnetScene, *, images: str | Path) -> None:
    """Write a scene: views are numbered in their order, their files are copied from below `images`.

    The folder appears whole or not at all. Raises `ValueError` for a camera with distortion and for
    fields that do not fit together, `UserError` where an image is missing or `folder` exists.
    """
    views = checked(scene.views)
    _check(scene)
    with atomic_folder(folder) as temporary:
        (temporary / "images").mkdir()
        (temporary / "cams").mkdir()
        matrices = views.cam_from_world.matrix().tolist()
        for view, name in enumerate(views.names):
            source = Path(images, name)
            if not source.is_file() or source.suffix.lower() not in _SUFFIXES:
                raise UserError(f"{source}: no such .jpg or .png; name the folder of images")
            shutil.copyfile(source, temporary / f"images/{view:08d}{source.suffix.lower()}")
            depths = scene.depth_ranges[view]
            text = _cam_text(views.camera(name), matrices[view], depths[~np.isnan(depths)].tolist())
            _cam_file(temporary, view).write_text(text, encoding="utf-8")
        (temporary / "pair.txt").write_text(_pairs_text(scene), encoding="utf-8")


def _check(scene: MvsnetScene) -> None:
    num_views = len(scene.views)
    if scene.depth_ranges.shape != (num_views, 4):
        raise ValueError(f"{num_views} views need depth ranges [V, 4]")
    for name, depths in zip(scene.views.names, scene.depth_ranges, strict=True):
        _check_depths(depths[~np.isnan(depths)].tolist(), name)
    offsets = scene.pairs.offsets
    if len(offsets) != num_views + 1 or not torch.equal(offsets, scene.scores.offsets):
        raise ValueError(f"{num_views} views need as many rows of pairs, and of scores the same")
    sources = scene.pairs.values
    if ((sources < 0) | (sources >= num_views)).any():
        raise ValueError(f"pairs should be places of the {num_views} views")
    check_pinholes(scene.views)


def _image(folder: Path, view: int) -> Path:
    for suffix in _SUFFIXES:
        path = folder / f"images/{view:08d}{suffix}"
        if path.is_file():
            return path
    raise UserError(f"{folder}: no image images/{view:08d}.jpg or .png; bring it back")


def _cam_file(folder: Path, view: int) -> Path:
    return folder / f"cams/{view:08d}_cam.txt"


def _parse_cam(
    text: str, size: tuple[int, int]
) -> tuple[Camera, list[list[float]], tuple[float, ...]]:
    words = text.split()
    if words[:1] != ["extrinsic"] or words[17:18] != ["intrinsic"]:
        raise ValueError("it should have 16 numbers after 'extrinsic', then 9 after 'intrinsic'")
    pose = numbers(words[1:17], 16, "extrinsic")
    camera = pinhole_of(numbers(words[18:27], 9, "intrinsic"), size, "its intrinsic")
    depths = numbers(words[27:], 4 if len(words) > 29 else 2, "the range of depth")
    _check_depths(depths, "its last line")
    matrix = [pose[row : row + 4] for row in range(0, 16, 4)]
    return camera, matrix, (*depths, np.nan, np.nan)[:4]


def _check_depths(depths: Sequence[float], name: str) -> None:
    is_range = len(depths) in (2, 4) and min(depths) > 0 and np.isfinite(depths).all()
    if not is_range or (len(depths) == 4 and depths[3] < depths[0]):
        raise ValueError(f"{name}: depth should be min interval [num max], all above 0")


def _cam_text(camera: Camera, matrix: Sequence[Sequence[float]], depths: Sequence[float]) -> str:
    def lines(rows: Sequence[Sequence[float]]) -> str:
        return "\n".join(" ".join(map(repr, row)) for row in rows)

    pose, intrinsic = lines(matrix), lines(camera.matrix().tolist())
    return f"extrinsic\n{pose}\n\nintrinsic\n{intrinsic}\n\n{lines([depths])}\n"


def _parse_pairs(words: Sequence[str], ids: Sequence[int]) -> tuple[Ragged, Ragged]:
    places = {view: place for place, view in enumerate(ids)}
    stream = iter(words)

    def view(name: str) -> int:
        found = whole(next(stream, None), name)
        if found not in places:
            raise ValueError(f"it names view {found}, which has no cams/{found:08d}_cam.txt")
        return places[found]

    rows: dict[int, list[tuple[int, float]]] = {}
    for _ in range(whole(next(stream, None), "its number of views")):
        reference = view("the number of a view")
        if reference in rows:
            raise ValueError(f"view {ids[reference]} is there twice")
        row = rows[reference] = []
        for _ in range(whole(next(stream, None), "a number of sources")):
            row.append((view("the number of a source"), number(next(stream, None), "a score")))
    if next(stream, None) is not None:
        raise ValueError("it goes on after its last view")
    every = [rows.get(place, []) for place in range(len(ids))]
    flat = [pair for row in every for pair in row]
    lengths = [len(row) for row in every]
    sources = torch.tensor([source for source, _ in flat], dtype=torch.int64)
    scores = torch.tensor([score for _, score in flat], dtype=torch.float64)
    return Ragged.from_lengths(sources, lengths), Ragged.from_lengths(scores, lengths)


def _pairs_text(scene: MvsnetScene) -> str:
    offsets = scene.pairs.offsets.tolist()
    sources, scores = scene.pairs.values.tolist(), scene.scores.values.tolist()
    lines = [str(len(scene.views))]
    for place in range(len(scene.views)):
        row = range(offsets[place], offsets[place + 1])
        words = [str(len(row)), *(f"{sources[i]} {scores[i]!r}" for i in row)]
        lines += [str(place), " ".join(words)]
    return "\n".join(lines) + "\n"
