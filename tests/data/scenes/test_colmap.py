"""COLMAP models come back, are what pycolmap says they are, and broken ones end in one line."""

import resource
import shutil
import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from hypothesis import given

from cuesta.data.clouds import Cloud
from cuesta.data.scenes.colmap import (
    Suffix,
    read_colmap,
    read_reconstruction,
    reconstruction_of,
    views_of,
    write_colmap,
    write_reconstruction,
)
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import MODELS, Camera, Transform
from tests.data.scenes.posed import EPS, ROUNDING, assert_same, make_camera, make_views, posed

FILES = ("cameras", "frames", "images", "points3D", "rigs")
suffixes = pytest.mark.parametrize("suffix", [".bin", ".txt"])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    views = make_views(make_camera("PINHOLE"), make_camera("SIMPLE_RADIAL"))
    cloud = Cloud(np.arange(6.0).reshape(2, 3), colors=np.arange(6, dtype=np.uint8).reshape(2, 3))
    write_colmap(tmp_path / "model", views, cloud)
    return tmp_path / "model"


def as_text(model: Path) -> Path:
    text = model.with_name("text")
    text.mkdir()
    pycolmap.Reconstruction(model).write_text(text)
    return text


def edit(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


@given(views=posed())
def test_views_come_back_through_a_reconstruction(views: Views) -> None:
    assert_same(views, views_of(reconstruction_of(views)))


@suffixes
def test_views_come_back_through_files(suffix: Suffix, tmp_path: Path) -> None:
    views = make_views(*(make_camera(name) for name in MODELS), count=7)
    write_colmap(tmp_path / "model", views, suffix=suffix)
    assert {file.suffix for file in (tmp_path / "model").iterdir()} == {suffix}
    assert_same(views, read_colmap(tmp_path / "model"))


def test_what_was_read_stays_through_any_number_of_files(tmp_path: Path) -> None:
    views = make_views(count=6)
    for place in range(8):
        write_colmap(tmp_path / str(place), views)
        views = read_colmap(tmp_path / str(place))
    assert_same(make_views(count=6), views)


def test_no_views_at_all(tmp_path: Path) -> None:
    write_colmap(tmp_path / "none", make_views(count=0))
    assert len(read_colmap(tmp_path / "none")) == 0


def test_pixels_are_pycolmaps() -> None:
    views = make_views(*(make_camera(name) for name in MODELS), count=10)
    reconstruction = reconstruction_of(views)
    for place, name in enumerate(views.names):
        image = reconstruction.image(place + 1)
        assert image.name == name
        point = views.pose(name).inverse() @ torch.tensor([[0.3, -0.2, 2.0]], dtype=torch.float64)
        theirs = image.project_point(point[0].numpy())
        ours = views.camera(name).project(views.pose(name) @ point)[0]
        assert np.abs(theirs - ours.numpy()).max() <= 640 * ROUNDING


def test_images_are_sorted_and_those_without_pose_left_out() -> None:
    views = make_views(count=4)
    reconstruction = reconstruction_of(views.select(views.names[::-1]))
    assert_same(views, views_of(reconstruction))
    reconstruction.deregister_frame(1)
    assert_same(views.select(views.names[:-1]), views_of(reconstruction))


def test_a_rig_of_two_cameras_chains_its_poses() -> None:
    reconstruction = pycolmap.Reconstruction()
    for camera_id in (3, 5):
        params = {"model": "SIMPLE_PINHOLE", "params": [50, 32, 24], "camera_id": camera_id}
        reconstruction.add_camera(pycolmap.Camera(width=64, height=48, **params))
    left, right = (pycolmap.sensor_t(pycolmap.SensorType.CAMERA, one) for one in (3, 5))
    rig, frame = pycolmap.Rig(), pycolmap.Frame()
    rig.rig_id = frame.rig_id = frame.frame_id = 9
    turn = pycolmap.Rotation3d(np.array([0, 0, 0.5, 0.5]) ** 0.5)
    rig.add_ref_sensor(left)
    rig.add_sensor(right, pycolmap.Rigid3d(turn, np.array([1.0, 0, 0])))
    reconstruction.add_rig(rig)
    frame.rig_from_world = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([0, 2.0, 0]))
    images = [pycolmap.Image(name=f"{one}.jpg", camera_id=one, image_id=one) for one in (3, 5)]
    for image in images:
        image.frame_id = 9
        frame.add_data_id(image.data_id)
    reconstruction.add_frame(frame)
    for image in images:
        reconstruction.add_image(image)
    reconstruction.register_frame(9)
    views = views_of(reconstruction)
    assert views.camera("3.jpg").model == "PINHOLE"
    assert views.camera("3.jpg").params.tolist() == [50, 50, 32, 24]
    assert views.pose("3.jpg").translation.tolist() == [0, 2, 0]
    assert (
        views.pose("5.jpg").translation - torch.tensor([-1.0, 0, 0]).double()
    ).abs().max() <= 8 * EPS


