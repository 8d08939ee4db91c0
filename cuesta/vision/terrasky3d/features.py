"""Features: a COLMAP database with cameras, images and places from GPS, and SIFT features in it.

Cameras and images are written first, in the order of their names, so that ids do not depend on
which image is done first or on an interruption; pycolmap then skips the images that have features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from cuesta.vision.terrasky3d.native import call
from cuesta.vision.terrasky3d.settings import FeatureSettings


def extract_features(
    images: Path,
    folder: Path,
    cameras: Sequence[dict[str, Any]],
    photos: Sequence[dict[str, Any]],
    settings: FeatureSettings,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write `folder/database.db` with the features of `images`; return how many each image has.

    `cameras` are those of the calibration: folder, model, params, width, height, and whether the
    focal length is known (`has_focal`). `photos` are the images of the ingest, with name and gps.
    """
    database = folder / "database.db"
    if not database.exists():
        _write_rows(database, cameras, photos)
    reader = pycolmap.ImageReaderOptions()
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.max_image_size = settings.max_image_size
    options.sift.max_num_features = settings.max_num_features
    options.sift.peak_threshold = settings.peak_threshold
    names = [photo["name"] for photo in photos]
    with pycolmap.Database.open(database) as opened:
        ids = {image.name: image.image_id for image in opened.read_all_images()}
        call(
            lambda token: pycolmap.extract_features(
                database,
                images,
                names,
                pycolmap.CameraMode.PER_FOLDER,
                reader,
                options,
                pycolmap.Device.cpu,
                token,
            ),
            lambda: on_progress(sum(map(opened.exists_descriptors, ids.values())), len(names)),
        )
        on_progress(len(names), len(names))
        counts = {name: opened.num_keypoints_for_image(i) for name, i in sorted(ids.items())}
    return {"num_features": counts}


def colmap_camera(camera: dict[str, Any], camera_id: int) -> pycolmap.Camera:
    """Return pycolmap's form of a camera of the calibration."""
    return pycolmap.Camera(
        camera_id=camera_id,
        model=camera["model"],
        width=camera["width"],
        height=camera["height"],
        params=camera["params"],
        has_prior_focal_length=camera["has_focal"],
    )


def _write_rows(
    database: Path, cameras: Sequence[dict[str, Any]], photos: Sequence[dict[str, Any]]
) -> None:
    """Write cameras, and for each image its rows, under a temporary name."""
    temporary = database.with_name(".rows.db")
    temporary.unlink(missing_ok=True)
    with pycolmap.Database.open(temporary) as opened, pycolmap.DatabaseTransaction(opened):
        rigs = {}
        for number, camera in enumerate(cameras):
            written = colmap_camera(camera, number + 1)
            opened.write_camera(written, use_camera_id=True)
            rig = pycolmap.Rig()
            rig.rig_id = number + 1
            rig.add_ref_sensor(written.sensor_id)
            opened.write_rig(rig, use_rig_id=True)
            rigs[camera["folder"]] = number + 1
        for number, photo in enumerate(sorted(photos, key=lambda item: item["name"])):
            rig_id = rigs[photo["name"].split("/")[0]]
            image = pycolmap.Image(name=photo["name"], camera_id=rig_id, image_id=number + 1)
            opened.write_image(image, use_image_id=True)
            frame = pycolmap.Frame()
            frame.frame_id = number + 1
            frame.rig_id = rig_id
            frame.add_data_id(image.data_id)
            opened.write_frame(frame, use_frame_id=True)
            if photo["gps"]:
                opened.write_pose_prior(_prior(image, photo["gps"]))
    temporary.rename(database)


def _prior(image: pycolmap.Image, gps: Sequence[float | None]) -> pycolmap.PosePrior:
    prior = pycolmap.PosePrior()
    prior.corr_data_id = image.data_id
    prior.position = np.array([0.0 if value is None else value for value in gps])
    prior.coordinate_system = pycolmap.PosePriorCoordinateSystem.WGS84
    prior.position_covariance = np.full((3, 3), math.nan)
    return prior
