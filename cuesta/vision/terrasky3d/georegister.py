"""Geo-registration: the similarity from a model's own frame to metres, from GPS or a known distance.

The model itself is not touched: a copy in metres is written beside it. With GPS the new frame is
east-north-up at the first located photo; with a known distance it is the model's own, scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from cuesta.data.files import atomic_folder
from cuesta.data.scenes.colmap import read_reconstruction
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.pairs import enu_of
from cuesta.vision.terrasky3d.settings import ScaleSettings

GPS_ERROR_M = 8.0  # a phone's GPS; farther off, a photo does not count
_LEAST_LOCATED = 3


def georegister(
    model: Path,
    folder: Path,
    photos: Sequence[Mapping[str, Any]],
    settings: ScaleSettings,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write `folder/model` in metres if that can be known; return the similarity and its worth.

    The result holds `source` ("gps", "known distance" or None), `metres_from_model` (4 x 4),
    `origin` (latitude, longitude, altitude), `rmse_m`, `num_used`, and `notes`. Raises `UserError`
    for a known distance between photos that are not in the model.
    """
    reconstruction = read_reconstruction(model)
    if settings.metres > 0:
        result = _from_distance(reconstruction, photos, settings)
    else:
        result = _from_gps(reconstruction, photos, seed)
    if result["source"] is not None:
        matrix = np.array(result["metres_from_model"])
        reconstruction.transform(pycolmap.Sim3d(matrix[:3]))
        with atomic_folder(folder / "model", overwrite=True) as temporary:
            reconstruction.write(temporary)
    on_progress(1, 1)
    return result


def _from_distance(
    model: pycolmap.Reconstruction, photos: Sequence[Mapping[str, Any]], settings: ScaleSettings
) -> dict[str, Any]:
    centres = []
    for given in (settings.first, settings.second):
        names = [photo["name"] for photo in photos if given in (photo["name"], photo["source"])]
        image = model.find_image_with_name(names[0]) if names else None
        if image is None or not image.has_pose:
            raise UserError(
                f"scale: {given!r} is not among the placed photos; name two photos as they are in "
                "the folder"
            )
        centres.append(image.projection_center())
    distance = float(np.linalg.norm(centres[0] - centres[1]))
    if distance == 0:
        raise UserError("scale: both photos are from one point; name two that are apart")
    matrix = np.diag([settings.metres / distance] * 3 + [1.0])
    return _result("known distance", matrix, num_used=2, rmse_m=0.0)


def _from_gps(
    model: pycolmap.Reconstruction, photos: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, Any]:
    placed = {
        model.image(i).name: model.image(i).projection_center() for i in model.reg_image_ids()
    }
    located = [photo for photo in photos if photo["gps"] and photo["name"] in placed]
    if not located:
        return _result(None, notes=["no photo says where it was taken: lengths have no unit"])
    if len(located) < _LEAST_LOCATED:
        words = f"{len(located)} placed photos have GPS, three are needed: lengths have no unit"
        return _result(None, notes=[words])
    names = [photo["name"] for photo in located]
    targets = enu_of([photo["gps"] for photo in located])
    options = pycolmap.RANSACOptions(max_error=GPS_ERROR_M, random_seed=seed)
    similarity = pycolmap.align_reconstruction_to_locations(
        model, names, targets, _LEAST_LOCATED, options
    )
    if similarity is None:
        return _result(None, notes=["GPS contradicts the reconstruction: lengths have no unit"])
    matrix = np.vstack([similarity.matrix(), [0, 0, 0, 1]])
    moved = np.stack([placed[name] for name in names]) @ matrix[:3, :3].T + matrix[:3, 3]
    distance = np.linalg.norm(moved - targets, axis=1)
    is_used = distance <= GPS_ERROR_M
    rmse = float(np.sqrt(np.mean(distance[is_used] ** 2)))
    spread = float(np.linalg.norm(targets[is_used] - targets[is_used].mean(0), axis=1).max())
    notes = [
        f"GPS of {name} is {far:.0f} m from where the photo was taken; left out"
        for name, far in zip(names, distance, strict=True)
        if far > GPS_ERROR_M
    ]
    if rmse > 0.2 * spread:
        notes.append(
            f"GPS is off by {rmse:.1f} m over {spread:.1f} m: the scale is a rough guess, a known "
            "distance (scale.metres) is better"
        )
    origin = list(located[0]["gps"])
    return _result(
        "gps", matrix, origin=origin, num_used=int(is_used.sum()), rmse_m=rmse, notes=notes
    )


def _result(
    source: str | None,
    matrix: NDArray[np.float64] | None = None,
    *,
    origin: list[float] | None = None,
    num_used: int = 0,
    rmse_m: float | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    return {
        "source": source,
        "metres_from_model": None if matrix is None else matrix.tolist(),
        "origin": origin,
        "num_used": num_used,
        "rmse_m": rmse_m,
        "notes": list(notes),
    }
