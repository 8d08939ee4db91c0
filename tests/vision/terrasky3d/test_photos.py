"""Photos tell size, lens and place; what they tell wrongly is noted; bad ones are told from good."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.ExifTags import Base

from cuesta.vision.terrasky3d.photos import UnreadableError, motion_between, read_photo, upright
from tests.vision.terrasky3d.pictures import Rational, exif_of, textured, write_photo


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_baked_in(orientation: int, tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.png", textured(96, 64), exif_of(orientation=orientation))
    photo = read_photo(path)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image)
    turned = upright(path, photo.orientation)
    assert np.array_equal(np.asarray(turned), np.asarray(expected))
    assert (photo.width, photo.height) == turned.size
    assert (photo.orientation, photo.is_plain) == (orientation, orientation == 1)


def test_focal_length_is_that_of_the_diagonal(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.jpg", textured(400, 300), exif_of(focal_35mm=26))
    focal = read_photo(path).focal_px
    assert focal == 26 * 500 / math.hypot(36, 24)


def sensor_of(focal_mm: float, pixels_a_unit: float, unit: int, width: int) -> dict[Base, object]:
    """Return what cameras that do not know the 35 mm equivalent write of lens and sensor."""
    return {
        Base.FocalLength: Rational(round(focal_mm * 100), 100),
        Base.FocalPlaneXResolution: Rational(round(pixels_a_unit * 1000), 1000),
        Base.FocalPlaneResolutionUnit: unit,
        Base.ExifImageWidth: width,
    }


@pytest.mark.parametrize(
    ("pixels_a_unit", "unit", "width", "expected"),
    [
        (100 * 25.4, 2, 400, 500.0),
        (100 * 10, 3, 400, 500.0),
        (100.0, 4, 400, 500.0),
        (100.0, 4, 1600, 125.0),  # the photo was shrunk to a quarter
    ],
)
def test_focal_length_is_that_of_lens_and_sensor_where_nothing_else_is_known(
    pixels_a_unit: float, unit: int, width: int, expected: float, tmp_path: Path
) -> None:
    sensor = sensor_of(5.0, pixels_a_unit, unit, width)
    photo = read_photo(write_photo(tmp_path / "a.jpg", textured(400, 300), exif_of(sensor=sensor)))
    assert photo.focal_px == pytest.approx(expected)
    both = exif_of(focal_35mm=26, sensor=sensor)
    photo = read_photo(write_photo(tmp_path / "b.jpg", textured(400, 300), both))
    assert photo.focal_px == pytest.approx(26 * 500 / math.hypot(36, 24))


@pytest.mark.parametrize(
    "place", [(47.0707, 15.4395, 353.5), (-33.8568, 151.2153, -4.25), (0.5, -122.25, 0.0)]
)
def test_gps_comes_back(place: tuple[float, float, float], tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.jpg", textured(96, 64), exif_of(gps=place))
    gps = read_photo(path).gps
    assert gps is not None
    micro_degree = 1e-6 / 3600
    assert abs(gps.latitude - place[0]) <= micro_degree
    assert abs(gps.longitude - place[1]) <= micro_degree
    assert abs(gps.altitude - place[2]) <= 0.001


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (exif_of(orientation=17), "orientation 17"),
        (exif_of(focal_35mm=3), "3 mm"),
        (exif_of(focal_35mm=30_000), "30000 mm"),
        (exif_of(sensor=sensor_of(5.0, 5000.0, 4, 400)), "2250 mm"),
        (exif_of(gps=(0.0, 0.0, 0.0)), "latitude 0"),
        (exif_of(gps=(91.0, 10.0, 0.0)), "latitude 91"),
    ],
)
def test_what_cannot_be_is_noted_and_ignored(lie: Image.Exif, words: str, tmp_path: Path) -> None:
    photo = read_photo(write_photo(tmp_path / "a.jpg", textured(96, 64), lie))
    assert words in " ".join(photo.notes)
    assert (photo.focal_px, photo.gps, photo.orientation) == (None, None, 1)


def test_a_broken_exif_block_leaves_the_pixels(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.jpg", textured(96, 64), exif_of(orientation=6, make="x"))
    data = bytearray(path.read_bytes())
    begin = data.index(b"Exif\0\0") + 6
    data[begin : begin + 8] = b"\xff" * 8
    path.write_bytes(data)
    assert (read_photo(path).width, read_photo(path).height) == (96, 64)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0" + b"\0" * 40])
def test_what_is_no_image_is_unreadable(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableError):
        read_photo(tmp_path / "a.jpg")


def test_a_truncated_photo_is_unreadable(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.jpg", textured(1600, 1200))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableError, match="truncated"):
        read_photo(path)


def test_a_tiny_image_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="40 x 30"):
        read_photo(write_photo(tmp_path / "a.png", textured(40, 30)))


def test_blur_lowers_sharpness_and_contrast_does_not_matter(tmp_path: Path) -> None:
    sharp = textured(800, 600)
    pale = (100 + sharp.astype(np.float64) / 4).astype(np.uint8)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 6)
    values = [
        read_photo(write_photo(tmp_path / f"{name}.png", pixels)).sharpness
        for name, pixels in (("sharp", sharp), ("pale", pale), ("blurred", blurred))
    ]
    assert values[2] < 0.1 * values[0]
    assert 0.5 * values[0] < values[1] < 2 * values[0]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_seen_as_eight(suffix: str, tmp_path: Path) -> None:
    pixels = textured(160, 120)
    path = write_photo(tmp_path / f"a{suffix}", pixels.astype(np.uint16) * 257)
    photo = read_photo(path)
    assert (photo.is_plain, photo.clipped) == (False, 0)
    assert np.array_equal(np.asarray(upright(path, 1)), pixels)


def test_motion_is_the_share_of_the_width(tmp_path: Path) -> None:
    wide = cv2.GaussianBlur(textured(1000, 600), (0, 0), 2)
    first = write_photo(tmp_path / "a.png", wide[:, :800])
    shifted = write_photo(tmp_path / "b.png", wide[:, 16:816])  # 2 % of the width
    assert motion_between(first, first) < 1e-6
    assert abs(motion_between(first, shifted) - 0.02) < 0.005


def test_sizes_that_differ_have_no_motion(tmp_path: Path) -> None:
    first = write_photo(tmp_path / "a.png", textured(200, 100))
    second = write_photo(tmp_path / "b.png", textured(100, 200))
    assert math.isinf(motion_between(first, second))
