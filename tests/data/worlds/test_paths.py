"""Cameras stand in free air, neighbours see the same things, and a seed gives the same path."""

import numpy as np
import pytest
import torch

from cuesta.data.worlds.labels import Label
from cuesta.data.worlds.landmarks import KINDS, Landmark, build_landmark, movers, ring_point
from cuesta.data.worlds.paths import (
    CLEARANCE_M,
    ROOM_CLEARANCE_M,
    ROUTES,
    Lenses,
    Shot,
    clearance,
    landmark_shots,
    look_at,
    room_shots,
)
from cuesta.data.worlds.render import World, rays_of, render
from cuesta.data.worlds.rooms import build_room

SMALL = Lenses(width=48, height=36)


@pytest.fixture(scope="module")
def landmarks() -> list[Landmark]:
    return [build_landmark(seed, kind=kind, palette=seed) for seed, kind in enumerate(KINDS)]


def centre_of(shot: Shot) -> np.ndarray:
    return shot.cam_from_world.inverse().translation.numpy()


def overlap(world: World, one: Shot, two: Shot) -> float:
    """Return the share of what `one` sees that `two` sees too."""
    frame, other = (render(world, shot.camera, shot.cam_from_world) for shot in (one, two))
    keep = torch.from_numpy(((frame.depth > 0) & (frame.ids != Label.GRASS)).ravel())
    points = torch.from_numpy(rays_of(one.camera).reshape(-1, 3) * frame.depth.reshape(-1, 1))[keep]
    moved = (two.cam_from_world @ one.cam_from_world.inverse()) @ points
    pixels = two.camera.project(moved).numpy()
    inside = (pixels >= 0).all(1) & (pixels < [two.camera.width, two.camera.height]).all(1)
    x, y = pixels[inside].astype(int).T
    is_seen = np.abs(other.depth[y, x] / moved[inside, 2].numpy() - 1) < 0.05
    return float(is_seen.sum() / len(points))


@pytest.mark.parametrize("route", ROUTES)
def test_cameras_stand_in_free_air_and_neighbours_overlap(
    route: str, landmarks: list[Landmark]
) -> None:
    for landmark in landmarks:
        draw = np.random.default_rng(7)
        shots = landmark_shots(landmark, route, count=24, lenses=SMALL, draw=draw)
        assert len(shots) == 24
        for shot in shots:
            assert clearance(landmark.world, centre_of(shot)) >= CLEARANCE_M
        levels = [shot.folder for shot in shots]
        shares = [
            overlap(landmark.world, one, two)
            for one, two in zip(shots[:6:2], shots[2:8:2], strict=True)
            if one.folder == two.folder
        ]
        assert np.median(shares) > 0.35
        assert ("cam_2_aerial" in levels) == (route != "ground")
        assert ("cam_0" in levels) == (route != "aerial")


def test_heights_and_lenses_are_those_of_the_route(landmarks: list[Landmark]) -> None:
    for route, low, high in (("ground", 1.0, 2.3), ("aerial", 10.0, 60.0)):
        draw = np.random.default_rng(3)
        for shot in landmark_shots(landmarks[0], route, count=12, lenses=Lenses(), draw=draw):
            assert low < centre_of(shot)[2] < high
            forward = shot.cam_from_world.rotation[2]
            pitch = float(torch.rad2deg(torch.asin(forward[2])))
            assert (-62 < pitch < -28) if route == "aerial" else abs(pitch) < 25
            focal = float(shot.camera.focal()[0]) / 640
            assert focal == pytest.approx({"cam_0": 0.78, "cam_1": 1.47}.get(shot.folder, 0.8))


def test_a_seed_gives_the_same_path_and_another_another(landmarks: list[Landmark]) -> None:
    poses = []
    for seed in (1, 1, 2):
        draw = np.random.default_rng(seed)
        shots = landmark_shots(landmarks[1], "mixed", count=9, lenses=SMALL, draw=draw)
        poses.append(torch.stack([shot.cam_from_world.translation for shot in shots]))
    assert torch.equal(poses[0], poses[1])
    assert not torch.equal(poses[0], poses[2])


def test_a_walk_through_a_room_stays_in_its_air() -> None:
    room = build_room(3)
    shots = room_shots(room, count=12, lenses=SMALL, draw=np.random.default_rng(0))
    for shot in shots:
        x, y, z = centre_of(shot)
        assert 0 < x < room.width
        assert 0 < y < room.depth
        assert 0 < z < room.height
        assert clearance(room.world, centre_of(shot)) > ROOM_CLEARANCE_M
        assert (render(room.world, shot.camera, shot.cam_from_world).depth > 0).all()
    assert overlap(room.world, shots[0], shots[1]) > 0.4


def test_distorted_lenses_have_one_focal_length(landmarks: list[Landmark]) -> None:
    bent = Lenses(width=64, height=48, bend=-0.07)
    shots = landmark_shots(
        landmarks[0], "ground", count=2, lenses=bent, draw=np.random.default_rng(0)
    )
    assert {shot.camera.model for shot in shots} == {"SIMPLE_RADIAL"}
    assert rays_of(shots[0].camera).shape == (48, 64, 3)


def test_ring_points_are_as_far_from_the_walls_as_asked(landmarks: list[Landmark]) -> None:
    landmark = landmarks[2]
    for angle in np.linspace(0, 6, 25):
        x, y = ring_point(landmark, angle, 9.0)
        off = np.hypot(max(abs(x) - landmark.half_width, 0), max(abs(y) - landmark.half_depth, 0))
        assert off == pytest.approx(9.0)
        assert np.arctan2(y, x) % (2 * np.pi) == pytest.approx(angle)


def test_movers_are_new_in_every_picture_and_leave_the_camera_alone(
    landmarks: list[Landmark],
) -> None:
    x, y = ring_point(landmarks[0], -1.5, 8.0)
    first, second = (movers(landmarks[0], (x, y), np.random.default_rng(k)) for k in (1, 2))
    assert {finish.label for finish in first.round_finishes} == {Label.MOVING}
    assert not np.array_equal(first.ellipsoids[0], second.ellipsoids[0])
    for seed in range(60):
        for centre, _ in movers(landmarks[0], (x, y), np.random.default_rng(seed)).ellipsoids:
            assert np.hypot(centre[0] - x, centre[1] - y) > 2


def test_mistakes_are_named(landmarks: list[Landmark]) -> None:
    with pytest.raises(
        ValueError, match="no kind of landmark is called 'barn'; choose one of palace"
    ):
        build_landmark(0, kind="barn")
    with pytest.raises(ValueError, match="no route is called 'tunnel'; choose one of ground"):
        landmark_shots(landmarks[0], "tunnel", count=1, lenses=SMALL, draw=np.random.default_rng(0))
    with pytest.raises(ValueError, match="straight up or down"):
        look_at(np.zeros(3), np.array([0.0, 0.0, 4.0]))
