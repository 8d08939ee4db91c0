"""Triton bodies of the elementwise ops: a program a block of numbers of the result, which finds the
rows that hold them.

Sums over rows and along lines and columns are taken in a fixed order by the program that writes
them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.squares import square_offsets, tile_offsets
from cuesta.ops.triton_support import TILE_ELEMENTS, rows_of, tile_grid, tile_shape
from cuesta.ragged import offsets_from_lengths

LINES, STEPS = 16, 64  # of a tile whose lines and columns are summed


def jagged_dense_add(values: Tensor, dense: Tensor, offsets: Tensor) -> Tensor:
    out = torch.empty_like(values)
    (num_rows, longest, dim), num_values = dense.shape, values.shape[0]
    _add_kernel[tile_grid(num_values, dim)](
        values, dense, offsets, out, num_rows, num_values, longest, dim, *tile_shape(dim)
    )
    return out


def jagged_dense_mul(scores: Tensor, dense: Tensor, offsets: Tensor) -> Tensor:
    out, num_scores = torch.empty_like(scores), scores.numel()
    _mul_kernel[(triton.cdiv(num_scores, TILE_ELEMENTS),)](
        scores, dense, offsets, square_offsets(offsets), out,
        offsets.numel() - 1, num_scores, dense.shape[0], TILE_ELEMENTS,
    )  # fmt: skip
    return out


def jagged_dense_mul_backward(
    grad: Tensor, scores: Tensor, offsets: Tensor, longest: int
) -> Tensor:
    out = grad.new_empty(longest, longest)
    _sum_kernel[(triton.cdiv(out.numel(), TILE_ELEMENTS),)](
        grad, scores, offsets, square_offsets(offsets), out,
        offsets.numel() - 1, longest, TILE_ELEMENTS,
    )  # fmt: skip
    return out


def jagged_self_subtraction(values: Tensor, offsets: Tensor, num_scores: int) -> Tensor:
    out = values.new_empty(num_scores)
    _subtract_kernel[(triton.cdiv(num_scores, TILE_ELEMENTS),)](
        values, offsets, _squares(offsets), out, offsets.numel() - 1, num_scores, TILE_ELEMENTS
    )
    return out


def jagged_self_subtraction_backward(grad: Tensor, offsets: Tensor, num_values: int) -> Tensor:
    out, num_rows = grad.new_empty(num_values), offsets.numel() - 1
    if num_values:
        _gather_kernel[(num_values // LINES + num_rows,)](
            grad, offsets, _squares(offsets), tile_offsets(offsets, LINES), out, num_rows,
            LINES, STEPS,
        )  # fmt: skip
    return out


def _squares(offsets: Tensor) -> Tensor:
    return offsets_from_lengths((offsets.diff() - 1).clamp(min=0).square())


@triton.jit(do_not_specialize=["num_rows", "num_values", "longest"])
def _add_kernel(
    values, dense, offsets, out, num_rows, num_values, longest, dim,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [T]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)  # [D]
    row = rows_of(offsets, position, num_rows)
    i = position - tl.load(offsets + row)
    mask = (position < num_values)[:, None] & (column < dim)[None, :]
    place = position[:, None] * dim + column[None, :]
    value = tl.load(values + place, mask=mask, other=0.0).to(tl.float32)  # [T, D]
    other = (row * longest + i)[:, None] * dim + column[None, :]
    value += tl.load(dense + other, mask=mask & (i < longest)[:, None], other=0.0)
    tl.store(out + place, value, mask=mask)


@triton.jit(do_not_specialize=["num_rows", "num_scores", "longest"])
def _mul_kernel(
    scores, dense, offsets, squares, out, num_rows, num_scores, longest, SIZE: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    row = rows_of(squares, place, num_rows)
    side = tl.load(offsets + row + 1) - tl.load(offsets + row)
    inside = place - tl.load(squares + row)
    i, j = inside // tl.maximum(side, 1), inside % tl.maximum(side, 1)
    mask = place < num_scores
    is_kept = mask & (i < longest) & (j < longest)
    factor = tl.load(dense + i * longest + j, mask=is_kept, other=0.0).to(tl.float32)
    value = tl.load(scores + place, mask=is_kept, other=0.0).to(tl.float32)
    tl.store(out + place, value * factor, mask=mask)


@triton.jit(do_not_specialize=["num_rows", "longest"])
def _sum_kernel(grad, scores, offsets, squares, out, num_rows, longest, SIZE: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)  # [L * L]
    i, j = place // longest, place % longest
    total = tl.zeros([SIZE], tl.float32)
    for row in range(num_rows):
        side = tl.load(offsets + row + 1) - tl.load(offsets + row)
        source = tl.load(squares + row) + i * side + j
        mask = (i < side) & (j < side)
        slope = tl.load(grad + source, mask=mask, other=0.0).to(tl.float32)
        total += slope * tl.load(scores + source, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, total, mask=i < longest)


@triton.jit(do_not_specialize=["num_rows", "num_scores"])
def _subtract_kernel(values, offsets, squares, out, num_rows, num_scores, SIZE: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    row = rows_of(squares, place, num_rows)
    begin = tl.load(offsets + row)
    side = tl.maximum(tl.load(offsets + row + 1) - begin - 1, 1)
    inside = place - tl.load(squares + row)
    mask = place < num_scores
    ours = tl.load(values + begin + inside // side, mask=mask, other=0.0).to(tl.float32)
    other = tl.load(values + begin + 1 + inside % side, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, ours - other, mask=mask)


@triton.jit(do_not_specialize=["num_rows"])
def _gather_kernel(
    grad, offsets, squares, tiles, out, num_rows, LINES: tl.constexpr, STEPS: tl.constexpr
):
    """Write for a block of a row's values the sums of their lines, less those of the columns before."""
    program = tl.program_id(0).to(tl.int64)
    row = rows_of(tiles, program, num_rows)
    begin = tl.load(offsets + row)
    length = tl.load(offsets + row + 1) - begin
    first = (program - tl.load(tiles + row)) * LINES
    if first >= length:
        return
    side, start = length - 1, tl.load(squares + row)
    p = first + tl.arange(0, LINES)  # [T]
    moved = tl.zeros([LINES], tl.float32)
    for first_step in range(0, side, STEPS):
        step = first_step + tl.arange(0, STEPS).to(tl.int64)
        is_step = (step < side)[None, :]
        mask = (p < side)[:, None] & is_step
        place = start + p[:, None] * side + step[None, :]
        along = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)  # [T, T]
        mask = ((p > 0) & (p <= side))[:, None] & is_step
        place = start + step[None, :] * side + p[:, None] - 1
        down = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        moved += tl.sum(along - down, 1)  # one sum a step: Triton fails on two into one number
    tl.store(out + begin + p, moved, mask=p < length)
