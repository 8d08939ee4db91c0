"""Calibration: what is known of each camera before the reconstruction, and from where.

In this order: a file of intrinsics, a target filmed with the same lens, the focal length in EXIF, and
a guess of 1.2 times the longer side. The first two are kept fixed; the others are starting points.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from cuesta.data.files import atomic_file, write_text
from cuesta.errors import UserError
from cuesta.geometry import MODELS, Camera
from cuesta.vision.terrasky3d.boards import Board, calibrate_board, parse_target
from cuesta.vision.terrasky3d.intrinsics import Intrinsics, camera_for, read_intrinsics
from cuesta.vision.terrasky3d.settings import CalibrateSettings

GUESS = 1.2  # focal length over the longer side, as COLMAP guesses
LIE = 0.15  # a focal length this far from the one in EXIF is worth a word


def calibrate(
    groups: Sequence[Mapping[str, Any]],
    photos: Sequence[Mapping[str, Any]],
    folder: Path,
    settings: CalibrateSettings,
    on_progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Return for each camera of the ingest its model, parameters and what they are from.

    What a target gave is also written to `folder/calibration.json`, which `intrinsics` reads, and what
    it misses drawn in `folder/CAMERA.png`.

    The result's `cameras` hold folder, from, model, params, width, height, `has_focal` (a focal
    length worth starting from), `is_fixed`, `source`, and of a target `complaints` (else None);
    `notes` are what a person should know.
    """
    intrinsics = read_intrinsics(settings.intrinsics) if settings.intrinsics else None
    cameras, notes = [], list[str]()
    for done, group in enumerate(groups):
        names = [p["source"] for p in photos if p["name"].startswith(f"{group['folder']}/")]
        camera = _calibrated(group, names, folder, settings, intrinsics)
        notes += _contradictions(camera, group)
        cameras.append(camera)
        on_progress(done + 1, len(groups))
    if settings.board is not None:
        write_text(folder / "calibration.json", json.dumps({"cameras": cameras}, indent=1) + "\n")
    return {"cameras": cameras, "notes": notes}


def focal_of(camera: Mapping[str, Any]) -> float:
    """Return the mean of the focal lengths of a camera in a result of `calibrate`."""
    params = torch.tensor(camera["params"], dtype=torch.float64)
    lens = Camera(camera["model"], params, camera["width"], camera["height"])
    return float(lens.focal().mean())


def _calibrated(
    group: Mapping[str, Any],
    names: Sequence[str],
    folder: Path,
    settings: CalibrateSettings,
    intrinsics: Intrinsics | None,
) -> dict[str, Any]:
    if intrinsics is not None:
        camera = camera_for(intrinsics, group, names)
        return _entry(group, camera, source=intrinsics.path.name, is_fixed=True, has_focal=True)
    if settings.board is not None:
        board = _board(group, settings.board, folder, settings)
        params = torch.tensor(board.params, dtype=torch.float64)
        source = f"target, RMS {board.rms_px:.2f} px in {board.num_views} views"
        camera = Camera(_board_model(settings), params, board.width, board.height)
        if (board.width, board.height) != (group["width"], group["height"]):
            where = Intrinsics(path=settings.board, cameras={"*": camera})
            camera = camera_for(where, group, names)
        _draw(board, folder / f"{group['folder']}.png")
        entry = _entry(group, camera, source=source, is_fixed=True, has_focal=True)
        return entry | {"complaints": board.complaints()}
    exif = group["focal_px"] if settings.trust_exif else None
    focal = exif or GUESS * max(group["width"], group["height"])
    known = {
        **dict.fromkeys(("f", "fx", "fy"), focal),
        "cx": group["width"] / 2,
        "cy": group["height"] / 2,
    }
    values = [known.get(name, 0.0) for name in MODELS[settings.model]]
    params = torch.tensor(values, dtype=torch.float64)
    camera = Camera(settings.model, params, group["width"], group["height"])
    source = "EXIF" if exif else "guess"
    return _entry(group, camera, source=source, is_fixed=False, has_focal=exif is not None)


def _contradictions(camera: Mapping[str, Any], group: Mapping[str, Any]) -> list[str]:
    """Say where lenses that are given are far from what EXIF says."""
    given, said = focal_of(camera), group["focal_px"]
    if said is None or not camera["is_fixed"] or abs(given / said - 1) <= LIE:
        return []
    return [
        f"{camera['folder']}: {camera['source']} gives a focal length of {given:.0f} px, EXIF says "
        f"{said:.0f} px; the former is used"
    ]


def _board(
    group: Mapping[str, Any], boards: Path, folder: Path, settings: CalibrateSettings
) -> Board:
    """Return the fit from the group's own subfolder of the boards, else from the one for all."""
    if not boards.is_dir():
        raise UserError(f"{boards}: no such folder of a calibration target; see calibrate.board")
    own = boards / group["from"]
    chosen = own if own.is_dir() else boards
    target = parse_target(settings.target)
    return calibrate_board(chosen, target, _board_model(settings), folder / group["folder"])


def _draw(board: Board, path: Path) -> None:
    from cuesta.vision.terrasky3d.drawing import draw_misses

    with atomic_file(path) as temporary:
        temporary.write_bytes(draw_misses(board.misses, board.width, board.height))


def _board_model(settings: CalibrateSettings) -> Literal["OPENCV", "OPENCV_FISHEYE"]:
    return "OPENCV_FISHEYE" if settings.model == "OPENCV_FISHEYE" else "OPENCV"


def _entry(
    group: Mapping[str, Any], camera: Camera, *, source: str, is_fixed: bool, has_focal: bool
) -> dict[str, Any]:
    return {
        "folder": group["folder"],
        "from": group["from"],
        "model": camera.model,
        "params": camera.params.tolist(),
        "width": camera.width,
        "height": camera.height,
        "num_images": group["num_images"],
        "has_focal": has_focal,
        "is_fixed": is_fixed,
        "source": source,
        "complaints": None,
    }
