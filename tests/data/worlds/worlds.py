"""Small worlds and cameras that the tests share."""

import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.data.worlds.labels import Label, Material
from cuesta.data.worlds.mesh import Finish, Mesh
from cuesta.data.worlds.render import Light, World
from cuesta.geometry import Camera, Transform

STONE = Finish(Material.ASHLAR, Label.BUILDING, (0.5, 0.45, 0.4))


def daylight() -> Light:
    sun = np.array([0.3, -0.7, 0.65])
    return Light(
        place=sun / np.linalg.norm(sun),
        is_near=False,
        color=np.array([1.6, 1.4, 1.2]),
        ambient=np.array([0.5, 0.55, 0.7]),
        bounce=np.array([0.3, 0.3, 0.3]),
        haze=np.array([0.6, 0.7, 0.8]),
        haze_distance=900.0,
        sky=1.0,
        cloud_cover=0.0,
        cloud_seed=0,
    )


def world_of(mesh: Mesh) -> World:
    return World(shapes=mesh.shapes(), light=daylight())


def wall(*, distance: float, slope: float = 0.0, finish: Finish = STONE) -> Mesh:
    """Return a large wall y = distance + slope * x, seen along +y."""
    mesh = Mesh()
    corner = np.array([-60.0, distance - 60 * slope, -60.0])
    along, up = np.array([120.0, 120 * slope, 0.0]), np.array([0.0, 0.0, 120.0])
    mesh.parallelogram(corner, corner + along, corner + up, finish)
    return mesh


def pinhole(width: int = 64, height: int = 48, focal: float = 0.8) -> Camera:
    f = focal * width
    params = torch.tensor([f, f, width / 2 + 0.3, height / 2 - 0.7], dtype=torch.float64)
    return Camera("PINHOLE", params, width, height)


def facing_y(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Transform:
    """Return cam_from_world of a camera that looks along +y, level."""
    rotation = torch.tensor([[1, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    return Transform.rigid(rotation, -rotation @ torch.tensor([x, y, z], dtype=torch.float64))


def soup(draw: np.random.Generator, count: int) -> Mesh:
    """Return triangles, parallelograms and ellipsoids anywhere, some of no area."""
    mesh = Mesh()
    for k in range(count):
        centre = draw.uniform(-4, 4, 3)
        a, b, c = centre + draw.normal(0, 0.7, (3, 3))
        if k % 7 == 0:
            c = a + (b - a) * draw.uniform(-1, 2)
        if k % 11 == 0:
            b = c = a
        if k % 3 == 0:
            mesh.ellipsoid(centre, draw.uniform(0.05, 0.6, 3), STONE)
        elif k % 3 == 1:
            mesh.triangle(a, b, c, STONE)
        else:
            mesh.parallelogram(a, b, c, STONE)
    return mesh


def rays(draw: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return origins and directions; the first ones run along axes."""
    origins = draw.uniform(-6, 6, (count, 3))
    directions = draw.uniform(-4, 4, (count, 3)) - origins
    directions[:3] = np.eye(3)
    directions[3:6] = -np.eye(3)
    return origins, directions
