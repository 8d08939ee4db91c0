"""`read_views` finds the form of a scene, the same views in each, and says where it looked."""

import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch

from cuesta.data.scenes.colmap import write_colmap
from cuesta.data.scenes.kitti import KittiCalibration, write_calibration, write_poses
from cuesta.data.scenes.mvsnet import MvsnetScene, write_mvsnet
from cuesta.data.scenes.read import read_views
from cuesta.data.scenes.scene import Scene, write_manifest
from cuesta.data.scenes.transforms_json import write_transforms_json
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Camera
from cuesta.ragged import Ragged
from tests.data.scenes.posed import assert_same, make_camera, make_images, make_views

VIEWS = make_views(make_camera("PINHOLE"))


def renamed(views: Views, names: tuple[str, ...]) -> Views:
    return Views(names, views.cameras, views.camera_ids, views.cam_from_world)


def write_scene(folder: Path) -> None:
    write_colmap(Scene(folder).model, VIEWS)
    write_manifest(Scene(folder), {"licence": "none"})


def write_text_model(folder: Path) -> None:
    write_colmap(folder / "bin", VIEWS)
    (folder / "sparse").mkdir()
    pycolmap.Reconstruction(folder / "bin").write_text(folder / "sparse")


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(write_scene, id="scene"),
        pytest.param(lambda folder: write_colmap(folder, VIEWS), id="model"),
        pytest.param(lambda folder: write_colmap(folder / "sparse/0", VIEWS), id="sparse/0"),
        pytest.param(write_text_model, id="sparse"),
        pytest.param(lambda folder: write_colmap(folder / "colmap/sparse/0", VIEWS), id="colmap"),
        pytest.param(
            lambda folder: write_transforms_json(folder / "transforms.json", VIEWS), id="json"
        ),
    ],
)
def test_a_folder_is_read_in_its_form(write, tmp_path: Path) -> None:
    write(tmp_path / "scene")
    assert_same(VIEWS, read_views(tmp_path / "scene"), has_ids=False)


def test_a_file_is_read_in_its_form(tmp_path: Path) -> None:
    write_transforms_json(tmp_path / "train.json", VIEWS)
    assert_same(VIEWS, read_views(tmp_path / "train.json"), has_ids=False)
    write_scene(tmp_path / "scene")
    assert_same(VIEWS, read_views(tmp_path / "scene" / "manifest.json"))


def test_an_mvsnet_folder_is_read(tmp_path: Path) -> None:
    make_images(tmp_path / "photos", VIEWS.names)
    empty = Ragged.from_lengths(torch.zeros(0, dtype=torch.int64), [0, 0, 0])
    scene = MvsnetScene(VIEWS, np.ones((3, 4)), empty, empty)
    write_mvsnet(tmp_path / "mvs", scene, images=tmp_path / "photos")
    names = ("00000000.jpg", "00000001.jpg", "00000002.jpg")
    assert_same(renamed(VIEWS, names), read_views(tmp_path / "mvs"), has_ids=False)


def test_a_kitti_sequence_is_read(tmp_path: Path) -> None:
    names = tuple(f"image_0/{frame:06d}.png" for frame in range(3))
    make_images(tmp_path, names)
    camera = VIEWS.cameras[3]
    projection = np.zeros((3, 4))
    projection[:, :3] = camera.matrix()
    projection[:2, 2] -= 0.5
    write_calibration(tmp_path / "calib.txt", KittiCalibration(np.stack([projection] * 4), None))
    write_poses(tmp_path / "poses.txt", VIEWS.cam_from_world.inverse())
    (tmp_path / "times.txt").write_text("0 1 2")
    same = Camera("PINHOLE", camera.params, camera.width, camera.height)
    expected = Views(names, {0: same}, (0, 0, 0), VIEWS.cam_from_world)
    assert_same(expected, read_views(tmp_path))


def test_the_scene_comes_before_the_model_and_the_model_before_the_json(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene")
    other = VIEWS.select(VIEWS.names[:1])
    write_colmap(tmp_path / "other", other)
    write_transforms_json(tmp_path / "scene" / "transforms.json", VIEWS.select(VIEWS.names[:2]))
    write_manifest(Scene(tmp_path / "scene"), {})
    assert len(read_views(tmp_path / "scene")) == 3
    (tmp_path / "scene" / "manifest.json").unlink()
    assert len(read_views(tmp_path / "scene")) == 3
    shutil.rmtree(tmp_path / "scene" / "colmap")
    assert len(read_views(tmp_path / "scene")) == 2


def test_a_scene_whose_files_are_not_those_of_its_manifest_is_refused(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene")
    (Scene(tmp_path / "scene").model / "points3D.bin").unlink()
    with pytest.raises(UserError, match=r"points3D\.bin is in the manifest but not in the folder"):
        read_views(tmp_path / "scene")


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    message = (
        r"no scene that cuesta reads; it looked for manifest\.json, a COLMAP model \(here, in "
        r"sparse/0, sparse or colmap/sparse/0\), transforms\.json, cams/ with pair\.txt, and calib"
    )
    with pytest.raises(UserError, match=message):
        read_views(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"a\.txt: no scene that cuesta reads"):
        read_views(tmp_path / "a.txt")
    with pytest.raises(UserError, match="nowhere: no such folder or file; name another"):
        read_views(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"nowhere\.json: no such folder or file"):
        read_views(tmp_path / "nowhere.json")
