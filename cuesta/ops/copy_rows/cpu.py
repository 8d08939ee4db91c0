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
        _flat(target), view(target_rows), target.stride(0), _flat(source), view(source_rows), source.stride(0),
        target.shape[1], num_threads() * TASKS_PER_THREAD, key, is_random,
    )  # fmt: skip


def _flat(matrix: Tensor) -> np.ndarray:
    """Return all that lies between a matrix's first number and its last."""
    num_rows, dim = matrix.shape
    size = (num_rows - 1) * matrix.stride(0) + dim if num_rows else 0
    return view(matrix.as_strided((size,), (1,)))


@kernel
def _copy(
    target,
    target_rows,
    target_step,
    source,
    source_rows,
    source_step,
    dim,
    num_tasks,
    key,
    is_random,
):
    size = target_rows.size
    for task in numba.prange(num_tasks):
        for i in range(size * task // num_tasks, size * (task + 1) // num_tasks):
            if i + AHEAD < size:
                begin = at(source_rows, i + AHEAD) * source_step
                end = at(target_rows, i + AHEAD) * target_step
                for j in range(0, dim, LINE_BYTES // source.itemsize):
                    prefetch(source, begin + j)
                for j in range(0, dim, LINE_BYTES // target.itemsize):
                    prefetch(target, end + j)
            begin, end = at(source_rows, i) * source_step, at(target_rows, i) * target_step
            if is_random:
                element = at(target_rows, i) * dim
                for j in range(dim):
                    bits = random_bits(key, element + j)
                    target[end + j] = narrow_random(widen(source[begin + j]), bits, target)
            else:
                for j in range(0, dim, 16):
                    store_upto(target, end + j, load_upto(source, begin + j, dim - j), dim - j)
