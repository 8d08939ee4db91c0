"""KITTI's sequences give the pixels of their projections, half a pixel on; mistakes name the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuesta.data.scenes.kitti import (
    KittiCalibration,
    read_calibration,
    read_kitti,
    read_poses,
    write_calibration,
    write_poses,
)
from cuesta.errors import UserError
from cuesta.geometry import Transform
from tests.data.scenes.posed import EPS, ROUNDING, make_images, make_views

FOCAL, CX, CY = 718.856, 607.1928, 185.2157
OFFSETS = (
    [0, 0, 0],
    [-386.1448, 0, 0],
    [45.38225, -0.1130887, 0.003779761],
    [-337.29, 2.37, 0.005],
)
K = np.array([[FOCAL, 0, CX], [0, FOCAL, CY], [0, 0, 1]])
PROJECTIONS = np.stack([np.column_stack([K, np.array(last)]) for last in OFFSETS])
SIZE = (1241, 376)


def make_poses(count: int, seed: int = 0) -> Transform:
    """Return a drive: world_from_cam0, a metre a frame, turning."""
    generator = torch.Generator().manual_seed(seed)
    steps = 0.1 * torch.randn(count, 6, generator=generator, dtype=torch.float64)
    steps[:, 2] += 1
    return Transform.exp(steps.cumsum(0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return sequence 07 of three frames, of which cameras 0 and 2 have images."""
    folder = tmp_path / "sequences" / "07"
    frames = [f"{frame:06d}.png" for frame in range(3)]
    make_images(folder / "image_0", tuple(frames), SIZE)
    make_images(folder / "image_2", tuple(frames[1:]), SIZE)
    scanner = Transform.exp(torch.tensor([0.1, 0.2, 0.3, 1.2, -1.2, 1.2], dtype=torch.float64))
    write_calibration(folder / "calib.txt", KittiCalibration(PROJECTIONS, scanner))
    (folder / "times.txt").write_text("0.0\n1.036224e-01\n2.0e-01\n")
    write_poses(tmp_path / "poses" / "07.txt", make_poses(3))
    return folder


