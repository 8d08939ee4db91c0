"""Pictures agree with geometry: depth, normals and ids are exact, colours are those of surfaces."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cuesta.data.worlds.labels import Label, Material
from cuesta.data.worlds.landmarks import build_landmark, movers
from cuesta.data.worlds.mesh import Finish, Mesh
from cuesta.data.worlds.paths import Lenses, landmark_shots, look_at
from cuesta.data.worlds.render import Frame, World, rays_of, render
from cuesta.data.worlds.srgb_kernels import encoded
from cuesta.geometry import MODELS, Camera, Transform
from tests.data.worlds.worlds import STONE, facing_y, pinhole, wall, world_of

EPS = float(np.finfo(np.float32).eps)
LENSES = {
    "PINHOLE": [50.0, 52.0, 31.0, 25.0],
    "SIMPLE_RADIAL": [50.0, 31.0, 25.0, -0.1],
    "RADIAL": [50.0, 31.0, 25.0, -0.1, 0.02],
    "OPENCV": [50.0, 52.0, 31.0, 25.0, -0.1, 0.02, 0.01, -0.01],
    "OPENCV_FISHEYE": [50.0, 52.0, 31.0, 25.0, 0.02, -0.01, 0.0, 0.0],
}


@pytest.fixture(scope="module")
def town() -> tuple[World, list[Frame], list[tuple[Camera, Transform]]]:
    """Return a landmark in three neighbouring pictures."""
    landmark = build_landmark(4, kind="church", palette=2)
    draw = np.random.default_rng(0)
    shots = landmark_shots(
        landmark, "aerial", count=24, lenses=Lenses(width=160, height=120), draw=draw
    )
    views = [(shot.camera, shot.cam_from_world) for shot in shots[:3]]
    return landmark.world, [render(landmark.world, *view) for view in views], views


@pytest.mark.parametrize("model", MODELS)
def test_depth_of_a_wall_is_that_of_its_plane_for_every_lens(model: str) -> None:
    camera = Camera(model, torch.tensor(LENSES[model], dtype=torch.float64), 64, 48)
    frame = render(world_of(wall(distance=7.0, slope=0.3)), camera, facing_y(0.5, 0.2, 0.1))
    rays = rays_of(camera)
    expected = (7.0 + 0.3 * 0.5 - 0.2) / (1 - 0.3 * rays[..., 0])
    assert np.abs(frame.depth / expected - 1).max() < 2 * EPS
    y, x = np.mgrid[:48, :64] + 0.5
    pixels = camera.project(torch.from_numpy(rays.reshape(-1, 3) * frame.depth.reshape(-1, 1)))
    off = pixels.numpy() - np.stack([x, y], -1).reshape(-1, 2)
    assert np.abs(off).max() < 64 * EPS


def test_depth_and_normals_of_a_ball_are_exact() -> None:
    mesh = Mesh()
    centre, radius = np.array([0.3, 6.0, -0.2]), 1.7
    mesh.ellipsoid(centre, [radius] * 3, Finish(Material.STONE, Label.OBJECT, (0.5, 0.5, 0.5)))
    camera = pinhole(160, 120)
    frame = render(world_of(mesh), camera, facing_y())
    is_hit = frame.depth > 0
    assert 0.1 < is_hit.mean() < 0.5
    assert np.array_equal(frame.ids, np.where(is_hit, Label.OBJECT, Label.SKY))
    ball = np.array([centre[0], -centre[2], centre[1]])  # in the camera's frame
    rays = rays_of(camera)[is_hit]
    a, b, c = (rays**2).sum(1), rays @ ball, ball @ ball - radius**2
    expected = (b - np.sqrt(np.maximum(b * b - a * c, 0))) / a
    points = rays * expected[:, None]
    facing = -((points - ball) * rays).sum(1) / np.linalg.norm(rays, axis=1) / radius
    error = np.abs(frame.depth[is_hit] / expected - 1)
    assert error[facing > 0.05].max() < 2 * EPS
    assert np.abs(frame.normals[is_hit] - (points - ball) / radius)[facing > 0.05].max() < 8 * EPS


def test_normals_are_unit_and_face_the_camera(town: tuple[World, list[Frame], object]) -> None:
    _, frames, _ = town
    rays = rays_of(Lenses(width=160, height=120).camera(0.8, number=2))
    for frame in frames:
        is_hit = frame.depth > 0
        assert np.abs(np.linalg.norm(frame.normals[is_hit], axis=1) - 1).max() < 4 * EPS
        assert ((frame.normals[is_hit] * rays[is_hit]).sum(1) < EPS).all()
        assert not frame.normals[~is_hit].any()


def test_what_two_pictures_show_is_the_same_place_in_the_same_colour(
    town: tuple[World, list[Frame], list[tuple[Camera, Transform]]],
) -> None:
    _, frames, views = town
    (camera, pose), (other_camera, other_pose) = views[:2]
    depth = torch.from_numpy(frames[0].depth.astype(np.float64).reshape(-1, 1))
    points = torch.from_numpy(rays_of(camera).reshape(-1, 3)) * depth
    moved = (other_pose @ pose.inverse()) @ points
    pixels = other_camera.project(moved).numpy()
    inside = (pixels > 1).all(1) & (pixels < [159, 119]).all(1) & (depth[:, 0].numpy() > 0)
    x, y = pixels[inside].astype(int).T
    seen, expected = frames[1].depth[y, x], moved[inside, 2].numpy()
    normal, ray = frames[1].normals[y, x], rays_of(other_camera)[y, x]
    # Half a pixel aside the plane of the pixel is this much nearer or farther.
    slack = seen * (np.abs(normal[:, :2]).sum(1) / np.abs((normal * ray).sum(1)) / 128 + 1e-4)
    agrees = np.abs(seen - expected) <= slack
    assert inside.mean() > 0.5
    assert agrees.mean() > 0.85  # the rest is hidden in the second picture, or lies at an edge
    assert (expected < seen - slack).mean() < 0.05  # nothing stands in front of what is seen
    one = frames[0].rgb.reshape(-1, 3)[inside][agrees].astype(float)
    two = frames[1].rgb[y, x][agrees].astype(float)
    difference = np.abs(one - two).mean(1)
    assert np.median(difference) < 8
    shuffled = np.abs(one - np.random.default_rng(0).permutation(two)).mean(1)
    assert np.median(difference) < 0.25 * np.median(shuffled)


def roughness(picture: NDArray[np.float64]) -> float:
    """Return how much neighbouring pixels differ beyond a straight line: what aliasing adds to."""
    bend = picture[:, 2:] - 2 * picture[:, 1:-1] + picture[:, :-2]
    return float(np.sqrt(np.square(bend).mean()))


@pytest.mark.parametrize("material", list(Material))
def test_textures_fade_before_they_alias(material: Material) -> None:
    finish = Finish(material, Label.WALL, (0.4, 0.35, 0.3), 5)
    world = world_of(wall(distance=9.0, finish=finish))
    coarse = render(world, pinhole(96, 72), facing_y()).rgb.astype(float)
    fine_camera = pinhole(96, 72).resized(192, 144)
    fine = render(world, fine_camera, facing_y()).rgb.astype(float)
    averaged = fine.reshape(72, 2, 96, 2, 3).mean((1, 3))
    is_printed = material in (
        Material.GLASS,
        Material.POSTER,
    )  # panes and posters, never a whole wall
    assert np.abs(coarse.mean() - averaged.mean()) < (10 if is_printed else 4.5)
    assert (
        np.sqrt(np.square(coarse - averaged).mean()) < (0.85 if is_printed else 0.52) * fine.std()
    )
    assert roughness(coarse) < (2.2 if is_printed else 1.2) * roughness(averaged)


def test_edges_are_smooth_in_colour_and_sharp_in_depth() -> None:
    mesh = Mesh()
    black = Finish(Material.PLAIN, Label.WALL, (0.0, 0.0, 0.0))
    corner, along, up = (
        np.array([-3.0, 5.0, -3.0]),
        np.array([3.1, 0, 0.4]),
        np.array([-0.8, 0, 6.0]),
    )
    mesh.parallelogram(corner, corner + along, corner + up, black)
    frame = render(world_of(mesh), pinhole(), facing_y())
    is_hit = frame.depth > 0
    assert np.abs(frame.depth[is_hit] - 5).max() < 8 * EPS
    shades = frame.rgb.mean(-1)
    dark, bright = np.median(shades[is_hit]), np.median(shades[~is_hit])
    level = (shades - dark) / (bright - dark)
    assert (level > 0.25)[is_hit].sum() > 10  # black pixels at the edge have their share of sky
    assert (level > 0.1)[is_hit].mean() < 0.05


def test_shadows_fall_away_from_the_sun() -> None:
    mesh = Mesh()
    ground = Finish(Material.PLAIN, Label.GROUND, (0.5, 0.5, 0.5))
    corner = np.array([-50.0, -50.0, 0.0])
    mesh.parallelogram(corner, corner * [-1, 1, 1], corner * [1, -1, 1], ground)
    world, camera = world_of(mesh), pinhole()
    pose = look_at(np.array([5.0, 3.0, 4.0]), np.zeros(3))
    ball = Mesh()
    ball.ellipsoid(np.array([0.0, 0.0, 1.0]), [0.5] * 3, STONE)
    light, dark = render(world, camera, pose), render(world, camera, pose, moving=ball)
    sun = world.light.place
    spot = torch.from_numpy(-sun[:2] / sun[2] * 1.0)
    pixel = camera.project(pose @ torch.tensor([[spot[0], spot[1], 0.0]], dtype=torch.float64))[0]
    x, y = int(pixel[0]), int(pixel[1])
    assert dark.ids[y, x] == Label.GROUND
    assert dark.rgb[y, x].mean() < 0.75 * light.rgb[y, x].mean()


def test_threads_change_nothing_and_ids_are_known() -> None:
    landmark = build_landmark(2, kind="palace")
    moving = movers(landmark, (0.0, -18.0), np.random.default_rng(5))
    camera, pose = pinhole(96, 72), look_at(np.array([0.0, -18.0, 1.6]), np.array([0.0, 0.0, 4.0]))
    one = render(landmark.world, camera, pose, moving=moving)
    two = render(landmark.world, camera, pose, moving=moving, num_threads=3)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert set(np.unique(one.ids)) <= {int(label) for label in Label}
    assert {Label.BUILDING, Label.WINDOW, Label.GROUND} <= set(np.unique(one.ids).tolist())


def test_a_lens_that_shows_nothing_in_the_corners_is_refused() -> None:
    params = torch.tensor([30.0, 32.0, 24.0, -0.9], dtype=torch.float64)
    with pytest.raises(ValueError, match="SIMPLE_RADIAL lens shows nothing at some pixels"):
        rays_of(Camera("SIMPLE_RADIAL", params, 64, 48))


def test_brightness_becomes_the_nearest_number_of_srgb() -> None:
    draw = np.random.default_rng(0)
    linear = np.concatenate(
        [[-0.5, 0.0, 1.0, 2.0], np.linspace(0, 1, 4097), draw.random(3000) ** 3]
    )
    x = linear.clip(0, 1)
    srgb = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    numbers = [encoded(value) for value in linear]
    np.testing.assert_array_equal(numbers, (255 * srgb + 0.5).astype(np.uint8))