def test_a_model_of_a_rig_can_be_read_back(tmp_path: Path) -> None:
    reconstruction = pycolmap.Reconstruction()
    camera = {"model": "PINHOLE", "width": 64, "height": 48, "params": [50, 50, 32, 24]}
    rig = pycolmap.Rig()
    rig.rig_id = 1
    for camera_id in range(1, 5):
        reconstruction.add_camera(pycolmap.Camera(camera_id=camera_id, **camera))
        sensor = pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id)
        if camera_id == 1:
            rig.add_ref_sensor(sensor)
        elif camera_id == 2:
            rig.add_sensor(sensor, None)
        else:
            rig.add_sensor(sensor, pycolmap.Rigid3d())
    reconstruction.add_rig(rig)
    reconstruction.write_binary(tmp_path)
    assert read_reconstruction(tmp_path).rigs[1].num_sensors() == 4


def test_points_and_their_colours_are_kept(model: Path) -> None:
    points = [read_reconstruction(model).point3D(point_id) for point_id in (1, 2)]
    assert [point.xyz.tolist() for point in points] == [[0, 1, 2], [3, 4, 5]]
    assert [point.color.tolist() for point in points] == [[0, 1, 2], [3, 4, 5]]
    plain = reconstruction_of(make_views(), Cloud(np.ones((1, 3))))
    assert plain.point3D(1).color.tolist() == [0, 0, 0]


