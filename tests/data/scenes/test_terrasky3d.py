"""The lists of a data set come back, say what their scenes know, and mistakes name file and place."""

import json
from pathlib import Path

import pycolmap
import pytest
import torch

from cuesta.data.scenes.colmap import reconstruction_of, views_of
from cuesta.data.scenes.terrasky3d import (
    calibrate_pairs,
    read_calibrated_pairs,
    read_train_data,
    read_views_txt,
    write_calibrated_pairs,
    write_train_data,
    write_views_txt,
)
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import MODELS, Transform
from tests.data.scenes.posed import ROUNDING, assert_same, make_camera, make_views

EYE = "1 0 0 0 1 0 0 0 1"
VIEW = f"castle/frames/cam_0/a.jpg {EYE} 1 2 3 PINHOLE 64 48 50 51 32 24"
PAIR = f"castle/frames/a.jpg castle/frames/b.jpg 50 0 32 0 51 24 0 0 1 {EYE} {EYE} 1 2 3"
TRAIN = {
    "castle": {
        "cameras": {"7": {"K": [[50, 0, 32], [0, 51, 24], [0, 0, 1]], "width": 64, "height": 48}},
        "images": {
            "cam_0/a.jpg": {"P": [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3]], "K_id": 7},
        },
    }
}


def pinholes() -> dict[str, Views]:
    """Return two scenes of two cameras."""
    cameras = make_camera("PINHOLE"), make_camera("PINHOLE", focal=700)
    return {
        "castle": make_views(*cameras, count=5),
        "abbey": make_views(*cameras, count=2, seed=1, spread=1e4),
    }


def test_train_data_comes_back(tmp_path: Path) -> None:
    scenes = pinholes()
    write_train_data(tmp_path / "train_data.json", scenes)
    again = read_train_data(tmp_path / "train_data.json")
    assert list(again) == list(scenes)
    for name, views in scenes.items():
        assert_same(views, again[name])


def test_views_come_back_with_any_lens(tmp_path: Path) -> None:
    bent = make_views(*(make_camera(model) for model in MODELS), count=7)
    scenes = {"castle": bent, "abbey": pinholes()["abbey"]}
    write_views_txt(tmp_path / "views.txt", scenes)
    again = read_views_txt(tmp_path / "views.txt")
    assert list(again) == list(scenes)
    for name, views in scenes.items():
        assert_same(views, again[name], has_ids=False)


def test_a_model_through_both_lists_stays_the_same(tmp_path: Path) -> None:
    model: pycolmap.Reconstruction = reconstruction_of(pinholes()["castle"])
    write_train_data(tmp_path / "train_data.json", {"castle": views_of(model)})
    write_views_txt(tmp_path / "views.txt", read_train_data(tmp_path / "train_data.json"))
    (views,) = read_views_txt(tmp_path / "views.txt").values()
    assert_same(views_of(model), views, has_ids=False)


def test_pairs_come_back_and_are_those_of_the_poses(tmp_path: Path) -> None:
    scenes = pinholes()
    castle = scenes["castle"]
    images = [f"castle/frames/{name}" for name in castle.names]
    names = [(images[0], images[1]), (images[4], images[2])]
    pairs = calibrate_pairs(scenes, names)
    points = torch.tensor([[0.3, -0.2, 2.0]], dtype=torch.float64)
    for place, (a, b) in enumerate(((0, 1), (4, 2))):
        there, back = castle.pose(castle.names[b]), castle.pose(castle.names[a]).inverse()
        moved = (pairs.b_from_a @ points.expand(2, 1, 3))[place]
        assert (moved - there @ (back @ points)).abs().max() <= 8 * ROUNDING
        assert torch.equal(pairs.matrix_a[place], castle.camera(castle.names[a]).matrix())
        assert torch.equal(pairs.matrix_b[place], castle.camera(castle.names[b]).matrix())
    write_calibrated_pairs(tmp_path / "pairs.txt", pairs)
    again = read_calibrated_pairs(tmp_path / "pairs.txt")
    assert again.names == tuple(names)
    assert torch.equal(again.matrix_a, pairs.matrix_a)
    assert torch.equal(again.matrix_b, pairs.matrix_b)
    off = again.b_from_a.matrix() - pairs.b_from_a.matrix()
    assert off.abs().max() <= ROUNDING * (1 + pairs.b_from_a.translation.abs().max())


def test_there_may_be_no_images_and_no_pairs(tmp_path: Path) -> None:
    write_train_data(tmp_path / "train_data.json", {"empty": make_views(count=0)})
    assert len(read_train_data(tmp_path / "train_data.json")["empty"]) == 0
    write_views_txt(tmp_path / "views.txt", {})
    assert read_views_txt(tmp_path / "views.txt") == {}
    write_calibrated_pairs(tmp_path / "pairs.txt", calibrate_pairs(pinholes(), []))
    assert read_calibrated_pairs(tmp_path / "pairs.txt").names == ()


