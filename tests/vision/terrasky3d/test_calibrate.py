"""What is known of a lens is taken from the best source; what contradicts it is told or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cuesta.errors import UserError
from cuesta.geometry import Camera
from cuesta.vision.terrasky3d.calibrate import calibrate
from cuesta.vision.terrasky3d.intrinsics import camera_for, read_intrinsics
from cuesta.vision.terrasky3d.settings import CalibrateSettings
from tests.vision.terrasky3d.test_boards import CHARUCO, LENS, film

GROUP = {
    "folder": "cam_0",
    "from": ".",
    "width": 640,
    "height": 480,
    "focal_px": None,
    "num_images": 1,
}
PHOTOS = [{"name": "cam_0/a.jpg", "source": "a.jpg"}]


def run(folder: Path, settings: CalibrateSettings, **changes: object) -> dict[str, Any]:
    return calibrate([GROUP | changes], PHOTOS, folder, settings, lambda *_: None)


@pytest.mark.parametrize(("said", "count"), [(None, 0), (560.0, 0), (600.0, 1), (400.0, 1)])
def test_a_given_lens_that_exif_contradicts_is_told_once(
    said: float | None, count: int, tmp_path: Path
) -> None:
    path = tmp_path / "K.txt"
    path.write_text("500 0 320\n0 500 240\n0 0 1\n")
    result = run(tmp_path, CalibrateSettings(intrinsics=path), focal_px=said)
    assert result["cameras"][0]["params"] == [500, 500, 320, 240]
    assert len(result["notes"]) == count
    for note in result["notes"]:
        assert "K.txt gives a focal length of 500 px" in note


def test_two_sources_of_one_lens_are_refused() -> None:
    with pytest.raises(UserError, match=r"calibrate\.intrinsics \(K\.txt\) .*board \(clips\)"):
        CalibrateSettings(intrinsics=Path("K.txt"), board=Path("clips"))


def test_a_filmed_target_gives_the_lens_at_the_photos_size(tmp_path: Path) -> None:
    film(CHARUCO, tmp_path / "board", 8)
    settings = CalibrateSettings(board=tmp_path / "board", target="charuco:6x8:0.03:0.022")
    result = run(tmp_path, settings, width=1281, height=960, focal_px=900.0)
    (camera,) = result["cameras"]
    assert (camera["width"], camera["height"], camera["is_fixed"]) == (1281, 960, True)
    params = torch.tensor(camera["params"], dtype=torch.float64)
    found = Camera(camera["model"], params, 1281, 960)
    rays = LENS.unproject(torch.rand(500, 2).double() * torch.tensor([640.0, 480.0]))
    off = found.project(rays) - LENS.resized(1281, 960).project(rays)
    assert float(torch.linalg.vector_norm(off, dim=-1).median()) < 3.0
    assert any("8 views of the target" in words for words in camera["complaints"])
    (note,) = result["notes"]
    assert "target, RMS" in note
    with Image.open(tmp_path / "cam_0.png") as drawing:
        assert drawing.getchannel("A").getextrema() == (0, 255)
    again = camera_for(read_intrinsics(tmp_path / "calibration.json"), camera, ["a.jpg"])
    assert again.params.tolist() == camera["params"]


def test_a_target_filmed_at_another_shape_is_refused(tmp_path: Path) -> None:
    film(CHARUCO, tmp_path / "board", 4)
    settings = CalibrateSettings(board=tmp_path / "board", target="charuco:6x8:0.03:0.022")
    with pytest.raises(UserError, match="for images of 640 x 480, these are 1280 x 720"):
        run(tmp_path, settings, width=1280, height=720)
