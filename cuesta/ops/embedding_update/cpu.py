"""Numba body of embedding_update: sort the ids, then one pass that sums a row's gradient and
updates the row.

The sort is a stable radix sort of (row, occurrence) packed in 64 bits, so equal rows meet in the
order in which they occurred; each row is summed by one thread in that order, which makes results
exact: the same bits for any number of threads. The tables' gradients exist only as the one row a
thread is working on.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.embedding_update.optimizers import (
    ADAGRAD_CODE,
    PARTIAL_ROWWISE_ADAM_CODE,
    ROWWISE_ADAGRAD_CODE,
)
from cuesta.ops.lanes import load, load_upto, prefetch, root, spread, store, store_upto, zeros
from cuesta.ops.lanes import total as sum_of
from cuesta.ops.numba_support import (
    balanced_start,
    inner,
    kernel,
    narrow_random,
    num_threads,
    random_bits,
    view,
)

DIGIT_BITS = 11
AHEAD = 16  # occurrences between asking for a gradient and adding it
TASKS_PER_THREAD = 8


def occurrences(
    ids: Tensor, offsets: Tensor, sample_weights: Tensor | None, grid: Tensor, pooled_width: int
) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.empty(ids.numel(), dtype=torch.int64)
    slots = torch.empty(ids.numel(), dtype=torch.int64)
    scales = torch.empty(ids.numel())
    given = np.empty(0, np.float32) if sample_weights is None else view(sample_weights)
    tasks = num_threads() * TASKS_PER_THREAD
    _locate(
        view(ids), view(offsets), given, view(grid), pooled_width,
        view(rows), view(slots), view(scales), tasks,
    )  # fmt: skip
    return rows, slots, scales


def embedding_update(
    weight: Tensor, first: Tensor, second: Tensor, tables: Tensor,
    rows: Tensor, slots: Tensor, scales: Tensor, grad: Tensor,
    code: int, scalars: list[float], random_key: int | None,
) -> None:  # fmt: skip
    if rows.numel() == 0:
        return
    threads = num_threads()
    num_rows = int(tables[-1, 1] + tables[-1, 2])
    order, shift = _sorted_occurrences(view(rows), num_rows, threads)
    scratch = np.empty((threads * TASKS_PER_THREAD, int(tables[:, 3].max())), np.float32)
    key = np.uint64(0 if random_key is None else random_key & (2**64 - 1))
    _update(
        view(weight), view(first), view(second), view(tables), order, shift, view(slots), view(scales),
        view(grad.flatten()), scratch, code, np.array(scalars), key, random_key is not None,
    )  # fmt: skip


def _sorted_occurrences(rows: np.ndarray, num_rows: int, threads: int) -> tuple[np.ndarray, int]:
    """Return (row << shift | occurrence) of every occurrence, ascending, and the shift."""
    shift = max(int(rows.size - 1).bit_length(), 1)
    row_bits = max(int(num_rows - 1).bit_length(), 1)
    if shift + row_bits > 63:
        raise ValueError(
            f"{rows.size} ids into {num_rows} rows do not fit in 63 bits; split the batch"
        )
    packed = np.empty(rows.size, np.int64)
    spare = np.empty(rows.size, np.int64)
    _pack(rows, shift, packed)
    for low in range(0, row_bits, DIGIT_BITS):
        digits = min(DIGIT_BITS, row_bits - low)
        counts = np.zeros((threads, 1 << digits), np.int64)
        _radix_pass(packed, spare, shift + low, counts)
        packed, spare = spare, packed
    return packed, shift


@kernel
def _locate(ids, offsets, given, grid, pooled_width, rows, slots, scales, num_tasks):
    num_rows = (offsets.size - 1) // grid.shape[0]
    for task in numba.prange(num_tasks):
        last = balanced_start(offsets, task + 1, num_tasks)
        for bag in range(balanced_start(offsets, task, num_tasks), last):
            feature = bag // num_rows
            begin, end = offsets[bag], offsets[bag + 1]
            common = np.float32(1.0)
            if pooled_width > 0 and grid[feature, 5] == 1 and end > begin:
                common = np.float32(1.0) / np.float32(end - begin)
            for i in range(begin, end):
                rows[i] = grid[feature, 1] + ids[i]
                slots[i] = i * grid[feature, 3]
                if pooled_width > 0:
                    slots[i] = (bag - feature * num_rows) * pooled_width + grid[feature, 4]
                scales[i] = common * given[i] if given.size > 0 and pooled_width > 0 else common


@kernel
def _pack(rows, shift, packed):
    for i in numba.prange(rows.size):
        packed[i] = (rows[i] << shift) | i


@kernel
def _radix_pass(source, target, low, counts):
    """Sort stably by the digit at bit `low`; each thread counts, then scatters, its own stretch."""
    threads, radix = counts.shape
    mask = radix - 1
    for thread in numba.prange(threads):
        mine = counts[thread]
        for i in range(source.size * thread // threads, source.size * (thread + 1) // threads):
            mine[(source[i] >> low) & mask] += 1
    place = 0
    for digit in range(radix):
        for thread in range(threads):
            count = counts[thread, digit]
            counts[thread, digit] = place
            place += count
    for thread in numba.prange(threads):
        mine = counts[thread]
        for i in range(source.size * thread // threads, source.size * (thread + 1) // threads):
            digit = (source[i] >> low) & mask
            target[mine[digit]] = source[i]
            mine[digit] += 1


@inner
def _sum_gradients(order, begin, end, mask, slots, scales, grad, total, dim):
    """Write the scaled sum of the gradients of occurrences order[begin:end] to `total`."""
    column = 0
    while column + 64 <= dim:
        a, b, c, d = zeros(), zeros(), zeros(), zeros()
        for i in range(begin, end):
            occurrence = order[i] & mask
            slot, scale = slots[occurrence] + column, spread(scales[occurrence])
            a = a + scale * load(grad, slot)
            b = b + scale * load(grad, slot + 16)
            c = c + scale * load(grad, slot + 32)
            d = d + scale * load(grad, slot + 48)
        store(total, column, a)
        store(total, column + 16, b)
        store(total, column + 32, c)
        store(total, column + 48, d)
        column += 64
    while column < dim:
        a = zeros()
        for i in range(begin, end):
            occurrence = order[i] & mask
            slot = slots[occurrence] + column
            a = a + spread(scales[occurrence]) * load_upto(grad, slot, dim - column)
        store_upto(total, column, a, dim - column)
        column += 16


@inner
def _step_row(weight, place, g, first, second, row, code, scalars):
    """Turn a row's gradient in `g` into its new weights, still float32, and move the row's
    moments.
    """
    lr, eps, beta1, beta2 = scalars[0], scalars[1], scalars[2], scalars[3]
    correction1, correction2, decay, is_decoupled = scalars[4], scalars[5], scalars[6], scalars[7]
    keep = spread(np.float32(1.0 - lr * decay if is_decoupled else 1.0))
    pull = spread(np.float32(0.0 if is_decoupled else decay))
    sums = zeros()
    for j in range(0, g.size, 16):
        pulled = load_upto(g, j, g.size - j) + pull * load_upto(weight, place + j, g.size - j)
        sums = sums + pulled * pulled
        store_upto(g, j, pulled, g.size - j)
    mean_square = np.float64(sum_of(sums)) / g.size
    rate = lr
    if code == ROWWISE_ADAGRAD_CODE:
        first[row] += mean_square
        rate = lr / (np.sqrt(first[row]) + eps)
    elif code == PARTIAL_ROWWISE_ADAM_CODE:
        second[row] = beta2 * second[row] + (1.0 - beta2) * mean_square
        rate = lr / (np.sqrt(second[row] / correction2) + eps) / correction1
    for j in range(0, g.size, 16):
        left = g.size - j
        direction = load_upto(g, j, left)
        if code == ADAGRAD_CODE:
            moment = load_upto(first, place + j, left) + direction * direction
            store_upto(first, place + j, moment, left)
            direction = direction / (root(moment) + spread(np.float32(eps)))
        elif code == PARTIAL_ROWWISE_ADAM_CODE:
            old = spread(np.float32(beta1)) * load_upto(first, place + j, left)
            direction = old + spread(np.float32(1.0 - beta1)) * direction
            store_upto(first, place + j, direction, left)
        store_upto(
            g,
            j,
            keep * load_upto(weight, place + j, left) - spread(np.float32(rate)) * direction,
            left,
        )


@inner
def _write_row(weight, place, new, key, is_random):
    if is_random:
        for j in range(new.size):
            weight[place + j] = narrow_random(new[j], random_bits(key, place + j), weight)
    else:
        for j in range(0, new.size, 16):
            store_upto(weight, place + j, load_upto(new, j, new.size - j), new.size - j)


@inner
def _ask_for(order, i, shift, slots, grad, weight, tables, table):
    """Ask for the gradient of the occurrence at order[i], and for its row of table `table` if it is
    the row's first.
    """
    slot = slots[order[i] & ((1 << shift) - 1)]
    dim = tables[table, 3]
    for j in range(0, dim, 16):
        prefetch(grad, slot + j)
    row = order[i] >> shift
    if row != order[i - 1] >> shift and row < tables[table, 1] + tables[table, 2]:
        place = tables[table, 0] + (row - tables[table, 1]) * dim
        for j in range(0, dim, 64 // weight.itemsize):
            prefetch(weight, place + j)


@kernel
def _update(
    weight, first, second, tables, order, shift, slots, scales, grad, scratch, code, scalars, key, is_random
):  # fmt: skip
    num_tasks = scratch.shape[0]
    mask = (1 << shift) - 1
    for task in numba.prange(num_tasks):
        i = order.size * task // num_tasks
        last = order.size * (task + 1) // num_tasks
        while 0 < i < last and order[i] >> shift == order[i - 1] >> shift:
            i += 1  # this row began in the task before
        table = 0
        while i < last:
            row = order[i] >> shift
            while row >= tables[table, 1] + tables[table, 2]:
                table += 1
            start, first_row, dim = tables[table, 0], tables[table, 1], tables[table, 3]
            end = i
            while end < order.size and order[end] >> shift == row:
                if end + AHEAD < order.size:
                    _ask_for(order, end + AHEAD, shift, slots, grad, weight, tables, table)
                end += 1
            total = scratch[task, :dim]
            _sum_gradients(order, i, end, mask, slots, scales, grad, total, dim)
            place = start + (row - first_row) * dim
            _step_row(weight, place, total, first, second, row, code, scalars)
            _write_row(weight, place, total, key, is_random)
            i = end
