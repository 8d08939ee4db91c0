"""The specification of plane_sweep: every sample of every source as four taps of the bilinear rule,
similarities as the means of their definitions.

Positions are in the dtype of the geometry, sums in the wider of that and the images'.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def plane_sweep(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor, groups: int
) -> Tensor:
    wide, taps = _group_taps(reference, sources, source_from_reference, depths)
    warped = _warped(sources.to(wide), taps)  # [B, V, C, K, Y, X]
    products = reference.to(wide)[:, None, :, None] * warped
    return products.unflatten(2, (groups, -1)).mean(3).to(reference.dtype)


def plane_sweep_backward(
    grad: Tensor, reference: Tensor, sources: Tensor, source_from_reference: Tensor,
    depths: Tensor, groups: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    wide, taps = _group_taps(reference, sources, source_from_reference, depths)
    warped = _warped(sources.to(wide), taps)
    size = reference.shape[1] // groups
    slopes = (grad.to(wide) / size).repeat_interleave(size, 2)  # [B, V, C, K, Y, X]
    source_slopes = slopes * reference.to(wide)[:, None, :, None]
    return (
        (slopes * warped).sum((1, 3)).to(reference.dtype),
        _spread(source_slopes, taps, sources).to(sources.dtype),
    )


def plane_sweep_zncc(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor,
    radius: int, epsilon: float,
) -> Tensor:  # fmt: skip
    windows = _windows(reference, sources, source_from_reference, depths, radius, epsilon)
    return windows.similarity.to(reference.dtype)


def plane_sweep_zncc_backward(
    grad: Tensor, reference: Tensor, sources: Tensor, source_from_reference: Tensor,
    depths: Tensor, radius: int, epsilon: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradients of c / sqrt(a b), of which d c = sum of y dx + x dy, d a = 2 sum of x dx
    and d b = 2 sum of y dy, each over n, for windows x and y without their means.
    """
    x, y, a, b, similarity, is_taken, taps, place = _windows(
        reference, sources, source_from_reference, depths, radius, epsilon
    )
    slope = (grad.to(x.dtype) / is_taken.sum(-1).clamp(min=1))[
        ..., None
    ] * is_taken  # [V, K, Y, X, taps]
    cross, similarity = (a * b).rsqrt(), similarity[..., None]
    of_reference = slope * (y * cross - similarity * x / a)
    of_sources = slope * (x * cross - similarity * y / b)
    reference_grad = torch.zeros_like(reference, dtype=x.dtype).flatten()
    place = place.expand(of_reference.shape)
    reference_grad.index_add_(0, place.flatten(), of_reference.flatten())
    return (
        reference_grad.view(reference.shape).to(reference.dtype),
        _spread(of_sources[None, :, None], taps, sources[None, :, None])[0, :, 0].to(sources.dtype),
    )


class _Taps(NamedTuple):
    """The four source pixels around every sample, as places in the flat image, and their weights."""

    place: Tensor  # [..., 4]
    weight: Tensor  # [..., 4]


class _Windows(NamedTuple):
    """What the windows of all pixels at all hypotheses hold."""

    x: Tensor  # of the reference, without its mean [1, 1, Y, X, taps]
    y: Tensor  # of the sources, without its mean [V, K, Y, X, taps]
    a: Tensor  # variances plus epsilon, [..., 1]
    b: Tensor
    similarity: Tensor  # [V, K, Y, X]
    is_taken: Tensor  # the pixels that exist, of windows that have a similarity [V, K, Y, X, taps]
    taps: _Taps
    place: Tensor  # of x in the flat reference


