"""MVSNet's folders come back, are read as they are written by others, and mistakes name the file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cuesta.data.scenes.mvsnet import MvsnetScene, read_mvsnet, write_mvsnet
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.ragged import Ragged
from tests.data.scenes.posed import assert_same, make_camera, make_images, make_views

CAM = """extrinsic
0 -1 0 1.5
1 0 0 -2
0 0 1 3
0 0 0 1

intrinsic
361.5 0 82.9
0 360.25 66.4
0 0 1

425.0 2.5
"""
PAIRS = "2\n0\n1 7 0.5\n7\n0\n"


def make_scene(*, count: int = 4) -> MvsnetScene:
    """Return a scene of two cameras whose first view has no source."""
    cameras = make_camera("PINHOLE"), make_camera("PINHOLE", focal=700)
    lengths = [place % 3 for place in range(count)]
    sources = torch.arange(sum(lengths)) % max(count, 1)
    scores = torch.rand(sum(lengths), dtype=torch.float64)
    depths = np.random.default_rng(0).uniform(1, 2, (count, 4)).cumsum(1)
    depths[::2, 2:] = np.nan
    return MvsnetScene(
        make_views(*cameras, count=count),
        depths,
        Ragged.from_lengths(sources, lengths),
        Ragged.from_lengths(scores, lengths),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a scene of two views, numbered 0 and 7, as others write it."""
    (tmp_path / "cams").mkdir()
    make_images(tmp_path / "images", ("00000000.jpg", "00000007.png"), size=(160, 128))
    (tmp_path / "cams" / "00000000_cam.txt").write_text(CAM)
    seventh = CAM.replace("425.0 2.5", "425.0 2.5 192 902.5")
    (tmp_path / "cams" / "00000007_cam.txt").write_text(seventh)
    (tmp_path / "pair.txt").write_text(PAIRS)
    return tmp_path


@pytest.mark.parametrize("count", [1, 4, 7])
def test_scenes_come_back(count: int, tmp_path: Path) -> None:
    scene = make_scene(count=count)
    make_images(tmp_path / "photos", scene.views.names)
    write_mvsnet(tmp_path / "mvs", scene, images=tmp_path / "photos")
    again = read_mvsnet(tmp_path / "mvs")
    assert again.views.names == tuple(f"{view:08d}.jpg" for view in range(count))
    renamed = Views(
        again.views.names, scene.views.cameras, scene.views.camera_ids, scene.views.cam_from_world
    )
    assert_same(renamed, again.views, has_ids=False)
    assert np.array_equal(scene.depth_ranges, again.depth_ranges, equal_nan=True)
    for one, other in ((scene.pairs, again.pairs), (scene.scores, again.scores)):
        assert torch.equal(one.values, other.values)
        assert torch.equal(one.offsets, other.offsets)
    for place, name in enumerate(scene.views.names):
        copied = tmp_path / f"mvs/images/{place:08d}.jpg"
        assert copied.read_bytes() == (tmp_path / "photos" / name).read_bytes()


