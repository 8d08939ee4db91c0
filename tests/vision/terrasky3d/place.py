"""Photos of a generated place, along an arc in front of a building, with true cameras."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cuesta.data.scenes.views import Views
from cuesta.data.worlds.landmarks import Landmark, build_landmark
from cuesta.data.worlds.paths import look_at
from cuesta.data.worlds.render import render
from cuesta.geometry import Camera, Transform
from tests.vision.terrasky3d.pictures import exif_of

WIDTH, HEIGHT, FOCAL = 480, 360, 430.0
LENS = {"make": "Phone", "focal_35mm": FOCAL * 43.2666153 / 600}


@functools.cache
def landmark(seed: int) -> Landmark:
    return build_landmark(seed, kind=None)


def camera_of(*, is_portrait: bool) -> Camera:
    width, height = (HEIGHT, WIDTH) if is_portrait else (WIDTH, HEIGHT)
    params = torch.tensor([FOCAL, FOCAL, width / 2, height / 2], dtype=torch.float64)
    return Camera("PINHOLE", params, width, height)


def take_photos(
    folder: Path, angles: list[float], *, seed: int = 0, portrait: tuple[int, ...] = ()
) -> Views:
    """Write a JPEG for each angle in degrees from the building's front, and return their cameras.

    Those whose numbers are in `portrait` are stored lying, with the orientation in EXIF, as phones
    do. Names are as in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, ids, poses = [], [], []
    for number, angle in enumerate(angles):
        is_portrait = number in portrait
        camera, pose = camera_of(is_portrait=is_portrait), _pose(seed, angle)
        frame = render(landmark(seed).world, camera, pose, num_threads=2)
        exif = exif_of(orientation=6 if is_portrait else 1, **LENS)
        pixels = np.rot90(frame.rgb) if is_portrait else frame.rgb
        name = f"IMG_{seed}{number:03d}.jpg"
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / name, quality=95, exif=exif)
        names.append(name)
        ids.append(2 if is_portrait else 1)
        poses.append(pose)
    rotation, translation = (
        torch.stack([getattr(pose, part) for pose in poses]) for part in ("rotation", "translation")
    )
    cameras = {1: camera_of(is_portrait=False), 2: camera_of(is_portrait=True)}
    return Views(tuple(names), cameras, tuple(ids), Transform.rigid(rotation, translation))


def _pose(seed: int, angle: float) -> Transform:
    place = landmark(seed)
    away, turn = place.half_depth + 18.0, np.radians(angle) - np.pi / 2
    centre = np.array([away * np.cos(turn), away * np.sin(turn), 1.7 + 0.5 * np.sin(7 * turn)])
    target = np.array([0.0, -place.half_depth, 4.0])
    return look_at(centre, target)
