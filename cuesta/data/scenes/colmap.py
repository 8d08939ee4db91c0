"""COLMAP's sparse models, by pycolmap: cameras, poses and points in .bin or .txt files.

pycolmap reads what it is given: a points3D.bin that was cut short keeps it busy for ever, a
cameras.bin loses parameters without a word, an image of a .txt is dropped or its name cut. So the
records of .bin files are counted first, and the images of a .txt. Nor does it say that a disk is
full: what it has written is counted too.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
import torch

from cuesta.data.clouds import Cloud
from cuesta.data.files import atomic_folder
from cuesta.data.scenes.parsing import blaming, camera_of, checked, model_of
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Camera, Transform

_REMEDY = "write the model again or name another"
_NEEDED = ("cameras", "images", "points3D")
_WRITERS = {
    ".bin": pycolmap.Reconstruction.write_binary,
    ".txt": pycolmap.Reconstruction.write_text,
}

Suffix = Literal[".bin", ".txt"]


def read_colmap(folder: str | Path) -> Views:
    """Return the registered images of a model, sorted by name, with their cameras.

    `folder` holds cameras, images and points3D as .bin or, without these, as .txt; camera ids are
    those of the model. A SIMPLE_PINHOLE becomes the PINHOLE that it is. Raises `UserError` naming
    the folder or file where the model is missing, broken, or of a camera that is not supported.
    """
    reconstruction = read_reconstruction(folder)
    with blaming(folder, _REMEDY):
        return _views(reconstruction)


def write_colmap(
    folder: str | Path, views: Views, cloud: Cloud | None = None, *, suffix: Suffix = ".bin"
) -> None:
    """Write a model of views, with the points of a cloud: the folder appears whole or not at all.

    Image ids are 1 ... V in the order of `views`, each camera is a rig of its own; points have
    positions and colours, and no tracks: `write_reconstruction` keeps what views have no place for.
    Raises as `reconstruction_of` and `write_reconstruction`.
    """
    write_reconstruction(folder, reconstruction_of(views, cloud), suffix=suffix)


def write_reconstruction(
    folder: str | Path, reconstruction: pycolmap.Reconstruction, *, suffix: Suffix = ".bin"
) -> None:
    """Write a model with its rigs, frames, tracks and observations, as .bin or .txt files.

    All numbers come back bit for bit. Frames without a pose, and their images, have no place in
    COLMAP's files and are left out. The folder appears whole or not at all. Raises `ValueError` for
    another suffix and for a name with a space in a .txt, `UserError` where `folder` exists or cannot
    be written.
    """
    if suffix not in _WRITERS:
        raise ValueError(f"a model is written as {' or '.join(_WRITERS)}, not as {suffix!r}")
    if suffix == ".txt":
        for image in reconstruction.images.values():
            if len(image.name.split()) != 1:
                raise ValueError(f"a name in a .txt may have no space, got {image.name!r}")
    with atomic_folder(folder) as temporary:
        _WRITERS[suffix](reconstruction, temporary)
        if not _is_whole(temporary, reconstruction, suffix):
            raise UserError(
                f"cannot write {folder}: a file of it was cut short; free some space or write to "
                "another disk"
            )


def read_reconstruction(folder: str | Path) -> pycolmap.Reconstruction:
    """Return a model with its tracks and rigs. Raises `UserError` as `read_colmap`."""
    folder = Path(folder)
    suffix = next((suffix for suffix in (".bin", ".txt") if has_model(folder, suffix)), None)
    if suffix is None:
        raise UserError(
            f"{folder}: no COLMAP model; it needs {', '.join(_NEEDED)} as .bin or .txt, "
            "name the folder that holds them"
        )
    if suffix == ".bin":
        _check_records(folder)
    with blaming(folder, _REMEDY):
        try:
            reconstruction = pycolmap.Reconstruction(folder)
        except (IndexError, RuntimeError) as error:
            raise ValueError(str(error)) from error
    if suffix == ".txt":
        _check_lines(folder / "images.txt", reconstruction.num_images())
    return reconstruction


def views_of(reconstruction: pycolmap.Reconstruction) -> Views:
    """Return the registered images of a reconstruction, sorted by name, with their cameras.

    Raises `UserError` for a camera model that is not supported, a pose that is none, or a name that
    occurs twice.
    """
    with blaming("the reconstruction", "mend or leave out what is wrong"):
        return _views(reconstruction)


def reconstruction_of(views: Views, cloud: Cloud | None = None) -> pycolmap.Reconstruction:
    """Return a reconstruction: one rig a camera, one frame an image, one point without track a point.

    Points without colours are black; normals and intensity have no place in it. Raises `ValueError`
    for poses and cameras that are not finite or not rigid.
    """
    views = checked(views)
    result = pycolmap.Reconstruction()
    for camera_id, camera in views.cameras.items():
        size = {"width": camera.width, "height": camera.height, "camera_id": camera_id}
        params = camera.params.tolist()
        result.add_camera_with_trivial_rig(
            pycolmap.Camera(model=camera.model, params=params, **size)
        )
    poses = views.cam_from_world
    rotations = poses.quaternion()[:, [1, 2, 3, 0]].numpy()
    for place, (name, camera_id) in enumerate(zip(views.names, views.camera_ids, strict=True)):
        pose = pycolmap.Rigid3d(
            pycolmap.Rotation3d(rotations[place]), poses.translation[place].numpy()
        )
        image = pycolmap.Image(name=name, camera_id=camera_id, image_id=place + 1)
        result.add_image_with_trivial_frame(image, pose)
    if cloud is not None:
        _add_points(result, cloud)
    return result


def cloud_of(reconstruction: pycolmap.Reconstruction) -> Cloud:
    """Return the points of a reconstruction, in the order of their ids, with their colours."""
    points = [point for _, point in sorted(reconstruction.points3D.items())]
    positions = np.array([point.xyz for point in points], np.float64).reshape(-1, 3)
    colors = np.array([point.color for point in points], np.uint8).reshape(-1, 3)
    return Cloud(positions, colors)


def has_model(folder: Path, suffix: str) -> bool:
    """Return whether the files of a model are there, with this suffix: .bin or .txt."""
    return all((folder / name).with_suffix(suffix).is_file() for name in _NEEDED)


def _is_whole(folder: Path, reconstruction: pycolmap.Reconstruction, suffix: Suffix) -> bool:
    """Return whether the files that pycolmap has written hold what they should."""
    if suffix == ".bin":
        try:
            _check_records(folder)
        except UserError:
            return False
        return True
    num_lines = {
        "cameras": reconstruction.num_cameras(),
        "rigs": reconstruction.num_rigs(),
        "frames": reconstruction.num_reg_frames(),
        "images": 2 * reconstruction.num_reg_images(),
        "points3D": reconstruction.num_points3D(),
    }
    return all(_num_lines(folder / f"{name}.txt") == num for name, num in num_lines.items())


def _num_lines(path: Path) -> int:
    """Return how many whole lines a text has that are no comments."""
    with open(path, "rb") as lines:
        return sum(line.endswith(b"\n") and not line.startswith(b"#") for line in lines)


def _add_points(reconstruction: pycolmap.Reconstruction, cloud: Cloud) -> None:
    black = np.zeros((len(cloud), 3), np.uint8)
    colors = black if cloud.colors is None else cloud.colors
    for position, color in zip(cloud.positions, colors, strict=True):
        reconstruction.add_point3D(position, pycolmap.Track(), color)


def _views(reconstruction: pycolmap.Reconstruction) -> Views:
    images = [reconstruction.image(image_id) for image_id in reconstruction.reg_image_ids()]
    images.sort(key=lambda image: image.name)
    ids = tuple(image.camera_id for image in images)
    cameras = {one: _camera(reconstruction.camera(one)) for one in sorted(set(ids))}
    poses = [image.cam_from_world() for image in images]
    quaternions = np.array([pose.rotation.quat for pose in poses]).reshape(-1, 4)
    translations = np.array([pose.translation for pose in poses]).reshape(-1, 3)
    for image, is_pose in zip(images, _are_poses(quaternions, translations), strict=True):
        if not is_pose:
            raise ValueError(f"the pose of {image.name} is no rotation and translation")
    cam_from_world = Transform.from_quaternion(
        torch.from_numpy(quaternions[:, [3, 0, 1, 2]]), torch.from_numpy(translations)
    )
    return Views(tuple(image.name for image in images), cameras, ids, cam_from_world)


def _are_poses(quaternions: np.ndarray, translations: np.ndarray) -> list[bool]:
    largest = np.abs(quaternions).max(1)
    tiny = np.finfo(np.float32).tiny  # its square and that of 1 / tiny are numbers still
    is_turn = (largest > tiny) & (largest < 1 / tiny)
    return (is_turn & np.isfinite(translations).all(1)).tolist()


def _camera(camera: pycolmap.Camera) -> Camera:
    name, params = camera.model_name, camera.params.tolist()
    if name == "SIMPLE_PINHOLE":
        name, params = "PINHOLE", [params[0], *params]
    try:
        return camera_of(model_of(name), params, (camera.width, camera.height))
    except ValueError as error:
        raise ValueError(f"camera {camera.camera_id}: {error}") from None


def _check_lines(path: Path, num_images: int) -> None:
    """Compare the lines of an images.txt, two an image, with what pycolmap makes of them."""
    found = 0
    with blaming(path, _REMEDY), open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("#") or not line.strip():
                continue
            found += 1
            words = line.split()
            if len(words) != 10:
                raise ValueError(
                    f"image {words[0]} has {len(words)} words where 10 are due, and a name in a "
                    ".txt may have no space"
                )
            next(lines, None)
        if found != num_images:
            raise ValueError(
                f"{found} images, of which {num_images} can be read: each needs a second line, "
                "which may be empty"
            )


def _check_records(folder: Path) -> None:
    """Compare the counts in each .bin of a model with its size."""
    for name, after in _RECORDS.items():
        path = folder / f"{name}.bin"
        if not path.is_file():
            continue
        with blaming(path, _REMEDY), open(path, "rb") as file:
            if path.stat().st_size < 8:
                raise ValueError(f"it is cut short: {path.stat().st_size} bytes")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _walk(data, after)


def _walk(data: mmap.mmap, after: Callable[[mmap.mmap, int], int]) -> None:
    (count,) = struct.unpack_from("<Q", data)
    place = 8
    for number in range(count):
        try:
            place = after(data, place)
        except struct.error:
            place = len(data) + 1
        if place > len(data):
            raise ValueError(f"it is cut short: its record {number + 1} of {count} is not whole")
    if place != len(data):
        raise ValueError(f"{len(data) - place} bytes follow its {count} records")


def _after_camera(data: mmap.mmap, place: int) -> int:
    _, model, _, _ = struct.unpack_from("<IiQQ", data, place)
    return place + 24 + 8 * _num_params(model)


def _after_rig(data: mmap.mmap, place: int) -> int:
    _, num_sensors = struct.unpack_from("<II", data, place)
    place += 16 if num_sensors else 8
    for _ in range(num_sensors - 1):
        _, _, has_pose = struct.unpack_from("<iIB", data, place)
        place += 9 + (56 if has_pose else 0)
    return place


def _after_frame(data: mmap.mmap, place: int) -> int:
    (count,) = struct.unpack_from("<I", data, place + 64)
    return place + 68 + 16 * int(count)


def _after_image(data: mmap.mmap, place: int) -> int:
    end = data.find(b"\0", place + 64)
    if end < 0:
        return len(data) + 1
    (count,) = struct.unpack_from("<Q", data, end + 1)
    return end + 9 + 24 * int(count)


def _after_point(data: mmap.mmap, place: int) -> int:
    (count,) = struct.unpack_from("<Q", data, place + 43)
    return place + 51 + 8 * int(count)


# For each file, where the record ends that begins at a place, in bytes.
_RECORDS = {
    "cameras": _after_camera,
    "rigs": _after_rig,
    "frames": _after_frame,
    "images": _after_image,
    "points3D": _after_point,
}


@cache
def _num_params(model: int) -> int:
    try:
        camera = pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId(model), 1.0, 1, 1)
    except (TypeError, ValueError):
        raise ValueError(f"COLMAP has no camera model {model}") from None
    return len(camera.params)
