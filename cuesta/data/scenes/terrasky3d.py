"""The lists of a published data set: the cameras of all its scenes, and pairs of images to match.

```
train_data.json         {scene: {"cameras": {id: {K, width, height}}, "images": {name: {P, K_id}}}}
views.txt               scene/frames/image R(9) t(3) MODEL width height parameters ...
pairs_calibrated.txt    image_a image_b K_a(9) K_b(9) R(9) t(3)
```

P = [R | t] is cam_from_world, R and K stand by row, and the R and t of a pair are b_from_a. The texts
name images by their path below the data set, scene/frames/image; lines that begin with # are
comments. A K says nothing of lenses: where there is one, images are undistorted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float64
from torch import Tensor

from cuesta.data.files import write_text
from cuesta.data.scenes.parsing import (
    blaming,
    camera_of,
    check_pinholes,
    checked,
    model_of,
    number,
    numbers,
    pinhole_of,
    read_text,
    rigid,
    shared,
    whole,
)
from cuesta.data.scenes.scene import Json
from cuesta.data.scenes.views import Views, is_inside
from cuesta.geometry import MODELS, Camera, Transform

_REMEDY = "mend it or name another file"
_BETWEEN = "/frames/"  # a scene and its image

_Row = TypeVar("_Row")


class CalibratedPairs(NamedTuple):
    """Hold B pairs of images (a, b) by their paths, the K of each and where b's camera is from a's.

    Poses are in the unit of the scene; the translation is not scaled to 1.
    """

    names: tuple[tuple[str, str], ...]
    matrix_a: Float64[Tensor, "B 3 3"]
    matrix_b: Float64[Tensor, "B 3 3"]
    b_from_a: Transform


def read_train_data(path: str | Path) -> dict[str, Views]:
    """Return the views of every scene of a train_data.json, in its order; cameras keep their ids.

    Raises `UserError` naming the file, the scene and the image or camera that is broken.
    """
    with blaming(path, _REMEDY):
        scenes = {}
        for name, content in _entries(json.loads(read_text(Path(path))), "it").items():
            try:
                scenes[_scene(name)] = _views_of_json(content)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return scenes


def write_train_data(path: str | Path, scenes: Mapping[str, Views]) -> None:
    """Write the views of scenes by their names, with numbers in full.

    Raises `ValueError` for a name that is no folder's, a camera with distortion, and poses and
    cameras that are not finite or not rigid; `UserError` where the file cannot be written.
    """
    content = {_scene(name): _views_to_json(checked(views)) for name, views in scenes.items()}
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_views_txt(path: str | Path) -> dict[str, Views]:
    """Return the views of every scene of a views.txt, in its order.

    Images of equal cameras share one; cameras are numbered from 1 in each scene. Raises `UserError`
    naming the file and the line that is broken.
    """
    with blaming(path, _REMEDY):
        rows: dict[str, list[_View]] = {}
        for row in _parsed(Path(path), _view):
            rows.setdefault(row.scene, []).append(row)
        return {scene: _views_of_rows(found) for scene, found in rows.items()}


def write_views_txt(path: str | Path, scenes: Mapping[str, Views]) -> None:
    """Write the views of scenes by their names, a line an image, with numbers in full.

    Raises `ValueError` for a name that is no folder's or has a space, and poses and cameras that are
    not finite or not rigid; `UserError` where the file cannot be written.
    """
    lines = ["# scene/frames/image R(9) t(3) MODEL width height parameters"]
    for scene, given in scenes.items():
        views = checked(given)
        for name in views.names:
            camera, pose = views.camera(name), views.pose(name)
            words = (
                _word(f"{_scene(scene)}{_BETWEEN}{name}"),
                _text(pose.rotation, pose.translation),
                f"{camera.model} {camera.width} {camera.height}",
                _text(camera.params),
            )
            lines.append(" ".join(words))
    write_text(path, "\n".join(lines) + "\n")


def calibrate_pairs(
    scenes: Mapping[str, Views], names: Sequence[tuple[str, str]]
) -> CalibratedPairs:
    """Return the pairs of these images, named by paths scene/frames/image.

    Raises `ValueError` for an image that is not there, a pair of two scenes, and as
    `write_train_data`.
    """
    known = {scene: checked(views) for scene, views in scenes.items()}
    for views in known.values():
        check_pinholes(views)
    matrices, poses = [], []
    for image_a, image_b in names:
        (scene, name_a), (other, name_b) = _split(image_a), _split(image_b)
        if scene != other or scene not in known:
            raise ValueError(f"{image_a} and {image_b} are not of one of the scenes")
        views = known[scene]
        matrices.append([views.camera(name).matrix().tolist() for name in (name_a, name_b)])
        poses.append((views.pose(name_b) @ views.pose(name_a).inverse()).matrix().tolist())
    matrix_a, matrix_b = _tensor(matrices, 2, 3, 3).unbind(1)
    b_from_a = rigid(_tensor(poses, 4, 4), _labels(names))
    return CalibratedPairs(tuple(names), matrix_a, matrix_b, b_from_a)


def read_calibrated_pairs(path: str | Path) -> CalibratedPairs:
    """Return the pairs of a pairs_calibrated.txt. Raises `UserError` naming the file and the line."""
    with blaming(path, _REMEDY):
        rows = _parsed(Path(path), _pair)
        names = tuple(name for name, _ in rows)
        values = _tensor([row for _, row in rows], 30)
        matrix_a, matrix_b, rotation = values[:, :27].unflatten(1, (3, 3, 3)).unbind(1)
        poses = torch.cat([rotation, values[:, 27:, None]], -1)
        return CalibratedPairs(names, matrix_a, matrix_b, rigid(poses, _labels(names)))


def write_calibrated_pairs(path: str | Path, pairs: CalibratedPairs) -> None:
    """Write pairs, a line each, with numbers in full.

    Raises `ValueError` for a name with a space or that is no scene/frames/image, and poses that are
    not finite or not rigid; `UserError` where the file cannot be written.
    """
    poses = rigid(pairs.b_from_a.matrix(), _labels(pairs.names))
    lines = ["# image_a image_b K_a(9) K_b(9) R(9) t(3)"]
    for place, images in enumerate(pairs.names):
        for image in images:
            _split(image)
        found = (pairs.matrix_a, pairs.matrix_b, poses.rotation, poses.translation)
        words = (*map(_word, images), _text(*(values[place] for values in found)))
        lines.append(" ".join(words))
    write_text(path, "\n".join(lines) + "\n")


def _views_of_json(content: Json) -> Views:
    parts = _entries(content, "a scene")
    cameras = {}
    for key, about in _entries(parts.get("cameras"), "cameras").items():
        name = f"camera {key}"
        camera = _entries(about, name)
        size = whole(camera.get("width"), "width"), whole(camera.get("height"), "height")
        matrix = [x for row in _rows(camera.get("K"), 3, f"the K of {name}") for x in row]
        cameras[whole(key, "an id")] = pinhole_of(matrix, size, f"the K of {name}")
    ids, poses = [], []
    images = _entries(parts.get("images"), "images")
    for name, about in images.items():
        image = _entries(about, name)
        ids.append(whole(image.get("K_id"), f"the K_id of {name}"))
        poses.append(_rows(image.get("P"), 4, f"the P of {name}"))
    names = tuple(images)
    return Views(names, cameras, tuple(ids), rigid(_tensor(poses, 3, 4), names))


def _views_to_json(views: Views) -> Json:
    check_pinholes(views)
    cameras: dict[str, Json] = {}
    for camera_id, camera in views.cameras.items():
        size: dict[str, Json] = {"width": camera.width, "height": camera.height}
        cameras[str(camera_id)] = {"K": camera.matrix().tolist(), **size}
    poses = views.cam_from_world.matrix()[:, :3].tolist()
    images: dict[str, Json] = {
        name: {"P": pose, "K_id": camera_id}
        for name, pose, camera_id in zip(views.names, poses, views.camera_ids, strict=True)
    }
    return {"cameras": cameras, "images": images}


def _entries(value: Json, name: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} should be an object {{...}} of names and what they mean")
    return value


def _rows(value: Json, columns: int, name: str) -> list[list[float]]:
    """Return a matrix of three rows."""
    rows = [row for row in value if isinstance(row, list)] if isinstance(value, list) else []
    if [len(row) for row in rows] != [columns] * 3:
        raise ValueError(f"{name} should be 3 lists of {columns} numbers")
    return [[number(found, name) for found in row] for row in rows]


def _parsed(path: Path, parse: Callable[[list[str]], _Row]) -> list[_Row]:
    """Return what `parse` makes of the words of each line that is no comment."""
    rows = []
    for place, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            try:
                rows.append(parse(line.split()))
            except ValueError as error:
                raise ValueError(f"line {place}: {error}") from error
    return rows


class _View(NamedTuple):
    scene: str
    name: str
    pose: list[float]
    camera: Camera


def _view(words: list[str]) -> _View:
    if len(words) < 16:
        raise ValueError(f"a view has 16 words and its parameters, here are {len(words)}")
    model = model_of(words[13])
    size = whole(words[14], "the width"), whole(words[15], "the height")
    params = numbers(words[16:], len(MODELS[model]), model)
    pose = numbers(words[1:13], 12, "the pose")
    return _View(*_split(words[0]), pose, camera_of(model, params, size))


def _views_of_rows(rows: Sequence[_View]) -> Views:
    names = tuple(row.name for row in rows)
    values = _tensor([row.pose for row in rows], 12)
    poses = torch.cat([values[:, :9].unflatten(1, (3, 3)), values[:, 9:, None]], -1)
    return Views(names, *shared([row.camera for row in rows]), rigid(poses, names))


def _pair(words: list[str]) -> tuple[tuple[str, str], list[float]]:
    values = numbers(words[2:], 30, "a pair of images")
    for image in words[:2]:
        _split(image)
    return (words[0], words[1]), values


def _scene(name: str) -> str:
    if not is_inside(name) or "/" in name:
        raise ValueError(f"a scene is named by its folder, not {name!r}")
    return name


def _split(image: str) -> tuple[str, str]:
    """Return the scene and the image of a path scene/frames/image."""
    scene, _, name = image.partition(_BETWEEN)
    if not is_inside(name):
        raise ValueError(f"an image is named scene{_BETWEEN}image, not {image!r}")
    return _scene(scene), name


def _word(name: str) -> str:
    if len(name.split()) != 1:
        raise ValueError(f"a name in a .txt may have no space, got {name!r}")
    return name


def _labels(names: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{image_a} and {image_b}" for image_a, image_b in names]


def _tensor(rows: object, *shape: int) -> Float64[Tensor, ...]:
    """Return nested lists as [B, *shape], where there may be none."""
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, *shape)


def _text(*tensors: Float64[Tensor, ...]) -> str:
    return " ".join(repr(value) for tensor in tensors for value in tensor.flatten().tolist())
