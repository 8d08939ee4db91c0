"""Numba body of copy_rows: sixteen numbers at a time, with the rows that come next asked for ahead."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.lanes import at, load_upto, prefetch, store_upto
from cuesta.ops.numba_support import (
    kernel,
    narrow_random,
    num_threads,
    random_bits,
    view,
    widen,
)

AHEAD = 8  # rows between asking and copying
LINE_BYTES = 64
TASKS_PER_THREAD = 8


def copy_rows(
    target: Tensor, target_rows: Tensor, source: Tensor, source_rows: Tensor, random_key: int | None
) -> None:
    is_random = random_key is not None and target.dtype is not torch.float32
    key = np.uint64((random_key or 0) & (2**64 - 1))
    _copy(
        view(target.view(-1)), view(target_rows), view(source.view(-1)), view(source_rows),
        target.shape[1], num_threads() * TASKS_PER_THREAD, key, is_random,
    )  # fmt: skip


@kernel
def _copy(target, target_rows, source, source_rows, dim, num_tasks, key, is_random):
    size = target_rows.size
    for task in numba.prange(num_tasks):
        for i in range(size * task // num_tasks, size * (task + 1) // num_tasks):
            if i + AHEAD < size:
                begin, end = at(source_rows, i + AHEAD) * dim, at(target_rows, i + AHEAD) * dim
                for j in range(0, dim, LINE_BYTES // source.itemsize):
                    prefetch(source, begin + j)
                for j in range(0, dim, LINE_BYTES // target.itemsize):
                    prefetch(target, end + j)
            begin, end = at(source_rows, i) * dim, at(target_rows, i) * dim
            if is_random:
                for j in range(dim):
                    bits = random_bits(key, end + j)
                    target[end + j] = narrow_random(widen(source[begin + j]), bits, target)
            else:
                for j in range(0, dim, 16):
                    store_upto(target, end + j, load_upto(source, begin + j, dim - j), dim - j)