def rigs_of_two() -> pycolmap.Reconstruction:
    """Return two rigs of two cameras, of three frames each, that see 20 points, with some noise."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig = 2, 2
    options.num_frames_per_rig, options.num_points3D = 3, 20
    reconstruction = pycolmap.synthesize_dataset(options)
    noise = pycolmap.SyntheticNoiseOptions()
    noise.point2D_stddev = 1.0
    pycolmap.synthesize_noise(noise, reconstruction)
    return reconstruction


@suffixes
def test_a_reconstruction_comes_back_whole(suffix: Suffix, tmp_path: Path) -> None:
    made = rigs_of_two()
    write_reconstruction(tmp_path / "model", made, suffix=suffix)
    assert {file.suffix for file in (tmp_path / "model").iterdir()} == {suffix}
    again = read_reconstruction(tmp_path / "model")
    assert dict(again.rigs) == dict(made.rigs)
    assert [rig.num_sensors() for rig in again.rigs.values()] == [2, 2]
    assert dict(again.frames) == dict(made.frames)
    assert dict(again.points3D) == dict(made.points3D)
    assert dict(again.cameras) == dict(made.cameras)
    assert set(again.images) == set(made.images)
    for image_id, image in made.images.items():
        same = again.image(image_id)
        assert same.name == image.name
        assert (same.camera_id, same.frame_id) == (image.camera_id, image.frame_id)
        assert list(same.points2D) == list(image.points2D)
    assert again.compute_num_observations() == made.compute_num_observations() > 0


def test_frames_without_a_pose_are_left_out(tmp_path: Path) -> None:
    made = rigs_of_two()
    made.deregister_frame(1)
    write_reconstruction(tmp_path / "model", made)
    assert set(read_reconstruction(tmp_path / "model").frames) == set(made.frames) - {1}


@suffixes
def test_a_full_disk_leaves_no_model(suffix: Suffix, tmp_path: Path) -> None:
    """pycolmap says nothing where a file of it could not grow."""
    made, limits = rigs_of_two(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*model: a file of it was cut short"):
            write_reconstruction(tmp_path / "model", made, suffix=suffix)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_names_and_suffixes_that_no_file_can_hold_are_refused(tmp_path: Path) -> None:
    views = make_views()
    names = ("my cat.jpg", *views.names[1:])
    spaced = Views(names, views.cameras, views.camera_ids, views.cam_from_world)
    with pytest.raises(ValueError, match=r"a name in a \.txt may have no space, got 'my cat\.jpg'"):
        write_colmap(tmp_path / "model", spaced, suffix=".txt")
    with pytest.raises(ValueError, match=r"written as \.bin or \.txt, not as '\.ply'"):
        write_colmap(tmp_path / "model", views, suffix=".ply")
    assert not list(tmp_path.iterdir())
    write_colmap(tmp_path / "model", spaced)
    assert "my cat.jpg" in read_colmap(tmp_path / "model").names


@pytest.mark.parametrize("name", FILES)
def test_a_bin_cut_short_anywhere_is_named(name: str, model: Path) -> None:
    path = model / f"{name}.bin"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=rf"{name}\.bin: it is cut short.*; write the model"):
            read_reconstruction(model)


@pytest.mark.parametrize("name", FILES)
def test_counts_and_ends_that_do_not_fit_are_named(name: str, model: Path) -> None:
    path = model / f"{name}.bin"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    with pytest.raises(UserError, match=rf"{name}\.bin: 1 bytes follow its"):
        read_colmap(model)
    path.write_bytes(struct.pack("<Q", 1 << 60) + whole[8:])
    with pytest.raises(UserError, match=rf"{name}\.bin: it is cut short: its record \d of 1152"):
        read_colmap(model)


def test_models_of_cameras_that_are_not_ours_are_named(model: Path, tmp_path: Path) -> None:
    reconstruction = pycolmap.Reconstruction()
    params = [500, 500, 320, 240, 0.1]
    camera = pycolmap.Camera(model="FOV", width=640, height=480, params=params, camera_id=4)
    reconstruction.add_camera_with_trivial_rig(camera)
    image = pycolmap.Image(name="a.jpg", camera_id=4, image_id=1)
    reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d())
    message = "camera 4: camera model FOV is not supported, but PINHOLE, .*OPENCV_FISHEYE are"
    with pytest.raises(UserError, match=f"the reconstruction: {message}; mend"):
        views_of(reconstruction)
    folder = tmp_path / "fov"
    folder.mkdir()
    reconstruction.write_binary(folder)
    with pytest.raises(UserError, match=f"fov: {message}; write the model again"):
        read_colmap(folder)
    cameras = model / "cameras.bin"
    cameras.write_bytes(cameras.read_bytes()[:12] + b"\x63" + cameras.read_bytes()[13:])
    with pytest.raises(UserError, match=r"cameras\.bin: COLMAP has no camera model 99"):
        read_colmap(model)


def test_missing_models_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no COLMAP model; it needs cameras, images"):
        read_colmap(tmp_path / "nowhere")
    (model / "points3D.bin").unlink()
    with pytest.raises(UserError, match=r"model: no COLMAP model; .*points3D as \.bin or \.txt"):
        read_colmap(model)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("cameras.txt", "PINHOLE 640", "BUBBLE 640", "Camera model does not exist"),
        ("cameras.txt", " 640 ", " nan ", "cameras.txt|Check failed"),
        ("cameras.txt", " 501 ", " ", "Check failed"),
        ("cameras.txt", " 500 501", " -500 501", "camera 3: a focal length should be above 0"),
        ("cameras.txt", " 640 480", " 0 480", "an image is 1 pixel at least"),
        ("images.txt", "cam_0/000.jpg", "cam_0/002.jpg", "'cam_0/002.jpg' is there 2 times"),
        ("images.txt", "cam_0/000.jpg", "../000.jpg", "'../000.jpg' leads out"),
        ("images.txt", "cam_0/000.jpg", "my cat.jpg", "11 words where 10 are due.*no space"),
        ("images.txt", " 3 cam_0", " 7 cam_0", "Rig with ID 7 does not exist"),
    ],
)
def test_texts_of_what_no_model_has_are_refused(
    file: str, old: str, new: str, message: str, model: Path
) -> None:
    text = as_text(model)
    for name in ("rigs.txt", "frames.txt"):  # what older models do not have
        (text / name).unlink()
    edit(text / file, old, new)
    with pytest.raises(UserError, match=rf"text.*{message}.*; write the model again"):
        read_colmap(text)


@pytest.mark.parametrize("pose", ["0 0 0 0 1 2 3", "1 0 0 0 1 2 1e999"])
def test_poses_that_are_none_are_refused(pose: str, model: Path) -> None:
    text = as_text(model)
    for name in ("rigs.txt", "frames.txt"):
        (text / name).unlink()
    lines = (text / "images.txt").read_text().splitlines()
    lines[4] = f"1 {pose} 3 cam_0/000.jpg"
    (text / "images.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"text: .*"):
        read_colmap(text)


def test_an_image_without_its_second_line_is_not_lost(model: Path) -> None:
    text = as_text(model)
    path = text / "images.txt"
    path.write_text(path.read_text().rstrip("\n") + "\n")
    with pytest.raises(UserError, match=r"images\.txt: 3 images, of which 2 can be read"):
        read_colmap(text)


def test_what_cannot_be_written_is_refused(model: Path, tmp_path: Path) -> None:
    views = make_views()
    with pytest.raises(UserError, match="already exists"):
        write_colmap(model, views)
    poses = views.cam_from_world
    scaled = Transform(poses.rotation, poses.translation, 2 * poses.scale)
    for broken, message in (
        (scaled, "the pose of cam_0/000.jpg is no rotation and translation"),
        (Transform.rigid(-poses.rotation, poses.translation), "is no rotation"),
        (Transform.rigid(poses.rotation, poses.translation / 0), "000.jpg holds a number that"),
    ):
        with pytest.raises(ValueError, match=message):
            write_colmap(
                tmp_path / "no", Views(views.names, views.cameras, views.camera_ids, broken)
            )
    camera = Camera("PINHOLE", torch.tensor([-1.0, 1, 1, 1]), 4, 4)
    with pytest.raises(ValueError, match="a focal length should be above 0, it is -1"):
        write_colmap(tmp_path / "no", Views(views.names, {3: camera}, views.camera_ids, poses))
    assert not (tmp_path / "no").exists()
    shutil.rmtree(model)
    assert not list(tmp_path.iterdir())
