"""Numba bodies of embedding_bag: one parallel loop over the bags of all tables, rows asked for
ahead of use.

Bags are dealt to tasks by their ids, so that threads end together; a bag is summed in registers by
one thread in the order of its ids, so results do not depend on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.lanes import at, load, load_upto, prefetch, spread, store, store_upto, total, zeros
from cuesta.ops.numba_decorators import inlined
from cuesta.ops.numba_support import balanced_start, kernel, num_threads, view

AHEAD = 40  # ids between asking for a row and adding it
TASKS_PER_THREAD = 8


def embedding_bag(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    sample_weights: Tensor | None,
    grid: Tensor,
    width: int,
) -> Tensor:
    num_rows = (offsets.numel() - 1) // grid.shape[0]
    out = torch.empty(num_rows, width, dtype=torch.float32)  # [B, D]
    bad = np.full(num_threads() * TASKS_PER_THREAD, -1)
    scales = np.empty(0, np.float32) if sample_weights is None else view(sample_weights)
    _pool(view(weight), view(ids), view(offsets), scales, view(grid), view(out), bad)
    _raise_bad_id(bad, ids, offsets, grid)
    return out


def embedding_rows(weight: Tensor, ids: Tensor, offsets: Tensor, grid: Tensor, dim: int) -> Tensor:
    out = torch.empty(ids.numel(), dim, dtype=torch.float32)  # [T, D]
    bad = np.full(num_threads() * TASKS_PER_THREAD, -1)
    _gather(view(weight), view(ids), view(offsets), view(grid), view(out), bad)
    _raise_bad_id(bad, ids, offsets, grid)
    return out


def sample_weight_grad(
    grad: Tensor, weight: Tensor, ids: Tensor, offsets: Tensor, grid: Tensor
) -> Tensor:
    out = torch.empty(ids.numel(), dtype=torch.float32)
    tasks = num_threads() * TASKS_PER_THREAD
    _dot(view(grad), view(weight), view(ids), view(offsets), view(grid), view(out), tasks)
    return out


@inlined
def _ask_for_rows(weight, ids, begin, end, start, rows, dim):
    """Ask for the rows of ids begin .. end - 1; return how far that went, or -1 - i if ids[i] is out of range."""
    line = 64 // weight.itemsize
    for i in range(begin, end):
        row = np.int64(at(ids, i))
        if row < 0 or row >= rows:
            return -1 - i
        for j in range(0, dim, line):
            prefetch(weight, start + row * dim + j)
    return max(begin, end)


@inlined
def _sum_bag(weight, ids, scales, begin, end, start, dim, common, out, place):
    """Write the weighted sum of a bag's rows to out[place : place + dim], 64 or 16 columns at a
    time.
    """
    weighted = scales.size > 0
    everywhere = spread(common)
    column = 0
    while column + 64 <= dim:
        a, b, c, d = zeros(), zeros(), zeros(), zeros()
        for i in range(begin, end):
            row = start + np.int64(at(ids, i)) * dim + column
            scale = spread(at(scales, i)) if weighted else spread(np.float32(1.0))
            a = a + scale * load(weight, row)
            b = b + scale * load(weight, row + 16)
            c = c + scale * load(weight, row + 32)
            d = d + scale * load(weight, row + 48)
        store(out, place + column, everywhere * a)
        store(out, place + column + 16, everywhere * b)
        store(out, place + column + 32, everywhere * c)
        store(out, place + column + 48, everywhere * d)
        column += 64
    while column < dim:
        a = zeros()
        for i in range(begin, end):
            scale = spread(at(scales, i)) if weighted else spread(np.float32(1.0))
            row = start + np.int64(at(ids, i)) * dim
            a = a + scale * load_upto(weight, row + column, dim - column)
        store_upto(out, place + column, everywhere * a, dim - column)
        column += 16


@kernel
def _pool(weight, ids, offsets, scales, grid, out, bad):
    num_tasks = bad.size
    num_rows, width = out.shape
    flat = out.reshape(num_rows * width)
    for task in numba.prange(num_tasks):
        bag = balanced_start(offsets, task, num_tasks)
        last = balanced_start(offsets, task + 1, num_tasks)
        while bag < last and bad[task] < 0:
            feature = bag // num_rows
            stop = min(last, (feature + 1) * num_rows)
            start, rows, dim = grid[feature, 0], grid[feature, 2], grid[feature, 3]
            is_mean = grid[feature, 5] == 1
            place = (bag - feature * num_rows) * width + grid[feature, 4]
            asked = at(offsets, bag)  # ids before it are in range and their rows on their way
            feature_end = at(offsets, (feature + 1) * num_rows)
            while bag < stop:
                begin, end = at(offsets, bag), at(offsets, bag + 1)
                asked = _ask_for_rows(
                    weight, ids, asked, min(end + AHEAD, feature_end), start, rows, dim
                )
                if asked < 0:
                    bad[task] = -1 - asked
                    break
                common = np.float32(1.0)
                if is_mean and end > begin:
                    common = np.float32(1.0) / np.float32(end - begin)
                _sum_bag(weight, ids, scales, begin, end, start, dim, common, flat, place)
                place += width
                bag += 1


@kernel
def _gather(weight, ids, offsets, grid, out, bad):
    num_tasks = bad.size
    num_rows = (offsets.size - 1) // grid.shape[0]
    dim = out.shape[1]
    flat = out.reshape(out.size)
    for task in numba.prange(num_tasks):
        feature, asked = 0, 0
        for i in range(ids.size * task // num_tasks, ids.size * (task + 1) // num_tasks):
            while i >= offsets[(feature + 1) * num_rows]:
                feature += 1
            start, rows = grid[feature, 0], grid[feature, 2]
            ahead = min(i + AHEAD, offsets[(feature + 1) * num_rows])
            asked = _ask_for_rows(weight, ids, max(asked, i), ahead, start, rows, dim)
            if asked < 0:
                bad[task] = -1 - asked
                break
            row = start + np.int64(ids[i]) * dim
            for column in range(0, dim, 16):
                left = dim - column
                store_upto(flat, i * dim + column, load_upto(weight, row + column, left), left)


@kernel
def _dot(grad, weight, ids, offsets, grid, out, num_tasks):
    num_rows, width = grad.shape
    flat = grad.reshape(num_rows * width)
    for task in numba.prange(num_tasks):
        last = balanced_start(offsets, task + 1, num_tasks)
        for bag in range(balanced_start(offsets, task, num_tasks), last):
            feature = bag // num_rows
            start, dim = grid[feature, 0], grid[feature, 3]
            begin, end = offsets[bag], offsets[bag + 1]
            common = np.float32(1.0)
            if grid[feature, 5] == 1 and end > begin:
                common = np.float32(1.0) / np.float32(end - begin)
            place = (bag - feature * num_rows) * width + grid[feature, 4]
            for i in range(begin, end):
                row = start + np.int64(ids[i]) * dim
                sums = zeros()
                for column in range(0, dim, 16):
                    left = dim - column
                    sums = sums + load_upto(flat, place + column, left) * load_upto(
                        weight, row + column, left
                    )
                out[i] = common * total(sums)


def _raise_bad_id(bad: np.ndarray, ids: Tensor, offsets: Tensor, grid: Tensor) -> None:
    if (bad < 0).all():
        return
    occurrence = int(bad[bad >= 0].min())
    bag = int(torch.searchsorted(offsets, occurrence, right=True)) - 1
    feature, row = divmod(bag, (offsets.numel() - 1) // grid.shape[0])
    raise ValueError(
        f"feature {feature}, row {row}: id {int(ids[occurrence])} is outside [0, {int(grid[feature, 2])})"
    )
