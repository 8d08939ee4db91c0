"""What a photo says of itself (EXIF) and how good it is: sharpness, exposure, nearness to another.

Sharpness is the variance of the Laplacian of the image at `SEEN_AT` px, over that of its grey
levels, so that contrast does not count. Two photos are near duplicates when their difference hashes
agree and the median optical flow between them is a small share of their width.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, SupportsFloat, final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".heic", ".heif", ".avif"}
_FORMATS = {".jpg": ("JPEG", "MPO"), ".jpeg": ("JPEG", "MPO"), ".png": ("PNG",)}
SEEN_AT = 1024  # px, longer side, at which sharpness and exposure are judged
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what makes an image of each EXIF orientation upright
_FLOW_AT = 320
_LEAST_SIDE = 64
_DIAGONAL_35MM = math.hypot(36, 24)
_UNITS_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # of EXIF's FocalPlaneResolutionUnit

Gray = NDArray[np.uint8]


class Gps(NamedTuple):
    """Hold a place: degrees north and east, metres above sea (None where the photo does not say)."""

    latitude: float
    longitude: float
    altitude: float | None


@final
@dataclass(frozen=True, kw_only=True)
class Photo:
    """Hold what one photo says and how it looks; width and height are those after turning it upright.

    `is_plain` tells that it is an upright grey or RGB JPEG or PNG of 8 bits, which every tool reads.
    `focal_px` is the focal length in pixels from the 35 mm equivalent, or from the lens and the pixels
    of the sensor; None where EXIF does not say or says what cannot be: `notes` tells of the latter.
    """

    width: int
    height: int
    orientation: int
    is_plain: bool
    camera: str
    focal_px: float | None
    gps: Gps | None
    sharpness: float
    clipped: float
    hash_bits: int
    notes: tuple[str, ...]


class UnreadableError(ValueError):
    """Say why a file is no photo that can be used."""


def read_photo(path: Path) -> Photo:
    """Return the facts of a photo, decoding it whole. Raises `UnreadableError` where that fails."""
    try:
        with Image.open(path) as image:
            stored = image.size
            notes: list[str] = []
            exif = _exif(image, notes)
            turn = exif.get(ExifTags.Base.Orientation, 1)
            formats = _FORMATS.get(path.suffix.lower(), ())
            is_plain = image.format in formats and image.mode in ("L", "RGB")
            gray = _gray(image, SEEN_AT)
    except Exception as error:  # decoders raise what they like on broken files
        is_heic = path.suffix.lower() in (".heic", ".heif")
        reason = "HEIC is not read here, convert it to JPEG" if is_heic else _reason(error)
        raise UnreadableError(reason) from error
    if min(stored) < _LEAST_SIDE:
        raise UnreadableError(f"it is only {stored[0]} x {stored[1]} pixels")
    if turn not in range(1, 9):
        notes.append(f"EXIF orientation {turn!r} is none; taken as upright")
    orientation = turn if isinstance(turn, int) and 1 <= turn <= 8 else 1
    width, height = stored[::-1] if orientation >= 5 else stored
    return Photo(
        width=width,
        height=height,
        orientation=orientation,
        is_plain=is_plain and orientation == 1,
        camera=_camera_name(exif),
        focal_px=_focal_px(exif, stored, notes),
        gps=_gps(exif, notes),
        sharpness=sharpness_of(gray),
        clipped=float(np.mean((gray <= 4) | (gray >= 251))),
        hash_bits=_difference_hash(gray),
        notes=tuple(notes),
    )


def upright(path: Path, orientation: int) -> Image.Image:
    """Return the photo as 8-bit RGB or grey, turned from an EXIF orientation, without metadata."""
    with Image.open(path) as image:
        plain = _eight_bits(image)
        plain = plain.convert("L" if plain.mode in ("L", "1") else "RGB")
    return plain.transpose(_TURNS[orientation]) if orientation != 1 else plain


def sharpness_of(gray: Gray) -> float:
    """Return the variance of the Laplacian over that of the grey levels [Y, X]."""
    blurred = cv2.GaussianBlur(gray, (0, 0), 0.8)  # of noise there is as much in blurred photos
    return float(cv2.Laplacian(blurred, cv2.CV_32F).var() / max(float(gray.var()), 1.0))


def motion_between(first: Path, second: Path) -> float:
    """Return the median optical flow between two photos as a share of their width.

    It is that of the pixels at edges, for flat ones seem not to move. Infinite for two sizes.
    """
    grays = []
    for path in (first, second):
        with Image.open(path) as image:
            grays.append(_gray(image, _FLOW_AT))
    if grays[0].shape != grays[1].shape:
        return math.inf
    flow = cv2.calcOpticalFlowFarneback(
        grays[0], grays[1], np.zeros((0,)), 0.5, 4, 21, 3, 5, 1.1, 0
    )
    slope = np.abs(cv2.Laplacian(cv2.GaussianBlur(grays[0], (0, 0), 2), cv2.CV_32F))
    is_edge = slope >= np.quantile(slope, 0.8)
    return float(np.median(np.linalg.norm(flow, axis=-1)[is_edge]) / grays[0].shape[1])


def _gray(image: Image.Image, longer_side: int) -> Gray:
    """Return the image in grey, decoded no larger than needed."""
    share = longer_side / max(image.size)
    if share < 1:
        image.draft("L", (max(1, int(image.width * share)), max(1, int(image.height * share))))
    gray = np.asarray(_eight_bits(image).convert("L"))
    factor = longer_side / max(gray.shape)
    if factor >= 1:
        return gray
    size = (max(1, round(gray.shape[1] * factor)), max(1, round(gray.shape[0] * factor)))
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.uint8)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image whose values are 8 bits: of 16 bits the upper ones, of floats 0 to 1 or 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, np.float64)
    if image.mode.startswith("I"):
        values = values / 257
    elif values.max() <= 1:
        values = values * 255
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _difference_hash(gray: Gray) -> int:
    """Return 64 bits: which of 8 x 8 cells is brighter than its right neighbour."""
    cells = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


def _exif(image: Image.Image, notes: list[str]) -> dict[int, object]:
    """Return the tags of EXIF's three folders together; GPS tags are kept under `GPSInfo`."""
    try:
        exif = image.getexif()
        tags: dict[int, object] = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
        tags[ExifTags.Base.GPSInfo] = exif.get_ifd(ExifTags.IFD.GPSInfo)
    except Exception as error:  # whatever a broken block makes the parser raise, the pixels count
        notes.append(f"EXIF cannot be read ({_reason(error)}); ignored")
        return {}
    return tags


