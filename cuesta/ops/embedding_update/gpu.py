"""Triton bodies of embedding_update: sort occurrences by row, a program a block of touched rows.

Unlike the reference, an id outside its table takes part in no update, since a GPU cannot raise
without making the host wait. A row's gradients are added in the order they occurred; where they
fill whole aligned runs of `RUN` sorted occurrences, each run is added in a program of its own, then
the runs, then the rest. There are no atomics, so results have the same bits every time; random bits
are those of `reference.random_bits`. With `tables` on the CPU, the host never waits for the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.embedding_bag.gpu import layout_of
from cuesta.ops.embedding_update.optimizers import (
    ADAGRAD_CODE,
    PARTIAL_ROWWISE_ADAM_CODE,
    ROWWISE_ADAGRAD_CODE,
)
from cuesta.ops.triton_support import ALIGNMENT, TILE_ELEMENTS, multiple_of, rows_of

RUN = 128  # sorted occurrences of a run

_ADAGRAD = tl.constexpr(ADAGRAD_CODE)
_ROWWISE_ADAGRAD = tl.constexpr(ROWWISE_ADAGRAD_CODE)
_PARTIAL_ROWWISE_ADAM = tl.constexpr(PARTIAL_ROWWISE_ADAM_CODE)


def occurrences(
    ids: Tensor, offsets: Tensor, sample_weights: Tensor | None, grid: Tensor, pooled_width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_ids, num_bags = ids.numel(), offsets.numel() - 1
    is_by_bag = pooled_width > 0 and sample_weights is None
    rows = ids.new_empty(num_ids, dtype=torch.int64)
    sources = ids.new_empty(num_ids, dtype=torch.int32)
    slots = ids.new_empty(num_bags if is_by_bag else num_ids, dtype=torch.int64)
    scales = ids.new_empty(slots.numel(), dtype=torch.float32)
    size = max(num_ids, slots.numel())
    _locate_kernel[(triton.cdiv(size, TILE_ELEMENTS),)](
        ids, offsets, sample_weights, grid, rows, sources, slots, scales,
        num_ids, num_bags, num_bags // grid.shape[0], pooled_width,
        pooled_width > 0, is_by_bag, TILE_ELEMENTS,
    )  # fmt: skip
    return rows, sources, slots, scales


def embedding_update(
    weight: Tensor, first: Tensor, second: Tensor, tables: Tensor,
    rows: Tensor, sources: Tensor, slots: Tensor, scales: Tensor, grad: Tensor,
    code: int, scalars: list[float], random_key: int | None,
) -> None:  # fmt: skip
    num_terms = rows.numel()
    if num_terms == 0:
        return
    if weight.numel() < 2**31:
        rows = rows.int()  # half the passes of the sort
    rows, order = rows.sort(stable=True)
    sources = sources[order]
    widest = int(tables[:, 3].max())
    is_aligned = bool((tables[:, 3] % ALIGNMENT.value == 0).all())
    multiple = ALIGNMENT.value if is_aligned else 1  # of dims, hence of starts and slots
    device_tables = tables.t().contiguous().to(weight.device, non_blocking=True)  # [4, K]
    block_columns = triton.next_power_of_2(widest)
    block_rows = max(TILE_ELEMENTS // block_columns, 1)
    runs = None
    if num_terms >= 2 * RUN:
        runs = grad.new_empty(num_terms // RUN, widest)
        _sum_runs_kernel[(runs.shape[0],)](
            rows, sources, slots, scales, grad, device_tables, runs, tables.shape[0], widest,
            multiple, RUN, min(block_rows, RUN), block_columns,
        )  # fmt: skip
    lr, eps, beta1, beta2, correction1, correction2, decay, decoupled = map(float, scalars)
    keep, pull = (1.0 - lr * decay, 0.0) if decoupled else (1.0, decay)
    _update_kernel[(triton.cdiv(num_terms, block_rows),)](
        weight, first, second, device_tables, rows, _starts(rows), sources, slots, scales, grad, runs,
        num_terms, tables.shape[0], widest,
        lr, eps, beta1, 1.0 - beta1, beta2, 1.0 - beta2, correction1, correction2, keep, pull,
        random_key, code, multiple, RUN, block_rows, block_columns,
    )  # fmt: skip


def _starts(rows: Tensor) -> Tensor:
    """Return where each of the T sorted `rows` begins, filled up with T to T + 1 numbers."""
    is_start = torch.ones_like(rows, dtype=torch.bool)
    is_start[1:] = rows[1:] != rows[:-1]
    return is_start.nonzero_static(size=rows.numel() + 1, fill_value=rows.numel()).flatten()


@triton.jit(do_not_specialize=["num_positions", "num_bags", "num_rows"])
def _locate_kernel(
    ids, offsets, sample_weights, grid, rows, sources, slots, scales,
    num_positions, num_bags, num_rows, pooled_width,
    IS_POOLED: tl.constexpr, IS_BY_BAG: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)  # [T]
    mask = position < num_positions
    bag = rows_of(offsets, position, num_bags)
    _, first_row, num_entries, dim, column, is_mean = layout_of(grid, bag // num_rows)
    entry = tl.load(ids + position, mask=mask, other=-1).to(tl.int64)
    is_row = (entry >= 0) & (entry < num_entries)
    tl.store(rows + position, tl.where(is_row, first_row + entry, -1), mask=mask)
    if IS_BY_BAG:
        tl.store(sources + position, bag.to(tl.int32), mask=mask)
        mask = position < num_bags  # from here on, position counts bags
        bag = tl.where(mask, position, 0)
        _, first_row, num_entries, dim, column, is_mean = layout_of(grid, bag // num_rows)
    else:
        tl.store(sources + position, position.to(tl.int32), mask=mask)
    slot = position * dim
    scale = tl.full([SIZE], 1.0, tl.float32)
    if IS_POOLED:
        slot = bag % num_rows * pooled_width + column
        length = tl.load(offsets + bag + 1) - tl.load(offsets + bag)
        if sample_weights is not None:
            scale = tl.load(sample_weights + position, mask=mask, other=0.0).to(tl.float32)
        divisor = tl.where((is_mean == 1) & mask & (length > 0), length, 1)
        scale = tl.div_rn(scale, divisor.to(tl.float32))
    tl.store(slots + position, slot, mask=mask)
    tl.store(scales + position, scale, mask=mask)


@triton.jit(do_not_specialize=["num_tables"])
def _sum_runs_kernel(
    rows, sources, slots, scales, grad, tables, runs, num_tables, widest,
    MULTIPLE: tl.constexpr, RUN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add up the gradients of one run; one of several rows is left unwritten, and never read."""
    run = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + run * RUN)
    if row == tl.load(rows + run * RUN + RUN - 1):
        _, dim = _place_of(tables, row, num_tables, MULTIPLE)
        column = tl.arange(0, COLUMNS)  # [D]
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for i in tl.range(0, RUN, ROWS, loop_unroll_factor=4):
            position = run * RUN + i + tl.arange(0, ROWS)
            source = tl.load(sources + position)
            slot = multiple_of(tl.load(slots + source), MULTIPLE)
            place = slot[:, None] + column[None, :]
            value = tl.load(grad + place, mask=(column < dim)[None, :], other=0.0)
            total += tl.load(scales + source)[:, None] * value
        tl.store(runs + run * widest + column, tl.sum(total, 0), mask=column < dim)


