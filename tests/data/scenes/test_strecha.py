"""Surveyed cameras are read as they are, and broken files are named."""

from pathlib import Path

import pytest
import torch

from cuesta.data.scenes.strecha import read_strecha
from cuesta.errors import UserError

TURN = "0 0 1\n-1 0 0\n0 -1 0\n"
CAMERA = f"500 0 320\n0 510 240\n0 0 1\n0 0 0\n{TURN}1 2 3\n640 480\n"


def test_a_camera_looks_where_its_rotation_says(tmp_path: Path) -> None:
    (tmp_path / "0003.jpg.camera").write_text(CAMERA)
    views = read_strecha(tmp_path)
    assert views.names == ("0003.jpg",)
    assert views.centres().tolist() == [[1, 2, 3]]
    ahead = views.pose("0003.jpg") @ torch.tensor([[6.0, 2.0, 3.0]], dtype=torch.float64)
    assert ahead.tolist() == [[0, 0, 5]]  # the world's x is the camera's z
    assert views.camera("0003.jpg").params.tolist() == [500, 510, 320, 240]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CAMERA.replace("640 480\n", ""), "9 lines, it has 8"),
        (CAMERA.replace("1 2 3", "1 2"), "line 8 should have 3 numbers"),
        (CAMERA.replace("1 2 3", "1 2 x"), "line 8"),
        (CAMERA.replace("0 -1 0", "0 -2 0"), "no rotation and translation"),
        (CAMERA.replace("500 0", "-500 0"), "0003.jpg.camera"),
        ("", "9 lines, it has 0"),
    ],
)
def test_broken_files_are_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "0003.jpg.camera").write_text(text)
    with pytest.raises(UserError, match=words):
        read_strecha(tmp_path)


def test_a_folder_without_cameras_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.camera file"):
        read_strecha(tmp_path)
