"""Numba body of `zbuffer`: points dealt evenly to threads, each lowering its pixel's key by an atomic
minimum.

A key is the depth's bits, which grow with a positive depth, above the index: the smallest key is the
nearest point, and the first of those as near, whoever comes when.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from cuesta.ops.lanes import array_pointer, at, prefetch_to_write
from cuesta.ops.numba_decorators import inner
from cuesta.ops.numba_support import kernel, num_threads

TASKS_PER_THREAD = 8
AHEAD = 16  # points between asking for a pixel and lowering it
_NO_KEY = np.iinfo(np.int64).max
_INFINITY = 0x7F800000  # the bits of infinity; those of NaN are larger


def zbuffer(points: Tensor, offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    assert points.dtype is torch.float32
    depth = points.new_empty(offsets.numel() - 1, height, width)
    index = torch.full_like(depth, _NO_KEY, dtype=torch.int64)  # the keys, until they are unpacked
    tasks = num_threads() * TASKS_PER_THREAD
    flat = points.flatten()
    keys = index.view(-1).numpy()
    _lower(
        flat.numpy(), flat.view(torch.int32).numpy(), offsets.numpy(), height, width, keys, tasks
    )
    _unpack(keys, depth.view(torch.int32).view(-1).numpy())
    return depth, index


@kernel
def _lower(points, bits, offsets, height, width, keys, tasks):
    num_points = offsets[offsets.size - 1]
    for task in numba.prange(tasks):
        image, last = 0, num_points * (task + 1) // tasks
        for i in range(num_points * task // tasks, last):
            while i >= offsets[image + 1]:
                image += 1
            first = image * height * width
            if i + AHEAD < last:
                coming = _place(points, bits, i + AHEAD, height, width)
                prefetch_to_write(keys, first + max(coming, 0))
            place = _place(points, bits, i, height, width)
            if place >= 0:
                depth = np.int64(at(bits, 3 * i + 2))
                _lower_to(keys, first + place, depth << 32 | np.int64(i))


@inner
def _place(points, bits, i, height, width):
    """Return which of its image's pixels holds a point, -1 if none does."""
    u, v, depth = at(points, 3 * i), at(points, 3 * i + 1), at(bits, 3 * i + 2)
    is_seen = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (depth > 0) & (depth < _INFINITY)
    return int(v) * width + int(u) if is_seen else -1


@intrinsic
def _lower_to(typing_context, keys, place, key):
    """Make keys[place] the smaller of itself and `key`, as one step among threads."""

    def generate(context, builder, signature, arguments):
        _, place, key = arguments
        pointer = builder.gep(array_pointer(context, builder, signature, arguments, 0), [place])
        now = builder.load_atomic(pointer, "monotonic", 8)
        with builder.if_then(builder.icmp_signed("<", key, now)):
            builder.atomic_rmw("min", pointer, key, "monotonic")
        return context.get_dummy_value()

    return types.void(keys, types.intp, types.int64), generate


@kernel
def _unpack(keys, depths):
    for place in numba.prange(keys.size):
        key = keys[place]
        depths[place] = 0 if key == _NO_KEY else key >> 32
        keys[place] = -1 if key == _NO_KEY else key & 0xFFFFFFFF