def test_numbers_are_what_the_files_say(folder: Path) -> None:
    scene = read_mvsnet(folder)
    assert scene.views.names == ("00000000.jpg", "00000007.png")
    assert list(scene.views.cameras) == [1]
    camera = scene.views.cameras[1]
    assert (camera.model, camera.width, camera.height) == ("PINHOLE", 160, 128)
    assert camera.params.tolist() == [361.5, 360.25, 82.9, 66.4]
    pose = scene.views.pose("00000007.png")
    point = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    assert (pose @ point).tolist() == [[-0.5, -1, 6]]
    assert scene.depth_ranges[1].tolist() == [425, 2.5, 192, 902.5]
    assert scene.depth_ranges[0, :2].tolist() == [425, 2.5]
    assert np.isnan(scene.depth_ranges[0, 2:]).all()
    assert scene.pairs.values.tolist() == [1]
    assert scene.pairs.offsets.tolist() == [0, 1, 1]
    assert scene.scores.values.tolist() == [0.5]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("extrinsic", "outside", "it should have 16 numbers after 'extrinsic'"),
        ("0 0 0 1\n", "", "it should have 16 numbers after 'extrinsic'"),
        ("1.5\n", "nan\n", "extrinsic should be a finite number, it is 'nan'"),
        ("0 -1 0 1.5", "0 -2 0 1.5", r"the pose of 00000000\.jpg is no rotation"),
        ("0 -1 0 1.5", "0 0 0 1.5", r"the pose of 00000000\.jpg is no rotation"),
        ("361.5 0 82.9", "361.5 1 82.9", "its intrinsic should be fx 0 cx, 0 fy cy, 0 0 1"),
        ("361.5 0", "-361.5 0", "a focal length should be above 0, it is -361.5"),
        ("0 0 1\n\n425.0 2.5\n", "0 0", "intrinsic should have 9 numbers, it has 8"),
        ("425.0 2.5", "425.0", "the range of depth should have 2 numbers, it has 1"),
        ("425.0 2.5", "425.0 2.5 192", "the range of depth should have 4 numbers, it has 3"),
        ("425.0 2.5", "425.0 2.5 192 400", "depth should be min interval"),
        ("425.0 2.5", "0 2.5", "depth should be min interval"),
    ],
)
def test_a_broken_camera_is_named(old: str, new: str, message: str, folder: Path) -> None:
    (folder / "cams" / "00000000_cam.txt").write_text(CAM.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"cams.*: {message}.*; mend it or name"):
        read_mvsnet(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its number of views is missing"),
        ("2\n0\n1 7 0.5\n7\n", "a number of sources is missing"),
        ("2\n0\n2 7 0.5\n7\n0\n", "a score|it names|is missing"),
        ("2\n0\n1 7", "a score is missing"),
        ("1\n0\n999999999999 7 0.5\n", "the number of a source is missing"),
        ("999999999999\n0\n1 7 0.5\n", "the number of a view is missing"),
        ("2\n0\n1 3 0.5\n7\n0\n", "it names view 3, which has no cams/00000003_cam.txt"),
        ("2\n3\n1 0 0.5\n7\n0\n", "it names view 3, which has no cams/00000003_cam.txt"),
        ("2\n0\n1 7 0.5\n0\n0\n", "view 0 is there twice"),
        ("1\n0\n1 7 0.5\n7\n0\n", "it goes on after its last view"),
        ("1\n0\n1 7.5 0.5\n", "the number of a source should be a whole number, it is 7.5"),
        ("-1\n", "its number of views should be a whole number, it is -1"),
        ("1\n0\n1 7 inf\n", "a score should be a finite number, it is 'inf'"),
    ],
)
def test_broken_pairs_are_named(text: str, message: str, folder: Path) -> None:
    (folder / "pair.txt").write_text(text)
    with pytest.raises(UserError, match=rf"pair\.txt: .*{message}.*; mend it or name another"):
        read_mvsnet(folder)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no cams/00000000_cam\.txt"):
        read_mvsnet(tmp_path / "nowhere")
    (folder / "pair.txt").unlink()
    with pytest.raises(UserError, match=r"pair\.txt: no such file"):
        read_mvsnet(folder)
    (folder / "images" / "00000007.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"00000007_cam\.txt: cannot identify image file"):
        read_mvsnet(folder)
    (folder / "images" / "00000007.png").unlink()
    with pytest.raises(UserError, match=r"no image images/00000007\.jpg or \.png"):
        read_mvsnet(folder)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    scene = make_scene()
    make_images(tmp_path / "photos", scene.views.names[:3])
    bent = scene._replace(views=make_views(make_camera("OPENCV"), count=4))
    one_row = Ragged.from_lengths(torch.tensor([0]), [1])
    other = Ragged.from_lengths(torch.tensor([0, 1, 2, 4]), [0, 1, 2, 1])
    short = scene.depth_ranges.copy()
    short[0, 1] = np.nan
    for broken, message in (
        (bent, "camera 3 has the model OPENCV; undistort its images first"),
        (scene._replace(depth_ranges=scene.depth_ranges[:, :2]), r"need depth ranges \[V, 4\]"),
        (scene._replace(depth_ranges=short), "depth should be min interval"),
        (scene._replace(pairs=one_row), "4 views need as many rows of pairs"),
        (scene._replace(pairs=other, scores=other), "pairs should be places of the 4 views"),
        (scene._replace(scores=other), "and of scores the same"),
    ):
        with pytest.raises(ValueError, match=message):
            write_mvsnet(tmp_path / "no", broken, images=tmp_path / "photos")
    with pytest.raises(UserError, match=r"photos/cam_1/003\.jpg: no such \.jpg or \.png"):
        write_mvsnet(tmp_path / "no", scene, images=tmp_path / "photos")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
