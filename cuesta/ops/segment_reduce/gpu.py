"""Triton bodies of segment_reduce: a program reduces a block of rows, walking their values.

Unlike the reference, a long row is summed in two levels, so that no program walks far alone: each
whole aligned run of `RUN` values in a program of its own, then the runs, then the values around
them. Where runs lie depends on the offsets alone, so results have the same bits every time; shorter
rows are summed in their order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.triton_support import rows_of, tile_grid, tile_shape

RUN = 128  # values of a run


def segment_sum(values: Tensor, offsets: Tensor, is_mean: bool) -> Tensor:
    num_rows, (num_values, dim) = offsets.numel() - 1, values.shape
    out = values.new_empty(num_rows, dim)
    rows, columns = tile_shape(dim)
    runs = None
    if num_values >= 2 * RUN and num_rows:
        runs = values.new_empty(num_values // RUN, dim, dtype=torch.float32)
        _sum_runs_kernel[(runs.shape[0], triton.cdiv(dim, columns))](
            values, offsets, runs, num_rows, dim, RUN, min(rows, RUN), columns
        )
    _sum_kernel[tile_grid(num_rows, dim)](
        values, offsets, runs, out, num_rows, dim, is_mean, RUN, rows, columns
    )
    return out


def segment_sum_backward(grad: Tensor, offsets: Tensor, num_values: int, is_mean: bool) -> Tensor:
    num_rows, dim = grad.shape
    out = grad.new_empty(num_values, dim)
    _spread_kernel[tile_grid(num_values, dim)](
        grad, offsets, out, num_rows, num_values, dim, is_mean, *tile_shape(dim)
    )
    return out


def segment_max(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    num_rows, dim = offsets.numel() - 1, values.shape[1]
    out = values.new_empty(num_rows, dim)
    winner = torch.empty_like(out, dtype=torch.int64)
    _max_kernel[tile_grid(num_rows, dim)](
        values, offsets, out, winner, num_rows, dim, *tile_shape(dim)
    )
    return out, winner


def segment_max_backward(grad: Tensor, winner: Tensor, num_values: int) -> Tensor:
    num_rows, dim = grad.shape
    out = grad.new_zeros(num_values, dim)
    _scatter_kernel[tile_grid(num_rows, dim)](grad, winner, out, num_rows, dim, *tile_shape(dim))
    return out


@triton.jit(do_not_specialize=["num_rows"])
def _sum_runs_kernel(
    values, offsets, runs, num_rows, dim,
    RUN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sum the values of one run; one that spans several rows is left unwritten, and never read."""
    run = tl.program_id(0).to(tl.int64)
    row = rows_of(offsets, run * RUN, num_rows)
    if tl.load(offsets + row + 1) >= (run + 1) * RUN:
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)  # [D]
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for i in tl.range(0, RUN, ROWS, loop_unroll_factor=4):
            position = run * RUN + i + tl.arange(0, ROWS)
            place = position[:, None] * dim + column[None, :]
            total += tl.load(values + place, mask=(column < dim)[None, :], other=0.0).to(tl.float32)
        tl.store(runs + run * dim + column, tl.sum(total, 0), mask=column < dim)


@triton.jit(do_not_specialize=["num_rows"])
def _sum_kernel(
    values, offsets, runs, out, num_rows, dim,
    IS_MEAN: tl.constexpr, RUN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [B]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)  # [D]
    begin = tl.load(offsets + row, mask=row < num_rows, other=0)
    end = tl.load(offsets + row + 1, mask=row < num_rows, other=0)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)  # [B, D]
    num_head, tail = end - begin, end
    if runs is not None:
        first_run, last_run = tl.cdiv(begin, RUN), end // RUN
        num_head = tl.minimum(first_run * RUN, end) - begin
        tail = tl.maximum(last_run * RUN, begin + num_head)
        for i in range(tl.max(last_run - first_run, 0)):
            run = first_run + i  # [B]
            mask = (run < last_run)[:, None] & (column < dim)[None, :]
            total += tl.load(runs + run[:, None] * dim + column[None, :], mask=mask, other=0.0)
    for i in tl.range(0, tl.max(num_head + end - tail, 0), loop_unroll_factor=4):
        position = tl.where(i < num_head, begin + i, tail + i - num_head)  # [B]
        mask = (position < end)[:, None] & (column < dim)[None, :]
        place = position[:, None] * dim + column[None, :]
        total += tl.load(values + place, mask=mask, other=0.0).to(tl.float32)  # [B, D]
    if IS_MEAN:
        total = tl.div_rn(total, tl.maximum(end - begin, 1).to(tl.float32)[:, None])
    mask = (row < num_rows)[:, None] & (column < dim)[None, :]
    tl.store(out + row[:, None] * dim + column[None, :], total, mask=mask)


@triton.jit(do_not_specialize=["num_rows", "num_values"])
def _spread_kernel(
    grad, offsets, out, num_rows, num_values, dim,
    IS_MEAN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [T]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)  # [D]
    row = rows_of(offsets, position, num_rows)
    mask = (position < num_values)[:, None] & (column < dim)[None, :]
    share = tl.load(grad + row[:, None] * dim + column[None, :], mask=mask, other=0.0)  # [T, D]
    if IS_MEAN:
        length = tl.load(offsets + row + 1) - tl.load(offsets + row)
        share = tl.div_rn(share.to(tl.float32), tl.maximum(length, 1).to(tl.float32)[:, None])
    tl.store(out + position[:, None] * dim + column[None, :], share, mask=mask)


@triton.jit(do_not_specialize=["num_rows"])
def _max_kernel(
    values, offsets, out, winner, num_rows, dim, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [B]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)  # [D]
    begin = tl.load(offsets + row, mask=row < num_rows, other=0)
    end = tl.load(offsets + row + 1, mask=row < num_rows, other=0)
    best = tl.zeros([ROWS, COLUMNS], tl.float32)  # [B, D]
    place_of_best = tl.full([ROWS, COLUMNS], -1, tl.int64)
    for i in tl.range(0, tl.max(end - begin, 0), loop_unroll_factor=4):
        position = begin + i  # [B]
        mask = (position < end)[:, None] & (column < dim)[None, :]
        value = tl.load(values + position[:, None] * dim + column[None, :], mask=mask, other=0.0)
        value = value.to(tl.float32)
        is_larger = (value > best) | ((value != value) & (best == best)) | (i == 0)
        best = tl.where(mask & is_larger, value, best)
        place_of_best = tl.where(mask & is_larger, position[:, None], place_of_best)
    mask = (row < num_rows)[:, None] & (column < dim)[None, :]
    tl.store(out + row[:, None] * dim + column[None, :], best, mask=mask)
    tl.store(winner + row[:, None] * dim + column[None, :], place_of_best, mask=mask)


@triton.jit(do_not_specialize=["num_rows"])
def _scatter_kernel(grad, winner, out, num_rows, dim, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [B]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)  # [D]
    place = row[:, None] * dim + column[None, :]
    mask = (row < num_rows)[:, None] & (column < dim)[None, :]
    position = tl.load(winner + place, mask=mask, other=-1)  # [B, D]
    value = tl.load(grad + place, mask=mask, other=0.0)
    tl.store(out + position * dim + column[None, :], value, mask=position >= 0)
