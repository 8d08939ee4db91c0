"""Posed images in other tools' forms become a scene: names by camera, lenses taken out, tracks kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cuesta.data.scenes.colmap import read_colmap, write_colmap
from cuesta.data.scenes.read import read_views
from cuesta.data.scenes.scene import Scene, read_about, verify_scene
from cuesta.data.scenes.transforms_json import write_transforms_json
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Camera, Transform
from cuesta.vision.terrasky3d.adopt import adopt
from tests.vision.terrasky3d.dense_place import times

SIZE = (64, 48)


def views(*names: str, cameras: tuple[int, ...] | None = None, model: str = "PINHOLE") -> Views:
    """Return views of these names, of one lens or of those numbered."""
    ids = cameras or (1,) * len(names)
    params = [60.0, 61.0, 31.0, 25.0] + ([0.05, -0.02, 0.001, 0.0] if model == "OPENCV" else [])
    lenses = {
        k: Camera(model, torch.tensor([params[0] + k, *params[1:]], dtype=torch.float64), *SIZE)
        for k in sorted(set(ids))
    }
    tangents = torch.zeros(len(names), 6, dtype=torch.float64)
    tangents[:, 0] = torch.arange(len(names))
    return Views(names, lenses, ids, Transform.exp(tangents))


def write_images(folder: Path, seen: Views) -> None:
    for number, name in enumerate(seen.names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)


def colmap_folder(root: Path, seen: Views) -> Path:
    """Write images/ and sparse/0 of COLMAP."""
    write_colmap(root / "sparse" / "0", seen)
    write_images(root / "images", seen)
    return root


def same_poses(scene: Scene, expected: Views) -> bool:
    found = read_colmap(scene.model).cam_from_world.matrix()
    return torch.allclose(found, expected.cam_from_world.matrix(), atol=1e-9)


def test_a_folder_of_colmap_becomes_a_scene(tmp_path: Path) -> None:
    seen = views("left/a.png", "left/b.png", "right/a.png", cameras=(1, 1, 2))
    source = colmap_folder(tmp_path / "source", seen)
    scene = adopt(source, tmp_path / "scene")
    verify_scene(scene.root)
    found = read_colmap(scene.model)
    assert found.names == seen.names
    assert same_poses(scene, seen)
    for name in seen.names:
        assert scene.frame(name).read_bytes() == (source / "images" / name).read_bytes()
        assert torch.equal(found.camera(name).params, seen.camera(name).params)
    about = read_about(scene)
    assert (about["kind"], about["source"]) == ("posed images", str(source.resolve()))
    assert not scene.work.exists()


def test_flat_names_get_a_folder_a_camera(tmp_path: Path) -> None:
    seen = views("a.png", "b.png", "c.png", cameras=(1, 2, 1))
    source = colmap_folder(tmp_path / "source", seen)
    scene = adopt(source, tmp_path / "scene")
    found = read_colmap(scene.model)
    assert found.names == ("cam_1/a.png", "cam_1/c.png", "cam_2/b.png")
    for name in found.names:
        own = name.split("/")[1]
        assert scene.frame(name).read_bytes() == (source / "images" / own).read_bytes()
        assert torch.equal(found.camera(name).params, seen.camera(own).params)
        assert torch.allclose(found.pose(name).matrix(), seen.pose(own).matrix(), atol=1e-9)


def test_a_folder_of_two_cameras_is_split(tmp_path: Path) -> None:
    seen = views("all/a.png", "all/b.png", cameras=(1, 2))
    scene = adopt(colmap_folder(tmp_path / "source", seen), tmp_path / "scene")
    assert read_colmap(scene.model).names == ("cam_1/all_a.png", "cam_2/all_b.png")


def test_two_images_of_one_name_are_told_and_stay_as_they_are(tmp_path: Path) -> None:
    seen = views("x/a.png", "x_a.png", "x/b.png", cameras=(1, 1, 2))
    source = colmap_folder(tmp_path / "source", seen)
    before = {path: path.read_bytes() for path in (source / "images").rglob("*.png")}
    with pytest.raises(UserError, match=r"x_a\.png: another image would be x_a\.png too"):
        adopt(source, tmp_path / "scene")
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "scene").exists()


def test_lenses_of_nerfstudio_are_taken_out(tmp_path: Path) -> None:
    seen = views("images/a.jpg", "images/b.jpg", model="OPENCV")
    source = tmp_path / "source"
    write_images(source, seen)
    write_transforms_json(source / "transforms.json", seen)
    before = {path: path.read_bytes() for path in source.rglob("*.jpg")}
    scene = adopt(source, tmp_path / "scene")
    verify_scene(scene.root)
    found = read_colmap(scene.model)
    assert {camera.model for camera in found.cameras.values()} == {"PINHOLE"}
    assert same_poses(scene, read_views(source))
    for name in found.names:
        camera = found.camera(name)
        with Image.open(scene.frame(name)) as frame:
            assert frame.size == (camera.width, camera.height)
    assert {path: path.read_bytes() for path in before} == before


def test_the_same_source_is_not_done_again_and_another_is_refused(tmp_path: Path) -> None:
    source = colmap_folder(tmp_path / "source", views("a.png", "b.png"))
    scene = adopt(source, tmp_path / "scene")
    before = times(scene)
    assert adopt(source, tmp_path / "scene") == scene
    assert times(scene) == before
    other = colmap_folder(tmp_path / "other", views("a.png", "b.png"))
    with pytest.raises(UserError, match="holds another scene; choose another --out"):
        adopt(other, tmp_path / "scene")
    assert times(scene) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    source = colmap_folder(tmp_path / "source", views("a.png", "b.png"))
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="scene"):
        adopt(source, tmp_path / "scene")
    assert [path.name for path in (tmp_path / "scene").iterdir()] == ["thesis.tex"]


def test_a_folder_of_something_else_is_let_be(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="no scene; choose another --out"):
        adopt(tmp_path / "poses", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_images_elsewhere_are_named(tmp_path: Path) -> None:
    seen = views("a.png", "b.png")
    source = colmap_folder(tmp_path / "source", seen)
    shutil.move(source / "images", tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"a\.png is in none .*--images") as caught:
        adopt(source, tmp_path / "scene")
    assert str(source) in str(caught.value)
    scene = adopt(source, tmp_path / "scene", images=tmp_path / "elsewhere")
    verify_scene(scene.root)
    (tmp_path / "elsewhere" / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.png: no such image; .*--images"):
        adopt(source, tmp_path / "new", images=tmp_path / "elsewhere")
    assert not (tmp_path / "new").exists()


def test_no_poses_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder or file"):
        adopt(tmp_path / "none", tmp_path / "scene")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no scene that cuesta reads"):
        adopt(tmp_path / "empty", tmp_path / "scene")
    (tmp_path / "empty" / "transforms.json").write_text(json.dumps({"frames": []}))
    with pytest.raises(UserError, match="no image with a pose"):
        adopt(tmp_path / "empty", tmp_path / "scene")
    assert not (tmp_path / "scene").exists()
