"""Aligning point sets: the least-squares similarity between corresponding points (Umeyama, 1991)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cuesta.geometry.transforms import Transform


def umeyama(
    source: Float[Tensor, "*batch P 3"],
    target: Float[Tensor, "*batch P 3"],
    *,
    weights: Float[Tensor, "*batch P"] | None = None,
    with_scale: bool = True,
) -> Transform:
    """Return `target_from_source` that minimises the weighted sum of |T @ source - target|^2.

    With three points or more that are not on one line it is unique. Without scale it is rigid. A
    reflection is never returned. Source: Umeyama, TPAMI 1991, equations 40 to 43.

    >>> points = torch.eye(3)
    >>> round(umeyama(points, 2 * points + 1).scale.item(), 4)
    2.0
    """
    if source.shape != target.shape or source.shape[-1] != 3 or source.shape[-2] < 1:
        raise ValueError(
            "source and target must both be [*, P, 3] with a point at least, got "
            f"{tuple(source.shape)} and {tuple(target.shape)}"
        )
    share = torch.ones_like(source[..., 0]) if weights is None else weights
    share = (share / share.sum(-1, keepdim=True))[..., None]  # [*batch, P, 1]
    source_mean = (share * source).sum(-2, keepdim=True)
    target_mean = (share * target).sum(-2, keepdim=True)
    source, target = source - source_mean, target - target_mean
    u, spread, vt = torch.linalg.svd((share * target).mT @ source)
    sign = torch.ones_like(spread)
    sign[..., 2] = torch.linalg.det(u @ vt).sign()
    rotation = (u * sign[..., None, :]) @ vt
    scale = torch.ones_like(spread[..., 0])
    if with_scale:
        scale = (spread * sign).sum(-1) / (share * source.square()).sum((-2, -1))
    moved = (rotation @ source_mean.mT)[..., 0]
    return Transform(rotation, target_mean[..., 0, :] - scale[..., None] * moved, scale)