def _camera_name(exif: Mapping[int, object]) -> str:
    """Return make, model, lens and focal length: photos that agree share a lens."""
    base = ExifTags.Base
    words = [exif.get(tag) for tag in (base.Make, base.Model, base.LensModel)]
    focal = [exif.get(tag) for tag in (base.FocalLength, base.FocalLengthIn35mmFilm)]
    lengths = [f"{_number(value):.2f} mm" for value in focal if _number(value) > 0]
    return " ".join([*(str(word).strip("\0 ") for word in words if word), *lengths])


def _focal_px(exif: Mapping[int, object], size: tuple[int, int], notes: list[str]) -> float | None:
    diagonal = math.hypot(*size)
    focal_px = _number(exif.get(ExifTags.Base.FocalLengthIn35mmFilm)) * diagonal / _DIAGONAL_35MM
    focal_px = focal_px or _focal_by_sensor(exif, size)
    if focal_px == 0:
        return None
    focal_mm = focal_px * _DIAGONAL_35MM / diagonal
    if not 5 <= focal_mm <= 1200:
        notes.append(f"EXIF says {focal_mm:g} mm (35 mm equivalent), which no lens has; ignored")
        return None
    return focal_px


def _focal_by_sensor(exif: Mapping[int, object], size: tuple[int, int]) -> float:
    """Return the focal length in pixels by the lens's in mm and the sensor's pixels a mm, 0 for none.

    The sensor's pixels are those of the photo as it was taken; it may have been shrunk since.
    """
    base = ExifTags.Base
    unit_mm = _UNITS_MM.get(int(_number(exif.get(base.FocalPlaneResolutionUnit, 2))), math.inf)
    pixels_a_mm = _number(exif.get(base.FocalPlaneXResolution)) / unit_mm
    taken = max(_number(exif.get(tag)) for tag in (base.ExifImageWidth, base.ExifImageHeight))
    shrunk = max(size) / taken if taken > 0 else 1.0
    return _number(exif.get(base.FocalLength)) * pixels_a_mm * shrunk


def _gps(exif: Mapping[int, object], notes: list[str]) -> Gps | None:
    tags = exif.get(ExifTags.Base.GPSInfo)
    gps = ExifTags.GPS
    if not isinstance(tags, dict) or gps.GPSLatitude not in tags or gps.GPSLongitude not in tags:
        return None
    latitude = _degrees(tags[gps.GPSLatitude], tags.get(gps.GPSLatitudeRef), "S")
    longitude = _degrees(tags[gps.GPSLongitude], tags.get(gps.GPSLongitudeRef), "W")
    if not (abs(latitude) <= 90 and abs(longitude) <= 180) or latitude == longitude == 0:
        notes.append(f"EXIF says latitude {latitude:g}, longitude {longitude:g}; ignored")
        return None
    below = tags.get(gps.GPSAltitudeRef) in (1, b"\x01")
    if gps.GPSAltitude not in tags:
        return Gps(latitude, longitude, None)
    altitude = _number(tags[gps.GPSAltitude])
    return Gps(latitude, longitude, -altitude if below else altitude)


def _degrees(value: object, side: object, negative: str) -> float:
    if not (isinstance(value, tuple) and len(value) == 3):
        return math.nan
    degrees, minutes, seconds = map(_number, value)
    angle = degrees + minutes / 60 + seconds / 3600
    return -angle if str(side).strip("\0 b'") == negative else angle


def _number(value: object) -> float:
    """Return a number or rational of EXIF; 0 for what is none."""
    if not isinstance(value, SupportsFloat | str | bytes):
        return 0.0
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
        number = float(value)
        return number if math.isfinite(number) else 0.0
    return 0.0


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image in a format that is known here"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