@given(seed=st.integers(0, 2**31 - 1), count=st.integers(0, 6))
def test_poses_come_back(seed: int, count: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path, poses = tmp_path_factory.getbasetemp() / "poses.txt", make_poses(count, seed)
    write_poses(path, poses)
    again = read_poses(path)
    assert torch.equal(again.translation, poses.translation)
    assert torch.all((again.rotation - poses.rotation).abs() <= ROUNDING)


@pytest.mark.parametrize("has_scanner", [True, False])
def test_calibrations_come_back(has_scanner: bool, tmp_path: Path) -> None:
    poses = make_views().cam_from_world
    scanner = Transform.rigid(poses.rotation[0], poses.translation[0]) if has_scanner else None
    write_calibration(tmp_path / "calib.txt", KittiCalibration(PROJECTIONS, scanner))
    again = read_calibration(tmp_path / "calib.txt")
    assert np.array_equal(again.projections, PROJECTIONS)
    assert (again.cam0_from_velodyne is None) == (scanner is None)
    if scanner is not None and again.cam0_from_velodyne is not None:
        assert torch.equal(again.cam0_from_velodyne.translation, scanner.translation)
        off = again.cam0_from_velodyne.rotation - scanner.rotation
        assert off.abs().max() <= ROUNDING


def test_pixels_are_those_of_the_projections_and_half_a_pixel(folder: Path) -> None:
    sequence = read_kitti(folder)
    views, world_from_cam0 = sequence.views, make_poses(3)
    in_cam0 = torch.tensor([[1.0, -0.5, 8.0], [-3.0, 1.0, 20.0]], dtype=torch.float64)
    for name in views.names:
        camera_id, frame = int(name[6]), int(name[8:14])
        pose = Transform.rigid(world_from_cam0.rotation[frame], world_from_cam0.translation[frame])
        pixels = views.camera(name).project(views.pose(name) @ (pose @ in_cam0))
        homogeneous = np.column_stack([in_cam0, np.ones(2)]) @ PROJECTIONS[camera_id].T
        theirs = homogeneous[:, :2] / homogeneous[:, 2:] + 0.5
        assert np.abs(pixels.numpy() - theirs).max() <= SIZE[0] * ROUNDING


def test_cameras_frames_and_times_are_those_of_the_images(folder: Path) -> None:
    views, times, calibration = read_kitti(folder)
    assert views.names == (
        *(f"image_0/{frame:06d}.png" for frame in range(3)),
        *(f"image_2/{frame:06d}.png" for frame in (1, 2)),
    )
    assert views.camera_ids == (0, 0, 0, 2, 2)
    assert times.tolist() == [0, 0.1036224, 0.2, 0.1036224, 0.2]
    assert (views.cameras[2].width, views.cameras[2].height) == SIZE
    assert views.cameras[2].params.tolist() == [FOCAL, FOCAL, CX + 0.5, CY + 0.5]
    assert np.array_equal(calibration.projections, PROJECTIONS)


def test_the_right_camera_is_a_baseline_to_the_right(folder: Path) -> None:
    make_images(folder / "image_1", ("000001.png",), SIZE)
    views = read_kitti(folder).views
    left = views.pose("image_0/000001.png")
    centre = left @ views.select(["image_1/000001.png"]).centres()
    baseline = torch.tensor([[386.1448 / FOCAL, 0, 0]], dtype=torch.float64)
    assert (centre - baseline).abs().max() <= 8 * ROUNDING


def test_poses_are_beside_the_sequence_in_it_or_named(folder: Path) -> None:
    beside = folder.parent.parent / "poses" / "07.txt"
    first = read_kitti(folder).views
    beside.rename(folder / "poses.txt")
    second = read_kitti(folder).views
    (folder / "poses.txt").rename(folder / "other.txt")
    third = read_kitti(folder, poses=folder / "other.txt").views
    for views in (second, third):
        assert torch.equal(views.cam_from_world.translation, first.cam_from_world.translation)
    with pytest.raises(UserError, match=r"07: no poses, neither .*poses\.txt nor .*poses/07\.txt"):
        read_kitti(folder)


def test_rounded_poses_become_rotations(folder: Path) -> None:
    path = folder.parent.parent / "poses" / "07.txt"
    rows = np.loadtxt(path)
    np.savetxt(path, rows, fmt="%.6e")
    turns = read_poses(path).rotation
    assert (turns @ turns.mT - torch.eye(3)).abs().max() <= 16 * EPS
    assert np.abs(turns.numpy() - rows.reshape(-1, 3, 4)[:, :, :3]).max() <= 1e-6  # six digits


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("calib.txt", "P2:", "P7:", r"calib\.txt: it has no P2"),
        ("calib.txt", "P1: 718.856", "P1:", r"calib\.txt: P1 should have 12 numbers, it has 11"),
        ("calib.txt", "P1: 718.856", "P1: nan", "P1 should be a finite number, it is 'nan'"),
        ("calib.txt", "P2: 718.856", "P2: -718.856", "a focal length should be above 0, it is -7"),
        ("calib.txt", "P2: 718.856 0.0", "P2: 718.856 1.0", "a projection should be fx 0 cx"),
        ("calib.txt", "Tr: ", "Tr: 2", r"calib\.txt: the pose of Tr is no rotation"),
        ("times.txt", "2.0e-01", "", r"07: an image of frame 2, but 3 poses .* and 2 times"),
        ("times.txt", "2.0e-01", "noon", r"times\.txt: a time should be a finite number"),
        ("times.txt", "2.0e-01", "inf", r"times\.txt: a time should be a finite number"),
    ],
)
def test_what_does_not_fit_is_named(
    file: str, old: str, new: str, message: str, folder: Path
) -> None:
    content = (folder / file).read_text()
    assert old in content
    (folder / file).write_text(content.replace(old, new, 1))
    with pytest.raises(UserError, match=f"{message}.*; mend it or name another sequence"):
        read_kitti(folder)


def test_broken_poses_name_their_line(folder: Path) -> None:
    path = folder.parent.parent / "poses" / "07.txt"
    whole = path.read_text().splitlines()
    for line, message in (
        (" ".join(whole[1].split()[:9]), "line 2 should have 12 numbers, it has 9"),
        (" ".join(["0"] * 12), "the pose of line 2 is no rotation and translation"),
        (" ".join(["nan"] * 12), "line 2 should be a finite number, it is 'nan'"),
    ):
        path.write_text("\n".join([whole[0], line, whole[2]]))
        with pytest.raises(UserError, match=rf"07\.txt: {message}"):
            read_kitti(folder)
    path.write_text("\n".join(whole[:2]) + "\n")
    with pytest.raises(UserError, match=r"an image of frame 2, but 2 poses in .*07\.txt"):
        read_kitti(folder)


@pytest.mark.parametrize("name", ["calib.txt", "times.txt"])
def test_missing_files_are_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        read_kitti(folder)


def test_a_sequence_without_images_says_so(folder: Path) -> None:
    for path in folder.glob("image_*/*.png"):
        path.rename(path.with_stem("left_" + path.stem))
    with pytest.raises(UserError, match=r"07: no image_0/000000\.png and so on"):
        read_kitti(folder)


def test_poses_that_are_not_rigid_are_not_written(tmp_path: Path) -> None:
    poses = make_poses(2)
    with pytest.raises(ValueError, match="the pose of frame 0 is no rotation and translation"):
        write_poses(
            tmp_path / "a.txt", Transform(poses.rotation, poses.translation, 2 * poses.scale)
        )
    assert not list(tmp_path.iterdir())
