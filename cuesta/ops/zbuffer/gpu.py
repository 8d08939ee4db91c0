"""Triton body of `zbuffer`: a program lowers the keys of a block of points by atomic minima.

A key is the depth's bits, which grow with a positive depth, above the index: the smallest key is the
nearest point, and the first of those as near, whoever comes when.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.triton_support import TILE_ELEMENTS, rows_of

NO_KEY = 2**63 - 1
_NO_KEY = tl.constexpr(NO_KEY)
_INFINITY = tl.constexpr(0x7F800000)  # the bits of infinity; those of NaN are larger


def zbuffer(points: Tensor, offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    assert points.dtype is torch.float32
    depth = points.new_empty(offsets.numel() - 1, height, width)
    index = torch.full_like(depth, NO_KEY, dtype=torch.int64)  # the keys, until they are unpacked
    num_points = points.shape[0]
    _lower_kernel[(triton.cdiv(num_points, TILE_ELEMENTS),)](
        points, offsets, index, offsets.numel() - 1, num_points, height, width, TILE_ELEMENTS
    )
    _unpack_kernel[(triton.cdiv(index.numel(), TILE_ELEMENTS),)](
        index, depth, index.numel(), TILE_ELEMENTS
    )
    return depth, index


@triton.jit(do_not_specialize=["num_rows", "num_points", "height", "width"])
def _lower_kernel(
    points, offsets, keys, num_rows, num_points, height, width, SIZE: tl.constexpr
):  # fmt: skip
    point = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)  # [P]
    mask = point < num_points
    u = tl.load(points + 3 * point, mask=mask, other=0.0)
    v = tl.load(points + 3 * point + 1, mask=mask, other=0.0)
    bits = tl.load(points + 3 * point + 2, mask=mask, other=0.0).to(tl.int32, bitcast=True)
    mask = mask & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    mask = mask & (bits > 0) & (bits < _INFINITY)
    u, v = tl.where(mask, u, 0.0).to(tl.int64), tl.where(mask, v, 0.0).to(tl.int64)
    image = rows_of(offsets, point, num_rows)
    place = (image * height + v) * width + u
    tl.atomic_min(keys + place, (bits.to(tl.int64) << 32) | point, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=["num_pixels"])
def _unpack_kernel(keys, depth, num_pixels, SIZE: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)  # [B * Y * X]
    mask = place < num_pixels
    key = tl.load(keys + place, mask=mask, other=0)
    is_empty = key == _NO_KEY
    bits = tl.where(is_empty, 0, key >> 32).to(tl.int32)
    tl.store(depth + place, bits.to(tl.float32, bitcast=True), mask=mask)
    tl.store(keys + place, tl.where(is_empty, -1, key & 0xFFFFFFFF), mask=mask)
