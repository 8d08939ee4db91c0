"""The sky is found to the pixel on drawn pictures, and well on generated ones, whose sky is known."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cuesta.data.maps import read_map
from cuesta.data.worlds.labels import Label
from cuesta.data.worlds.layout import semantic_ids
from cuesta.data.worlds.make import Size, make_landmarks
from cuesta.vision.terrasky3d.sky import find_sky

HEIGHT, WIDTH = 240, 320


def view(sky: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a picture of a brick-like wall with a tower before a sky with noise, and where the sky is."""
    draw = np.random.default_rng(0)
    is_sky = np.zeros((HEIGHT, WIDTH), bool)
    is_sky[:120] = True
    is_sky[40:120, 140:180] = False
    bricks = cv2.resize(draw.integers(60, 190, (30, 40)).astype(np.uint8), (WIDTH, HEIGHT))
    wall = np.stack([bricks, bricks // 2, bricks // 3], axis=-1)
    ramp = np.linspace(-12, 12, HEIGHT)[:, None, None]  # a clear sky pales towards the horizon
    above = np.asarray(sky) + ramp + draw.normal(0, 2, (HEIGHT, WIDTH, 3))
    picture = np.where(is_sky[..., None], above, wall)
    return np.clip(picture, 0, 255).astype(np.uint8), is_sky


def share_wrong(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found != truth).mean())


@pytest.mark.parametrize("color", [(90, 140, 220), (200, 205, 210), (235, 235, 235)])
def test_blue_and_grey_sky_is_found_to_the_pixel(color: tuple[int, int, int]) -> None:
    picture, is_sky = view(color)
    assert share_wrong(find_sky(picture), is_sky) < 0.002


def test_a_large_picture_has_a_border_as_sharp_as_its_own() -> None:
    picture, is_sky = view((90, 140, 220))
    scale = 8
    large = picture.repeat(scale, 0).repeat(scale, 1)
    found = find_sky(large)
    assert found.shape == large.shape[:2]
    assert share_wrong(found, is_sky.repeat(scale, 0).repeat(scale, 1)) < 0.002


@pytest.mark.parametrize("color", [(200, 60, 40), (40, 110, 40), (30, 30, 32)])
def test_red_green_and_dark_smooth_regions_are_no_sky(color: tuple[int, int, int]) -> None:
    assert not find_sky(view(color)[0]).any()


def test_what_does_not_reach_the_upper_edge_is_no_sky() -> None:
    assert not find_sky(view((90, 140, 220))[0][::-1]).any()


def test_a_bird_is_sky_and_a_house_is_not() -> None:
    picture, is_sky = view((90, 140, 220))
    picture[60:63, 60:64] = 20
    picture[20:60, 240:280] = (150, 60, 30)
    is_sky[20:60, 240:280] = False
    assert share_wrong(find_sky(picture), is_sky) < 0.002


def test_a_pale_wall_is_sky_until_depth_says_otherwise() -> None:
    picture, _ = view((225, 225, 225))
    picture[:, :] = picture[5, 5]
    assert find_sky(picture).all()
    depth = np.zeros((HEIGHT, WIDTH), np.float32)
    depth[::2] = 7.0  # patches, as of a wall with little texture
    depth[:, ::7] = 7.0
    depth[:4] = 7.0
    assert find_sky(picture, depth).mean() < 0.05


def test_depth_cuts_the_sky_and_a_lone_pixel_of_it_does_not() -> None:
    picture, is_sky = view((90, 140, 220))
    depth = np.zeros((HEIGHT, WIDTH), np.float32)
    depth[50, 50] = 3.0
    assert share_wrong(find_sky(picture, depth), is_sky) < 0.002
    depth[:120, 200:] = 3.0
    is_sky[:120, 200:] = False
    assert share_wrong(find_sky(picture, depth), is_sky) < 0.02


def test_the_sky_of_generated_landmarks_is_found(tmp_path: Path) -> None:
    size = Size(num_scenes=1, num_images=8, width=320, height=240)
    scene = make_landmarks(tmp_path, size)[0]
    counts = np.zeros(3)
    for path in sorted(scene.frames.rglob("*.jpg")):
        image = path.relative_to(scene.frames).as_posix()
        picture = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        ids = cv2.imread(str(semantic_ids(scene, image)), cv2.IMREAD_UNCHANGED)
        truth = ids == Label.SKY
        found = find_sky(picture)
        counts += [(found & truth).sum(), found.sum(), truth.sum()]
        with_depth = find_sky(picture, read_map(scene.depth_map(image)))
        assert (with_depth & ~truth).mean() <= 0.005
    assert counts[2] > 1000
    assert counts[0] / counts[1] > 0.95  # precision
    assert counts[0] / counts[2] > 0.8  # recall; a narrow strip of cloud is missed
