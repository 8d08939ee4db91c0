"""`render`: a picture of a world with its exact depth, normals and ids, for any camera model.

Every value is that of the ray through the pixel's centre, unprojected by the camera itself: a
distorted picture is cast, never resampled. Colours alone take more rays, on edges. Rows are dealt to
threads; the result does not depend on how many.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.data.worlds.mesh import Mesh
from cuesta.data.worlds.shade_kernels import Workspace, render_rows, smooth_rows
from cuesta.data.worlds.shapes import Shapes
from cuesta.geometry import Camera, Transform

_BAND = 16  # rows that a thread takes at a time


class Light(NamedTuple):
    """Hold what lights a world; colours are linear, brightness 1 is a sunlit white wall."""

    place: NDArray[np.float64]  # [3]: the direction to the sun, or where the lamp is
    is_near: bool  # a lamp
    color: NDArray[np.float64]  # [3]
    ambient: NDArray[np.float64]  # [3] from above
    bounce: NDArray[np.float64]  # [3] from below
    haze: NDArray[np.float64]  # [3]
    haze_distance: float
    sky: float
    cloud_cover: float
    cloud_seed: int


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Hold what stands still and its light; z is up, lengths are metres."""

    shapes: Shapes
    light: Light


class Frame(NamedTuple):
    """Hold a picture and the truth behind it; Y rows, X columns."""

    rgb: NDArray[np.uint8]  # [Y, X, 3], sRGB
    depth: NDArray[np.float32]  # [Y, X], z in metres, 0 = the sky
    normals: NDArray[np.float32]  # [Y, X, 3], in the camera's frame, towards it; 0 in the sky
    ids: NDArray[np.uint8]  # [Y, X], of `Label`


def rays_of(camera: Camera) -> NDArray[np.float64]:
    """Return the point (x, y, 1) on the ray of each pixel's centre, [Y, X, 3], float64.

    Raises `ValueError` where the lens shows nothing at some pixel.
    """
    y, x = torch.meshgrid(
        torch.arange(camera.height, dtype=torch.float64) + 0.5,
        torch.arange(camera.width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    rays = camera.to(torch.float64).unproject(torch.stack([x, y], -1).reshape(-1, 2))
    if bool(rays.isnan().any()):
        raise ValueError(f"this {camera.model} lens shows nothing at some pixels; bend it less")
    return rays.reshape(camera.height, camera.width, 3).numpy()


def render(
    world: World,
    camera: Camera,
    cam_from_world: Transform,
    *,
    moving: Mesh | None = None,
    rays: NDArray[np.float64] | None = None,
    num_threads: int = 1,
) -> Frame:
    """Return the picture that a camera takes of a world.

    `moving` is what stands there in this picture only. `rays` are those of the camera when many of
    its pictures are rendered: unprojecting takes as long as casting. Raises `ValueError` as `rays_of`
    does.
    """
    rays = rays_of(camera) if rays is None else rays
    pose = cam_from_world.to(torch.float64)
    rotation, centre = pose.rotation.numpy(), pose.inverse().translation.numpy()
    pixel = 1 / float(camera.focal().mean())
    height, width = rays.shape[:2]
    depth, normals = np.empty((height, width), np.float32), np.empty((height, width, 3), np.float32)
    ids, slots = np.empty((height, width), np.uint8), np.empty((height, width), np.int32)
    linear, image = np.empty((height, width, 3), np.float32), np.empty((height, width, 3), np.uint8)
    movers = (moving or Mesh()).shapes()
    given = (world.shapes, movers, world.light, rays, np.ascontiguousarray(rotation), centre, pixel)
    written = (depth, normals, ids, slots, linear)

    def cast(begin: int) -> None:
        render_rows(*given, begin, min(begin + _BAND, height), *written, Workspace.new())

    def smooth(begin: int) -> None:
        smooth_rows(*given, begin, min(begin + _BAND, height), *written, image, Workspace.new())

    bands = range(0, height, _BAND)
    with ThreadPoolExecutor(num_threads) as pool:
        for step in (cast, smooth):
            list(pool.map(step, bands))
    return Frame(image, depth, normals, ids)
