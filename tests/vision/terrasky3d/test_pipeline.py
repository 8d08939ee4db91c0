"""Photos become a scene; what does not belong is named; a killed run goes on; mistakes are one line."""

import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.scene import open_scene, verify_scene
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.vision.terrasky3d import undistort
from cuesta.vision.terrasky3d.pipeline import Reconstruction, reconstruct
from cuesta.vision.terrasky3d.pose_errors import auc, pair_errors
from cuesta.vision.terrasky3d.recipes import debug
from cuesta.vision.terrasky3d.settings import ScaleSettings, UndistortSettings
from tests.vision.terrasky3d.pictures import write_photo
from tests.vision.terrasky3d.place import take_photos

ANGLES = [-24.0, -18.0, -12.0, -6.0, 0.0, 6.0, 12.0, 18.0]
KILLED_RUN = """
import os, signal, sys
from cuesta.vision.terrasky3d.pipeline import reconstruct
from cuesta.vision.terrasky3d.recipes import debug
def show(stage, done, total):
    if stage == sys.argv[3] and done >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
reconstruct(sys.argv[1], sys.argv[2], debug(), on_progress=show)
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Views]:
    """Return photos of a phone, held both ways, with two broken files and one of another place."""
    folder = tmp_path_factory.mktemp("place") / "photos"
    truth = take_photos(folder, ANGLES, portrait=(2, 5))
    take_photos(folder, [90.0], seed=7)
    (folder / "IMG_cut.jpg").write_bytes((folder / truth.names[0]).read_bytes()[:20_000])
    (folder / "IMG_none.jpg").write_bytes(b"this was a photo once")
    return folder, truth


@pytest.fixture(scope="module")
def made(photos: tuple[Path, Views]) -> Reconstruction:
    return reconstruct(photos[0], photos[0].parent / "scene", debug())


def test_a_mixed_folder_becomes_a_scene_and_the_three_are_named(
    photos: tuple[Path, Views], made: Reconstruction
) -> None:
    reasons = {item.name: item.reason for item in made.excluded}
    assert sorted(reasons) == ["IMG_7000.jpg", "IMG_cut.jpg", "IMG_none.jpg"]
    assert "another place" in reasons["IMG_7000.jpg"]
    assert "truncated" in reasons["IMG_cut.jpg"]
    assert "no image" in reasons["IMG_none.jpg"]
    assert len(made.images) == len(ANGLES)
    assert made.grade == "usable"
    missed = [gate for gate in made.gates if not gate.is_met]
    assert [gate.name for gate in missed] == ["images placed"]
    assert auc(pair_errors(made.as_taken(), photos[1]), 5.0) > 0.9
    page = made.scene.report.read_text()
    for name in reasons:
        assert name in page


def test_the_scene_is_whole_and_upright(made: Reconstruction) -> None:
    verify_scene(made.scene.root)
    views = read_colmap(made.scene.model)
    assert {views.camera(name).model for name in views.names} == {"PINHOLE"}
    shapes = {(c.width > c.height) for c in views.cameras.values()}
    assert shapes == {True, False}
    up = -views.cam_from_world.rotation[:, 1]
    assert float((up @ up.T).min()) > 0.9  # all cameras agree on where up is
    for name in views.names:
        assert made.scene.frame(name).is_file()


def test_a_finished_scene_is_left_alone(photos: tuple[Path, Views], made: Reconstruction) -> None:
    before = {f: f.stat().st_mtime_ns for f in made.scene.root.rglob("*") if f.is_file()}
    again = reconstruct(photos[0], made.scene.root, debug())
    assert not any(stage.is_fresh for stage in again.stages)
    assert {f: f.stat().st_mtime_ns for f in made.scene.root.rglob("*") if f.is_file()} == before
    assert again.to_json() == made.to_json()


def test_a_lost_frame_is_told_and_brought_back(
    photos: tuple[Path, Views], made: Reconstruction, tmp_path: Path
) -> None:
    root = tmp_path / "scene"
    shutil.copytree(made.scene.root, root)
    lost = root / "frames" / made.images[0].name
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(UserError, match=f"{made.images[0].name} is in the manifest but not in"):
        open_scene(root)
    reconstruct(photos[0], root, debug())
    assert lost.read_bytes() == content
    open_scene(root)


def test_other_settings_redo_what_they_touch(
    photos: tuple[Path, Views], made: Reconstruction, tmp_path: Path
) -> None:
    root = tmp_path / "scene"
    shutil.copytree(made.scene.root, root)
    first, second = photos[1].names[0], photos[1].names[-1]
    settings = dataclasses.replace(
        debug(),
        scale=ScaleSettings(first=first, second=second, metres=7.0),
        undistort=UndistortSettings(max_image_size=240),
    )
    result = reconstruct(photos[0], root, settings)
    fresh = [stage.name for stage in result.stages if stage.is_fresh]
    assert fresh == ["undistort", "metric"]
    assert max(c.width for c in read_colmap(result.scene.model).cameras.values()) <= 240
    metric = read_colmap(result.scene.metric_model)
    assert dict(metric.cameras).keys() == dict(read_colmap(result.scene.model).cameras).keys()
    assert {c.model for c in metric.cameras.values()} == {"PINHOLE"}
    assert max(c.width for c in metric.cameras.values()) <= 240
    sources = {image["source"]: image["name"] for image in result.result("ingest")["images"]}
    ends = metric.select([sources[first], sources[second]]).centres()
    assert float(torch.linalg.vector_norm(ends[0] - ends[1])) == pytest.approx(7.0)


def test_killed_anywhere_it_goes_on_to_the_same_scene(
    photos: tuple[Path, Views], made: Reconstruction, tmp_path: Path
) -> None:
    root = tmp_path / "scene"
    finished: dict[str, int] = {}
    for stage, done in (
        ("ingest", 9),
        ("features", 3),
        ("matches", 1),
        ("sparse", 0),
        ("publish", 0),
    ):
        arguments = [str(photos[0]), str(root), stage, str(done)]
        process = subprocess.run([sys.executable, "-c", KILLED_RUN, *arguments], check=False)
        assert process.returncode == -signal.SIGKILL, stage
        assert not (root / "manifest.json").exists()
        records = {path.parent.name: path for path in (root / "work").glob("*/stage.json")}
        for name, when in finished.items():
            assert records[name].stat().st_mtime_ns == when, f"{name} was done again"
        done_now = [n for n, path in records.items() if json.loads(path.read_text())["is_done"]]
        finished = {name: records[name].stat().st_mtime_ns for name in done_now}
    assert sorted(finished) == sorted(stage.name for stage in made.stages)
    result = reconstruct(photos[0], root, debug())
    once, again = read_colmap(made.scene.model), read_colmap(result.scene.model)
    assert once.names == again.names
    assert pair_errors(again, once).max() < 1e-6
    assert result.excluded == made.excluded
    verify_scene(root)


def test_photos_that_do_not_overlap_end_in_one_line(tmp_path: Path) -> None:
    take_photos(tmp_path / "photos", [0.0], seed=7)
    take_photos(tmp_path / "photos", [180.0], seed=0)
    with pytest.raises(UserError, match="no two images could be placed") as caught:
        reconstruct(tmp_path / "photos", tmp_path / "scene", debug())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "scene" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no photo or video in it"),
        ({"a.txt": b"x"}, "no photo or video in it"),
        ({"a.jpg": b""}, r"no usable image: a\.jpg"),
    ],
)
def test_a_folder_without_images_is_named(
    files: dict[str, bytes], words: str, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, content in files.items():
        (photos / name).write_bytes(content)
    check_refused(photos, tmp_path / "scene", words)


def test_no_folder_and_one_image_are_named(tmp_path: Path) -> None:
    check_refused(tmp_path / "photos", tmp_path / "scene", "no such folder")
    take_photos(tmp_path / "photos", [0.0])
    check_refused(tmp_path / "photos", tmp_path / "scene", "only 1 usable image")


def check_refused(photos: Path, out: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        reconstruct(photos, out, debug())
    assert str(photos) in str(caught.value)
    assert not (out / "manifest.json").exists()


def test_a_folder_of_something_else_is_not_written_into(
    photos: tuple[Path, Views], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        reconstruct(photos[0], tmp_path, debug())
    with pytest.raises(UserError, match="lies inside the photos"):
        reconstruct(photos[0], photos[0] / "scene", debug())
    with pytest.raises(UserError, match="the photos lie inside it"):
        reconstruct(photos[0], photos[0].parent, debug())
    assert os.listdir(tmp_path) == ["thesis.tex"]
    (tmp_path / "thesis.tex").rename(tmp_path / "work")
    with pytest.raises(UserError, match=r"holds something else|Not a directory|File exists"):
        reconstruct(photos[0], tmp_path, debug())


def test_a_scene_of_other_photos_is_not_replaced(made: Reconstruction, tmp_path: Path) -> None:
    take_photos(tmp_path / "photos", [0.0, 5.0], seed=7)
    with pytest.raises(UserError, match="is made of other photos"):
        reconstruct(tmp_path / "photos", made.scene.root, debug())
    verify_scene(made.scene.root)


def test_a_second_run_at_the_same_time_is_refused(
    photos: tuple[Path, Views], made: Reconstruction
) -> None:
    with open(made.scene.work / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is writing into it"):
            reconstruct(photos[0], made.scene.root, debug())


def test_an_edited_frame_is_not_blessed(
    photos: tuple[Path, Views], made: Reconstruction, tmp_path: Path
) -> None:
    root = tmp_path / "scene"
    reconstruct(photos[0], root, debug())
    frame = root / "frames" / made.images[0].name
    right = frame.read_bytes()
    frame.write_bytes(b"not an image")
    reconstruct(photos[0], root, debug())
    assert frame.read_bytes() == right
    verify_scene(root)


def test_a_frame_that_was_not_written_whole_ends_the_run(
    photos: tuple[Path, Views], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = undistort.call

    def call_and_cut(*arguments: Any) -> None:
        call(*arguments)
        scratch = tmp_path / "scene" / "work" / "undistort" / "scratch"
        frame = next((scratch / "images").rglob("*.jpg"))
        frame.write_bytes(frame.read_bytes()[:1000])

    monkeypatch.setattr(undistort, "call", call_and_cut)
    with pytest.raises(UserError, match="was not written whole"):
        reconstruct(photos[0], tmp_path / "scene", debug())
    assert not (tmp_path / "scene" / "manifest.json").exists()
    monkeypatch.undo()
    reconstruct(photos[0], tmp_path / "scene", debug())
    verify_scene(tmp_path / "scene")


def test_a_photo_without_detail_is_named(photos: tuple[Path, Views], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in photos[1].names[:4]:
        shutil.copy(photos[0] / name, folder / name)
    write_photo(folder / "wall.png", torch.full((360, 480), 128, dtype=torch.uint8).numpy())
    result = reconstruct(folder, tmp_path / "scene", debug())
    assert [item.name for item in result.excluded] == ["wall.png"]
