"""Undistortion: the images and the model as a pinhole camera would have seen them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pycolmap
from PIL import Image

from cuesta.data.files import atomic_folder
from cuesta.data.scenes.colmap import read_reconstruction
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.native import call
from cuesta.vision.terrasky3d.settings import UndistortSettings

_QUALITY = 97


def undistort(
    model: Path,
    images: Path,
    folder: Path,
    settings: UndistortSettings,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write `folder/frames` and `folder/model`: PINHOLE cameras and their images.

    Images that are so already, and small enough, are linked, not written again.
    """
    reconstruction = read_reconstruction(model)
    names = sorted(reconstruction.image(i).name for i in reconstruction.reg_image_ids())
    is_done = all(
        camera.model == pycolmap.CameraModelId.PINHOLE
        and max(camera.width, camera.height) <= settings.max_image_size
        for camera in reconstruction.cameras.values()
    )
    if is_done:
        _link(images, folder / "frames", names)
        with atomic_folder(folder / "model", overwrite=True) as temporary:
            reconstruction.write(temporary)
        return {"is_changed": False}
    scratch = folder / "scratch"
    options = pycolmap.UndistortCameraOptions()
    options.max_image_size = settings.max_image_size
    call(
        lambda token: pycolmap.undistort_images(
            scratch,
            model,
            images,
            names,
            undistort_options=options,
            jpeg_quality=_QUALITY,
            cancellation_token=token,
        ),
        lambda: on_progress(_count(scratch / "images"), len(names)),
    )
    on_progress(len(names), len(names))
    _check_written(scratch, names)
    for source, target in (("images", "frames"), ("sparse", "model")):
        shutil.rmtree(folder / target, ignore_errors=True)
        (scratch / source).rename(folder / target)
    shutil.rmtree(scratch)
    return {"is_changed": True}


def _link(images: Path, frames: Path, names: list[str]) -> None:
    with atomic_folder(frames, overwrite=True) as temporary:
        for name in names:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(images / name, temporary / name)
            except OSError:  # a file system without links
                shutil.copyfile(images / name, temporary / name)


def _check_written(folder: Path, names: list[str]) -> None:
    """Read every undistorted image: pycolmap only logs what it could not read or write.

    Raises `UserError` naming the first that is not whole.
    """
    for name in names:
        try:
            with Image.open(folder / "images" / name) as written:
                written.draft("L", (64, 64))
                written.load()
        except OSError as error:
            raise UserError(
                f"undistort: {name} was not written whole ({error}); is the disk full? Run it again"
            ) from error


def _count(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*")) if folder.exists() else 0
