"""A small scene whose every number is known: a wall and a floor, seen by cameras side by side, with exact
depth, masks painted on the surfaces, and sparse points with their tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from PIL import Image

from cuesta.data.maps import write_map
from cuesta.data.scenes.colmap import reconstruction_of, write_reconstruction
from cuesta.data.scenes.scene import Json, Scene, write_manifest
from cuesta.data.scenes.views import Views
from cuesta.geometry import Camera, Transform

WALL, FLOOR = 6.0, 1.5  # z = WALL, y = FLOOR (y points down)
SIZE = (160, 120)


def corner_views(count: int = 4, *, kinds: Sequence[str] = ("cam_0",), seed: int = 0) -> Views:
    """Return cameras half a metre apart, slightly turned, whose principal points are off the middle."""
    generator = torch.Generator().manual_seed(seed)
    params = torch.tensor([140.0, 142.0, 76.5, 63.25], dtype=torch.float64)
    names = [f"{kinds[place % len(kinds)]}/frame_{place:06d}.jpg" for place in range(count)]
    tangents = 0.05 * torch.randn(count, 6, generator=generator, dtype=torch.float64)
    tangents[:, 0] -= 0.5 * torch.arange(count)
    order = sorted(range(count), key=lambda place: names[place])
    poses = Transform.exp(tangents[order])
    camera = Camera("PINHOLE", params, *SIZE)
    return Views(tuple(sorted(names)), {1: camera}, (1,) * count, poses)


def seen_points(camera: Camera, pose: Transform) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the world point [Y, X, 3] at each pixel's centre, and its depth [Y, X]."""
    down, across = np.mgrid[: camera.height, : camera.width] + 0.5
    pixels = torch.from_numpy(np.stack([across, down], -1).reshape(-1, 2))
    rays = camera.unproject(pixels).numpy()
    rotation, centre = pose.rotation.numpy(), pose.inverse().translation.numpy()
    ways = rays @ rotation
    with np.errstate(divide="ignore"):
        far = np.stack([(WALL - centre[2]) / ways[:, 2], (FLOOR - centre[1]) / ways[:, 1]], -1)
    depth = np.where(far > 0, far, np.inf).min(-1)
    points = centre + ways * depth[:, None]
    shape = (camera.height, camera.width)
    return points.reshape(*shape, 3), depth.reshape(shape)


def paint(points: NDArray[np.float64], seed: int) -> NDArray[np.uint8]:
    """Return the colours of surface points: waves of 0.2 to 1 m."""
    draw = np.random.default_rng([7, seed])
    value = np.zeros(points.shape[:-1])
    for _ in range(24):
        way = draw.normal(size=3)
        wave = 2 * np.pi / draw.uniform(0.2, 1.0) * way / np.linalg.norm(way)
        value += np.sin(points @ wave + draw.uniform(0, 2 * np.pi))
    gray = np.clip(128 + 25 * value, 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, -1)


def make_corner(
    root: Path,
    *,
    count: int = 4,
    seed: int = 0,
    kinds: Sequence[str] = ("cam_0",),
    num_points: int = 300,
    about: dict[str, Json] | None = None,
) -> Scene:
    """Write the scene to a folder and return it."""
    scene, views = Scene(root), corner_views(count, kinds=kinds, seed=seed)
    for name in views.names:
        points, depth = seen_points(views.camera(name), views.pose(name))
        for path in (scene.frame(name), scene.geometric_mask(name), scene.semantic_mask(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(paint(points, seed)).save(scene.frame(name), quality=95)
        write_map(scene.depth_map(name), depth.astype(np.float32))
        _save_mask(scene.geometric_mask(name), np.sin(3 * points[..., 0]) > -0.8)
        _save_mask(scene.semantic_mask(name), np.sin(2 * points[..., 1] + points[..., 0]) > -0.8)
    write_reconstruction(scene.model, _model(views, num_points, seed))
    write_manifest(scene, {"name": root.name, "unit": "m", "licence": "CC0-1.0", **(about or {})})
    return scene


def _save_mask(path: Path, keep: NDArray[np.bool_]) -> None:
    Image.fromarray(np.where(keep, 255, 0).astype(np.uint8)).save(path)


def _model(views: Views, num_points: int, seed: int) -> pycolmap.Reconstruction:
    model = reconstruction_of(views)
    draw = np.random.default_rng([8, seed])
    x, along = draw.uniform(-2, 4, num_points), draw.uniform(0, 1, num_points)
    on_wall = np.stack([x, 3.5 * along - 2, np.full(num_points, WALL)], -1)
    on_floor = np.stack([x, np.full(num_points, FLOOR), 3 + 3 * along], -1)
    points = np.where((np.arange(num_points) % 2 == 0)[:, None], on_wall, on_floor)
    tracks = [pycolmap.Track() for _ in points]
    for image_id, name in enumerate(views.names, 1):
        in_camera = views.pose(name) @ torch.from_numpy(points)
        pixels = views.camera(name).project(in_camera).numpy()
        is_seen = ((pixels > 0) & (pixels < SIZE)).all(-1)
        seen = np.flatnonzero(is_seen)
        model.image(image_id).points2D = pycolmap.Point2DList(
            [pycolmap.Point2D(pixel) for pixel in pixels[seen]]
        )
        for place, number in enumerate(seen):
            tracks[number].add_element(image_id, place)
    for point, track in zip(points, tracks, strict=True):
        if track.length() >= 2:
            model.add_point3D(point, track, np.zeros(3, np.uint8))
    return model