@triton.jit(do_not_specialize=["num_terms", "num_tables", "key"])
def _update_kernel(
    weight, first, second, tables, rows, starts, sources, slots, scales, grad, runs,
    num_terms, num_tables, widest,
    lr, eps, beta1, rest1, beta2, rest2, correction1, correction2, keep, pull, key,
    CODE: tl.constexpr, MULTIPLE: tl.constexpr, RUN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Take one step of the optimiser on each touched row of the block."""
    touched = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [B]
    begin = tl.load(starts + touched, mask=touched < num_terms, other=num_terms)
    end = tl.load(starts + touched + 1, mask=touched < num_terms, other=num_terms)
    row = tl.load(rows + begin, mask=begin < end, other=-1)
    is_row = row >= 0
    end = tl.where(is_row, end, begin)
    place, dim = _place_of(tables, row, num_tables, MULTIPLE)
    column = tl.arange(0, COLUMNS)  # [D]
    mask = is_row[:, None] & (column[None, :] < dim[:, None])
    g = _gradient(
        sources, slots, scales, grad, runs, begin, end, column, mask, widest,
        MULTIPLE, RUN, ROWS, COLUMNS,
    )  # fmt: skip
    place = place[:, None] + column[None, :]  # [B, D]
    w = tl.load(weight + place, mask=mask, other=0.0).to(tl.float32)
    g += pull * w
    step = lr * g
    mean_square = tl.sum(g * g, 1) / dim  # [B]
    if CODE == _ADAGRAD:
        moment = tl.load(first + place, mask=mask, other=1.0) + g * g
        tl.store(first + place, moment, mask=mask)
        step = tl.div_rn(step, tl.sqrt_rn(moment) + eps)
    if CODE == _ROWWISE_ADAGRAD:
        moment = tl.load(first + row, mask=is_row, other=1.0) + mean_square
        tl.store(first + row, moment, mask=is_row)
        step = tl.div_rn(step, (tl.sqrt_rn(moment) + eps)[:, None])
    if CODE == _PARTIAL_ROWWISE_ADAM:
        mean = beta1 * tl.load(first + place, mask=mask, other=0.0) + rest1 * g
        tl.store(first + place, mean, mask=mask)
        moment = beta2 * tl.load(second + row, mask=is_row, other=1.0) + rest2 * mean_square
        tl.store(second + row, moment, mask=is_row)
        root = tl.sqrt_rn(tl.div_rn(moment, correction2)) + eps
        step = tl.div_rn(lr * mean / correction1, root[:, None])
    new = keep * w - step
    if key is not None:
        new = round_to(new, random_bits(key, place), weight.dtype.element_ty)
    tl.store(weight + place, new, mask=mask)


@triton.jit
def _gradient(
    sources, slots, scales, grad, runs, begin, end, column, mask, widest,
    MULTIPLE: tl.constexpr, RUN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Return the sum of gradients begin .. end - 1 of each row: whole runs first, then the rest."""
    total = tl.zeros([ROWS, COLUMNS], tl.float32)  # [B, D]
    num_head, tail = end - begin, end
    if runs is not None:
        first_run, last_run = tl.cdiv(begin, RUN), end // RUN
        num_head = tl.minimum(first_run * RUN, end) - begin
        tail = tl.maximum(last_run * RUN, begin + num_head)
        for i in range(tl.max(last_run - first_run, 0)):
            run = first_run + i  # [B]
            is_run = mask & (run < last_run)[:, None]
            total += tl.load(runs + run[:, None] * widest + column[None, :], mask=is_run, other=0.0)
    for i in tl.range(0, tl.max(num_head + end - tail, 0), loop_unroll_factor=4):
        position = tl.where(i < num_head, begin + i, tail + i - num_head)  # [B]
        is_term = position < end
        source = tl.load(sources + position, mask=is_term, other=0)
        slot = multiple_of(tl.load(slots + source, mask=is_term, other=0), MULTIPLE)
        scale = tl.load(scales + source, mask=is_term, other=0.0)
        place = slot[:, None] + column[None, :]
        value = tl.load(grad + place, mask=mask & is_term[:, None], other=0.0)  # [B, D]
        total += scale[:, None] * value
    return total


@triton.jit
def _place_of(tables, row, num_tables, MULTIPLE: tl.constexpr):
    """Return where each row's storage begins, and its dim, from the transposed tables."""
    table = rows_of(tables + num_tables, row, num_tables)
    start = multiple_of(tl.load(tables + table), MULTIPLE)
    first_row = tl.load(tables + num_tables + table)
    dim = multiple_of(tl.load(tables + 3 * num_tables + table), MULTIPLE)
    return start + (row - first_row) * dim, dim


@triton.jit
def round_to(value, random, dtype: tl.constexpr):
    """Return float32 `value` rounded up or down by 32 `random` bits, as `reference.round_to`."""
    SPARE: tl.constexpr = 16 if dtype == tl.bfloat16 else 13
    bits = value.to(tl.uint32, bitcast=True)
    is_finite = (bits & 0x7F800000) != 0x7F800000
    bits = (bits + (random & ((1 << SPARE) - 1))) >> SPARE << SPARE
    rounded = bits.to(tl.float32, bitcast=True)
    if dtype == tl.float16:  # below the normal range its grid is fixed: 2^-24
        chance = (random >> 8).to(tl.float32) * 2.0**-24
        small = tl.floor(tl.abs(value) * 2.0**24 + chance) * 2.0**-24
        small = tl.where(value < 0, -small, small)
        rounded = tl.where(tl.abs(value) < 2.0**-14, small, rounded)
    return tl.where(is_finite, rounded, value).to(dtype)


@triton.jit
def random_bits(key, index):
    """Return 32 random bits of each counter in `index` under `key`: SplitMix64's finaliser."""
    z = key.to(tl.uint64) + (index + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return ((z ^ (z >> 31)) >> 32).to(tl.uint32)
