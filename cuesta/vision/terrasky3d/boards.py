"""Calibration from a target: a ChArUco board or checkerboard, in photos or clips of one lens.

OpenCV finds the corners and fits the lens; it counts pixel centres at integers, we at 0.5, so half a
pixel is added to the principal point. Wanted are fits of an RMS below 0.5 px at 4K, in proportion to the
size, from 25 views at least, whose corners fall into 80 % of a 6 x 6 grid over the image; what is not met
is a complaint, and a fit that is off by 1 % of the image's width is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import cv2
import numpy as np
from numpy.typing import NDArray

from cuesta.errors import UserError
from cuesta.vision.terrasky3d.photos import SUFFIXES
from cuesta.vision.terrasky3d.video import VIDEO_SUFFIXES, extract_frames

Model = Literal["OPENCV", "OPENCV_FISHEYE"]
GRID = 6
LEAST_VIEWS, LEAST_COVERAGE, MOST_RMS_AT_4K = 25, 0.8, 0.5
_MOST_RMS = 0.01  # over the image's width
_LEAST_CORNERS = 8
_FRAMES_PER_SECOND = 3.0


@final
@dataclass(frozen=True, kw_only=True)
class Target:
    """Describe a board of `columns` x `rows` squares of `square_m`; markers are ArUco 5x5_1000."""

    kind: Literal["charuco", "checkerboard"]
    columns: int
    rows: int
    square_m: float
    marker_m: float = 0.0


class Board(NamedTuple):
    """Hold a fitted lens: parameters as in `MODELS`, and what the fit is worth.

    `misses` [P, 4] are the corners of all views in pixels, and by how much the lens misses each.
    """

    params: list[float]
    width: int
    height: int
    rms_px: float
    num_views: int
    coverage: float
    misses: NDArray[np.float64]

    def complaints(self) -> list[str]:
        """Return what is not good enough about it, in words."""
        most = MOST_RMS_AT_4K * max(self.width, self.height) / 3840
        said = []
        if self.rms_px > most:
            said.append(f"RMS {self.rms_px:.2f} px, should be below {most:.2f}")
        if self.num_views < LEAST_VIEWS:
            said.append(f"{self.num_views} views of the target, should be {LEAST_VIEWS}")
        if self.coverage < LEAST_COVERAGE:
            said.append(f"corners cover {self.coverage:.0%} of the image, should be 80%")
        return said


def parse_target(words: str) -> Target:
    """Return the target that `charuco:8x11:0.02:0.015` or `checkerboard:9x7:0.025` describes."""
    kind, *rest = words.split(":")
    wanted = {"charuco": 3, "checkerboard": 2}
    try:
        if len(rest) != wanted[kind]:
            raise ValueError
        columns, rows = (int(number) for number in rest[0].split("x"))
        square, *marker = (float(number) for number in rest[1:])
        if min(columns, rows) < 3 or square <= 0 or any(not 0 < m < square for m in marker):
            raise ValueError
    except (KeyError, ValueError):
        raise UserError(
            f"calibrate.target {words!r}: write charuco:COLUMNSxROWS:SQUARE_M:MARKER_M or "
            "checkerboard:COLUMNSxROWS:SQUARE_M, counted in squares"
        ) from None
    return Target(
        kind="charuco" if kind == "charuco" else "checkerboard",
        columns=columns,
        rows=rows,
        square_m=square,
        marker_m=marker[0] if marker else 0.0,
    )


def calibrate_board(folder: Path, target: Target, model: Model, scratch: Path) -> Board:
    """Return the lens that took the photos and clips of a folder; frames go into `scratch`.

    Raises `UserError` where the target is seen in fewer than three images, or sizes differ.
    """
    images = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    for clip in sorted(folder.iterdir()):
        if clip.suffix.lower() in VIDEO_SUFFIXES:
            images += extract_frames(clip, scratch / clip.name, _FRAMES_PER_SECOND)
    found, sizes = [], set()
    for path in images:
        gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        seen = None if gray is None else _find_corners(gray, target)
        if gray is not None and seen is not None:
            sizes.add((gray.shape[1], gray.shape[0]))
            found.append(seen)
    if len(found) < 3:
        raise UserError(
            f"{folder}: the target ({target.kind} {target.columns}x{target.rows}) is seen in "
            f"{len(found)} of {len(images)} images; film it from near, all over the image, and check "
            "calibrate.target"
        )
    if len(sizes) > 1:
        raise UserError(f"{folder}: images of several sizes {sorted(sizes)}; keep those of one")
    size = sizes.pop()
    try:
        board = fit_lens(found, size, model)
    except cv2.error as error:
        raise UserError(
            f"{folder}: no lens fits the target ({error.err}); film it again"
        ) from error
    if not board.rms_px <= _MOST_RMS * size[0]:
        raise UserError(
            f"{folder}: the best lens is off by {board.rms_px:.1f} px; check calibrate.target "
            "(squares are counted, not corners) and that all images are of one lens"
        )
    return board


def board_of(target: Target) -> cv2.aruco.CharucoBoard:
    """Return OpenCV's board of a ChArUco target."""
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_1000)
    size = (target.columns, target.rows)
    return cv2.aruco.CharucoBoard(size, target.square_m, target.marker_m, dictionary)