def _windows(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor,
    radius: int, epsilon: float,
) -> _Windows:  # fmt: skip
    wide = torch.promote_types(reference.dtype, source_from_reference.dtype)
    height, width = reference.shape
    steps = torch.arange(-radius, radius + 1, device=reference.device)
    row = torch.arange(height, device=reference.device)[:, None, None, None] + steps[:, None]
    column = torch.arange(width, device=reference.device)[:, None, None] + steps
    row, column = torch.broadcast_tensors(row, column)
    row, column = row.flatten(-2), column.flatten(-2)  # [Y, X, taps]
    exists = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    points = torch.stack([column, row], -1) + 0.5
    poses = source_from_reference[:, None, None, None, None]
    positions = _positions(poses, points, depths[None, ..., None])
    size = positions.new_tensor(sources.shape[:0:-1])
    is_inside = ((positions >= 0) & (positions <= size)).all(-1)
    taps = _taps(positions[None], sources.shape[-2:], repeats_border=True)
    x = reference.to(wide).flatten()[place][None, None]
    y = _warped(sources.to(wide)[None, :, None], taps)[0, :, 0]
    is_seen = is_inside & ~(x * y).isnan()
    is_taken = exists & (is_seen | ~exists).all(-1, keepdim=True)
    count = exists.sum(-1, keepdim=True)
    x, y = (torch.where(is_seen, z, 0.0) for z in (x, y))
    x, y = (z - (z * exists).sum(-1, keepdim=True) / count for z in (x, y))
    a, b, c = ((z * exists).sum(-1, keepdim=True) / count for z in (x * x, y * y, x * y))
    a, b = a + epsilon, b + epsilon
    similarity = torch.where(is_taken.any(-1), (c * (a * b).rsqrt())[..., 0], 0.0)
    return _Windows(x, y, a, b, similarity, is_taken, taps, place[None, None])


def _group_taps(
    reference: Tensor, sources: Tensor, source_from_reference: Tensor, depths: Tensor
) -> tuple[torch.dtype, _Taps]:
    """Return the dtype of sums, and the taps of every pixel at every hypothesis."""
    rows, columns = (torch.arange(n, device=reference.device) + 0.5 for n in reference.shape[-2:])
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)  # [Y, X, 2]
    poses = source_from_reference[:, :, None, None, None]
    positions = _positions(poses, points, depths[:, None])  # [B, V, K, Y, X, 2]
    wide = torch.promote_types(reference.dtype, source_from_reference.dtype)
    return wide, _taps(positions, sources.shape[-2:], repeats_border=False)


def _positions(poses: Tensor, points: Tensor, depths: Tensor) -> Tensor:
    """Return where points at their depths lie in the sources; NaN where not in front of both."""
    points = points.to(poses.dtype)
    rays = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    seen = (poses[..., :3] * rays[..., None, :]).sum(-1) + poses[..., 3] / depths[..., None]
    is_in_front = (depths > 0) & (seen[..., 2] > 0)
    return torch.where(is_in_front[..., None], seen[..., :2] / seen[..., 2:], torch.nan)


def _taps(positions: Tensor, size: torch.Size, *, repeats_border: bool) -> _Taps:
    """Return the taps of positions; those outside the image weigh 0, or repeat its border."""
    height, width = size
    far = torch.full_like(positions, -9.0)
    corner = torch.where(positions.abs() < 2**31, positions, far) - 0.5
    low = corner.floor()
    across = low[..., :1] + low.new_tensor([0.0, 1.0, 0.0, 1.0])
    down = low[..., 1:] + low.new_tensor([0.0, 0.0, 1.0, 1.0])
    weight = (1 - (corner[..., :1] - across).abs()) * (1 - (corner[..., 1:] - down).abs())
    is_inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    if not repeats_border:
        weight = weight * is_inside
    place = down.clamp(0, height - 1).long() * width + across.clamp(0, width - 1).long()
    return _Taps(place, weight)


def _warped(images: Tensor, taps: _Taps) -> Tensor:
    """Return [B, V, C, K, Y, X] samples of [B, V, C, Y2, X2] images."""
    place = taps.place.flatten(2)[:, :, None].expand(-1, -1, images.shape[2], -1)
    values = images.flatten(3).gather(3, place).view(*images.shape[:3], *taps.place.shape[2:])
    return (values * taps.weight[:, :, None]).sum(-1)


def _spread(slopes: Tensor, taps: _Taps, images: Tensor) -> Tensor:
    """Return the sums of slopes [B, V, C, K, Y, X] at the pixels that each was sampled from."""
    moved = (slopes[..., None] * taps.weight[:, :, None]).flatten(3)
    place = taps.place.flatten(2)[:, :, None].expand(moved.shape)
    out = torch.zeros_like(images, dtype=slopes.dtype)
    return out.flatten(3).scatter_add(3, place, moved).view(images.shape)
