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
from cuesta.ops.lanes import at, load, load_upto, prefetch, root, spread, store, store_upto, zeros
from cuesta.ops.lanes import total as sum_of
from cuesta.ops.numba_decorators import inlined, inner
from cuesta.ops.numba_support import (
    balanced_start,
    kernel,
    narrow_random,
    num_threads,
    random_bits,
    view,
)

SOURCE_BITS = 31  # of a packed key; the row has the 32 above
SOURCE_MASK = (1 << SOURCE_BITS) - 1
DIGIT_BITS = 12  # at most, of a pass of the sort
AHEAD = 16  # occurrences between asking for a gradient and adding it
SENTINELS = AHEAD + 1  # keys of -1 after the last, so that looking ahead needs no bound
LINE = 16  # float32 elements in a cache line
TASKS_PER_THREAD = 8


def occurrences(
    ids: Tensor, offsets: Tensor, sample_weights: Tensor | None, grid: Tensor, pooled_width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_ids, num_bags = ids.numel(), offsets.numel() - 1
    is_by_bag = pooled_width > 0 and sample_weights is None
    rows = torch.empty(num_ids, dtype=torch.int64)
    sources = torch.empty(num_ids, dtype=torch.int32)
    slots = torch.empty(num_bags if is_by_bag else num_ids, dtype=torch.int64)
    scales = torch.empty(slots.numel(), dtype=torch.float32)
    given = np.empty(0, np.float32) if sample_weights is None else view(sample_weights)
    _locate(
        view(ids), view(offsets), given, view(grid), pooled_width,
        view(rows), view(sources), view(slots), view(scales), num_threads() * TASKS_PER_THREAD,
    )  # fmt: skip
    return rows, sources, slots, scales


def embedding_update(
    weight: Tensor, first: Tensor, second: Tensor, tables: Tensor,
    rows: Tensor, sources: Tensor, slots: Tensor, scales: Tensor, grad: Tensor,
    code: int, scalars: list[float], random_key: int | None,
) -> None:  # fmt: skip
    if rows.numel() == 0:
        return
    threads, layout = num_threads(), view(tables)
    num_rows = int(layout[-1, 1] + layout[-1, 2])
    keys = _sorted_keys(view(rows), view(sources), num_rows, threads)
    scratch = np.empty((threads * TASKS_PER_THREAD, layout[:, 3].max()), np.float32)
    key = np.uint64(0 if random_key is None else random_key & (2**64 - 1))
    _update(
        view(weight), view(first), view(second), layout, keys, view(slots), view(scales),
        view(grad.flatten()), scratch, code, np.array(scalars), key, random_key is not None,
    )  # fmt: skip


def _sorted_keys(rows: np.ndarray, sources: np.ndarray, num_rows: int, threads: int) -> np.ndarray:
    """Return (row << SOURCE_BITS | source) of every occurrence, ascending by row, then sentinels."""
    row_bits = max(int(num_rows - 1).bit_length(), 1)
    passes = -(-row_bits // DIGIT_BITS)
    digit_bits = -(-row_bits // passes)
    keys = np.empty(rows.size + SENTINELS, np.int64)
    spare = np.empty(rows.size + SENTINELS, np.int64)
    counts = np.empty((threads, 1 << digit_bits), np.int64)
    _first_pass(rows, sources, keys, counts)
    for number in range(1, passes):
        _radix_pass(keys, spare, SOURCE_BITS + number * digit_bits, counts)
        keys, spare = spare, keys
    return keys


@kernel
def _locate(ids, offsets, given, grid, pooled_width, rows, sources, slots, scales, num_tasks):
    num_rows = (offsets.size - 1) // grid.shape[0]
    for task in numba.prange(num_tasks):
        last = balanced_start(offsets, task + 1, num_tasks)
        for bag in range(balanced_start(offsets, task, num_tasks), last):
            feature = bag // num_rows
            begin, end = at(offsets, bag), at(offsets, bag + 1)
            first_row, dim = grid[feature, 1], grid[feature, 3]
            slot = (bag - feature * num_rows) * pooled_width + grid[feature, 4]
            scale = np.float32(1.0)
            if pooled_width > 0 and grid[feature, 5] == 1 and end > begin:
                scale = np.float32(1.0) / np.float32(end - begin)
            if pooled_width > 0 and given.size == 0:
                slots[bag], scales[bag] = slot, scale
                for i in range(begin, end):
                    rows[i], sources[i] = first_row + at(ids, i), bag
            else:
                for i in range(begin, end):
                    rows[i], sources[i] = first_row + at(ids, i), i
                    slots[i] = slot if pooled_width > 0 else i * dim
                    scales[i] = scale * at(given, i) if pooled_width > 0 else scale


@kernel
def _first_pass(rows, sources, target, counts):
    """Pack the keys, sorted stably by the row's lowest digit; see `_radix_pass`."""
    threads, radix = counts.shape
    size, mask = rows.size, radix - 1
    for thread in numba.prange(threads):
        mine = counts[thread]
        mine[:] = 0
        for i in range(size * thread // threads, size * (thread + 1) // threads):
            mine[np.uint64(at(rows, i) & mask)] += 1
    _counts_to_places(counts)
    for thread in numba.prange(threads):
        mine = counts[thread]
        for i in range(size * thread // threads, size * (thread + 1) // threads):
            row = at(rows, i)
            digit = np.uint64(row & mask)
            target[np.uint64(mine[digit])] = (row << SOURCE_BITS) | np.int64(at(sources, i))
            mine[digit] += 1
    target[size:] = -1


@kernel
def _radix_pass(source, target, low, counts):
    """Sort stably by the digit at bit `low`; each thread counts, then scatters, its own stretch.

    Indices are unsigned: for a signed one Numba would check whether it counts from the end.
    """
    threads, radix = counts.shape
    size, mask = source.size - SENTINELS, radix - 1
    for thread in numba.prange(threads):
        mine = counts[thread]
        mine[:] = 0
        for i in range(size * thread // threads, size * (thread + 1) // threads):
            mine[np.uint64((at(source, i) >> low) & mask)] += 1
    _counts_to_places(counts)
    for thread in numba.prange(threads):
        mine = counts[thread]
        for i in range(size * thread // threads, size * (thread + 1) // threads):
            key = at(source, i)
            digit = np.uint64((key >> low) & mask)
            target[np.uint64(mine[digit])] = key
            mine[digit] += 1
    target[size:] = -1


@inner
def _counts_to_places(counts):
    """Turn how often each thread met each digit into where its first one goes."""
    threads, radix = counts.shape
    place = 0
    for digit in range(radix):
        for thread in range(threads):
            count = counts[thread, digit]
            counts[thread, digit] = place
            place += count


@inlined
def _ask_for(keys, i, slots, grad, weight, first, second, table, code):
    """Ask for the gradient of keys[i], and for its row if it is the row's first in `table`."""
    start, first_row, num_rows, dim = table
    key = at(keys, i)
    if key < 0:
        return
    slot = at(slots, key & SOURCE_MASK)
    for j in range(0, dim, LINE):
        prefetch(grad, slot + j)
    row = key >> SOURCE_BITS
    if row != at(keys, i - 1) >> SOURCE_BITS and row < first_row + num_rows:
        place = start + (row - first_row) * dim
        for j in range(0, dim, 64 // weight.itemsize):
            prefetch(weight, place + j)
        if code == ROWWISE_ADAGRAD_CODE:
            prefetch(first, row)
        elif code == PARTIAL_ROWWISE_ADAM_CODE:
            prefetch(second, row)
        if code in (ADAGRAD_CODE, PARTIAL_ROWWISE_ADAM_CODE):
            for j in range(0, dim, LINE):
                prefetch(first, place + j)


@inlined
def _sum_gradients(keys, begin, slots, scales, grad, total, weight, first, second, table, code):
    """Write the scaled sum of the gradients of the row at keys[begin] to `total`; return where the row ends.

    64 or 16 columns at a time; the first pass asks for what comes AHEAD later.
    """
    row = at(keys, begin) >> SOURCE_BITS
    dim = table[3]
    end = begin
    column = 0
    while column < dim:
        a, b, c, d = zeros(), zeros(), zeros(), zeros()
        left = dim - column
        i = begin
        while at(keys, i) >> SOURCE_BITS == row:
            if column == 0:
                _ask_for(keys, i + AHEAD, slots, grad, weight, first, second, table, code)
            source = at(keys, i) & SOURCE_MASK
            slot, scale = at(slots, source) + column, spread(at(scales, source))
            if left >= 64:
                a = a + scale * load(grad, slot)
                b = b + scale * load(grad, slot + 16)
                c = c + scale * load(grad, slot + 32)
                d = d + scale * load(grad, slot + 48)
            else:
                a = a + scale * load_upto(grad, slot, left)
            i += 1
        end = i
        if left >= 64:
            store(total, column, a)
            store(total, column + 16, b)
            store(total, column + 32, c)
            store(total, column + 48, d)
            column += 64
        else:
            store_upto(total, column, a, left)
            column += 16
    return end


@inlined
def _step_row(weight, place, g, first, second, row, dim, code, scalars, is_random):
    """Move a row and its moments by its gradient in `g`; if it `is_random`, leave the new row in `g`
    instead, still float32.
    """
    lr, eps, beta1, beta2 = scalars[0], scalars[1], scalars[2], scalars[3]
    correction1, correction2, decay, is_decoupled = scalars[4], scalars[5], scalars[6], scalars[7]
    keep = spread(np.float32(1.0 - lr * decay if is_decoupled else 1.0))
    pull = spread(np.float32(0.0 if is_decoupled else decay))
    sums = zeros()
    for j in range(0, dim, 16):
        pulled = load_upto(g, j, dim - j) + pull * load_upto(weight, place + j, dim - j)
        sums = sums + pulled * pulled
        store_upto(g, j, pulled, dim - j)
    mean_square = np.float64(sum_of(sums)) / dim
    rate = lr
    if code == ROWWISE_ADAGRAD_CODE:
        first[row] += mean_square
        rate = lr / (np.sqrt(first[row]) + eps)
    elif code == PARTIAL_ROWWISE_ADAM_CODE:
        second[row] = beta2 * second[row] + (1.0 - beta2) * mean_square
        rate = lr / (np.sqrt(second[row] / correction2) + eps) / correction1
    for j in range(0, dim, 16):
        left = dim - j
        direction = load_upto(g, j, left)
        if code == ADAGRAD_CODE:
            moment = load_upto(first, place + j, left) + direction * direction
            store_upto(first, place + j, moment, left)
            direction = direction / (root(moment) + spread(np.float32(eps)))
        elif code == PARTIAL_ROWWISE_ADAM_CODE:
            old = spread(np.float32(beta1)) * load_upto(first, place + j, left)
            direction = old + spread(np.float32(1.0 - beta1)) * direction
            store_upto(first, place + j, direction, left)
        new = keep * load_upto(weight, place + j, left) - spread(np.float32(rate)) * direction
        if is_random:
            store_upto(g, j, new, left)
        else:
            store_upto(weight, place + j, new, left)


@inner
def _write_random(weight, place, new, dim, key):
    for j in range(dim):
        weight[place + j] = narrow_random(new[j], random_bits(key, place + j), weight)


@kernel
def _update(
    weight, first, second, tables, keys, slots, scales, grad, scratch, code, scalars, key, is_random
):  # fmt: skip
    num_tasks = scratch.shape[0]
    size = keys.size - SENTINELS
    for task in numba.prange(num_tasks):
        i = size * task // num_tasks
        last = size * (task + 1) // num_tasks
        while 0 < i < last and keys[i] >> SOURCE_BITS == keys[i - 1] >> SOURCE_BITS:
            i += 1  # this row began in the task before
        number = 0
        total = scratch[task]
        while i < last:
            row = keys[i] >> SOURCE_BITS
            while row >= tables[number, 1] + tables[number, 2]:
                number += 1
            table = (tables[number, 0], tables[number, 1], tables[number, 2], tables[number, 3])
            start, first_row, _, dim = table
            end = _sum_gradients(
                keys, i, slots, scales, grad, total, weight, first, second, table, code
            )
            place = start + (row - first_row) * dim
            _step_row(weight, place, total, first, second, row, dim, code, scalars, is_random)
            if is_random:
                _write_random(weight, place, total, dim, key)
            i = end
