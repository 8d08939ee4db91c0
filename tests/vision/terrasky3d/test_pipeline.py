"""Photos become a scene; what does not belong is named; a killed run goes on; mistakes are one line."""

import dataclasses
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.scene import open_scene, read_about, verify_scene
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Camera
from cuesta.vision.terrasky3d import native, pipeline, undistort
from cuesta.vision.terrasky3d.pipeline import Reconstruction, reconstruct
from cuesta.vision.terrasky3d.pose_errors import auc, pair_errors
from cuesta.vision.terrasky3d.recipes import debug
from cuesta.vision.terrasky3d.settings import (
    CalibrateSettings,
    ScaleSettings,
    Settings,
    UndistortSettings,
)
from tests.vision.terrasky3d.pictures import exif_of, write_photo
from tests.vision.terrasky3d.place import FOCAL, HEIGHT, LENS, WIDTH, take_photos
from tests.vision.terrasky3d.test_boards import CHARUCO, film

ANGLES = [-24.0, -18.0, -12.0, -6.0, 0.0, 6.0, 12.0, 18.0]
APART = 7.0  # metres between the cameras of the first and the last photo


def reconstruct_and_die(
    photos: Path, out: Path, settings: Settings, place: tuple[str, int]
) -> None:
    """Kill this process when a stage has come so far, or, at -1, when it calls that function."""

    def die(*_: object, **_named: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def show(stage: str, done: int, _total: int) -> None:
        if stage == place[0] and done >= place[1]:
            die()

    native.SECONDS_BETWEEN_LOOKS = 0.01
    if place[1] == -1:
        setattr(pipeline, place[0], die)
    reconstruct(photos, out, settings, on_progress=show)


def check_killed(photos: Path, out: Path, settings: Settings, place: tuple[str, int]) -> None:
    """Run until it is killed there, in a process forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=reconstruct_and_die, args=(photos, out, settings, place))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, place


def listed(root: Path) -> dict[str, Any]:
    """Return the manifest's files, but for the verdict, which holds paths and times."""
    files: dict[str, Any] = json.loads((root / "manifest.json").read_text())["files"]
    return {name: about for name, about in files.items() if name != "verdict.json"}


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
    small = dataclasses.replace(debug(), undistort=UndistortSettings(max_image_size=240))
    settings = with_distance(photos[1], small)
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
    assert float(torch.linalg.vector_norm(ends[0] - ends[1])) == pytest.approx(APART)


def with_distance(truth: Views, settings: Settings | None = None) -> Settings:
    scale = ScaleSettings(first=truth.names[0], second=truth.names[-1], metres=APART)
    return dataclasses.replace(settings or debug(), scale=scale)


def test_killed_anywhere_it_goes_on_to_the_same_scene(
    photos: tuple[Path, Views], made: Reconstruction, tmp_path: Path
) -> None:
    root, settings = tmp_path / "scene", with_distance(photos[1])
    shutil.copytree(made.scene.root, tmp_path / "unbroken")
    unbroken = reconstruct(photos[0], tmp_path / "unbroken", settings)
    finished: dict[str, int] = {}
    for place in (
        *(("run_stage", -1), ("ingest", 9), ("calibrate", 1), ("features", 3), ("matches", 1)),
        *(("sparse", 3), ("undistort", 1), ("metric", 1), ("write_manifest", -1)),
    ):
        check_killed(photos[0], root, settings, place)
        assert not (root / "manifest.json").exists()
        records = {path.parent.name: path for path in (root / "work").glob("*/stage.json")}
        for name, when in finished.items():
            assert records[name].stat().st_mtime_ns == when, f"{name} was done again"
        done_now = [n for n, path in records.items() if json.loads(path.read_text())["is_done"]]
        finished = {name: records[name].stat().st_mtime_ns for name in done_now}
    assert sorted(finished) == sorted(stage.name for stage in made.stages)
    result = reconstruct(photos[0], root, settings)
    assert not any(stage.is_fresh for stage in result.stages)
    assert result.excluded == unbroken.excluded
    assert listed(root) == listed(unbroken.scene.root)
    verify_scene(root)
    assert not (root / ".publish").exists()


def test_killed_between_removing_and_making_a_stage_it_knows_its_folder(
    photos: tuple[Path, Views], made: Reconstruction, tmp_path: Path
) -> None:
    root = tmp_path / "scene"
    shutil.copytree(made.scene.work, root / "work")
    shutil.rmtree(root / "work" / "ingest")
    reconstruct(photos[0], root, debug())
    verify_scene(root)


def test_a_run_that_fails_leaves_the_scene_that_was_there(
    photos: tuple[Path, Views], made: Reconstruction, tmp_path: Path
) -> None:
    root = tmp_path / "scene"
    shutil.copytree(made.scene.root, root)
    before = listed(root)
    mistake = CalibrateSettings(intrinsics=tmp_path / "K.text")
    with pytest.raises(UserError, match="no such file of intrinsics") as caught:
        reconstruct(photos[0], root, dataclasses.replace(debug(), calibrate=mistake))
    assert "\n" not in str(caught.value)
    verify_scene(root)
    assert listed(root) == before
    check_killed(photos[0], root, dataclasses.replace(debug(), seed=1), ("sparse", 3))
    verify_scene(root)
    reconstruct(photos[0], root, debug())
    verify_scene(root)
    assert listed(root) == before


@pytest.mark.parametrize("count", range(5))
def test_a_manifest_never_disagrees_with_its_files(
    count: int,
    photos: tuple[Path, Views],
    made: Reconstruction,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "scene"
    shutil.copytree(made.scene.root, root)
    undistorted = UndistortSettings(max_image_size=240)
    settings = dataclasses.replace(debug(), undistort=undistorted)
    replace, seen = os.replace, list[str]()

    def replace_some(source: Path, target: Path) -> None:
        if Path(source).parent.name == ".publish" and Path(target).parent == root:
            seen.append(Path(target).name)
            if len(seen) > count:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_some)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(photos[0], root, settings)
    assert seen[count:] == [
        ["frames", "colmap", "verdict.json", "report.html", "manifest.json"][count]
    ]
    assert not (root / "manifest.json").exists()
    monkeypatch.undo()
    reconstruct(photos[0], root, settings)
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


def test_a_scene_without_its_work_is_known_by_its_manifest(
    photos: tuple[Path, Views], made: Reconstruction, tmp_path: Path
) -> None:
    root = tmp_path / "scene"
    shutil.copytree(made.scene.root, root, ignore=shutil.ignore_patterns("work"))
    take_photos(tmp_path / "photos", [0.0, 5.0], seed=7)
    with pytest.raises(UserError, match="is made of other photos"):
        reconstruct(tmp_path / "photos", root, debug())
    reconstruct(photos[0], root, debug())
    verify_scene(root)
    assert listed(root) == listed(made.scene.root)
    (root / "manifest.json").write_text('{"format": "cuesta scene", "version": 1, "kind": "world"}')
    shutil.rmtree(root / "work")
    with pytest.raises(UserError, match="holds something else"):
        reconstruct(photos[0], root, debug())


@pytest.mark.parametrize("text", ["", "{", "7", "[1]", '[["a.jpg"]]', "[[[], 1, 2]]"])
def test_a_damaged_list_of_inputs_is_one_line(
    text: str, photos: tuple[Path, Views], tmp_path: Path
) -> None:
    marker = tmp_path / "scene" / "work" / "inputs.json"
    marker.parent.mkdir(parents=True)
    marker.write_text(text)
    with pytest.raises(UserError, match=r"inputs\.json: damaged") as caught:
        reconstruct(photos[0], tmp_path / "scene", debug())
    assert "\n" not in str(caught.value)


def test_the_report_draws_the_place_and_lists_each_image(made: Reconstruction) -> None:
    page = made.scene.report.read_text()
    assert page.count("<img") == 3  # from above, from the side, the frames
    assert page.count("<svg") == 3  # errors, tracks, inliers
    for title in ("Reprojection error", "Track length", "Inliers of a pair"):
        assert title in page
    for image in made.images:
        row = f"<td>{image.name}</td>"
        assert row in page, image.name


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


def test_the_manifest_tells_where_images_and_lenses_come_from(
    photos: tuple[Path, Views], tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    first, *others = photos[1].names[3:7]
    for name in others:
        shutil.copy(photos[0] / name, folder / name)
    with Image.open(photos[0] / first) as image:
        image.save(folder / first, quality=95, exif=exif_of(gps=(47.07, 15.43, 353.5), **LENS))
    about: Any = read_about(reconstruct(folder, tmp_path / "scene", debug()).scene)
    landscape, portrait = about["cameras"]
    assert "Phone" in landscape["exif"]
    assert landscape["focal_px"] == pytest.approx(FOCAL)
    assert (landscape["focal_from"], landscape["is_fixed"]) == ("EXIF", False)
    assert [landscape["folder"], portrait["folder"]] == ["cam_0", "cam_1"]
    assert sorted(image["source"] for image in about["images"].values()) == [first, *others]
    told = about["images"][f"cam_0/{first}"]
    assert told["gps"] == pytest.approx([47.07, 15.43, 353.5])
    assert told["clip"] is None
    assert about["images"][f"cam_0/{others[-1]}"]["gps"] is None


def test_a_filmed_target_is_judged_and_drawn_in_the_report(
    photos: tuple[Path, Views], tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (0, 1, 3, 4):
        shutil.copy(photos[0] / photos[1].names[number], folder)
    pinhole = [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]
    params = torch.tensor([*pinhole, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    film(CHARUCO, tmp_path / "board", 8, Camera("OPENCV", params, WIDTH, HEIGHT))
    known = CalibrateSettings(board=tmp_path / "board", target="charuco:6x8:0.03:0.022")
    settings = dataclasses.replace(debug(), calibrate=known)
    result = reconstruct(folder, tmp_path / "scene", settings)
    (gate,) = (gate for gate in result.gates if gate.name == "calibration")
    assert not gate.is_met
    assert "cam_0: 8 views of the target" in gate.value
    assert result.grade == "usable"
    page = result.scene.report.read_text()
    assert page.count("<img") == 4
    assert "What the lens of cam_0 misses (target, RMS " in page


def test_a_photo_without_detail_is_named(photos: tuple[Path, Views], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in photos[1].names[:4]:
        shutil.copy(photos[0] / name, folder / name)
    write_photo(folder / "wall.png", torch.full((360, 480), 128, dtype=torch.uint8).numpy())
    result = reconstruct(folder, tmp_path / "scene", debug())
    assert [item.name for item in result.excluded] == ["wall.png"]
