"""Features go into a database whose ids are those of the names, and are found once."""

from pathlib import Path
from typing import Any

import pycolmap

from cuesta.vision.terrasky3d.features import extract_features
from cuesta.vision.terrasky3d.settings import FeatureSettings
from tests.vision.terrasky3d.pictures import textured, write_photo

CAMERA = {
    "folder": "cam_0",
    "model": "PINHOLE",
    "params": [300.0, 300.0, 160.0, 120.0],
    "width": 320,
    "height": 240,
    "has_focal": True,
}
NAMES = ["cam_0/b.png", "cam_0/a.png", "cam_0/c.png"]
PLACE = [47.0, 15.0, 400.0]


def run(images: Path, folder: Path) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    folder.mkdir(exist_ok=True)
    photos = [{"name": name, "gps": PLACE if "b" in name else None} for name in NAMES]
    seen: list[tuple[int, int]] = []
    result = extract_features(
        images, folder, [CAMERA], photos, FeatureSettings(), lambda *done: seen.append(done)
    )
    return result["num_features"], seen


def test_ids_follow_names_and_places_are_kept(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        write_photo(tmp_path / "images" / name, textured(320, 240, number))
    counts, seen = run(tmp_path / "images", tmp_path / "out")
    assert seen[-1] == (3, 3)
    assert sorted(counts) == sorted(NAMES)
    assert min(counts.values()) > 50
    with pycolmap.Database.open(tmp_path / "out" / "database.db") as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        assert ids == {"cam_0/a.png": 1, "cam_0/b.png": 2, "cam_0/c.png": 3}
        priors = database.read_all_pose_priors()
        assert [prior.position.tolist() for prior in priors] == [PLACE]
        assert priors[0].corr_data_id.id == 2
        camera = database.read_camera(1)
        assert (camera.params.tolist(), camera.has_prior_focal_length) == (CAMERA["params"], True)


def test_features_that_are_there_are_not_found_again(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        write_photo(tmp_path / "images" / name, textured(320, 240, number))
    first, _ = run(tmp_path / "images", tmp_path / "out")
    for name in NAMES:
        write_photo(tmp_path / "images" / name, textured(320, 240, 9))
    assert run(tmp_path / "images", tmp_path / "out")[0] == first
