"""The specification of `consistency`: every pixel there, the depth that the other view has, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from cuesta.ops.consistency.rays import SAME_SURFACE


def consistency(
    depth: Tensor,
    other_depth: Tensor,
    matrix: Tensor,
    normal: Tensor | None,
    other_normal: Tensor | None,
    rotation: Tensor | None,
) -> Tensor:
    height, width = depth.shape
    z = depth.double()
    v, u = torch.meshgrid(
        torch.arange(height, device=z.device) + 0.5,
        torch.arange(width, device=z.device) + 0.5,
        indexing="ij",
    )
    here = torch.stack([u, v, torch.ones_like(u)], -1).double()
    there = z[..., None] * here @ matrix[:, :3].mT + matrix[:, 3]  # [Y, X, 3]
    place = there / there[..., 2:]
    is_seen = _has_depth(z) & (there[..., 2] > 0) & _is_inside(place, other_depth)
    place = torch.where(is_seen[..., None], place, 0.0)
    seen = _depth_at(other_depth.double(), place)
    inverse = torch.linalg.inv_ex(matrix[:, :3]).inverse
    back = (seen[..., None] * place - matrix[:, 3]) @ inverse.mT
    landing = back / back[..., 2:]
    maps = [(landing - here).norm(dim=-1), (back[..., 2] - z).abs() / z]
    if normal is not None and other_normal is not None and rotation is not None:
        maps.append(_angle(normal.double(), _nearest(other_normal.double(), place), rotation))
    is_valid = is_seen & _has_depth(seen) & (back[..., 2] > 0)
    errors = torch.where(is_valid & torch.stack(maps).isfinite(), torch.stack(maps), torch.inf)
    return errors.to(depth.dtype)


def _has_depth(depth: Tensor) -> Tensor:
    return (depth > 0) & depth.isfinite()


def _is_inside(place: Tensor, image: Tensor) -> Tensor:
    u, v = place[..., 0], place[..., 1]
    return (u >= 0) & (u < image.shape[1]) & (v >= 0) & (v < image.shape[0])


def _nearest(image: Tensor, place: Tensor) -> Tensor:
    """Return the pixels that hold the places; zeros from an image of none."""
    if image.shape[0] * image.shape[1] == 0:
        return image.new_zeros(*place.shape[:2], *image.shape[2:])
    return image[place[..., 1].long(), place[..., 0].long()]


def _depth_at(depth: Tensor, place: Tensor) -> Tensor:
    """Return the depth at places inside the image: between pixels of one surface, else the nearest."""
    nearest = _nearest(depth, place)
    height, width = depth.shape
    left, top = (place[..., i].sub(0.5).floor().long() for i in (0, 1))
    is_within = (left >= 0) & (left < width - 1) & (top >= 0) & (top < height - 1)
    if not is_within.any():
        return nearest
    left, top = left.clamp(0, width - 2), top.clamp(0, height - 2)
    x, y = place[..., 0] - 0.5 - left, place[..., 1] - 0.5 - top
    around = torch.stack([depth[top + j, left + i] for j in (0, 1) for i in (0, 1)])
    share = torch.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x])
    is_surface = around.amax(0) <= SAME_SURFACE * around.amin(0)
    is_surface &= _has_depth(around).all(0) & is_within
    return torch.where(is_surface, 1 / (share / around).sum(0), nearest)


def _angle(normal: Tensor, other: Tensor, rotation: Tensor) -> Tensor:
    """Return the degrees between the two in the other's axes; NaN where either is 0."""
    turned = normal @ rotation.mT
    sine, cosine = torch.linalg.cross(turned, other).norm(dim=-1), (turned * other).sum(-1)
    is_known = turned.any(-1) & other.any(-1)
    return torch.where(is_known, torch.rad2deg(torch.atan2(sine, cosine)), torch.nan)
