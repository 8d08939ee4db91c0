"""Intrinsics are read from every form, fitted to the images' size, or refused where they contradict."""

import json
from pathlib import Path

import pytest
import torch

from cuesta.errors import UserError
from cuesta.vision.terrasky3d.intrinsics import camera_for, read_intrinsics

GROUP = {"folder": "cam_0", "from": "front", "width": 640, "height": 480}
K = "500 0 321\n0 502 239\n0 0 1\n"


def group(**changes: object) -> dict[str, object]:
    return GROUP | changes


def read(path: Path, text: str, **changes: object) -> list[float]:
    path.write_text(text)
    return camera_for(read_intrinsics(path), group(**changes), ["front/a.jpg"]).params.tolist()


def test_k_is_for_the_images_as_they_are(tmp_path: Path) -> None:
    assert read(tmp_path / "K.txt", K) == [500, 502, 321, 239]


def test_cameras_txt_is_scaled_to_the_images(tmp_path: Path) -> None:
    text = "# comment\n1 SIMPLE_RADIAL 1280 960 1000 642 478 0.01\n"
    assert read(tmp_path / "cameras.txt", text) == [500, 321, 239, 0.01]


@pytest.mark.parametrize(
    "lens", ["SIMPLE_RADIAL 1024 683 900 512 341.5 0", "RADIAL 4000 2666 3516 2000 1333 0 0"]
)
def test_a_size_that_was_rounded_is_no_contradiction(lens: str, tmp_path: Path) -> None:
    params = read(tmp_path / "cameras.txt", f"1 {lens}\n", width=3072, height=2048)
    assert params[:3] == pytest.approx([2700, 1536, 1024], rel=1e-3)


def test_calibration_json_is_by_folder(tmp_path: Path) -> None:
    def entry(name: str, focal: float) -> dict[str, object]:
        params = [focal, focal, 320.0, 240.0]
        return {"from": name, "model": "PINHOLE", "width": 640, "height": 480, "params": params}

    text = json.dumps({"cameras": [entry("back", 400.0), entry("front", 600.0)]})
    assert read(tmp_path / "calibration.json", text)[0] == 600


def test_transforms_json_is_by_image(tmp_path: Path) -> None:
    pose = torch.eye(4).tolist()
    size = {"w": 640, "h": 480, "cx": 320, "cy": 240}
    frames = [
        {"file_path": f"images/{name}.jpg", "fl_x": focal, "transform_matrix": pose, **size}
        for name, focal in (("b", 400), ("a", 600))
    ]
    assert read(tmp_path / "transforms.json", json.dumps({"frames": frames}))[0] == 600


def test_images_of_one_stem_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    size = {"w": 640, "h": 480, "cx": 320, "cy": 240, "transform_matrix": torch.eye(4).tolist()}
    frames = [
        {"file_path": f"{folder}/a.jpg", "fl_x": focal, **size}
        for folder, focal in (("front", 600), ("back", 400))
    ]
    path = tmp_path / "transforms.json"
    assert read(path, json.dumps({"frames": frames}))[0] == 600
    with pytest.raises(UserError, match="no camera in it fits"):
        camera_for(read_intrinsics(path), GROUP, ["elsewhere/a.jpg"])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("K.txt", "500 0 1500\n0 500 240\n0 0 1\n", "principal point .* another size"),
        ("K.txt", "5 0 320\n0 5 240\n0 0 1\n", "pixels, not millimetres"),
        ("K.txt", "500 0 320\n0 500 240\n", "3 rows of 3"),
        ("K.txt", "a b c\n", "not a table of numbers"),
        ("K.txt", "500 0 nan\n0 500 240\n0 0 1\n", "not all finite numbers"),
        ("K.txt", "500 0 320\n0 500 nan\n0 0 1\n", "not all finite numbers"),
        ("K.txt", "500 nan 320\n0 500 240\n0 0 1\n", "without skew"),
        ("cameras.txt", "1 PINHOLE 640 360 500 500 320 180\n", "640 x 360, these are 640 x 480"),
        ("cameras.txt", "1 FOV 640 480 500 500 320 240 1\n", "FOV"),
        ("cameras.txt", "1 PINHOLE 640 480 500 500 320\n", "4 parameters"),
        ("cameras.txt", "1 PINHOLE 640 tall 500\n", "the height should be a finite number"),
        ("cameras.txt", "1 PINHOLE\n", "line 1 has 2 words"),
        ("cameras.txt", "# none\n", "no camera in it"),
        (
            "cameras.txt",
            "1 PINHOLE 99 88 500 500 50 44\n2 PINHOLE 88 99 500 500 44 50\n",
            "no camera in it fits",
        ),
        ("calibration.json", "{}", "no calibration of ours"),
        ("calibration.json", "{", "it should hold cameras"),
    ],
)
def test_contradictions_are_refused(name: str, text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path / name, text)
    assert name in str(caught.value)


def test_k_of_landscape_photos_is_refused_for_portrait_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="held the other way"):
        read(tmp_path / "K.txt", K, width=480, height=640)


def test_two_lenses_for_one_folder_are_refused(tmp_path: Path) -> None:
    size = {"w": 640, "h": 480, "cx": 320, "cy": 240, "transform_matrix": torch.eye(4).tolist()}
    frames = [
        {"file_path": f"front/{name}.jpg", "fl_x": focal, **size}
        for name, focal in (("a", 600), ("b", 400))
    ]
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"frames": frames}))
    with pytest.raises(UserError, match="gives 2 lenses for the photos in 'front'"):
        camera_for(read_intrinsics(path), GROUP, ["front/a.jpg", "front/b.jpg"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file of intrinsics"):
        read_intrinsics(tmp_path / "K.txt")
