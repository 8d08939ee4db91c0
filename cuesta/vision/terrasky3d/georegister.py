"""Geo-registration: the similarity from a model's own frame to metres, from GPS or a known distance.

The model itself is not touched: a copy in metres is written beside it. With GPS the new frame is
east-north-up at the median place of the photos; with a known distance it is the model's own, scaled. Places
along a line do not tell which way is up: there it is taken from the cameras, which people hold upright.
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
    centres = np.stack([placed[name] for name in names])
    targets, origin = enu_of([photo["gps"] for photo in located])
    options = pycolmap.RANSACOptions(max_error=GPS_ERROR_M, random_seed=seed)
    similarity = pycolmap.align_reconstruction_to_locations(
        model, names, targets, _LEAST_LOCATED, options
    )
    is_used, notes = np.ones(len(names), bool), []
    if similarity is not None:
        matrix = np.vstack([similarity.matrix(), [0, 0, 0, 1]])
        is_used = np.linalg.norm(_moved(centres, matrix) - targets, axis=1) <= GPS_ERROR_M
    elif _width(targets) >= GPS_ERROR_M:
        return _result(None, notes=["GPS contradicts the reconstruction: lengths have no unit"])
    if _width(targets[is_used]) < GPS_ERROR_M:
        matrix = _upright(model, centres[is_used], targets[is_used])
        notes.append("the photos were taken along a line: up is that of the cameras, not of GPS")
    distance = np.linalg.norm(_moved(centres, matrix) - targets, axis=1)
    rmse = float(np.sqrt(np.mean(distance[is_used] ** 2)))
    spread = float(np.linalg.norm(targets[is_used] - targets[is_used].mean(0), axis=1).max())
    notes += [
        f"GPS of {name} is {far:.0f} m from where the photo was taken; left out"
        for name, far, used in zip(names, distance, is_used, strict=True)
        if not used
    ]
    if rmse > 0.2 * spread:
        notes.append(
            f"GPS is off by {rmse:.1f} m over {spread:.1f} m: the scale is a rough guess, a known "
            "distance (scale.metres) is better"
        )
    return _result(
        "gps", matrix, origin=origin.tolist(), num_used=int(is_used.sum()), rmse_m=rmse, notes=notes
    )


def _moved(points: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _width(targets: NDArray[np.float64]) -> float:
    """Return how far places lie from the line that fits them best, at most."""
    offsets = targets - targets.mean(0)
    _, _, axes = np.linalg.svd(offsets, full_matrices=False)
    return float(np.linalg.norm(offsets - np.outer(offsets @ axes[0], axes[0]), axis=1).max())


def _upright(
    model: pycolmap.Reconstruction, centres: NDArray[np.float64], targets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the similarity [4, 4] that keeps the cameras upright and fits places on the ground."""
    turns = [model.image(i).cam_from_world().rotation.matrix() for i in model.reg_image_ids()]
    up = -np.mean(turns, axis=0)[1]
    up /= np.linalg.norm(up)
    east = np.linalg.svd(up[None])[2][1]
    level = np.stack([east, np.cross(up, east), up])
    flat = (centres - centres.mean(0)) @ level.T
    goal = targets - targets.mean(0)
    ours, theirs = flat[:, 0] + 1j * flat[:, 1], goal[:, 0] + 1j * goal[:, 1]
    turn = (ours.conj() @ theirs) / (ours.conj() @ ours)  # scale and rotation about the vertical
    scale, angle = abs(turn), np.angle(turn)
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = np.eye(4)
    matrix[:3, :3] = scale * np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ level
    matrix[:3, 3] = targets.mean(0) - matrix[:3, :3] @ centres.mean(0)
    return matrix


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