Seen = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Corners of a target: places on it [P, 3] in metres, and in the image [P, 2] in OpenCV's pixels."""


def _find_corners(gray: NDArray[Any], target: Target) -> Seen | None:
    """Return the corners of the target in an image, None where too few are seen."""
    if target.kind == "charuco":
        board = board_of(target)
        corners, ids, _, _ = cv2.aruco.CharucoDetector(board).detectBoard(gray)
        if ids is None or len(ids) < _LEAST_CORNERS:
            return None
        points = np.asarray(board.getChessboardCorners(), np.float32)[ids.ravel()]
        return points, corners.reshape(-1, 2).astype(np.float32)
    size = (target.columns - 1, target.rows - 1)
    is_found, corners = cv2.findChessboardCornersSB(gray, size, flags=cv2.CALIB_CB_ACCURACY)
    if not is_found:
        return None
    y, x = np.mgrid[: size[1], : size[0]]
    plane = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3) * target.square_m
    return plane.astype(np.float32), corners.reshape(-1, 2).astype(np.float32)


def fit_lens(found: Sequence[Seen], size: tuple[int, int], model: Model) -> Board:
    """Return the lens that maps the corners of a target to where images of this size show them."""
    points, corners = [seen[0][None] for seen in found], [seen[1][None] for seen in found]
    project: Callable[..., Any]
    if model == "OPENCV_FISHEYE":
        flags = cv2.CALIB_RECOMPUTE_EXTRINSIC | cv2.CALIB_FIX_SKEW
        rms, matrix, lens, turns, shifts = cv2.fisheye.calibrate(
            points, corners, size, np.eye(3), np.zeros(4), flags=flags
        )
        project = cv2.fisheye.projectPoints
    else:
        rms, matrix, lens, turns, shifts = cv2.calibrateCamera(
            points, corners, size, np.eye(3), np.zeros(5), flags=cv2.CALIB_FIX_K3
        )
        project = cv2.projectPoints
    fitted = [
        project(plane, turn, shift, matrix, lens)[0].reshape(-1, 2)
        for plane, turn, shift in zip(points, turns, shifts, strict=True)
    ]
    places = np.concatenate([seen[1] for seen in found]).astype(np.float64)
    pinhole = [matrix[0, 0], matrix[1, 1], matrix[0, 2] + 0.5, matrix[1, 2] + 0.5]
    cells = places / np.array(size) * GRID
    covered = {tuple(cell) for cell in np.clip(cells.astype(int), 0, GRID - 1).tolist()}
    return Board(
        params=[float(value) for value in (*pinhole, *lens.ravel()[:4])],
        width=size[0],
        height=size[1],
        rms_px=float(rms),
        num_views=len(found),
        coverage=len(covered) / GRID**2,
        misses=np.hstack([places + 0.5, np.concatenate(fitted) - places]),
    )