def test_lists_are_read_as_others_write_them(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(f"# a comment\n\n{VIEW}\n")
    (views,) = read_views_txt(path).values()
    path.write_text(json.dumps(TRAIN))
    (trained,) = read_train_data(path).values()
    for found in (views, trained):
        assert found.names == ("cam_0/a.jpg",)
        assert found.camera("cam_0/a.jpg").params.tolist() == [50, 51, 32, 24]
        assert found.pose("cam_0/a.jpg").translation.tolist() == [1, 2, 3]
    assert trained.camera_ids == (7,)
    path.write_text(f"# img1 img2\n{PAIR}\n")
    pairs = read_calibrated_pairs(path)
    assert pairs.matrix_a.tolist() == [[[50, 0, 32], [0, 51, 24], [0, 0, 1]]]
    assert pairs.b_from_a.translation.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"K_id": 7', '"K_id": 8', r"castle: the image 'cam_0/a\.jpg' names camera 8"),
        ('"K_id": 7', '"K_id": []', r"castle: the K_id of cam_0/a\.jpg should be a finite number"),
        ('"P": [[1', '"P": [[2', r"castle: the pose of cam_0/a\.jpg is no rotation"),
        ('"P": [[1, 0, 0, 1], ', '"P": [', r"the P of cam_0/a\.jpg should be 3 lists of 4"),
        ("[[50, 0", "[[50, 1", "castle: the K of camera 7 should be fx 0 cx, 0 fy cy"),
        ('"width": 64', '"wide": 64', "castle: width is missing"),
        ('"cam_0/a.jpg"', '"../a.jpg"', "castle: the image name '../a.jpg' leads out"),
        ('{"castle"', '{"../castle"', "a scene is named by its folder"),
        ('"images"', '"pictures"', r"castle: images should be an object \{\.\.\.\} of names"),
        ('{"castle"', '"castle"', "list: .*; mend it or name another"),
    ],
)
def test_broken_train_data_is_named(old: str, new: str, words: str, tmp_path: Path) -> None:
    text = json.dumps(TRAIN)
    assert old in text
    (tmp_path / "list").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"list: .*{words}|{words}"):
        read_train_data(tmp_path / "list")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("castle/frames/", "castle/", "line 2: an image is named scene/frames/image"),
        ("castle", "..", "line 2: a scene is named by its folder"),
        ("PINHOLE", "BUBBLE", "line 2: camera model BUBBLE is not supported"),
        (" 32 24", " 32", "line 2: PINHOLE should have 4 numbers, it has 3"),
        ("1 2 3 PINHOLE 64 48 50 51 32 24", "1 2 3", "line 2: a view has 16 words and"),
        ("1 2 3", "1 2 x", "line 2: the pose should be a finite number, it is 'x'"),
        (EYE, EYE.replace("1", "2"), r"the pose of cam_0/a\.jpg is no rotation"),
    ],
)
def test_broken_views_are_named(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in VIEW
    (tmp_path / "views.txt").write_text("# views\n" + VIEW.replace(old, new, 1) + "\n")
    with pytest.raises(UserError, match=rf"views\.txt: {words}.*; mend it"):
        read_views_txt(tmp_path / "views.txt")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("castle/frames/b.jpg", "b.jpg", "line 1: an image is named scene/frames/image"),
        (" 1 2 3", " 1 2", "line 1: a pair of images should have 30 numbers, it has 29"),
        (f"{EYE} 1 2", f"{EYE.replace('1', '3')} 1 2", r"frames/a\.jpg and castle.* no rotation"),
    ],
)
def test_broken_pairs_are_named(old: str, new: str, words: str, tmp_path: Path) -> None:
    assert old in PAIR
    (tmp_path / "pairs.txt").write_text(PAIR.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"pairs\.txt: .*{words}.*; mend it"):
        read_calibrated_pairs(tmp_path / "pairs.txt")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path, scenes = tmp_path / "list", pinholes()
    bent = {"castle": make_views()}
    first, second = (f"castle/frames/{name}" for name in scenes["castle"].names[:2])
    with pytest.raises(ValueError, match="camera 3 has the model OPENCV; undistort its images"):
        write_train_data(path, bent)
    with pytest.raises(ValueError, match="camera 3 has the model OPENCV; undistort its images"):
        calibrate_pairs(bent, [])
    with pytest.raises(ValueError, match="a scene is named by its folder, not 'a/b'"):
        write_train_data(path, {"a/b": scenes["castle"]})
    with pytest.raises(ValueError, match=r"a name in a \.txt may have no space, got 'old castle/"):
        write_views_txt(path, {"old castle": scenes["castle"]})
    with pytest.raises(ValueError, match="are not of one of the scenes"):
        calibrate_pairs(scenes, [(first, second.replace("castle", "abbey"))])
    with pytest.raises(ValueError, match=r"no image is called 'd\.jpg'"):
        calibrate_pairs(scenes, [(first, "castle/frames/d.jpg")])
    pairs = calibrate_pairs(scenes, [(first, second)])
    with pytest.raises(ValueError, match=r"an image is named scene/frames/image, not 'd\.jpg'"):
        write_calibrated_pairs(path, pairs._replace(names=((first, "d.jpg"),)))
    poses = pairs.b_from_a
    scaled = Transform(poses.rotation, poses.translation, 2 * poses.scale)
    with pytest.raises(ValueError, match="no rotation and translation"):
        write_calibrated_pairs(path, pairs._replace(b_from_a=scaled))
    assert not list(tmp_path.iterdir())
