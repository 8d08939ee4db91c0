"""Find what moved while photos of a scene were taken: where other views confirm a surface that this
photo should show and does not (part of the fallback of TerraSky3D's semantic masks).

```
this view       x ── the person ──── wall        no depth confirmed, the colour of the person
others               x ───────────── wall        two agree on the wall's depth and on its colour
```

What is nearer than any surface that two others confirm, or stands still in all photos, or looks like
what it hides, is not found. It needs depth maps of at least three views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.data.scenes.views import Views
from cuesta.geometry import Camera, Transform
from cuesta.vision.terrasky3d.distractor_kernels import (
    agreed_surface,
    keep_least_change,
    keep_nearest,
    look_up,
)

NUM_OTHERS = 8
_SEEN_AT = 640  # px, longer side, at which views are compared
_AGREES = 0.03  # relative difference of depths of one surface
_LEAST_COSINE = 0.5  # between the axes of two cameras that are compared
_DIFFERS, _DIFFERS_A_LITTLE = (
    30.0,
    14.0,
)  # of colours, in grey levels of the channel that differs most
_LEAST_AREA = 24  # px, of a thing
_NEARER = (
    0.85  # of a surface: what stands there and is confirmed a few pixels away hides it for good
)
_NEAR_PX = 5
_HELD_VIEWS, _HELD_CAMERAS = 24, 4

Rgb = NDArray[np.uint8]
Depth = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Look(NamedTuple):
    """Hold a photo [Y, X, 3] and its confirmed depth [Y, X], z and 0 for none."""

    image: Rgb
    depth: Depth


class _Small(NamedTuple):
    color: NDArray[np.float32]
    depth: Depth
    camera: Camera
    cam_from_world: Transform
    rays: torch.Tensor  # [Y, X, 3] of z = 1
    points: torch.Tensor  # [P, 3], in the world: what its depth shows


@final
class MoverFinder:
    """Find what moved in each photo of a scene, from all views and `look(name)`, which reads one."""

    def __init__(self, views: Views, look: Callable[[str], Look | None]) -> None:
        self._views = views
        self._look = look
        self._small = lru_cache(maxsize=_HELD_VIEWS)(self._read)
        self._rays_of = lru_cache(maxsize=_HELD_CAMERAS)(self._read_rays)
        self._centres = views.centres().double().numpy()
        self._axes = views.cam_from_world.rotation[:, 2].double().numpy()

    def find(self, name: str) -> Mask:
        """Return where something stood in the way, bool [Y, X] at the size of the photo.

        All False where the photo, or all but one of the others that look the same way, has no depth.
        """
        camera = self._views.camera(name)
        nothing = np.zeros((camera.height, camera.width), bool)
        own = self._small(name)
        found = (self._small(other) for other in self._others(name))
        others = [other for other in found if other is not None][:NUM_OTHERS]
        if own is None or len(others) < 2:
            return nothing
        surface = _surface(own, others)
        change = _least_change(own, others, surface)
        is_open = (own.depth == 0) & (surface > 0) & (_nearest(own.depth) >= _NEARER * surface)
        moved = _whole_things(change, is_open).astype(np.uint8)
        if not moved.any():
            return nothing
        size = (camera.width, camera.height)
        return np.asarray(cv2.resize(moved, size, interpolation=cv2.INTER_NEAREST) > 0)

    def _others(self, name: str) -> list[str]:
        """Return the views that look the same way, nearest first."""
        own = self._views.index(name)
        cosines = self._axes @ self._axes[own]
        distances = np.linalg.norm(self._centres - self._centres[own], axis=1)
        order = np.argsort(distances, kind="stable")
        return [self._views.names[k] for k in order if k != own and cosines[k] >= _LEAST_COSINE]

    def _read(self, name: str) -> _Small | None:
        look = self._look(name)
        if look is None:
            return None
        camera = self._views.camera(name)
        scale = min(1.0, _SEEN_AT / max(camera.width, camera.height))
        size = (max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
        shrunk = cv2.resize(look.image, size, interpolation=cv2.INTER_AREA)
        color = np.asarray(cv2.GaussianBlur(shrunk, (0, 0), 1.0), np.float32)
        resized = cv2.resize(look.depth, size, interpolation=cv2.INTER_NEAREST)
        depth = np.asarray(resized, np.float32)
        small, pose = camera.resized(*size), self._views.pose(name)
        rays = self._rays_of(self._views.camera_ids[self._views.index(name)], size)
        points = pose.inverse() @ _points(rays, depth)
        return _Small(color, depth, small, pose, rays, points)

    def _read_rays(self, camera_id: int, size: tuple[int, int]) -> torch.Tensor:
        """Return the rays (x, y, 1) of all pixels of a camera at another size, [Y, X, 3]."""
        x, y = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
        pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).double()
        camera = self._views.cameras[camera_id].resized(*size)
        return camera.unproject(pixels.flatten(0, 1)).unflatten(0, size[::-1])


def _surface(own: _Small, others: Sequence[_Small]) -> Depth:
    """Return the nearest depth at each pixel of this view that two others agree on, 0 for none."""
    seen = np.stack([_seen_from(own, other) for other in others])  # [V, Y, X], inf for none
    surface = np.empty(own.depth.shape, np.float32)
    agreed_surface(seen, np.float32(1 + _AGREES), surface)
    return surface


def _seen_from(own: _Small, other: _Small) -> Depth:
    """Return the depth of another view's surface in this one [Y, X]; infinite where there is none."""
    points = own.cam_from_world @ other.points
    target = np.full(own.depth.shape, np.inf, np.float32)
    keep_nearest(own.camera.project(points).numpy(), points[:, 2].float().numpy(), target)
    nearby = cv2.erode(target, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return np.where(np.isinf(target), nearby, target)


def _least_change(own: _Small, others: Sequence[_Small], surface: Depth) -> NDArray[np.float32]:
    """Return by how much each pixel differs from the view where its surface looks most alike.

    The exposure of two views is matched on what both confirm. 0 where no other shows the surface.
    """
    is_surface = surface > 0
    points = own.cam_from_world.inverse() @ _points(own.rays, surface)
    color, is_confirmed = own.color[is_surface], own.depth[is_surface] > 0
    found, is_shown = np.empty_like(color), np.empty_like(is_confirmed)
    least = np.full(len(color), np.inf, np.float32)
    for other in others:
        seen = other.cam_from_world @ points
        at, z = other.camera.project(seen).numpy(), seen[:, 2].float().numpy()
        look_up(at, z, other.depth, other.color, np.float32(_AGREES), found, is_shown)
        is_same = is_shown & is_confirmed
        gain = _gain(color[is_same], found[is_same])
        keep_least_change(color, found, gain, is_shown, least)
    change = np.zeros(surface.shape, np.float32)
    change[is_surface] = np.where(np.isfinite(least), least, 0)
    return change


def _gain(own: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the median ratio of each channel [3] of colours [P, 3] of one thing in two views, 1 of nothing."""
    if not len(own):
        return np.ones(3, np.float32)
    ratios = ((own + 1) / (other + 1)).T
    return np.asarray(np.median(np.ascontiguousarray(ratios), axis=1), np.float32)


def _whole_things(change: NDArray[np.float32], is_open: Mask) -> Mask:
    """Return compact regions of change: those with a strong middle, holes and gaps filled."""
    changed = ((change >= _DIFFERS_A_LITTLE) & is_open).astype(np.uint8)
    opened = cv2.morphologyEx(changed, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    weak = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    _, numbers, facts, _ = cv2.connectedComponentsWithStats(weak, connectivity=8)
    strong = np.bincount(numbers[(change >= _DIFFERS) & is_open], minlength=len(facts))
    areas = facts[:, cv2.CC_STAT_AREA]
    chosen = (areas >= _LEAST_AREA) & (strong >= 0.25 * areas)
    chosen[0] = False
    return cv2.dilate(chosen[numbers].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def _nearest(depth: Depth) -> Depth:
    """Return the least depth that is confirmed near each pixel, infinite for none."""
    known = np.where(depth > 0, depth, np.float32(np.inf))
    side = np.ones((2 * _NEAR_PX + 1, 2 * _NEAR_PX + 1), np.uint8)
    return np.asarray(cv2.erode(known, side, borderType=cv2.BORDER_REPLICATE), np.float32)


def _points(rays: torch.Tensor, depth: Depth) -> torch.Tensor:
    """Return the points [P, 3] in a view's frame that its depth map [Y, X] shows, row by row."""
    is_known = torch.from_numpy(depth > 0)
    return rays[is_known] * torch.from_numpy(depth)[is_known].double()[:, None]
