"""Images, depth and masks as another camera at the same place would have seen them: smaller, cropped,
padded, turned about the optical axis, without the lens's distortion.

Every pixel of the target has a ray, and the ray a place in the source: image and depth follow the same
map, and the target's K and pose say exactly what was done. Depth is along z, which a turn about z
keeps, and is never mixed: the source's pixel that holds the place gives it.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from cuesta.geometry import Camera, Transform

Fit = Literal["cover", "pad"]


class Target(NamedTuple):
    """Hold the PINHOLE camera of a resampled image, and its pose in the frame of the source camera."""

    camera: Camera
    target_from_source: Transform


def square(camera: Camera, side: int, fit: Fit = "cover", turn_degrees: float = 0.0) -> Target:
    """Return the camera of a square image of `side` pixels, whose middle is the source's middle.

    `cover` scales the shorter side to `side` and cuts the longer, `pad` scales the longer and pads the
    shorter. A turn takes the picture clockwise about its middle: the camera turns about its optical
    axis and its principal point about the middle, of one focal length (the geometric mean), for only
    then is the turned picture a camera's. Raises `ValueError` for a side below 1.
    """
    if side < 1:
        raise ValueError(f"an image has sides of 1 pixel at least, got {side}")
    sides = (camera.width, camera.height)
    scale = side / (min(sides) if fit == "cover" else max(sides))
    middle = torch.tensor(sides, dtype=torch.float64) / 2
    focal = camera.focal().double() * scale
    point = (camera.principal_point().double() - middle) * scale
    angle = math.radians(turn_degrees)
    turn = torch.eye(3, dtype=torch.float64)
    if angle:
        cosine, sine = math.cos(angle), math.sin(angle)
        turn[:2, :2] = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
        focal = focal.prod().sqrt().expand(2)
    params = torch.cat([focal, turn[:2, :2] @ point + side / 2])
    pose = Transform.rigid(turn, torch.zeros(3, dtype=torch.float64))
    return Target(Camera("PINHOLE", params, side, side), pose)


def shrunk(camera: Camera, long_side: int) -> Target:
    """Return the camera without distortion whose longer side has `long_side` pixels at most."""
    scale = min(1.0, long_side / max(camera.width, camera.height))
    width, height = (max(1, round(side * scale)) for side in (camera.width, camera.height))
    each = torch.tensor([width / camera.width, height / camera.height], dtype=torch.float64)
    params = torch.cat([camera.focal().double() * each, camera.principal_point().double() * each])
    pose = Transform.identity(dtype=torch.float64)
    return Target(Camera("PINHOLE", params, width, height), pose)


def source_pixels(camera: Camera, target: Target) -> Float[np.ndarray, "Y X 2"]:
    """Return where in the source's image each pixel's centre of the target lies, (x, y), float64."""
    wide, high = target.camera.width, target.camera.height
    down, across = torch.meshgrid(
        torch.arange(high, dtype=torch.float64) + 0.5,
        torch.arange(wide, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    rays = target.camera.unproject(torch.stack([across, down], -1).reshape(-1, 2))
    pixels = camera.to(torch.float64).project(target.target_from_source.inverse() @ rays)
    return pixels.reshape(high, wide, 2).numpy()


def sample_nearest(values: NDArray, pixels: Float[np.ndarray, "Y X 2"]) -> NDArray:
    """Return `values` [Y, X] at the pixels that hold these places, 0 outside."""
    columns, rows, is_inside = _cells(pixels, (values.shape[1], values.shape[0]))
    return np.where(is_inside, values[rows, columns], values.dtype.type(0))


def sample_smoothly(
    image: NDArray[np.uint8], pixels: Float[np.ndarray, "Y X 2"], scale: float
) -> NDArray[np.uint8]:
    """Return an image [Y, X] or [Y, X, 3] at these places, 0 outside.

    Where the target is smaller (`scale` below 1), the image is shrunk by areas first, then read
    between its pixels.
    """
    high, wide = image.shape[:2]
    is_inside = _cells(pixels, (wide, high))[2]
    if scale < 1:
        size = (max(1, round(wide * scale)), max(1, round(high * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        pixels = pixels * (np.array(size) / (wide, high))
    places = np.nan_to_num(pixels - 0.5, nan=-1.0).astype(np.float32)
    across, down = places[..., 0].copy(), places[..., 1].copy()
    seen = cv2.remap(image, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen[~is_inside] = 0
    return np.asarray(seen, np.uint8)


def _cells(
    pixels: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return column and row of each place, and whether it is in the image; 0, 0 where it is not."""
    with np.errstate(invalid="ignore"):
        is_inside: NDArray[np.bool_] = np.all((pixels >= 0) & (pixels < size), axis=-1)
    cells = np.where(is_inside[..., None], np.floor(pixels), 0).astype(np.int64)
    return cells[..., 0], cells[..., 1], is_inside
