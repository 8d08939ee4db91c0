"""Numba bodies of segment_reduce: rows dealt to threads by their values, a row summed in float32 in
its own order.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.lanes import largest, load_upto, spread, store_upto, zeros
from cuesta.ops.numba_support import balanced_start, kernel, num_threads, view, widen

TASKS_PER_THREAD = 8


def segment_sum(values: Tensor, offsets: Tensor, is_mean: bool) -> Tensor:
    out = values.new_empty(offsets.numel() - 1, values.shape[1])
    _sum(view(values), view(offsets), is_mean, view(out), num_threads() * TASKS_PER_THREAD)
    return out


def segment_sum_backward(grad: Tensor, offsets: Tensor, num_values: int, is_mean: bool) -> Tensor:
    out = grad.new_empty(num_values, grad.shape[1])
    _spread(view(grad), view(offsets), is_mean, view(out), num_threads() * TASKS_PER_THREAD)
    return out


def segment_max(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    out = values.new_empty(offsets.numel() - 1, values.shape[1])
    winner = torch.empty(out.shape, dtype=torch.int64)
    _max(view(values), view(offsets), view(out), view(winner), num_threads() * TASKS_PER_THREAD)
    return out, winner


def segment_max_backward(grad: Tensor, winner: Tensor, num_values: int) -> Tensor:
    out = grad.new_zeros(num_values, grad.shape[1])
    num_threads()
    _scatter(view(grad), view(winner), view(out))
    return out


@kernel
def _sum(values, offsets, is_mean, out, num_tasks):
    dim = out.shape[1]
    source, target = values.reshape(values.size), out.reshape(out.size)
    for task in numba.prange(num_tasks):
        last = balanced_start(offsets, task + 1, num_tasks)
        for row in range(balanced_start(offsets, task, num_tasks), last):
            begin, end = offsets[row], offsets[row + 1]
            share = np.float32(1.0)
            if is_mean and end > begin:
                share = np.float32(1.0) / np.float32(end - begin)
            for column in range(0, dim, 16):
                sums = zeros()
                for i in range(begin, end):
                    sums = sums + load_upto(source, i * dim + column, dim - column)
                store_upto(target, row * dim + column, spread(share) * sums, dim - column)


@kernel
def _spread(grad, offsets, is_mean, out, num_tasks):
    dim = out.shape[1]
    source, target = grad.reshape(grad.size), out.reshape(out.size)
    for task in numba.prange(num_tasks):
        last = balanced_start(offsets, task + 1, num_tasks)
        for row in range(balanced_start(offsets, task, num_tasks), last):
            begin, end = offsets[row], offsets[row + 1]
            share = np.float32(1.0)
            if is_mean and end > begin:
                share = np.float32(1.0) / np.float32(end - begin)
            for column in range(0, dim, 16):
                left = dim - column
                piece = spread(share) * load_upto(source, row * dim + column, left)
                for i in range(begin, end):
                    store_upto(target, i * dim + column, piece, left)


@kernel
def _max(values, offsets, out, winner, num_tasks):
    dim = out.shape[1]
    source, target = values.reshape(values.size), out.reshape(out.size)
    for task in numba.prange(num_tasks):
        last = balanced_start(offsets, task + 1, num_tasks)
        for row in range(balanced_start(offsets, task, num_tasks), last):
            begin, end = offsets[row], offsets[row + 1]
            for column in range(0, dim, 16):
                left = dim - column
                best = zeros()
                if end > begin:
                    best = load_upto(source, begin * dim + column, left)
                for i in range(begin + 1, end):
                    best = largest(best, load_upto(source, i * dim + column, left))
                store_upto(target, row * dim + column, best, left)
            for column in range(dim):
                winner[row, column] = -1
                goal = widen(out[row, column])
                for i in range(begin, end):
                    value = widen(values[i, column])
                    if value == goal or value != value:
                        winner[row, column] = i
                        break


@kernel
def _scatter(grad, winner, out):
    for row in numba.prange(grad.shape[0]):
        for column in range(grad.shape[1]):
            if winner[row, column] >= 0:
                out[winner[row, column], column] = grad[row, column]
