"""Frames of a video: the sharpest of each interval, turned upright, as JPEG."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from cuesta.data.files import atomic_file
from cuesta.vision.terrasky3d.photos import SEEN_AT, sharpness_of

VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm"}
_QUALITY = 97


def extract_frames(video: Path, folder: Path, frames_per_second: float) -> list[Path]:
    """Return the frames as files `frame_000005.jpg`, numbered by second or interval.

    Those that are there already are not written again. A video that cannot be opened has none.
    """
    done = {path.name for path in folder.glob("frame_*.jpg")}
    for name, frame in _sharpest(video, frames_per_second):
        if name not in done:
            with atomic_file(folder / name) as temporary:
                _, encoded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
                temporary.write_bytes(encoded.tobytes())
    return sorted(folder.glob("frame_*.jpg"))


def _sharpest(video: Path, frames_per_second: float) -> Iterator[tuple[str, np.ndarray]]:
    """Yield for each interval the name and the pixels of its sharpest frame."""
    capture = cv2.VideoCapture(str(video))
    best: tuple[int, float, np.ndarray] | None = None
    while True:
        is_read, frame = capture.read()
        seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # of that frame, at any rate
        interval = int(seconds * frames_per_second + 1e-6)
        if best is not None and (not is_read or interval != best[0]):
            yield f"frame_{best[0]:06d}.jpg", best[2]
            best = None
        if not is_read:
            break
        sharpness = sharpness_of(_small_gray(frame))
        if best is None or sharpness > best[1]:
            best = (interval, sharpness, frame)
    capture.release()


def _small_gray(frame: np.ndarray) -> np.ndarray:
    gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    factor = SEEN_AT / max(gray.shape)
    if factor >= 1:
        return gray
    return cv2.resize(gray, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
