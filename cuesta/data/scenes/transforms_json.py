"""`transforms.json`, the form of Blender's synthetic scenes, instant-ngp and nerfstudio: one list of
frames with camera-to-world matrices, and intrinsics for all or for each.

Its cameras are OpenGL's (x right, y up, z backward), ours OpenCV's. Names are relative to the
folder of the file. Where it has an `applied_transform`, its poses have been moved already: we keep
the world of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch

from cuesta.data.files import write_text
from cuesta.data.scenes.parsing import (
    blaming,
    camera_of,
    checked,
    image_size,
    model_of,
    number,
    read_text,
    rigid,
    shared,
    whole,
)
from cuesta.data.scenes.scene import Json
from cuesta.data.scenes.views import Views, is_inside
from cuesta.geometry import MODELS, Camera
from cuesta.geometry.cameras import Model

_REMEDY = "mend it or name another file"
_SUFFIXES = (".png", ".jpg", ".jpeg")  # of images that Blender's files name without one
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_KEYS = {"f": "fl_x", "fx": "fl_x", "fy": "fl_y", "k": "k1"}  # other parameters keep their name
_FLIP = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)  # OpenCV's axes in OpenGL's


def read_transforms_json(path: str | Path) -> Views:
    """Return the frames of a file, in its order; frames of equal intrinsics share a camera.

    Without `camera_model` it is OPENCV_FISHEYE where `is_fisheye` says so, OPENCV where there is
    distortion, else PINHOLE; without `fl_x`, focal lengths come from `camera_angle_x`; without `w`
    and `h`, sizes come from the images. A `file_path` without suffix is that of the .png or .jpg
    that is there. Raises `UserError` naming the file and the frame for anything else.
    """
    path = Path(path)
    with blaming(path, _REMEDY):
        content = json.loads(read_text(path))
        frames = content.get("frames") if isinstance(content, dict) else None
        if not isinstance(frames, list):
            raise ValueError("it has no list of frames")
        names, cameras, matrices = [], [], []
        for place, frame in enumerate(frames):
            if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
                raise ValueError(f"frame {place} has no file_path")
            name = _name(frame["file_path"], path.parent)
            try:
                cameras.append(_camera({**content, **frame}, path.parent / name))
                matrices.append(_matrix(frame.get("transform_matrix")))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            names.append(name)
        world_from_gl = torch.tensor(matrices, dtype=torch.float64).reshape(-1, 4, 4)
        poses = rigid(world_from_gl * _FLIP, names).inverse()
        return Views(tuple(names), *shared(cameras), poses)


def write_transforms_json(path: str | Path, views: Views) -> None:
    """Write views, with numbers in full; intrinsics stand once where all views share a camera.

    Raises `ValueError` for cameras and poses that are not finite or not rigid, `UserError` where
    the file cannot be written.
    """
    views = checked(views)
    is_one = len(set(views.camera_ids)) == 1
    matrices = (views.cam_from_world.inverse().matrix() * _FLIP).tolist()
    content: dict[str, Json] = _intrinsics(views.camera(views.names[0])) if is_one else {}
    frames: list[Json] = []
    for name, camera_id, matrix in zip(views.names, views.camera_ids, matrices, strict=True):
        own = {} if is_one else _intrinsics(views.cameras[camera_id])
        frames.append({"file_path": name, **own, "transform_matrix": matrix})
    write_text(path, json.dumps({**content, "frames": frames}, indent=1) + "\n")


def _name(file_path: str, folder: Path) -> str:
    name = str(PurePosixPath(file_path))
    if not is_inside(name):
        raise ValueError(f"the image name {file_path!r} leads out of the folder of the file")
    if PurePosixPath(name).suffix:
        return name
    for suffix in _SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return name + suffix
    raise ValueError(f"there is no image {name} with suffix {' or '.join(_SUFFIXES)}")


def _matrix(rows: Json) -> list[list[float]]:
    if not isinstance(rows, list) or any(not isinstance(row, list) for row in rows):
        raise ValueError("its transform_matrix should be a list of 4 rows")
    matrix = [[number(x, "transform_matrix") for x in row] for row in rows if isinstance(row, list)]
    last = [0.0, 0.0, 0.0, 1.0]
    if len(matrix) == 3:
        matrix.append(last)
    if [len(row) for row in matrix] != [4, 4, 4, 4] or matrix[3] != last:
        raise ValueError("its transform_matrix should have 4 rows of 4, the last one 0 0 0 1")
    return matrix


def _camera(values: Mapping[str, Json], image: Path) -> Camera:
    """Return the camera of a frame, whose own values stand before those of the file."""
    if "w" in values and "h" in values:
        width, height = whole(values["w"], "w"), whole(values["h"], "h")
    else:
        width, height = image_size(image)
    found = _focal(values, width, height)
    found["cx"] = number(values.get("cx", width / 2), "cx")
    found["cy"] = number(values.get("cy", height / 2), "cy")
    found |= {name: number(values.get(name, 0.0), name) for name in _DISTORTION}
    model = _model(values, found)
    keys = [_KEYS.get(name, name) for name in MODELS[model]]
    for name in _DISTORTION:
        if found[name] and name not in keys:
            raise ValueError(f"{name} is {found[name]:g}, but {model} has no {name}")
    if "fl_y" not in keys and found["fl_x"] != found["fl_y"]:
        raise ValueError(f"{model} has one focal length, fl_x and fl_y differ")
    return camera_of(model, [found[key] for key in keys], (width, height))


def _model(values: Mapping[str, Json], found: Mapping[str, float]) -> Model:
    model = values.get("camera_model")
    if model == "SIMPLE_PINHOLE":
        return "PINHOLE"
    if model is not None:
        return model_of(model)
    if values.get("is_fisheye"):
        return "OPENCV_FISHEYE"
    return "OPENCV" if any(found[name] for name in _DISTORTION) else "PINHOLE"


def _focal(values: Mapping[str, Json], width: int, height: int) -> dict[str, float]:
    if "fl_x" in values:
        across = number(values["fl_x"], "fl_x")
        return {"fl_x": across, "fl_y": number(values.get("fl_y", across), "fl_y")}
    if "camera_angle_x" not in values:
        raise ValueError("it has neither fl_x nor camera_angle_x")
    across = _from_angle(values, "camera_angle_x", width)
    is_square = "camera_angle_y" not in values
    return {
        "fl_x": across,
        "fl_y": across if is_square else _from_angle(values, "camera_angle_y", height),
    }


def _from_angle(values: Mapping[str, Json], name: str, side: int) -> float:
    angle = number(values[name], name)
    if not 0 < angle < math.pi:
        raise ValueError(f"{name} should be between 0 and pi, it is {angle:g}")
    return side / 2 / math.tan(angle / 2)


def _intrinsics(camera: Camera) -> dict[str, Json]:
    keys = [_KEYS.get(name, name) for name in MODELS[camera.model]]
    params = dict(zip(keys, camera.params.tolist(), strict=True))
    size = {"w": camera.width, "h": camera.height}
    return {"camera_model": camera.model, "fl_y": params["fl_x"], **params, **size}
