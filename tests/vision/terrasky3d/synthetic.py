"""Scenes of pycolmap's synthesizer: exact cameras and points, and a database of their matches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pycolmap


def synthesize(
    folder: Path | None = None,
    *,
    num_images: int = 10,
    num_cameras: int = 1,
    params: tuple[float, ...] = (1280.0, 512.0, 384.0, 0.05),
    noise_px: float = 0.3,
) -> pycolmap.Reconstruction:
    """Return a true reconstruction with noisy observations; `folder/database.db` gets its matches."""
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig = num_cameras, num_images // num_cameras
    options.num_points3D = 200
    options.camera_params = list(params)
    noise = pycolmap.SyntheticNoiseOptions()
    noise.point2D_stddev = noise_px
    if folder is None:
        model = pycolmap.synthesize_dataset(options)
        pycolmap.synthesize_noise(noise, model)
        return model
    folder.mkdir(parents=True, exist_ok=True)
    with pycolmap.Database.open(folder / "database.db") as database:
        model = pycolmap.synthesize_dataset(options, database)
        pycolmap.synthesize_noise(noise, model, database)
    return model


def cameras_of(model: pycolmap.Reconstruction, **changes: object) -> list[dict[str, Any]]:
    """Return the model's cameras as the calibration gives them."""
    counts = [0] * (len(model.cameras) + 1)
    for image in model.images.values():
        counts[image.camera_id] += 1
    return [
        {
            "folder": f"cam_{camera_id - 1}",
            "model": camera.model.name,
            "params": camera.params.tolist(),
            "width": camera.width,
            "height": camera.height,
            "num_images": counts[camera_id],
            "has_focal": False,
            "is_fixed": False,
            "source": "guess",
        }
        | changes
        for camera_id, camera in sorted(model.cameras.items())
    ]


def located(model: pycolmap.Reconstruction, gps: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return the images as the ingest gives them."""
    names = sorted(image.name for image in model.images.values())
    return [
        {
            "name": name,
            "source": name,
            "clip": None,
            "gps": gps.get(name),
            "width": 1024,
            "height": 768,
        }
        for name in names
    ]
