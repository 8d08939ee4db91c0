"""Intrinsics that a user brings: K.txt, a COLMAP model or its cameras.txt, transforms.json, or our own
calibration.json; fitted to the images, or refused where they contradict them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, final

import numpy as np
import torch

from cuesta.data.scenes.parsing import blaming, camera_of, model_of, number, read_text, whole
from cuesta.data.scenes.read import read_views
from cuesta.errors import UserError
from cuesta.geometry import Camera

_MOST_OFF, _MOST_OFF_K = 0.25, 0.1  # of a principal point; K.txt does not say for which size it is


@final
@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """Hold cameras by what they are for: an image's name or its stem, a folder of photos, any (`*`).

    `has_size` is false where the file does not say for which size of images it is (K.txt).
    """

    path: Path
    cameras: Mapping[str, Camera]
    has_size: bool = True


def read_intrinsics(path: Path) -> Intrinsics:
    """Return the cameras of a file or folder. Raises `UserError` naming what is wrong with it."""
    if not path.exists():
        raise UserError(f"{path}: no such file of intrinsics; name K.txt, cameras.txt, …")
    if path.name == "cameras.txt":
        return Intrinsics(path=path, cameras=_cameras_txt(path))
    if path.suffix == ".bin":
        path = path.parent
    if path.suffix == ".txt":
        return Intrinsics(path=path, cameras={"*": _k_txt(path)}, has_size=False)
    if path.suffix == ".json" and path.name != "transforms.json":
        return Intrinsics(path=path, cameras=_calibration_json(path))
    views = read_views(path)
    named = {name: views.camera(name) for name in views.names}
    stems = Counter(PurePosixPath(name).stem for name in views.names)
    alone = {
        stem: camera
        for name, camera in named.items()
        if stems[stem := PurePosixPath(name).stem] == 1
    }
    return Intrinsics(path=path, cameras=named | alone)


def camera_for(intrinsics: Intrinsics, group: Mapping[str, Any], names: Sequence[str]) -> Camera:
    """Return the camera of a group of images, at their size.

    By the images' own names, else by the folder that they came from, else the only one, else the
    only one of their size. Raises `UserError` where none fits, or its size or principal point
    contradict the images.
    """
    where = f"{intrinsics.path} (for the photos in {group['from']!r})"
    camera = _find(intrinsics, group, names)
    if camera is None:
        raise UserError(f"{where}: no camera in it fits; give one, or one for each folder or size")
    width, height = int(group["width"]), int(group["height"])
    if not intrinsics.has_size:
        camera = Camera(camera.model, camera.params, width, height)
    if (camera.width, camera.height) != (width, height):
        if not camera.has_shape(width, height):
            raise UserError(
                f"{where}: it is for images of {camera.width} x {camera.height}, these are "
                f"{width} x {height}, cut differently; give the intrinsics of these images"
            )
        camera = camera.resized(width, height)
    _check_plausible(camera, where, most_off=_MOST_OFF if intrinsics.has_size else _MOST_OFF_K)
    return camera


def _find(intrinsics: Intrinsics, group: Mapping[str, Any], names: Sequence[str]) -> Camera | None:
    cameras = intrinsics.cameras
    called = [*names, *(PurePosixPath(name).stem for name in names)]
    known = {camera_key(cameras[name]): cameras[name] for name in called if name in cameras}
    if len(known) > 1:
        raise UserError(
            f"{intrinsics.path}: gives {len(known)} lenses for the photos in {group['from']!r}, which "
            "are of one; put the photos of each lens into a folder of their own"
        )
    if known:
        return next(iter(known.values()))
    if group["from"] in cameras:
        return cameras[group["from"]]
    if len(cameras) == 1:
        return next(iter(cameras.values()))
    fitting = [
        c for c in cameras.values() if (c.width, c.height) == (group["width"], group["height"])
    ]
    return fitting[0] if len(fitting) == 1 else None


def camera_key(camera: Camera) -> tuple[object, ...]:
    """Return what two equal cameras have in common."""
    return (camera.model, camera.width, camera.height, *camera.params.tolist())


def _check_plausible(camera: Camera, where: str, *, most_off: float) -> None:
    """Refuse parameters that are no numbers, or that no lens with these images has.

    A principal point may be off the middle by `most_off` of the image's width and height.
    """
    (cx, cy), focal = camera.principal_point().tolist(), camera.focal().tolist()
    size = f"{camera.width} x {camera.height}"
    if not bool(torch.isfinite(camera.params).all()):
        raise UserError(f"{where}: {camera.params.tolist()} are not all finite numbers; correct it")
    if max(abs(cx / camera.width - 0.5), abs(cy / camera.height - 0.5)) > most_off:
        raise UserError(
            f"{where}: its principal point ({cx:g}, {cy:g}) is too far from the middle of images of "
            f"{size}; is it for another size, or for photos held the other way?"
        )
    longer = max(camera.width, camera.height)
    if not all(0.1 * longer <= f <= 20 * longer for f in focal):
        raise UserError(
            f"{where}: focal lengths of {focal[0]:g} and {focal[1]:g} px do not go with images of "
            f"{size}; they are in pixels, not millimetres"
        )


def _k_txt(path: Path) -> Camera:
    try:
        matrix = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise UserError(
            f"{path}: not a table of numbers ({error}); write K as 3 rows of 3"
        ) from error
    if (
        matrix.shape != (3, 3)
        or not abs(matrix[0, 1]) <= 1
        or not np.allclose(matrix[2], [0, 0, 1])
    ):
        raise UserError(
            f"{path}: no calibration matrix K: 3 rows of 3, the last 0 0 1, without skew"
        )
    params = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
    return Camera("PINHOLE", torch.tensor(params, dtype=torch.float64), 1, 1)


def _cameras_txt(path: Path) -> dict[str, Camera]:
    cameras = {}
    with blaming(path, "write lines of ID MODEL WIDTH HEIGHT PARAMS"):
        for place, line in enumerate(read_text(path).splitlines(), 1):
            words = line.split("#")[0].split()
            if words:
                if len(words) < 5:
                    raise ValueError(f"line {place} has {len(words)} words")
                size = (whole(words[2], "the width"), whole(words[3], "the height"))
                params = [number(word, f"line {place}") for word in words[4:]]
                cameras[f"camera {words[0]}"] = camera_of(model_of(words[1]), params, size)
        if not cameras:
            raise ValueError("no camera in it")
    return cameras


def _calibration_json(path: Path) -> dict[str, Camera]:
    """Return the cameras of what `calibrate` writes from a target."""
    with blaming(path, "it should hold cameras with from, model, width, height and params"):
        found = json.loads(read_text(path))
        entries = found.get("cameras") if isinstance(found, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError("no calibration of ours")
        cameras = {}
        for entry in entries:
            size = (whole(entry.get("width"), "width"), whole(entry.get("height"), "height"))
            params = [number(value, "params") for value in entry.get("params") or ()]
            cameras[str(entry.get("from"))] = camera_of(model_of(entry.get("model")), params, size)
    return cameras
