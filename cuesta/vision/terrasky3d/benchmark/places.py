"""Where the benchmark finds what it judges: scenes, true cameras, photos, depth maps, clouds.

A path is one scene in any form that `read_views` knows or with Strecha's .camera files (beside the
photos' folder, in gt_dense_cameras), or a data set: a folder of scenes, also below data/, with or
without the lists of a published one. Truths may also be a views.txt or a train_data.json.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float64
from PIL import Image

from cuesta.data.maps import Map, read_map
from cuesta.data.scenes.parsing import blaming
from cuesta.data.scenes.read import model_folder, read_views
from cuesta.data.scenes.scene import FORMAT, Scene
from cuesta.data.scenes.strecha import read_strecha
from cuesta.data.scenes.terrasky3d import read_train_data, read_views_txt
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.benchmark.cloud_errors import Positions, thin
from cuesta.vision.terrasky3d.benchmark.depth_errors import at_size

_LISTS = {"views.txt": read_views_txt, "train_data.json": read_train_data}
_STRECHA = ("", "gt_dense_cameras")
_MAPS = (".h5", ".pfm", ".png", ".bin")

_Found = TypeVar("_Found")


def find_scenes(path: str | Path, chosen: Sequence[str] = ()) -> dict[str, Path]:
    """Return the scenes at a path by the names of their folders, one or those of a data set.

    `chosen` names some of them. Raises `UserError` where there is none, or not one that is chosen.
    """
    root = Path(path)
    if not root.exists():
        raise UserError(f"{root}: no such folder or file; name another")
    found = {root.resolve().name: root} if is_scene(root) else _below(root)
    if not found:
        raise UserError(
            f"{root}: no scene and no folder of scenes; name one with a manifest.json, a COLMAP "
            "model, transforms.json, or cameras of another form that `cuesta view` shows"
        )
    for name in chosen:
        if name not in found:
            raise UserError(f"{root}: no scene {name!r}; it has {', '.join(found)}")
    return {name: place for name, place in found.items() if not chosen or name in chosen}


def find_frames(path: str | Path, chosen: Sequence[str] = ()) -> dict[str, Path]:
    """Return the scenes at a path, those of a published test split too, which has frames alone.

    Raises `UserError` as `find_scenes`.
    """
    root = Path(path)
    for folder in (root, root / "data"):
        places = sorted(folder.iterdir()) if folder.is_dir() and not is_scene(root) else []
        found = {place.name: place for place in places if (place / "frames").is_dir()}
        if found and set(chosen) <= set(found):
            return {name: place for name, place in found.items() if not chosen or name in chosen}
    return find_scenes(root, chosen)


def is_scene(path: Path) -> bool:
    """Return whether a folder has the cameras of one scene."""
    if path.is_file():
        return path.suffix == ".json" and path.name not in ("manifest.json", *_LISTS)
    manifest = path / "manifest.json"
    if manifest.is_file():
        with blaming(manifest, "make the scene again"):
            about = json.loads(manifest.read_text(encoding="utf-8"))
        if isinstance(about, dict) and about.get("format") == FORMAT:
            return True
    names = ("transforms.json", "calib.txt", "pair.txt")
    has_cameras = model_folder(path) is not None or any((path / name).is_file() for name in names)
    return has_cameras or _strecha_folder(path) is not None


def true_views(path: str | Path, scenes: Sequence[str]) -> dict[str, Views]:
    """Return the true cameras of scenes by name, from one scene, a data set or a list of one.

    A truth of one scene is the truth of one scene, whatever the names. Raises `UserError` for a scene
    that has none.
    """
    root = Path(path)
    if root.is_file() and root.name in _LISTS:
        return matched(_LISTS[root.name](root), scenes, root)
    if is_scene(root):
        return matched({root.resolve().name: views_at(root)}, scenes, root)
    own = _below(root)
    known = {name: views_at(place) for name, place in own.items() if name in scenes}
    for name, read in _LISTS.items():
        if not set(scenes) <= set(known) and (root / name).is_file():
            known = read(root / name) | known
    return matched(known, scenes, root)


def matched(known: Mapping[str, _Found], scenes: Sequence[str], source: Path) -> dict[str, _Found]:
    """Return what is known of these scenes by name; one known is of one scene, whatever its name.

    Raises `UserError` naming the source for a scene that it does not know.
    """
    if len(known) == 1 and len(scenes) == 1:
        return dict(zip(scenes, known.values(), strict=True))
    for name in scenes:
        if name not in known:
            has = ", ".join(known) or "no scene"
            raise UserError(f"{source}: nothing of the scene {name!r}; it has {has}")
    return {name: known[name] for name in scenes}


def views_at(path: Path) -> Views:
    """Return the cameras of one scene. Raises `UserError` as the readers of its form do."""
    strecha = _strecha_folder(path)
    return read_views(path) if strecha is None else read_strecha(strecha)


def as_named(views: Views, path: Path, truth: Views) -> Views:
    """Return a reconstruction's cameras under the names that the truth has."""
    sources = sources_of(path, truth.names)
    names = tuple(sources.get(name, name) for name in views.names)
    return Views(names, views.cameras, views.camera_ids, views.cam_from_world)


