"""What strangers' files hold becomes numbers, poses and cameras, or one line that says why not."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cuesta.data.scenes import parsing
from cuesta.data.scenes.parsing import (
    blaming,
    camera_of,
    checked,
    image_size,
    model_of,
    number,
    read_text,
    rigid,
    shared,
    whole,
)
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from tests.data.scenes.posed import ROUNDING, assert_same, make_camera, make_views


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_through_text(value: float) -> None:
    assert number(repr(value), "x") == number(value, "x") == value


@given(noise=st.floats(-1e-4, 1e-4), seed=st.integers(0, 99))
def test_a_rounded_rotation_becomes_the_nearest_one(noise: float, seed: int) -> None:
    exact = make_views(count=2, seed=seed).cam_from_world.matrix()
    poses = rigid(exact + noise * torch.eye(4), ["a", "b"])
    eye = torch.eye(3, dtype=torch.float64)
    assert (poses.rotation @ poses.rotation.mT - eye).abs().max() <= ROUNDING
    assert (poses.rotation - exact[:, :3, :3]).abs().max() <= 2 * abs(noise) + ROUNDING
    assert poses.scale.tolist() == [1, 1]


def test_equal_cameras_are_one() -> None:
    cameras = [make_camera(), make_camera("PINHOLE"), make_camera(), make_camera(focal=501)]
    found, ids = shared(cameras)
    assert ids == (1, 2, 1, 3)
    assert [found[one] for one in (1, 2, 3)] == [cameras[0], cameras[1], cameras[3]]


def test_checked_views_are_the_same_in_float64() -> None:
    views = make_views()
    assert_same(views, checked(views))
    poses = views.cam_from_world.to(torch.float32)
    narrow = Views(views.names, {3: views.cameras[3].to(torch.float32)}, views.camera_ids, poses)
    assert checked(narrow).cameras[3].params.dtype == torch.float64
    assert checked(narrow).cam_from_world.rotation.dtype == torch.float64


@pytest.mark.parametrize("value", [math.inf, "nan", "", "1 2", True, [], 10**400])
def test_what_is_no_number_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"^w should be a finite number, it is"):
        number(value, "w")


@pytest.mark.parametrize("value", [-1, 0.5, "1e-3"])
def test_what_counts_nothing_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"^w should be a whole number, it is"):
        whole(value, "w")


def test_cameras_that_are_none_are_named() -> None:
    assert model_of("OPENCV") == "OPENCV"
    with pytest.raises(
        ValueError, match=r"camera model F{40} is not supported, but PINHOLE, .* are$"
    ):
        model_of("F" * 1000)
    with pytest.raises(ValueError, match="a focal length should be above 0, it is 0"):
        camera_of("PINHOLE", [0, 1, 1, 1], (4, 4))
    with pytest.raises(ValueError, match="parameters that are not finite"):
        camera_of("PINHOLE", [1, 1, math.nan, 1], (4, 4))
    with pytest.raises(ValueError, match=f"no image is {parsing.MOST_SIDE + 1} x 4"):
        camera_of("PINHOLE", [1, 1, 1, 1], (parsing.MOST_SIDE + 1, 4))


def test_errors_are_one_line_with_source_and_remedy(tmp_path: Path) -> None:
    for raised, line in (
        (ValueError("first\nsecond"), "a.txt: first; mend it"),
        (ValueError(), "a.txt: ValueError; mend it"),
        (FileNotFoundError(2, "no", "b.txt"), "b.txt: no such file; mend it"),
        (PermissionError(13, "denied", "a.txt"), "a.txt: [Errno 13] denied: 'a.txt'; mend it"),
        (UserError("as it is"), "as it is"),
    ):
        with pytest.raises(UserError) as caught, blaming("a.txt", "mend it"):
            raise raised
        assert str(caught.value) == line
    with pytest.raises(KeyError), blaming(tmp_path, "mend it"):
        raise KeyError("our own mistake")


def test_texts_and_images_that_are_too_large_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("12345")
    Image.new("L", (6, 4)).save(tmp_path / "a.png")
    assert read_text(tmp_path / "a.txt") == "12345"
    assert image_size(tmp_path / "a.png") == (6, 4)
    monkeypatch.setattr(parsing, "MOST_TEXT", 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="5 bytes are too many for such a file"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"its image a\.png is too large"):
        image_size(tmp_path / "a.png")
