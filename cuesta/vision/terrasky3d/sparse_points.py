"""The points that each image of a posed scene sees: those of its model, or, where that has none, found by
matching SIFT features and triangulating them with the poses as they are.

Generated scenes, and those from other tools' poses, come without tracks; stereo needs them for the depth
range and for which images to compare.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycolmap
from numpy.typing import NDArray

from cuesta.data.scenes.colmap import read_reconstruction, reconstruction_of, write_reconstruction
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.views import Views
from cuesta.vision.terrasky3d.features import extract_features
from cuesta.vision.terrasky3d.matching import match
from cuesta.vision.terrasky3d.native import call
from cuesta.vision.terrasky3d.settings import FeatureSettings, MatchSettings
from cuesta.vision.terrasky3d.stages import run_stage

_LEAST_TRACKS = 10  # an image with fewer, on average, makes its model one without tracks


class SparsePoints(NamedTuple):
    """Hold points of the world [P, 3], and for each image which of them it sees."""

    positions: NDArray[np.float64]
    seen: Mapping[str, NDArray[np.int64]]


def points_of(model: pycolmap.Reconstruction) -> SparsePoints:
    """Return the points of a model with tracks; of images with a pose."""
    ids = sorted(model.points3D)
    place = {point: k for k, point in enumerate(ids)}
    positions = np.array([model.points3D[i].xyz for i in ids]).reshape(-1, 3)
    seen = {}
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        observed = {place[each.point3D_id] for each in image.get_observation_points2D()}
        seen[image.name] = np.array(sorted(observed), np.int64)
    return SparsePoints(positions, seen)


def sparse_points(
    scene: Scene, views: Views, *, seed: int, on_progress: Callable[[int, int], None]
) -> SparsePoints:
    """Return the points of a scene; the ones triangulated here are kept in `work/points`."""
    if model_with_tracks(scene) == scene.model:
        return points_of(read_reconstruction(scene.model))

    def make(folder: Path) -> dict[str, Any]:
        return _triangulate(scene.frames, views, folder, seed, on_progress)

    poses = [pose.tolist() for pose in views.cam_from_world.matrix()]
    cameras = {str(k): camera.params.tolist() for k, camera in views.cameras.items()}
    inputs = [list(views.names), list(views.camera_ids), cameras, poses, seed]
    stage = run_stage("points", scene.work, make, inputs=inputs)
    return points_of(read_reconstruction(stage.folder / "model"))


def model_with_tracks(scene: Scene) -> Path:
    """Return the scene's own model, or, where that has none, the one that `sparse_points` leaves."""
    model = read_reconstruction(scene.model)
    num_tracks = sum(image.num_points3D for image in model.images.values())
    is_own = num_tracks >= _LEAST_TRACKS * model.num_reg_images()
    return scene.model if is_own else scene.work / "points" / "model"


def match_posed(
    frames: Path, views: Views, folder: Path, seed: int, on_progress: Callable[[int, int], None]
) -> Path:
    """Return the database, below `folder`, of the images' features and verified matches."""
    photos = [{"name": name, "gps": None, "clip": None} for name in views.names]
    cameras = [_camera(views, name) for name in views.names]
    by_folder = {camera["folder"]: camera for camera in cameras}
    for name in ("features", "matches"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    extract_features(
        frames,
        folder / "features",
        list(by_folder.values()),
        photos,
        FeatureSettings(),
        on_progress,
    )
    match(folder / "features", folder / "matches", photos, MatchSettings(), seed, on_progress)
    return folder / "matches" / "database.db"


def triangulate_posed(
    frames: Path, views: Views, database: Path, scratch: Path
) -> pycolmap.Reconstruction:
    """Return the points of the matches in a database, with the poses as they are."""
    with pycolmap.Database.open(database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
    known = reconstruction_of(views)
    assert all(known.image(ids[name]).name == name for name in views.names)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    found = call(lambda _: pycolmap.triangulate_points(known, database, frames, scratch))
    assert isinstance(found, pycolmap.Reconstruction)
    shutil.rmtree(scratch)
    return found


def _triangulate(
    frames: Path, views: Views, folder: Path, seed: int, on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    database = match_posed(frames, views, folder, seed, on_progress)
    found = triangulate_posed(frames, views, database, folder / "triangulated")
    shutil.rmtree(folder / "model", ignore_errors=True)
    write_reconstruction(folder / "model", found)
    return {"num_points": found.num_points3D()}


def _camera(views: Views, name: str) -> dict[str, Any]:
    """Return a camera in the form of the calibration's, of the folder that an image is in."""
    camera = views.camera(name)
    return {
        "folder": name.split("/")[0],
        "model": camera.model,
        "params": camera.params.tolist(),
        "width": camera.width,
        "height": camera.height,
        "has_focal": True,
    }
