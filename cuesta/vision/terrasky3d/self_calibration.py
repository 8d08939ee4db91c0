"""Self-calibration: once all photos are placed, principal points are fitted too, where the photos
determine them.

Mapping keeps principal points in the middle of the image, since few photos do not determine them; a
phone's is off by half a percent, which turns cameras by a third of a degree against each other. A
last bundle adjustment frees them, and its covariance, times the noise that the residuals show, says how
well each is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycolmap

from cuesta.vision.terrasky3d.native import call

LEAST_IMAGES = 5  # of a camera, for its principal point to be fitted
MOST_SIGMA = 0.002  # standard deviation of a principal point, over the image's longer side
LEAST_SIGNIFICANCE = 5.0  # shift over standard deviation; six small photos were wrong by three
MOST_SHIFT = 0.05  # of a principal point from the middle, over the same
_MOST_FOR_COVARIANCE = 300  # images; it grows with their square


def self_calibrate(
    model: pycolmap.Reconstruction, cameras: Sequence[dict[str, Any]]
) -> tuple[pycolmap.Reconstruction, dict[str, list[float]]]:
    """Return the model with principal points fitted, and standard deviations of parameters by camera.

    `cameras` are those of the calibration; camera n + 1 of the model is cameras[n], and those that are
    fixed stay. Where a principal point comes out uncertain, far off, or so near the middle that it may as
    well be there, the model is returned as it was, without deviations.
    """
    counts = np.zeros(len(cameras) + 1, int)
    for image_id in model.reg_image_ids():
        counts[model.image(image_id).camera_id] += 1
    free = [
        number + 1
        for number, camera in enumerate(cameras)
        if not camera["is_fixed"] and counts[number + 1] >= LEAST_IMAGES
    ]
    if not free:
        return model, {}
    fitted = pycolmap.Reconstruction(model)
    deviations = _adjust(fitted, free)
    folders = {number + 1: camera["folder"] for number, camera in enumerate(cameras)}
    for camera_id in free:
        if not _is_worth_it(fitted.cameras[camera_id], deviations.get(camera_id)):
            return model, {}
    return fitted, {folders[camera_id]: sigma for camera_id, sigma in deviations.items()}


def _adjust(model: pycolmap.Reconstruction, free: Sequence[int]) -> dict[int, list[float]]:
    """Adjust everything but the cameras that are not free; return the deviations of the free ones."""
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_principal_point = True
    options.print_summary = False
    options.ceres.solver_options.num_threads = 1  # the same result every time
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
    for camera_id in model.cameras:
        if camera_id not in free:
            config.set_constant_cam_intrinsics(camera_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    adjuster = pycolmap.create_default_ceres_bundle_adjuster(options, config, model)
    call(lambda _: adjuster.solve())
    model.update_point_3d_errors()
    if model.num_reg_images() > _MOST_FOR_COVARIANCE:
        return {}
    covariance = pycolmap.estimate_ba_covariance(pycolmap.BACovarianceOptions(), model, adjuster)
    if covariance is None:
        return {}
    noise_px = model.compute_mean_reprojection_error() * math.sqrt(2 / math.pi)  # Rayleigh's mean
    found = {}
    for camera_id in free:
        matrix = covariance.get_other_params_cov(model.cameras[camera_id].params)
        if matrix is not None:
            found[camera_id] = (noise_px * np.sqrt(np.diag(matrix))).tolist()
    return found


def _is_worth_it(camera: pycolmap.Camera, sigma: list[float] | None) -> bool:
    """Return whether the photos know the principal point better than the guess that it is in the middle.

    It must be near the middle, certain, and so far off the middle that chance does not explain it.
    """
    longer = max(camera.width, camera.height)
    shift = np.array(
        [camera.principal_point_x - camera.width / 2, camera.principal_point_y - camera.height / 2]
    )
    if math.hypot(*shift) > MOST_SHIFT * longer:
        return False
    if sigma is None:  # too many images to compute it, which know enough
        return True
    deviation = np.array([sigma[i] for i in camera.principal_point_idxs()])
    is_certain = deviation.max() <= MOST_SIGMA * longer
    return bool(is_certain and (np.abs(shift) / deviation).max() >= LEAST_SIGNIFICANCE)
