"""A posed scene gets depth; cut off anywhere it goes on to the same maps; mistakes are one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from cuesta.data.maps import read_map
from cuesta.data.scenes.colmap import read_colmap, write_colmap
from cuesta.data.scenes.scene import Scene, read_about, verify_scene, write_manifest
from cuesta.errors import UserError
from cuesta.vision.terrasky3d import dense_workspace
from cuesta.vision.terrasky3d.depth import DepthResult, make_depth
from tests.vision.terrasky3d.dense_place import QUICK, copied, depth_files, make_posed, times


class StoppedError(Exception):
    """Stand for whatever ends a run."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, Scene]:
    """Return the generated scene with its truth, and one of its images alone, with points."""
    made, posed = make_posed(tmp_path_factory.mktemp("places"))
    with pytest.raises(StoppedError):
        make_depth(posed.root, QUICK, on_progress=stop_at("pass 0", 0))
    return made, posed


@pytest.fixture(scope="module")
def done(places: tuple[Scene, Scene]) -> DepthResult:
    scene = copied(places[1], places[1].root.parent / "done")
    return make_depth(scene.root, QUICK)


def stop_at(stage: str, count: int):
    """Return what ends a run that has come so far."""

    def stop(now: str, number: int, _total: int) -> None:
        if now == stage and number >= count:
            raise StoppedError

    return stop


def test_depth_is_near_the_truth(places: tuple[Scene, Scene], done: DepthResult) -> None:
    names = read_colmap(places[1].model).names
    assert sorted(done.images) == sorted(names)
    assert done.refused == {}
    for name in names:
        found, truth = read_map(done.scene.depth_map(name)), read_map(places[0].depth_map(name))
        assert found.shape == (90, 120)
        assert found.min() > 0
        truth = truth[1::2, 1::2]
        error = np.abs(found - truth)[truth > 0] / truth[truth > 0]
        assert np.median(error) < 0.05, name


def test_normals_look_back_at_the_camera(done: DepthResult) -> None:
    views = read_colmap(done.scene.model)
    for name in done.images:
        normals = read_map(dense_workspace.normal_map(done.scene, name))
        camera = views.camera(name).resized(120, 90)
        y, x = np.meshgrid(np.arange(90) + 0.5, np.arange(120) + 0.5, indexing="ij")
        pixels = torch.from_numpy(np.stack([x, y], -1).reshape(-1, 2))
        rays = camera.unproject(pixels).numpy().reshape(90, 120, 3)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, rtol=1e-5)
        assert (normals * rays).sum(-1).max() < 0


def test_the_workspace_is_colmaps(done: DepthResult) -> None:
    root = done.scene.root / "colmap" / "dense"
    model = pycolmap.Reconstruction(root / "sparse")
    names = sorted(image.name for image in model.images.values())
    assert names == sorted(done.images)
    for name in names:
        assert (root / "images" / name).read_bytes() == done.scene.frame(name).read_bytes()
        depth = read_map(root / "stereo" / "depth_maps" / f"{name}.geometric.bin")
        assert np.array_equal(depth, read_map(done.scene.depth_map(name)))
        normals = read_map(root / "stereo" / "normal_maps" / f"{name}.geometric.bin")
        assert normals.shape == (*depth.shape, 3)
    assert sorted((root / "stereo" / "fusion.cfg").read_text().split()) == names
    lines = (root / "stereo" / "patch-match.cfg").read_text().splitlines()
    given = json.loads((done.scene.root / "depth" / "sources.json").read_text())
    assert {
        name: others.split(", ") for name, others in zip(lines[::2], lines[1::2], strict=True)
    } == given


def test_colmap_fuses_the_workspace_of_poses_without_points(
    done: DepthResult, tmp_path: Path
) -> None:
    options = pycolmap.StereoFusionOptions()
    options.min_num_pixels = 2
    workspace = done.scene.root / "colmap" / "dense"
    fused = pycolmap.stereo_fusion(tmp_path, workspace, options=options)
    assert fused.num_points3D() > 100


