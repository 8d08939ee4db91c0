"""A LiDAR's exact distances are those of planes and spheres; noise, range and drop-outs are as said."""

import numpy as np
import pytest
import torch

from cuesta.data.worlds.lidar import Lidar, build_map, points_of, scan
from cuesta.data.worlds.mesh import Mesh
from cuesta.geometry import Transform
from tests.data.worlds.worlds import STONE, wall, world_of

EPS = float(np.finfo(np.float64).eps)
AT = Transform.exp(torch.tensor([0.4, -0.3, 0.2, 0.1, -0.2, 0.9], dtype=torch.float64))


def test_exact_distances_are_those_of_a_wall_and_a_ball() -> None:
    mesh = wall(distance=8.0)
    centre, radius = np.array([1.0, 4.0, 0.5]), 1.2
    mesh.ellipsoid(centre, [radius] * 3, STONE)
    lidar = Lidar(num_beams=16, num_columns=256)
    exact = scan(world_of(mesh), lidar, AT, draw=np.random.default_rng(0)).exact_m
    directions = lidar.directions() @ AT.rotation.numpy().T
    origin = AT.translation.numpy()
    with np.errstate(divide="ignore"):
        to_wall = (8.0 - origin[1]) / directions[:, 1]
    spot = origin + directions * to_wall[:, None]
    to_wall[(to_wall < 0) | (np.abs(spot) > 59.9).any(1)] = np.inf
    middle = directions @ (centre - origin)
    square = middle**2 - (centre - origin) @ (centre - origin) + radius**2
    to_ball = np.where(square > 0, middle - np.sqrt(np.maximum(square, 0)), np.inf)
    to_ball[to_ball < 0] = np.inf
    expected = np.minimum(to_wall, to_ball)
    is_clear = ~((np.abs(spot) > 59.9) & (np.abs(spot) < 60.1)).any(1) & (np.abs(square) > 1e-6)
    assert np.isfinite(expected[is_clear]).mean() > 0.2
    assert np.array_equal(np.isfinite(exact[is_clear]), np.isfinite(expected[is_clear]))
    is_hit = is_clear & np.isfinite(expected)
    assert np.abs(exact[is_hit] / expected[is_hit] - 1).max() < 1e6 * EPS


def test_noise_range_and_drop_outs_are_as_asked() -> None:
    world = world_of(wall(distance=10.0))
    lidar = Lidar(num_beams=32, num_columns=512, noise_m=0.05, drop_out=0.1, longest_m=14.0)
    scanned = scan(
        world, lidar, Transform.identity(dtype=torch.float64), draw=np.random.default_rng(1)
    )
    has_echo = np.isfinite(scanned.measured_m)
    assert scanned.exact_m[has_echo].max() <= 14
    assert (scanned.intensity[~has_echo] == 0).all()
    assert (scanned.intensity[has_echo] > 0).all()
    error = (scanned.measured_m - scanned.exact_m)[has_echo]
    assert error.std() == pytest.approx(0.05, rel=0.1)
    in_reach = scanned.exact_m <= 14
    assert 0.05 < 1 - has_echo[in_reach].mean() < 0.25
    points = points_of(scanned, lidar, Transform.identity(dtype=torch.float64))
    assert np.abs(points[:, 1] - 10).max() < 6 * 0.05


def test_a_map_has_a_point_a_voxel_and_follows_its_seed() -> None:
    world = world_of(wall(distance=5.0))
    lidar = Lidar(num_beams=8, num_columns=128)
    poses = [Transform.identity(dtype=torch.float64), AT]
    clouds = [
        build_map(world, lidar, poses, voxel_m=0.25, draw=np.random.default_rng(seed))
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(clouds[0].positions, clouds[1].positions)
    assert not np.array_equal(clouds[0].positions, clouds[2].positions)
    voxels = np.floor(clouds[0].positions / 0.25)
    assert len(np.unique(voxels, axis=0)) == len(clouds[0])
    with pytest.raises(ValueError, match="no beam of the LiDAR has an echo"):
        build_map(world_of(Mesh()), lidar, poses, voxel_m=0.1, draw=np.random.default_rng(0))
    with pytest.raises(ValueError, match="a beam at least, got 0 x 1024"):
        Lidar(num_beams=0)
