"""What tests of formats share: views of any camera and pose, and how near is the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from cuesta.data.scenes.views import Views
from cuesta.geometry import MODELS, Camera, Transform
from cuesta.geometry.cameras import Model

EPS = torch.finfo(torch.float64).eps
# A pose goes through a quaternion, an inverse or an SVD, each some ten roundings of numbers up to 1.
ROUNDING = 64 * EPS
DATA = Path(__file__).parents[3] / os.environ.get("CUESTA_TEST_DATA", "../shared/data")

Write = Callable[[Path, Views], object]
Read = Callable[[Path], Views]


def data_folder(name: str) -> Path:
    """Return a folder of real data, or skip."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} below CUESTA_TEST_DATA")
    return DATA / name


def make_camera(model: Model = "OPENCV", *, focal: float = 500.0) -> Camera:
    """Return a camera of 640 x 480 pixels with some distortion."""
    given = {"f": focal, "fx": focal, "fy": focal + 1, "cx": 321.5, "cy": 239.25}
    params = [given.get(name, 0.01 * (place - 3)) for place, name in enumerate(MODELS[model])]
    return Camera(model, torch.tensor(params, dtype=torch.float64), 640, 480)


def make_views(
    *cameras: Camera, count: int = 3, seed: int = 0, spread: float = 1.0, suffix: str = ".jpg"
) -> Views:
    """Return views with the cameras in turn, numbered from 3, turned at random, within `spread`."""
    generator = torch.Generator().manual_seed(seed)
    tangents = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    tangents[:, :3] *= spread
    names = tuple(f"cam_{place % 2}/{place:03d}{suffix}" for place in range(count))
    names = tuple(sorted(names))
    cameras = cameras or (make_camera(),)
    ids = tuple(3 + place % len(cameras) for place in range(count))
    used = {camera_id: cameras[camera_id - 3] for camera_id in sorted(set(ids))}
    return Views(names, used, ids, Transform.exp(tangents))


@st.composite
def posed(draw: st.DrawFn, models: tuple[Model, ...] = tuple(MODELS)) -> Views:
    """Draw one to six views of one or two cameras, near the origin or kilometres from it."""
    chosen = draw(st.lists(st.sampled_from(models), min_size=1, max_size=2))
    cameras = [make_camera(model, focal=500 + 100 * i) for i, model in enumerate(chosen)]
    count, seed = draw(st.integers(1, 6)), draw(st.integers(0, 2**31 - 1))
    spread = draw(st.sampled_from((1.0, 1e4)))
    return make_views(*cameras, count=count, seed=seed, spread=spread)


def assert_same(one: Views, other: Views, *, has_ids: bool = True) -> None:
    """Compare names and cameras exactly, poses up to rounding; numbers of cameras if `has_ids`."""
    assert one.names == other.names
    for name in one.names:
        a, b = one.camera(name), other.camera(name)
        assert (a.model, a.width, a.height) == (b.model, b.width, b.height)
        assert a.params.tolist() == b.params.tolist()
    if has_ids:
        assert one.camera_ids == other.camera_ids
        assert list(one.cameras) == list(other.cameras)
    size = 1 + one.cam_from_world.translation.abs().amax()
    turned = one.cam_from_world.rotation - other.cam_from_world.rotation
    moved = one.cam_from_world.translation - other.cam_from_world.translation
    assert turned.abs().max() <= ROUNDING
    assert moved.abs().max() <= ROUNDING * size
    assert_same_pixels(one, other, size)


def assert_same_pixels(one: Views, other: Views, size: torch.Tensor) -> None:
    """Project points before each camera through both; the difference is that of the poses' rounding."""
    rays = torch.tensor([[0.1, -0.2, 1.0], [-0.3, 0.1, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    for name in one.names:
        in_camera = 5 * rays
        in_world = one.pose(name).inverse() @ in_camera
        camera = one.camera(name)
        pixels = camera.project(one.pose(name) @ in_world)
        again = other.camera(name).project(other.pose(name) @ in_world)
        slope = camera.project_jacobian(in_camera).abs().sum(-1)
        bound = slope * 4 * ROUNDING * size + ROUNDING * pixels.abs()
        assert ((pixels - again).abs() <= bound).all()


def make_images(folder: Path, names: tuple[str, ...], size: tuple[int, int] = (640, 480)) -> None:
    """Write an image of one colour for each name."""
    for place, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((size[1], size[0], 3), place, np.uint8)).save(folder / name)
