"""Drawings of a scene from above and from the side, and of what a calibration misses, as PNG on a
transparent ground.
"""

from __future__ import annotations

import io

import numpy as np
import pycolmap
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

_MOST_POINTS = 40_000
_CAMERA, _INK = "#d9661f", "#808890"
_FRUSTUM = 0.03  # depth of a drawn camera over the size of the drawing

Points = NDArray[np.float64]


def draw_scene(model: pycolmap.Reconstruction, *, is_enu: bool = False) -> tuple[bytes, bytes]:
    """Return what the scene looks like from above and from the side.

    Its axes are drawn as they are where they are east, north and up; else they are guessed.
    """
    points = np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3)
    colors = np.array([point.color for point in model.points3D.values()]).reshape(-1, 3) / 255
    chosen = np.random.default_rng(0).permutation(len(points))[:_MOST_POINTS]
    images = [model.image(i) for i in sorted(model.reg_image_ids())]
    centres = np.array([image.projection_center() for image in images])
    cam_from_world = np.array([image.cam_from_world().rotation.matrix() for image in images])
    axes = np.eye(3) if is_enu else upright_axes(cam_from_world, centres, points)
    middle = np.median(np.concatenate([points, centres]), axis=0)
    points, centres = (points[chosen] - middle) @ axes.T, (centres - middle) @ axes.T
    turned = axes @ cam_from_world.transpose(0, 2, 1)  # columns: the cameras' axes as drawn
    return (
        _draw(points[:, :2], colors[chosen], centres[:, :2], turned[:, :2]),
        _draw(points[:, ::2], colors[chosen], centres[:, ::2], turned[:, ::2]),
    )


def draw_misses(misses: Points, width: int, height: int) -> bytes:
    """Return an arrow at each corner of a target, by how much the lens misses it: [P, 4] pixels."""
    figure = Figure(figsize=(7.2, 7.2 * height / width), dpi=110, layout="constrained")
    area = figure.add_subplot()
    x, y, across, down = misses.T
    arrows = area.quiver(x, y, across, down, angles="xy", color=_CAMERA, width=0.0015)
    usual = float(np.sqrt(np.mean(across**2 + down**2)))
    area.quiverkey(arrows, 0.92, 0.97, usual, f"{usual:.2g} px", labelpos="S", labelcolor=_INK)
    area.set_xlim(0, width)
    area.set_ylim(height, 0)
    return _finished(figure, area)


def upright_axes(cam_from_world: Points, centres: Points, points: Points) -> Points:
    """Return rows right, forward and up [3, 3], guessed from cameras that are held upright.

    Up is the mean of the cameras' own; right is where cameras and points spread most across it.
    """
    up = -cam_from_world[:, 1].mean(axis=0)
    up /= np.linalg.norm(up)
    spread = np.concatenate([centres, points])
    spread = spread - np.median(spread, axis=0)
    flat = spread - np.outer(spread @ up, up)
    near = flat[np.linalg.norm(flat, axis=1) <= np.quantile(np.linalg.norm(flat, axis=1), 0.9)]
    _, _, directions = np.linalg.svd(near.T @ near)
    right = directions[0] - (directions[0] @ up) * up
    right /= np.linalg.norm(right)
    forward = np.cross(up, right)
    if (cam_from_world[:, 2].mean(axis=0) @ forward) < 0:
        right, forward = -right, -forward
    return np.stack([right, forward, up])


def _draw(points: Points, colors: Points, centres: Points, axes: Points) -> bytes:
    """Return the PNG of points [P, 2], centres [V, 2] and cameras' axes as drawn [V, 2, 3]."""
    figure = Figure(figsize=(7.2, 5.4), dpi=110, layout="constrained")
    area = figure.add_subplot()
    everything = np.concatenate([centres, points])
    low, high = np.quantile(everything, [0.02, 0.98], axis=0)
    low, high = np.minimum(low, centres.min(0)), np.maximum(high, centres.max(0))
    size = float((high - low).max()) or 1.0
    area.scatter(points[:, 0], points[:, 1], s=1.2, c=np.clip(colors, 0, 1), linewidths=0)
    _draw_cameras(area, centres, axes, _FRUSTUM * size)
    area.set_xlim(low[0] - 0.05 * size, high[0] + 0.05 * size)
    area.set_ylim(low[1] - 0.05 * size, high[1] + 0.05 * size)
    return _finished(figure, area)


def _finished(figure: Figure, area: Axes) -> bytes:
    """Return the PNG of a drawing to scale, with quiet axes."""
    area.set_aspect("equal")
    area.tick_params(colors=_INK, length=0, labelsize=8)
    for spine in area.spines.values():
        spine.set_color(_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    return buffer.getvalue()


def _draw_cameras(area: Axes, centres: Points, axes: Points, depth: float) -> None:
    corners = np.array([[-0.6, -0.45, 1], [0.6, -0.45, 1], [0.6, 0.45, 1], [-0.6, 0.45, 1]]) * depth
    ends = centres[:, None] + np.einsum("vij,kj->vki", axes, corners)  # [V, 4, 2]
    closed = np.concatenate([ends, ends[:, :1]], axis=1)
    spokes = np.stack([np.broadcast_to(centres[:, None], ends.shape), ends], axis=2).reshape(
        -1, 2, 2
    )
    area.add_collection(LineCollection(list(spokes), colors=_CAMERA, linewidths=0.8))
    area.add_collection(LineCollection(list(closed), colors=_CAMERA, linewidths=0.8))
    area.plot(centres[:, 0], centres[:, 1], "o", color=_CAMERA, markersize=2.5)
