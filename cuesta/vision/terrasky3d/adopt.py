"""`adopt`: a scene of ours from posed images in any form that `read_views` knows.

Images are linked, distortion is taken out where there is any, points with their tracks are kept where the
form has them, poses refined where that is asked. So COLMAP's, nerfstudio's, MVSNet's or a generated scene's
images can be given depth.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pycolmap

from cuesta.data.files import atomic_folder
from cuesta.data.scenes.colmap import (
    read_colmap,
    read_reconstruction,
    reconstruction_of,
    write_reconstruction,
)
from cuesta.data.scenes.read import model_folder, read_views
from cuesta.data.scenes.scene import Scene, open_scene, read_about, write_manifest
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.refine_poses import refined
from cuesta.vision.terrasky3d.settings import UndistortSettings
from cuesta.vision.terrasky3d.stages import OnProgress, ignore_stages
from cuesta.vision.terrasky3d.undistort import undistort

_PLACES = ("frames", "images", "../images", "../../images", "../../frames", "")


def adopt(
    path: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    refines_poses: bool = False,
    seed: int = 0,
    on_progress: OnProgress = ignore_stages,
) -> Scene:
    """Return a new scene in the folder `out`, of the posed images at `path`.

    `images` is the folder that names are relative to; without it, the usual places beside the poses are
    looked through. With `refines_poses`, poses are brought into agreement with the images, by `refined` with
    that seed. A scene that is there already, of the same source, is returned as it is. Raises `UserError`
    where there are no poses or an image is missing, or too little is seen to refine them.
    """
    path, scene = Path(path), Scene(Path(out))
    about: dict[str, Any] = {
        "kind": "posed images",
        "source": str(path.resolve()),
        "unit": "as given",
        "poses": "refined" if refines_poses else "as given",
    }
    if scene.root.exists():
        return _existing(scene, about)
    views = read_views(path)
    if not views.names:
        raise UserError(f"{path}: it has no image with a pose; name another")
    folder = Path(images) if images is not None else _folder_of(path, views)
    with atomic_folder(scene.root) as temporary:
        begun, scratch = Scene(temporary), temporary / "work"
        names = _named_by_camera(views)
        for name, target in names.items():
            _link(folder / name, scratch / "images" / target)
        write_reconstruction(scratch / "given", _model(path, views, names))
        undistort(
            scratch / "given", scratch / "images", scratch, UndistortSettings(max_image_size=1 << 20),
            lambda done, total: on_progress("images", done, total),
        )  # fmt: skip
        (scratch / "frames").rename(begun.frames)
        begun.model.parent.mkdir(parents=True)
        if refines_poses:
            given = read_colmap(scratch / "model")
            better = refined(
                begun.frames, given, scratch / "refined", seed=seed, on_progress=on_progress
            )
            write_reconstruction(begun.model, better.model)
            about["refined"] = better.about
        else:
            (scratch / "model").rename(begun.model)
        shutil.rmtree(scratch)
        write_manifest(begun, about)
    return scene


def _existing(scene: Scene, about: dict[str, Any]) -> Scene:
    if not scene.manifest.is_file():
        raise UserError(f"{scene.root}: is there and is no scene; choose another --out")
    found = read_about(open_scene(scene.root))
    if any(found.get(name) != about[name] for name in ("kind", "source", "poses")):
        raise UserError(f"{scene.root}: holds another scene; choose another --out or delete it")
    return scene


def _folder_of(path: Path, views: Views) -> Path:
    root = path.parent if path.is_file() else path
    for place in _PLACES:
        folder = (root / place).resolve()
        if (folder / views.names[0]).is_file():
            return folder
    raise UserError(
        f"{path}: its images are not beside it ({views.names[0]} is in none of the usual folders); "
        "name their folder with --images"
    )


def _named_by_camera(views: Views) -> dict[str, str]:
    """Return for each image its name in the scene: its own where each folder has one camera."""
    cameras: dict[str, set[int]] = {}
    for name, camera_id in zip(views.names, views.camera_ids, strict=True):
        cameras.setdefault(name.split("/")[0] if "/" in name else "", set()).add(camera_id)
    if "" not in cameras and all(len(ids) == 1 for ids in cameras.values()):
        return {name: name for name in views.names}
    pairs = zip(views.names, views.camera_ids, strict=True)
    return {name: f"cam_{camera_id}/{name.replace('/', '_')}" for name, camera_id in pairs}


def _model(path: Path, views: Views, names: dict[str, str]) -> pycolmap.Reconstruction:
    """Return the model with images renamed; with points and tracks where COLMAP's files have them."""
    folder = model_folder(path) if path.is_dir() else None
    model = reconstruction_of(views) if folder is None else read_reconstruction(folder)
    for image in model.images.values():
        image.name = names.get(image.name, image.name)
    return model


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        raise UserError(f"{source}: another image would be {target.name} too; rename one") from None
    except FileNotFoundError:
        raise UserError(
            f"{source}: no such image; name the folder of images with --images"
        ) from None
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