def test_what_was_chosen_is_told(done: DepthResult) -> None:
    verify_scene(done.scene.root)
    told = json.loads((done.scene.root / "depth" / "depth.json").read_text())
    assert told == done.to_json()
    page = (done.scene.root / "depth" / "report.html").read_text()
    for name, image in told["images"].items():
        assert name in page
        assert 0 < len(image["sources"]) <= QUICK.num_sources
        assert 0 < image["nearest"] < image["farthest"]
        assert 0 <= image["confirmed_by_two"] <= 1
    listed = json.loads(done.scene.manifest.read_text())["files"]
    assert {"depth/depth.json", "depth/sources.json", "colmap/dense/stereo/fusion.cfg"} <= set(
        listed
    )
    about = {name: value for name, value in read_about(done.scene).items() if name != "source"}
    assert about["kind"] == "posed images"


def test_a_second_run_does_nothing(done: DepthResult) -> None:
    before = times(done.scene)
    again = make_depth(done.scene.root, QUICK)
    assert times(done.scene) == before
    assert again.to_json() == done.to_json()


def test_other_settings_make_other_depth_and_drop_its_masks(
    done: DepthResult, tmp_path: Path
) -> None:
    scene = copied(done.scene, tmp_path / "scene")
    stale = scene.geometric_mask(next(iter(done.images)))
    stale.parent.mkdir(parents=True)
    Image.new("L", (120, 90), 255).save(stale)
    make_depth(scene.root, dataclasses.replace(QUICK, fills=False))
    verify_scene(scene.root)
    assert not stale.exists()
    before, after = depth_files(done.scene), depth_files(scene)
    assert before.keys() == after.keys()
    assert any(before[name] != after[name] for name in before)
    make_depth(scene.root, QUICK)
    assert depth_files(scene) == before


def test_a_lost_map_is_brought_back(done: DepthResult, tmp_path: Path) -> None:
    scene = copied(done.scene, tmp_path / "scene")
    scene.depth_map(next(iter(done.images))).unlink()
    make_depth(scene.root, QUICK)
    assert depth_files(scene) == depth_files(done.scene)
    verify_scene(scene.root)


def test_interrupted_anywhere_it_goes_on_to_the_same_maps(
    places: tuple[Scene, Scene], done: DepthResult, tmp_path: Path
) -> None:
    scene = copied(places[1], tmp_path / "scene")
    for place in (
        *(("pass 0", 2), ("pass 0", 5), ("pass 1", 1), ("pass 1", 5)),
        *(("maps", 3), ("publish", 0)),
    ):
        with pytest.raises(StoppedError):
            make_depth(scene.root, QUICK, on_progress=stop_at(*place))
        assert not (scene.root / "depth").exists()
        verify_scene(scene.root)
    seen = set()
    make_depth(scene.root, QUICK, on_progress=lambda stage, *_: seen.add(stage))
    assert seen == {"points", "publish"}
    assert depth_files(scene) == depth_files(done.scene)
    verify_scene(scene.root)