def sources_of(path: Path, true_names: Collection[str]) -> dict[str, str]:
    """Return what the images of a scene were called before `cuesta reconstruct`, which names them by camera,
    cam_0/a.jpg; nothing where that is not known or the truth has no image of these names.
    """
    record = Scene(path).work / "ingest" / "stage.json"
    if not record.is_file():
        return {}
    with blaming(record, "make the scene again"):
        images = json.loads(record.read_text(encoding="utf-8"))["result"]["images"]
        sources = {str(image["name"]): str(image["source"]) for image in images}
    return sources if set(sources.values()) & set(true_names) else {}


def images_folder(path: Path, name: str, given: str | None) -> Path:
    """Return the folder that holds the image `name` of a scene, or the one that was given.

    Raises `UserError` where it is in none of the usual ones.
    """
    if given is not None:
        places = [Path(given), Path(given) / path.resolve().name]
    else:
        root = path.parent if path.is_file() else path
        places = [root / "frames", root / "images", root, root.parent / "images"]
    for place in places:
        if (place / name).is_file():
            return place
    tried = ", ".join(str(place) for place in places)
    raise UserError(f"{path}: no image {name} in {tried}; name their folder with --images")


def find_map(path: Path, image: str) -> Path | None:
    """Return the depth map of an image in a scene, None where there is none."""
    own = Scene(path).depth_map(image)
    return next((own.with_suffix(s) for s in _MAPS if own.with_suffix(s).is_file()), None)


def read_depth(path: Path) -> Map:
    """Return a depth map. Raises `UserError` naming one that is broken or has normals."""
    depth = read_map(path)
    if depth.ndim != 2:
        raise UserError(f"{path}: {list(depth.shape)}, where a depth map is [Y, X]; name another")
    return depth


def cloud_of_maps(path: Path, spacing: float, *, is_masked: bool = True) -> Positions:
    """Return the surface that a scene's depth maps show, a point in each cube of this edge at most.

    `is_masked` leaves out what the semantic masks do, such as what moves. Raises `UserError` where
    there is no depth map.
    """
    views, scene = views_at(path), Scene(path)
    found = np.empty((0, 3))
    for name in views.names:
        place = find_map(path, name)
        if place is None:
            continue
        depth = read_depth(place)
        keep = np.isfinite(depth) & (depth > 0)
        mask = scene.semantic_mask(name)
        if is_masked and mask.is_file():
            keep &= at_size(read_grey(mask), depth.shape, str(mask)) == 255
        points = thin(_unprojected(views, name, depth, keep), spacing)
        found = thin(np.concatenate([found, points]), spacing)
    if not len(found):
        raise UserError(f"{path}: no depth map to make a true cloud of; name a cloud, a .ply say")
    return found


def read_grey(path: Path) -> np.ndarray:
    """Return a mask of 8 bits [Y, X]. Raises `UserError` where it is none."""
    with blaming(path, "make the masks again"), Image.open(path) as image:
        if image.mode != "L":
            raise ValueError(f"a mask of {image.mode}, not of 8 bits")
        return np.asarray(image)


def _unprojected(
    views: Views, name: str, depth: Map, keep: np.ndarray
) -> Float64[np.ndarray, "P 3"]:
    """Return the points in the world of the pixels that are kept."""
    height, width = depth.shape
    rows, columns = np.nonzero(keep)
    pixels = torch.from_numpy(np.stack([columns, rows], 1) + 0.5)
    rays = views.camera(name).resized(width, height).unproject(pixels)
    points = rays * torch.from_numpy(depth[keep].astype(np.float64))[:, None]
    world = (views.pose(name).inverse() @ points).numpy()
    return world[np.isfinite(world).all(1)]


def _below(root: Path) -> dict[str, Path]:
    if root.is_file():
        return {}
    for folder in (root, root / "data"):
        places = sorted(folder.iterdir()) if folder.is_dir() else []
        found = {place.name: place for place in places if place.is_dir() and is_scene(place)}
        if found:
            return found
    return {}


def _strecha_folder(path: Path) -> Path | None:
    folders = [path / place for place in _STRECHA] if path.is_dir() else []
    return next((folder for folder in folders if any(folder.glob("*.camera"))), None)
