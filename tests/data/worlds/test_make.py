"""Sets of scenes are whole, the same for any number of workers, and go on after a kill."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cuesta.data.clouds import read_cloud
from cuesta.data.maps import read_map
from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.scene import open_scene, read_about, verify_scene
from cuesta.data.worlds.labels import REMOVED, Label
from cuesta.data.worlds.layout import normal_map, read_normals, semantic_ids, write_normals
from cuesta.data.worlds.make import Size, make_landmarks, make_rooms
from cuesta.data.worlds.photograph import PRESETS, photograph
from cuesta.errors import UserError

TINY = Size(num_scenes=1, num_images=4, width=48, height=36)
VICTIM = """
import sys, time
from pathlib import Path
from cuesta.data.worlds.make import Size, make_landmarks

def tell(done, total, what):
    print(done, flush=True)
    time.sleep(0.3)

size = Size(num_scenes=1, num_images=4, width=48, height=36)
make_landmarks(Path(sys.argv[1]), size, seed=5, num_workers=1, on_progress=tell)
"""


def contents(root: Path) -> dict[str, bytes]:
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def pixels_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("worlds") / "one"
    make_landmarks(out, TINY, seed=5, num_workers=1)
    return out


def test_the_number_of_workers_changes_no_byte(made: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    make_landmarks(
        tmp_path / "two",
        TINY,
        seed=5,
        num_workers=3,
        on_progress=lambda *step: told.append(step[:2]),
    )
    assert contents(tmp_path / "two") == contents(made)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    make_landmarks(tmp_path / "six", TINY, seed=6)
    frame = "landmark_000_ground/frames/cam_0/frame_000000.jpg"
    assert contents(tmp_path / "six")[frame] != contents(made)[frame]


def test_a_killed_maker_goes_on_where_it_was(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-c", VICTIM, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "1"
        os.kill(process.pid, signal.SIGKILL)
    photos = list(out.glob("*/frames/*/frame_*.jpg"))
    assert 1 <= len(photos) < 4
    before = {photo: photo.stat().st_mtime_ns for photo in photos}
    assert not list(out.glob("*/manifest.json"))
    make_landmarks(out, TINY, seed=5)
    left = {name: data for name, data in contents(out).items() if "/.tmp-" not in name}
    assert left == contents(made)
    assert all(photo.stat().st_mtime_ns == stamp for photo, stamp in before.items())


def test_a_finished_set_is_not_made_again(made: Path) -> None:
    stamps = {file: file.stat().st_mtime_ns for file in made.rglob("*") if file.is_file()}
    (scene,) = make_landmarks(made, TINY, seed=5)
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*") if file.is_file()} == stamps
    verify_scene(scene.root)


def test_a_finished_scene_that_lost_a_file_is_named(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "one")
    lost = next((tmp_path / "one").rglob("frames/*/*.jpg"))
    lost.unlink()
    with pytest.raises(UserError, match=f"{lost.name} is in the manifest but not in the folder"):
        make_landmarks(tmp_path / "one", TINY, seed=5)


@pytest.mark.parametrize("text", ["{", '"\udcff"', "[" * 100_000], ids=["cut", "bytes", "deep"])
def test_a_broken_record_of_what_was_begun_is_named(text: str, tmp_path: Path) -> None:
    record = tmp_path / "landmark_000_ground" / "work" / "recipe.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(
        UserError, match=r"recipe\.json: no JSON .*; remove .*_ground, and"
    ) as caught:
        make_landmarks(tmp_path, TINY, seed=5)
    assert "\n" not in str(caught.value)


def test_a_scene_holds_what_its_layout_says(made: Path) -> None:
    scene = open_scene(made / "landmark_000_ground")
    views = read_colmap(scene.model)
    assert len(views) == 4
    assert {views.camera(name).model for name in views.names} == {"PINHOLE"}
    for name in views.names:
        depth, ids = read_map(scene.depth_map(name)), pixels_of(semantic_ids(scene, name))
        mask = pixels_of(scene.semantic_mask(name))
        normals = read_normals(normal_map(scene, name))
        assert pixels_of(scene.frame(name)).shape == (36, 48, 3)
        assert depth.shape == ids.shape == mask.shape == normals.shape[:2] == (36, 48)
        assert np.array_equal(mask, np.where(np.isin(ids, REMOVED), 0, 255))
        assert np.array_equal(depth == 0, ids == Label.SKY)
        assert np.array_equal(depth == 0, ~normals.any(-1))
    about = read_about(scene)
    assert about["kind"] == "landmark"
    assert about["unit"] == "m"
    assert about["seed"] == 5
    assert (scene.root / "preview.jpg").is_file()


def test_rooms_have_a_map_and_no_sky(tmp_path: Path) -> None:
    (scene,) = make_rooms(tmp_path, TINY, seed=1, preset="hard", has_lidar=True)
    verify_scene(scene.root)
    views = read_colmap(scene.model)
    assert {views.camera(name).model for name in views.names} == {"SIMPLE_RADIAL"}
    assert all((read_map(scene.depth_map(name)) > 0).all() for name in views.names)
    cloud = read_cloud(scene.root / "lidar" / "map.ply")
    assert len(cloud) > 1000
    assert cloud.intensity is not None


def test_mistakes_are_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no size 'huge'; choose one of mini, small, train"):
        make_landmarks(tmp_path, "huge")
    with pytest.raises(UserError, match="no preset of photography 'bad'; choose one of clean"):
        make_landmarks(tmp_path, TINY, preset="bad")
    with pytest.raises(UserError, match="landmark_000_ground holds something else; choose another"):
        make_landmarks(made, TINY, seed=4)
    (tmp_path / "room_000").mkdir()
    (tmp_path / "room_000" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="room_000 holds something else"):
        make_rooms(tmp_path, TINY)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "room_000").write_text("mine")
    with pytest.raises(UserError, match="room_000 holds something else"):
        make_rooms(tmp_path / "file", TINY)
    with pytest.raises(UserError, match=r"none\.png: no 16-bit PNG of normals"):
        read_normals(tmp_path / "none.png")


def test_normals_come_back_within_a_step(tmp_path: Path) -> None:
    normals = np.random.default_rng(0).normal(size=(7, 5, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[2, 3], normals[0, 0] = 0, [0, 0, -1]
    write_normals(tmp_path / "n.png", normals)
    again = read_normals(tmp_path / "n.png")
    assert np.abs(again - normals).max() <= 0.51 / 32767
    assert not again[2, 3].any()


def test_photographs_follow_their_seed_and_a_perfect_camera_changes_nothing() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    clean = photograph(rgb, PRESETS["clean"], np.random.default_rng(0))
    assert np.array_equal(clean, rgb)
    shots = [photograph(rgb, PRESETS["hard"], np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(shots[0], shots[1])
    assert not np.array_equal(shots[0], shots[2])
    grey = np.full((64, 64, 3), 120, np.uint8)
    mild = photograph(grey, PRESETS["mild"], np.random.default_rng(3)).astype(float)
    assert 1 < np.diff(mild, axis=1).std() < 4  # noise, of which vignetting makes next to none
    assert mild[:4, :4].mean() < mild[28:36, 28:36].mean()