@pytest.mark.parametrize("called", ["_write_workspace", "write_depth_report", "write_manifest"])
def test_interrupted_while_publishing_it_goes_on(
    called: str, done: DepthResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = copied(done.scene, tmp_path / "scene")
    settings = dataclasses.replace(QUICK, fills=False, geometric_passes=0)

    def stop(*_: object, **_named: object) -> None:
        raise StoppedError

    monkeypatch.setattr(dense_workspace, called, stop)
    with pytest.raises(StoppedError):
        make_depth(scene.root, settings)
    monkeypatch.undo()
    verify_scene(scene.root)
    make_depth(scene.root, settings)
    verify_scene(scene.root)
    assert "depth/depth.json" in json.loads(scene.manifest.read_text())["files"]
    assert depth_files(scene) != depth_files(done.scene)


def test_killed_it_goes_on_to_the_same_maps(
    places: tuple[Scene, Scene], done: DepthResult, tmp_path: Path
) -> None:
    scene = copied(places[1], tmp_path / "scene")
    code = (
        "import os, signal, sys\n"
        "from cuesta.vision.terrasky3d.depth import make_depth\n"
        "from tests.vision.terrasky3d.dense_place import QUICK\n"
        "def die(stage, number, _):\n"
        "    if (stage, number) == ('pass 1', 2):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "make_depth(sys.argv[1], QUICK, on_progress=die)\n"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", code, str(scene.root)]
    ended = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    make_depth(scene.root, QUICK)
    assert depth_files(scene) == depth_files(done.scene)


def check_refused(scene: Scene, *words: str, **given: object) -> None:
    settings = given.pop("settings", QUICK)
    with pytest.raises(UserError) as caught:
        make_depth(scene.root, settings, **given)
    for word in (str(scene.root), *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_depth_from_elsewhere_is_not_replaced(places: tuple[Scene, Scene]) -> None:
    before = times(places[0])
    check_refused(places[0], "has not made", "--out")
    assert times(places[0]) == before


def test_too_little_memory_is_told(places: tuple[Scene, Scene]) -> None:
    check_refused(places[1], "--memory allows 0.1 GB", "--max-image-size", memory=100 << 20)
    assert not (places[1].root / "depth").exists()


def test_no_scene_is_told(tmp_path: Path) -> None:
    check_refused(Scene(tmp_path / "none"), "no scene")


def with_views(places: tuple[Scene, Scene], root: Path, count: int, **camera: object) -> Scene:
    """Return a scene of some of the images; cameras are changed as `camera` says."""
    views = read_colmap(places[1].model)
    chosen = views.select(views.names[:count])
    cameras = {k: dataclasses.replace(lens, **camera) for k, lens in chosen.cameras.items()}
    scene = Scene(root)
    write_colmap(scene.model, dataclasses.replace(chosen, cameras=cameras))
    for name in chosen.names:
        scene.frame(name).parent.mkdir(parents=True, exist_ok=True)
        scene.frame(name).write_bytes(places[1].frame(name).read_bytes())
    write_manifest(scene, {"kind": "test"})
    return scene


def test_a_single_image_is_told(places: tuple[Scene, Scene], tmp_path: Path) -> None:
    scene = with_views(places, tmp_path / "one", 1)
    check_refused(scene, "a single image has no depth", "add photographs")


def test_lenses_are_taken_out_first(places: tuple[Scene, Scene], tmp_path: Path) -> None:
    params = torch.tensor([200.0, 200.0, 120.0, 90.0, 0.1, 0.0, 0.0, 0.0], dtype=torch.float64)
    scene = with_views(places, tmp_path / "bent", 3, model="OPENCV", params=params)
    check_refused(scene, "OPENCV", "--out")


def test_images_without_texture_are_told(places: tuple[Scene, Scene], tmp_path: Path) -> None:
    scene = with_views(places, tmp_path / "flat", 3)
    for name in read_colmap(scene.model).names:
        Image.new("RGB", (240, 180), "#808080").save(scene.frame(name))
    write_manifest(scene, {"kind": "test"})
    check_refused(scene, "no image can be matched", "texture")


def test_an_empty_range_is_told(places: tuple[Scene, Scene]) -> None:
    settings = dataclasses.replace(QUICK, nearest=9.0, farthest=3.0)
    check_refused(places[1], "depth range is empty: 9 to 3; give --nearest", settings=settings)


def test_images_that_would_share_a_map_are_told(
    places: tuple[Scene, Scene], tmp_path: Path
) -> None:
    scene = with_views(places, tmp_path / "twice", 2)
    views = read_colmap(scene.model)
    first, second = views.names
    renamed = str(Path(first).with_suffix(".png"))
    scene.frame(second).rename(scene.frame(renamed))
    shutil.rmtree(scene.model)
    write_colmap(scene.model, dataclasses.replace(views, names=(first, renamed)))
    write_manifest(scene, {"kind": "test"})
    check_refused(scene, first, renamed, "one depth map; rename one")


def test_a_lost_and_a_broken_frame_are_named(places: tuple[Scene, Scene], tmp_path: Path) -> None:
    scene = copied(places[1], tmp_path / "scene")
    name = read_colmap(scene.model).names[1]
    frame = scene.frame(name)
    size = frame.stat().st_size
    frame.write_bytes(b"this was a photo once".ljust(size))
    check_refused(scene, name, "not readable", "bring the photograph back")
    Image.new("RGB", (64, 48)).save(frame, "JPEG")
    write_manifest(scene, read_about(scene))
    check_refused(scene, name, "64 x 48, its camera says 240 x 180")
    frame.unlink()
    check_refused(scene, name, "no such file; bring the photograph back")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("num_sources", 0), ("iterations", 0), ("geometric_passes", -1), ("fill_sigma", 0.0)),
        *(("nearest", -1.0), ("view_sigma", float("nan"))),
    ],
)
def test_settings_that_make_no_sense_are_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name.replace("_", "-")):
        dataclasses.replace(QUICK, **{name: value})
