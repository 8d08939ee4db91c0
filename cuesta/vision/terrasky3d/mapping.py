"""Mapping: cameras and points from verified matches, by pycolmap; every model is kept, the largest is
the scene.

It runs on one thread: with two, results change from run to run (by a tenth of a degree on a small
scene), and on the scenes that we timed it is not faster.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pycolmap

from cuesta.data.files import atomic_folder
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.calibrate import LIE
from cuesta.vision.terrasky3d.native import call
from cuesta.vision.terrasky3d.self_calibration import self_calibrate
from cuesta.vision.terrasky3d.settings import MapSettings


def map_scene(
    images: Path,
    matches: Path,
    folder: Path,
    cameras: Sequence[dict[str, Any]],
    settings: MapSettings,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write `folder/models/0`, 1, … with the largest first, in the frame that mapping chose.

    Returns for each model its images, numbers of points and observations, mean track length and mean
    reprojection error; `deviations` (standard deviations of fitted lens parameters by camera); and
    `notes`. Raises `UserError` where no model comes out.
    """
    database = folder / "database.db"
    for stale in folder.glob("database.db*"):  # its journal would be played into the new one
        stale.unlink()
    shutil.copyfile(matches / "database.db", database)
    num_images = sum(camera["num_images"] for camera in cameras)
    if settings.method == "global":
        found = _map_globally(database, images, folder, cameras, settings, seed)
    else:
        found = _map_incrementally(
            database, images, folder, cameras, settings, seed, lambda n: on_progress(n, num_images)
        )
    models = sorted(
        found.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D())
    )
    models = [model for model in models if model.num_reg_images() >= 2]
    if not models:
        raise UserError(
            "no two images could be placed against each other: they overlap too little, or all "
            "from one point; take photos that share half of what they show, moving between them"
        )
    models[0], deviations = self_calibrate(models[0], cameras)
    with atomic_folder(folder / "models", overwrite=True) as temporary:
        for number, model in enumerate(models):
            (temporary / str(number)).mkdir()
            model.write(temporary / str(number))
    database.unlink()
    on_progress(num_images, num_images)
    return {
        "models": [_summary(model) for model in models],
        "deviations": deviations,
        "notes": _lens_notes(models[0], cameras),
    }


def _map_incrementally(
    database: Path,
    images: Path,
    folder: Path,
    cameras: Sequence[dict[str, Any]],
    settings: MapSettings,
    seed: int,
    on_count: Callable[[int], None],
) -> dict[int, pycolmap.Reconstruction]:
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = settings.min_model_size
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = seed
    options.num_threads = options.mapper.num_threads = 1
    options.ba_refine_principal_point = False
    is_fixed = [camera["is_fixed"] for camera in cameras]
    if all(is_fixed):
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
        options.mapper.abs_pose_refine_focal_length = False
        options.mapper.abs_pose_refine_extra_params = False
    constant = {number + 1 for number, fixed in enumerate(is_fixed) if fixed}
    options.constant_cameras = options.mapper.constant_cameras = constant
    placed = 0

    def begin() -> None:
        nonlocal placed
        placed = 2

    def place_next() -> None:
        nonlocal placed
        placed += 1

    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    result = call(
        lambda token: pycolmap.incremental_mapping(
            database,
            images,
            scratch,
            options,
            initial_image_pair_callback=begin,
            next_image_callback=place_next,
            cancellation_token=token,
        ),
        lambda: on_count(placed),
    )
    shutil.rmtree(scratch)
    assert isinstance(result, dict)
    return result


def _map_globally(
    database: Path,
    images: Path,
    folder: Path,
    cameras: Sequence[dict[str, Any]],
    settings: MapSettings,
    seed: int,
) -> dict[int, pycolmap.Reconstruction]:
    """Map all images at once; focal lengths that are not known are first found from the view graph."""
    if not all(camera["has_focal"] for camera in cameras):
        calibration = pycolmap.ViewGraphCalibrationOptions()
        calibration.random_seed = seed
        call(lambda _: pycolmap.calibrate_view_graph(database, calibration))
    options = pycolmap.GlobalPipelineOptions()
    options.min_model_size = settings.min_model_size
    options.random_seed = options.mapper.random_seed = seed
    options.num_threads = options.mapper.num_threads = 1
    adjustment = options.mapper.bundle_adjustment
    is_free = not all(camera["is_fixed"] for camera in cameras)
    adjustment.refine_focal_length = adjustment.refine_extra_params = is_free
    adjustment.refine_principal_point = False
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    result = call(lambda _: pycolmap.global_mapping(database, images, scratch, options))
    shutil.rmtree(scratch)
    assert isinstance(result, dict)
    return result


def _summary(model: pycolmap.Reconstruction) -> dict[str, Any]:
    return {
        "images": sorted(model.image(i).name for i in model.reg_image_ids()),
        "num_points": model.num_points3D(),
        "num_observations": model.compute_num_observations(),
        "mean_track_length": model.compute_mean_track_length(),
        "mean_reprojection_px": model.compute_mean_reprojection_error(),
    }


def _lens_notes(model: pycolmap.Reconstruction, cameras: Sequence[dict[str, Any]]) -> list[str]:
    """Say where the focal length that fits the photos is far from the one in their EXIF."""
    notes = []
    for number, camera in enumerate(cameras):
        if camera["source"] != "EXIF" or number + 1 not in model.cameras:
            continue
        said, found = camera["params"][0], model.cameras[number + 1].mean_focal_length()
        if abs(found / said - 1) > LIE:
            notes.append(
                f"{camera['folder']}: EXIF says a focal length of {said:.0f} px, the photos fit "
                f"{found:.0f} px; the latter is used"
            )
    return notes
