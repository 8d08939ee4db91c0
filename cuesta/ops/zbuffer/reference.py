"""The specification of `zbuffer`: the points from far to near, each over what lies behind it."""

from __future__ import annotations

import torch
from torch import Tensor


def zbuffer(points: Tensor, offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    depth = points.new_zeros(offsets.numel() - 1, height, width)
    index = torch.full_like(depth, -1, dtype=torch.int64)
    u, v, z = points.unbind(1)
    is_seen = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (z > 0) & z.isfinite()
    image = torch.repeat_interleave(offsets.diff())
    found = is_seen.nonzero()[:, 0].flip(0)
    found = found[torch.argsort(z[found], descending=True, stable=True)]
    place = (image[found] * height + v[found].long()) * width + u[found].long()
    for each, pixel in zip(found.tolist(), place.tolist(), strict=True):
        depth.view(-1)[pixel], index.view(-1)[pixel] = z[each], each
    return depth, index
