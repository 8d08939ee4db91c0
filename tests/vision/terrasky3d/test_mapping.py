"""Mapping finds the cameras, keeps what is fixed, and is the same whenever it is run."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pycolmap
import pytest

from cuesta.data.scenes.colmap import read_reconstruction, views_of
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.mapping import map_scene
from cuesta.vision.terrasky3d.pose_errors import pair_errors
from cuesta.vision.terrasky3d.settings import MapSettings
from tests.vision.terrasky3d.synthetic import cameras_of, synthesize


def run(
    matches: Path, folder: Path, cameras: list[dict[str, Any]], settings: MapSettings | None = None
) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    progress: list[tuple[int, int]] = []
    images = matches
    result = map_scene(
        images,
        matches,
        folder,
        cameras,
        settings or MapSettings(),
        0,
        lambda done, total: progress.append((done, total)),
    )
    assert progress[-1] == (10, 10)
    return result


@pytest.mark.parametrize("method", ["incremental", "global"])
def test_cameras_are_found(method: Any, tmp_path: Path) -> None:
    truth = synthesize(tmp_path / "matches")
    settings = dataclasses.replace(MapSettings(), method=method)
    result = run(tmp_path / "matches", tmp_path / "sparse", cameras_of(truth), settings)
    assert len(result["models"][0]["images"]) == 10
    found = views_of(read_reconstruction(tmp_path / "sparse" / "models" / "0"))
    assert pair_errors(found, views_of(truth)).max() < 1.0


def test_a_second_run_gives_the_same(tmp_path: Path) -> None:
    truth = synthesize(tmp_path / "matches")
    centres = []
    for name in ("a", "b"):
        run(tmp_path / "matches", tmp_path / name, cameras_of(truth))
        centres.append(views_of(read_reconstruction(tmp_path / name / "models" / "0")).centres())
    assert (centres[0] - centres[1]).abs().max() < 1e-9 * centres[0].abs().max()


def test_what_a_killed_run_left_of_its_database_is_not_read(tmp_path: Path) -> None:
    truth = synthesize(tmp_path / "matches")
    for name in ("killed", "sparse"):
        (tmp_path / name).mkdir()
    killed = tmp_path / "killed" / "database.db"
    shutil.copyfile(tmp_path / "matches" / "database.db", killed)
    with pycolmap.Database.open(killed) as database:
        database.clear_two_view_geometries()  # is in the journal until the database is closed
        for path in (tmp_path / "killed").iterdir():
            shutil.copyfile(path, tmp_path / "sparse" / path.name)
    assert (tmp_path / "sparse" / "database.db-wal").stat().st_size > 0
    result = run(tmp_path / "matches", tmp_path / "sparse", cameras_of(truth))
    assert len(result["models"][0]["images"]) == 10


def test_a_fixed_camera_keeps_its_parameters_beside_a_free_one(tmp_path: Path) -> None:
    truth = synthesize(tmp_path / "matches", num_cameras=2)
    cameras = cameras_of(truth)
    cameras[0]["is_fixed"] = True
    with pycolmap.Database.open(tmp_path / "matches" / "database.db") as database:
        for camera in database.read_all_cameras():
            camera.params = [1330.0, 512, 384, 0.0] if camera.camera_id == 2 else camera.params
            database.update_camera(camera)
    run(tmp_path / "matches", tmp_path / "sparse", cameras)
    found = read_reconstruction(tmp_path / "sparse" / "models" / "0").cameras
    assert found[1].params.tolist() == [1280, 512, 384, 0.05]
    assert abs(found[2].params[0] - 1280) < 5


def test_a_focal_length_that_exif_lies_about_is_told(tmp_path: Path) -> None:
    truth = synthesize(tmp_path / "matches")
    cameras = cameras_of(truth, source="EXIF", params=[800.0, 512.0, 384.0, 0.0])
    notes = run(tmp_path / "matches", tmp_path / "sparse", cameras)["notes"]
    assert len(notes) == 1
    assert "EXIF says a focal length of 800 px" in notes[0]


def test_images_that_do_not_overlap_are_told(tmp_path: Path) -> None:
    truth = synthesize(tmp_path / "matches")
    with pycolmap.Database.open(tmp_path / "matches" / "database.db") as database:
        database.clear_two_view_geometries()
        database.clear_matches()
    with pytest.raises(UserError, match="no two images could be placed"):
        run(tmp_path / "matches", tmp_path / "sparse", cameras_of(truth))
