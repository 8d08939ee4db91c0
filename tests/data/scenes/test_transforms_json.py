"""`transforms.json` comes back, means what Blender and instant-ngp mean by it, and mistakes name the
frame.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given

from cuesta.data.scenes.colmap import read_colmap, reconstruction_of, views_of, write_colmap
from cuesta.data.scenes.transforms_json import read_transforms_json, write_transforms_json
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import Camera
from tests.data.scenes.posed import (
    ROUNDING,
    assert_same,
    data_folder,
    make_camera,
    make_images,
    make_views,
    posed,
)

FOUR_AWAY = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]  # it looks along -z


def write(folder: Path, frames: object = None, **values: object) -> Path:
    """Write a file of one frame a.png, or of `frames`, and 100 x 80 pixels."""
    if frames is None:
        frames = [{"file_path": "a.png", "transform_matrix": FOUR_AWAY}]
    given = {"fl_x": 100, "w": 100, "h": 80.0, "frames": frames} | values
    content = {name: value for name, value in given.items() if value is not None}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder / "transforms.json"


def camera(folder: Path, **values: object) -> Camera:
    return read_transforms_json(write(folder, **values)).camera("a.png")


@given(views=posed())
def test_views_come_back(views: Views, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "transforms.json"
    write_transforms_json(path, views)
    assert_same(views, read_transforms_json(path), has_ids=False)


@given(views=posed())
def test_colmap_and_back_is_the_same(
    views: Views, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "transforms.json"
    write_transforms_json(path, views_of(reconstruction_of(views)))
    again = views_of(reconstruction_of(read_transforms_json(path)))
    assert_same(views, again, has_ids=False)


def test_no_frames_at_all(tmp_path: Path) -> None:
    write_transforms_json(tmp_path / "a.json", make_views(count=0))
    assert len(read_transforms_json(tmp_path / "a.json")) == 0


def test_intrinsics_stand_once_where_they_are_shared(tmp_path: Path) -> None:
    write_transforms_json(tmp_path / "one.json", make_views())
    one = json.loads((tmp_path / "one.json").read_text())
    assert one["camera_model"] == "OPENCV"
    assert set(one["frames"][0]) == {"file_path", "transform_matrix"}
    write_transforms_json(tmp_path / "two.json", make_views(make_camera(), make_camera("PINHOLE")))
    two = json.loads((tmp_path / "two.json").read_text())
    assert set(two) == {"frames"}
    assert [frame["camera_model"] for frame in two["frames"]] == ["OPENCV", "PINHOLE", "OPENCV"]
    assert read_transforms_json(tmp_path / "two.json").camera_ids == (1, 2, 1)


def test_x_is_right_and_y_is_up_before_a_camera_of_blender(tmp_path: Path) -> None:
    views = read_transforms_json(write(tmp_path))
    points = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2]], dtype=torch.float64)
    pixels = views.camera("a.png").project(views.pose("a.png") @ points)
    assert pixels.tolist() == [[50, 40], [75, 40], [50, 15], [50, 40]]
    assert views.centres().tolist() == [[0, 0, 4]]


def test_focal_lengths_come_from_angles_where_there_are_none(tmp_path: Path) -> None:
    angle = 2 * math.atan(0.5)
    found = camera(tmp_path, fl_x=None, camera_angle_x=angle)
    assert found.model == "PINHOLE"
    assert (
        found.params - torch.tensor([100.0, 100, 50, 40]).double()
    ).abs().max() <= 100 * ROUNDING
    found = camera(tmp_path, fl_x=None, camera_angle_x=angle, camera_angle_y=math.pi / 2)
    assert abs(found.params[1].item() - 40) <= 40 * ROUNDING
    assert camera(tmp_path, camera_angle_x=1.0).params[0] == 100


def test_blenders_files_take_size_and_suffix_from_their_images(tmp_path: Path) -> None:
    make_images(tmp_path, ("train/r_0.png", "train/r_1.jpg"), size=(30, 20))
    frames = [
        {"file_path": f"./train/r_{place}", "rotation": 0.01, "transform_matrix": FOUR_AWAY}
        for place in range(2)
    ]
    path = write(tmp_path, frames, fl_x=None, w=None, h=None, camera_angle_x=math.pi / 2)
    views = read_transforms_json(path)
    assert views.names == ("train/r_0.png", "train/r_1.jpg")
    assert len(views.cameras) == 1
    found = views.camera("train/r_0.png")
    assert (found.width, found.height) == (30, 20)
    assert (found.params - torch.tensor([15.0, 15, 15, 10]).double()).abs().max() <= 15 * ROUNDING


def test_models_are_named_or_follow_from_the_distortion(tmp_path: Path) -> None:
    assert camera(tmp_path).model == "PINHOLE"
    assert camera(tmp_path, k1=0, p2=0.0).model == "PINHOLE"
    assert camera(tmp_path, camera_model="SIMPLE_PINHOLE").model == "PINHOLE"
    assert camera(tmp_path, p1=0.01).params.tolist() == [100, 100, 50, 40, 0, 0, 0.01, 0]
    assert camera(tmp_path, camera_model="OPENCV", fl_y=90, cx=1, k1=0.1).params.tolist() == [
        *(100, 90, 1, 40),
        *(0.1, 0, 0, 0),
    ]
    lens = {"k1": 0.1, "k2": 0.2, "k3": 0.3, "k4": 0.4}
    for values in ({"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}):
        found = camera(tmp_path, **values, **lens)
        assert found.model == "OPENCV_FISHEYE"
        assert found.params.tolist() == [100, 100, 50, 40, 0.1, 0.2, 0.3, 0.4]


def test_a_frames_own_values_stand_before_those_of_the_file(tmp_path: Path) -> None:
    frames = [
        {"file_path": "a.png", "transform_matrix": FOUR_AWAY, "fl_x": 60, "w": 50},
        {"file_path": "b.png", "transform_matrix": FOUR_AWAY[:3]},
    ]
    views = read_transforms_json(write(tmp_path, frames, fl_y=70))
    assert views.camera("a.png").params.tolist() == [60, 70, 25, 40]
    assert views.camera("b.png").params.tolist() == [100, 70, 50, 40]
    assert views.pose("b.png").translation.tolist() == views.pose("a.png").translation.tolist()


def test_the_world_is_that_of_the_file(tmp_path: Path) -> None:
    moved = [[0, 1, 0, 7], [1, 0, 0, 8], [0, 0, -1, 9]]
    views = read_transforms_json(write(tmp_path, applied_transform=moved))
    assert views.centres().tolist() == [[0, 0, 4]]


def test_rotations_that_were_rounded_become_rotations(tmp_path: Path) -> None:
    views = make_views()
    write_transforms_json(tmp_path / "a.json", views)
    content = json.loads((tmp_path / "a.json").read_text())
    for frame in content["frames"]:
        frame["transform_matrix"] = np.round(frame["transform_matrix"], 4).tolist()
    (tmp_path / "a.json").write_text(json.dumps(content))
    turns = read_transforms_json(tmp_path / "a.json").cam_from_world.rotation
    eye = torch.eye(3, dtype=torch.float64)
    assert (turns @ turns.mT - eye).abs().max() <= ROUNDING
    assert (turns - views.cam_from_world.rotation).abs().max() <= 2e-4  # of four digits


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": {}}, "it has no list of frames"),
        ({"frames": [3]}, "frame 0 has no file_path"),
        ({"frames": [{"file_path": 3}]}, "frame 0 has no file_path"),
        ({"frames": [{"file_path": "../a.png"}]}, r"'../a\.png' leads out of the folder"),
        ({"frames": [{"file_path": "/a.png"}]}, r"'/a\.png' leads out of the folder"),
        ({"frames": [{"file_path": "r_7"}]}, "there is no image r_7 with suffix .png or .jpg"),
        ({"fl_x": None}, r"a\.png: it has neither fl_x nor camera_angle_x"),
        ({"fl_x": -5}, r"a\.png: a focal length should be above 0, it is -5"),
        ({"fl_x": "wide"}, r"a\.png: fl_x should be a finite number, it is 'wide'"),
        ({"fl_x": True}, "fl_x should be a finite number, it is True"),
        ({"fl_x": math.nan}, "fl_x should be a finite number, it is nan"),
        ({"cx": [9] * 99}, "cx should be a finite number, it is .{40};"),
        ({"k1": 10**400}, "k1 should be a finite number"),
        ({"w": 10.5}, "w should be a whole number, it is 10.5"),
        ({"w": 0}, "an image is 1 pixel at least, got 0 x 80"),
        ({"w": 1e12}, "no image is 1000000000000 x 80"),
        ({"w": None}, r"a\.png: no such file"),
        ({"fl_x": None, "camera_angle_x": 4}, "camera_angle_x should be between 0 and pi"),
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR is not supported, but PINHOLE,"),
        ({"camera_model": "OPENCV", "k3": 0.1}, "k3 is 0.1, but OPENCV has no k3"),
        ({"camera_model": "RADIAL", "fl_y": 3}, "RADIAL has one focal length, fl_x and fl_y"),
    ],
)
def test_mistakes_name_file_and_frame(
    values: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_transforms_json(write(tmp_path, **values))
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).endswith("; mend it or name another file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (None, "its transform_matrix should be a list of 4 rows"),
        ([1, 2, 3, 4], "its transform_matrix should be a list of 4 rows"),
        (FOUR_AWAY[:2], "its transform_matrix should have 4 rows of 4"),
        ([*FOUR_AWAY[:3], [0, 0, 1, 1]], "the last one 0 0 0 1"),
        ([[1, 0, 0]] * 4, "should have 4 rows of 4"),
        ([[math.nan, 0, 0, 0], *FOUR_AWAY[1:]], "transform_matrix should be a finite number"),
        ([[0, 0, 0, 0], *FOUR_AWAY[1:]], "the pose of a.png is no rotation and translation"),
        ([[-1, 0, 0, 0], *FOUR_AWAY[1:]], "the pose of a.png is no rotation and translation"),
        ([[1.01, 0, 0, 0], *FOUR_AWAY[1:]], "the pose of a.png is no rotation and translation"),
    ],
)
def test_poses_that_are_none_name_the_frame(matrix: object, message: str, tmp_path: Path) -> None:
    frames = [{"file_path": "a.png", "transform_matrix": matrix}]
    with pytest.raises(UserError, match=rf"transforms\.json: .*{message}"):
        read_transforms_json(write(tmp_path, frames))


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "transforms.json"
    with pytest.raises(UserError, match=r"transforms\.json: no such file"):
        read_transforms_json(path)
    frame = {"file_path": "a.png", "transform_matrix": FOUR_AWAY}
    with pytest.raises(UserError, match=r"'a\.png' is there 2 times"):
        read_transforms_json(write(tmp_path, [frame, frame]))
    whole = path.read_bytes()
    for content in (b"", whole[:40], b"\xff\xfe", b"[]", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"transforms\.json: .*; mend it or name another"):
            read_transforms_json(path)


def test_the_fox_is_seen_as_its_file_says(tmp_path: Path) -> None:
    path = data_folder("fox") / "transforms.json"
    content, views = json.loads(path.read_text()), read_transforms_json(path)
    assert views.names == tuple(frame["file_path"] for frame in content["frames"])
    assert list(views.cameras) == [1]
    found = views.cameras[1]
    assert (found.model, found.width, found.height) == ("OPENCV", 1080, 1920)
    assert found.params.tolist() == [content[key] for key in ("fl_x", "fl_y", "cx", "cy")] + [
        content[key] for key in ("k1", "k2", "p1", "p2")
    ]
    in_camera = torch.tensor([[0.0, 0.0, 2.0], [0.4, -0.6, 2.0]], dtype=torch.float64)
    for frame in content["frames"]:
        matrix = np.array(frame["transform_matrix"])
        rotation, centre = matrix[:3, :3], matrix[:3, 3]
        off = np.abs(rotation.T @ rotation - np.eye(3)).max()  # the file's rotations are rounded
        in_world = centre + in_camera.numpy() * [1, -1, -1] @ rotation.T
        pixels = found.project(views.pose(frame["file_path"]) @ torch.from_numpy(in_world))
        difference = (pixels - found.project(in_camera)).abs().max()
        assert difference <= 2 * found.focal().max() * (off + ROUNDING)
    write_colmap(tmp_path / "model", views)
    write_transforms_json(tmp_path / "again.json", read_colmap(tmp_path / "model"))
    again = read_transforms_json(tmp_path / "again.json")
    assert_same(views.select(sorted(views.names)), again)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    views = make_views()
    broken = Camera("PINHOLE", torch.tensor([math.nan, 1, 1, 1]), 4, 4)
    with pytest.raises(ValueError, match="parameters that are not finite"):
        write_transforms_json(
            tmp_path / "a.json",
            Views(views.names, {3: broken}, views.camera_ids, views.cam_from_world),
        )
    assert not list(tmp_path.iterdir())
