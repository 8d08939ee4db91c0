"""Which other views each view is compared with: those that depth/sources.json lists, then by geometry.

By geometry: a few hundred points of each depth map vote for the views in which they lie, weighted by the
angle at which the two views see them as MVSNet does (Yao et al., ECCV 2018, section 4.1): about 5 degrees
are best, fewer give no depth, many show too little in common.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from cuesta.data.scenes.scene import read_json
from cuesta.errors import UserError
from cuesta.geometry import Transform
from cuesta.vision.terrasky3d.dense_maps import DenseScene, DepthView

_NUM_SAMPLES = 256
_BEST_DEGREES, _NARROWER, _WIDER = 5.0, 1.0, 10.0  # the best angle; the widths of its weight
_LEAST_WEIGHT = 1e-3  # a pixel's worth of one sample: below, a view shows nothing in common

Sources = dict[str, tuple[str, ...]]


def source_views(dense: DenseScene, most: int, *, read: Callable[[str], DepthView]) -> Sources:
    """Return for each view the names of at most `most` others, in order of preference.

    `read` returns the maps of a view, from a cache or `dense.read`. Raises `UserError` where sources.json is broken.
    """
    path = dense.scene.root / "depth" / "sources.json"
    listed = _listed(path, dense) if path.is_file() else dict.fromkeys(dense.views.names, ())
    if any(len(others) < most for others in listed.values()):
        chosen = _chosen(dense, read)
        listed = {name: tuple(dict.fromkeys(listed[name] + chosen[name])) for name in listed}
    return {name: others[:most] for name, others in listed.items()}


def _listed(path: Path, dense: DenseScene) -> Sources:
    """Return the lists of a sources.json; images without a depth map are left out of them."""
    remedy = "remove it, and sources are chosen by geometry"
    content = read_json(path, remedy)
    known = set(dense.views.names)
    found: Sources = {}
    for name in dense.views.names:
        others = content.get(name, []) if isinstance(content, dict) else None
        if not isinstance(others, list):
            raise UserError(f"{path}: it lists no source images of {name}; {remedy}")
        words = [other for other in others if isinstance(other, str)]
        found[name] = tuple(dict.fromkeys(w for w in words if w in known and w != name))
    return found


def _chosen(dense: DenseScene, read: Callable[[str], DepthView]) -> Sources:
    views = dense.views
    poses = views.cam_from_world.to(torch.float64)
    cameras = [views.camera(name) for name in views.names]
    matrices = torch.stack([camera.matrix().double() for camera in cameras])
    sizes = torch.tensor([[camera.width, camera.height] for camera in cameras]).double()
    centres = poses.inverse().translation
    found: Sources = {}
    for place, name in enumerate(views.names):
        points = _samples(read(name))
        is_seen = _are_seen(points, poses, matrices, sizes)
        weights = _angle_weights(points, centres, place)
        scores = torch.where(is_seen, weights, 0.0).sum(1)
        scores[place] = 0
        order = torch.sort(scores, descending=True, stable=True).indices.tolist()
        found[name] = tuple(views.names[k] for k in order if scores[k] > _LEAST_WEIGHT)
    return found


def _samples(view: DepthView) -> Float64[Tensor, "P 3"]:
    """Return points of the world that a view sees, evenly taken from its pixels with depth."""
    places = view.depth.flatten().nonzero()[:, 0]
    if len(places) > _NUM_SAMPLES:
        places = places[torch.linspace(0, len(places) - 1, _NUM_SAMPLES).long()]
    width = view.depth.shape[1]
    pixels = torch.stack([places % width + 0.5, places // width + 0.5, torch.ones(len(places))], 1)
    rays = pixels.double() @ torch.linalg.inv(view.matrix).mT
    points = rays * view.depth.flatten()[places, None].double()
    world: Tensor = view.cam_from_world.inverse() @ points
    return world


def _are_seen(points: Tensor, poses: Transform, matrices: Tensor, sizes: Tensor) -> Tensor:
    """Return whether each view has each point inside its image, [V, P]."""
    inside = poses.rotation @ points.mT + poses.translation[..., None]  # [V, 3, P]
    pixels = (matrices @ inside).mT
    places = pixels[..., :2] / pixels[..., 2:]
    return ((places >= 0) & (places < sizes[:, None])).all(-1) & (pixels[..., 2] > 0)


def _angle_weights(points: Tensor, centres: Tensor, place: int) -> Tensor:
    """Return the weight of each view [V] for each point [P] by the angle between it and view `place`."""
    rays = torch.nn.functional.normalize(centres[:, None] - points, dim=-1)  # [V, P, 3]
    degrees = (rays * rays[place]).sum(-1).clamp(-1, 1).arccos().rad2deg()
    width = torch.where(degrees <= _BEST_DEGREES, _NARROWER, _WIDER)
    return (-((degrees - _BEST_DEGREES) ** 2) / (2 * width**2)).exp()
