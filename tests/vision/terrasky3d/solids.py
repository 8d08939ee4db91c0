"""A place of a wall, a floor and a ball, seen by a row of cameras: depth, normals and colours by formula."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cuesta.data.files import atomic_file
from cuesta.data.maps import write_map
from cuesta.data.scenes.colmap import write_colmap
from cuesta.data.scenes.scene import Scene, write_manifest
from cuesta.data.scenes.views import Views
from cuesta.geometry import Camera, Transform

Array = NDArray[np.float64]

WALL, FLOOR = 8.0, 1.5  # z of the one, y of the other
BALL, RADIUS = np.array([0.4, 0.3, 5.0]), 0.8
WIDTH, HEIGHT, FOCAL = 96, 72, 80.0
ROW = (-0.9, -0.5, -0.1, 0.3, 0.7)  # x of the cameras


def camera() -> Camera:
    """Return the lens of all views."""
    params = torch.tensor([FOCAL, FOCAL, WIDTH / 2 + 0.3, HEIGHT / 2 - 0.2], dtype=torch.float64)
    return Camera("PINHOLE", params, WIDTH, HEIGHT)


def views(places: Sequence[float] = ROW) -> Views:
    """Return a row of views that turn towards the ball."""
    tangents = torch.zeros(len(places), 6, dtype=torch.float64)
    tangents[:, 4] = torch.tensor([0.1 * x for x in places])
    turns = Transform.exp(tangents).rotation
    centres = torch.tensor([[x, 0.1 * x * x, 0.2 * x] for x in places], dtype=torch.float64)
    poses = Transform.rigid(turns, -(turns @ centres[..., None])[..., 0])
    names = tuple(f"cam_0/{k}.png" for k in range(len(places)))
    return Views(names, {1: camera()}, (1,) * len(places), poses)


def cast(centre: Array, rays: Array) -> Array:
    """Return how far along its ray [..., 3] each meets the place: times the ray, from the centre."""
    with np.errstate(divide="ignore", invalid="ignore"):
        wall, floor = (WALL - centre[2]) / rays[..., 2], (FLOOR - centre[1]) / rays[..., 1]
        towards = centre - BALL
        a, b = (rays**2).sum(-1), (rays * towards).sum(-1)
        ball = (-b - np.sqrt(b * b - a * (towards @ towards - RADIUS**2))) / a
    found = np.stack([wall, floor, ball])
    return np.where(found > 0, found, np.inf).min(0)


def rays_of(view: Transform, pixels: Array) -> Array:
    """Return the rays of pixels [..., 2] in the world, of depth 1."""
    flat = camera().unproject(torch.from_numpy(pixels.reshape(-1, 2))).numpy()
    return (flat @ view.rotation.numpy()).reshape(*pixels.shape[:-1], 3)


def pixel_centres() -> Array:
    """Return the centres of all pixels [Y, X, 2]."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    return np.stack([x, y], -1)


def depth_of(view: Transform, pixels: Array | None = None) -> Array:
    """Return z at pixels, by default at all."""
    rays = rays_of(view, pixel_centres() if pixels is None else pixels)
    return cast(view.inverse().translation.numpy(), rays)


def points_of(view: Transform) -> Array:
    """Return the points of the world [Y, X, 3] that pixels show."""
    rays = rays_of(view, pixel_centres())
    return view.inverse().translation.numpy() + depth_of(view)[..., None] * rays


def distances(points: Array) -> Array:
    """Return how far points [P, 3] are from the place."""
    ball = np.linalg.norm(points - BALL, axis=-1) - RADIUS
    return np.abs(np.stack([points[..., 2] - WALL, points[..., 1] - FLOOR, ball])).min(0)


def normals_at(points: Array) -> Array:
    """Return the unit normals of the nearest surface, out of it."""
    away = points - BALL
    length = np.linalg.norm(away, axis=-1, keepdims=True)
    misses = [points[..., 2] - WALL, points[..., 1] - FLOOR, length[..., 0] - RADIUS]
    nearest = np.abs(np.stack(misses)).argmin(0)[..., None]
    flat = np.where(nearest == 0, [0.0, 0.0, -1.0], [0.0, -1.0, 0.0])
    return np.where(nearest == 2, away / length, flat)


def color_at(points: Array) -> Array:
    """Return a colour that changes slowly from place to place, 0 to 255."""
    return 128 + 100 * np.sin(np.where(np.isfinite(points), points, 0) * [0.5, 0.7, 0.6])


def write_place(
    root: Path,
    seen: Views | None = None,
    *,
    new_from_world: Transform | None = None,
    depths: dict[str, Array] | None = None,
) -> Scene:
    """Write a scene of the views, moved as a whole; `depths` replaces exact maps, before the move."""
    seen, scene = seen or views(), Scene(root)
    moved = seen if new_from_world is None else seen.moved(new_from_world)
    scale = 1.0 if new_from_world is None else float(new_from_world.scale)
    write_colmap(scene.model, moved)
    for name in seen.names:
        view = seen.pose(name)
        depth = (depths or {}).get(name, depth_of(view))
        write_map(scene.depth_map(name), (scale * depth).astype(np.float32))
        rgb = np.rint(color_at(points_of(view))).astype(np.uint8)
        with atomic_file(scene.frame(name)) as temporary:
            Image.fromarray(rgb).save(temporary)
    write_manifest(scene, {"name": root.name, "unit": "m"})
    return scene


def write_normals(scene: Scene, seen: Views, turn: Transform | None = None) -> None:
    """Write the exact normals of views, as COLMAP does; `turn` turns those of the first."""
    for name in seen.names:
        view = seen.pose(name)
        inside = normals_at(points_of(view)) @ view.rotation.numpy().T
        if turn is not None and name == seen.names[0]:
            inside = inside @ turn.rotation.numpy().T
        path = scene.root / "depth" / "normals" / name.replace(".png", ".bin")
        write_map(path, np.ascontiguousarray(inside.astype(np.float32)))
