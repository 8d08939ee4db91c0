"""Pictures that tests take: textured, of any size, with the EXIF that a phone would write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

Rational = TiffImagePlugin.IFDRational


def textured(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Return a grey picture with detail at several scales, uint8 [Y, X]."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for cells in (4, 16, 64, 256):
        coarse = generator.normal(size=(cells, cells)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 40 * total, 5, 250).astype(np.uint8)


def exif_of(
    *,
    orientation: object = None,
    focal_35mm: float | None = None,
    make: str | None = None,
    gps: tuple[float, float, float] | None = None,
    sensor: Mapping[ExifTags.Base, object] | None = None,
) -> Image.Exif:
    """Return the tags of a phone; `sensor` are more of them."""
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    if make is not None:
        exif[ExifTags.Base.Make] = make
    if focal_35mm is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = focal_35mm
    if sensor is not None:
        exif.get_ifd(ExifTags.IFD.Exif).update(sensor)
    if gps is not None:
        tags = exif.get_ifd(ExifTags.IFD.GPSInfo)
        tags[ExifTags.GPS.GPSLatitude] = _sexagesimal(gps[0])
        tags[ExifTags.GPS.GPSLatitudeRef] = "N" if gps[0] >= 0 else "S"
        tags[ExifTags.GPS.GPSLongitude] = _sexagesimal(gps[1])
        tags[ExifTags.GPS.GPSLongitudeRef] = "E" if gps[1] >= 0 else "W"
        tags[ExifTags.GPS.GPSAltitude] = Rational(round(abs(gps[2]) * 1000), 1000)
        tags[ExifTags.GPS.GPSAltitudeRef] = bytes([gps[2] < 0])
    return exif


def write_photo(path: Path, pixels: np.ndarray, exif: Image.Exif | None = None) -> Path:
    """Write a JPEG (or what the suffix says) with these tags."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if exif is None:
        image.save(path)
    else:
        image.save(path, exif=exif)
    return path


def _sexagesimal(degrees: float) -> tuple[Rational, Rational, Rational]:
    whole = abs(degrees)
    minutes = (whole - int(whole)) * 60
    seconds = (minutes - int(minutes)) * 60
    return Rational(int(whole), 1), Rational(int(minutes), 1), Rational(round(seconds * 1e6), 10**6)
