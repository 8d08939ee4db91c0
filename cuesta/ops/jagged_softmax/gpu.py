"""Triton bodies of jagged_softmax: a program a row's block of columns, or of lines.

It walks its numbers for the largest, for the sum and to write, a tile at a time, in their order.
Of squares nobody knows how many blocks there are without waiting for the device: programs are
launched for as many as there may be, find their row by binary search among the rows' first blocks,
and those beyond the end exit at once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.squares import LENGTH, most_lines, square_offsets, tile_offsets
from cuesta.ops.triton_support import rows_of

STEPS, LINES = 64, 16  # of a tile: numbers of one sum, sums side by side


def jagged_softmax(values: Tensor, offsets: Tensor, width: int, is_along: bool) -> Tensor:
    out = torch.empty_like(values)
    grid, arguments = _launch(values, offsets, width)
    if values.numel():
        _softmax_kernel[grid](values, out, *arguments, is_along, STEPS, LINES)
    return out


def jagged_softmax_backward(
    grad: Tensor, probs: Tensor, offsets: Tensor, width: int, is_along: bool
) -> Tensor:
    out = torch.empty_like(probs)
    grid, arguments = _launch(probs, offsets, width)
    if probs.numel():
        _backward_kernel[grid](grad, probs, out, *arguments, is_along, STEPS, LINES)
    return out


def _launch(
    values: Tensor, offsets: Tensor, width: int
) -> tuple[tuple[int, int], tuple[Tensor | int | None, ...]]:
    """Return the grid, and what tells a program where its block is."""
    num_rows = offsets.numel() - 1
    if width != LENGTH:
        return (num_rows, triton.cdiv(width, LINES)), (offsets, None, None, num_rows, width)
    num_blocks = most_lines(num_rows, values.numel()) // LINES + num_rows
    tiles, squares = tile_offsets(offsets, LINES), square_offsets(offsets)
    return (num_blocks, 1), (offsets, squares, tiles, num_rows, None)


@triton.jit(do_not_specialize=["num_rows"])
def _softmax_kernel(
    values, out, offsets, squares, tiles, num_rows, width,
    IS_ALONG: tl.constexpr, STEPS: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    start, length, num_lines, first = _block_of(offsets, squares, tiles, num_rows, width, LINES)
    if first >= num_lines:
        return
    line = first + tl.arange(0, LINES)  # [H]
    # Lines that are not there are zeros, so that none is without a number.
    beyond = tl.where(line < num_lines, float("-inf"), 0.0)[:, None]
    # Triton 3.6 fails on a maximum of loaded numbers that two loops use, unless it keeps its dims.
    top = tl.full([LINES, 1], float("-inf"), tl.float32)
    for i in range(0, length, STEPS):
        place, mask = _tile(start, length, num_lines, line, i, IS_ALONG, STEPS)
        value = tl.load(values + place, mask=mask, other=beyond).to(tl.float32)  # [H, T]
        top = tl.maximum(top, tl.max(value, 1, keep_dims=True))
    total = tl.zeros([LINES, 1], tl.float32)
    for i in range(0, length, STEPS):
        place, mask = _tile(start, length, num_lines, line, i, IS_ALONG, STEPS)
        value = tl.load(values + place, mask=mask, other=beyond).to(tl.float32)
        total += tl.sum(tl.exp(value - top), 1, keep_dims=True)
    for i in range(0, length, STEPS):
        place, mask = _tile(start, length, num_lines, line, i, IS_ALONG, STEPS)
        value = tl.load(values + place, mask=mask, other=beyond).to(tl.float32)
        power = tl.exp(value - top)
        tl.store(out + place, tl.div_rn(power, total), mask=mask)


@triton.jit(do_not_specialize=["num_rows"])
def _backward_kernel(
    grad, probs, out, offsets, squares, tiles, num_rows, width,
    IS_ALONG: tl.constexpr, STEPS: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    start, length, num_lines, first = _block_of(offsets, squares, tiles, num_rows, width, LINES)
    if first >= num_lines:
        return
    line = first + tl.arange(0, LINES)  # [H]
    total = tl.zeros([LINES, 1], tl.float32)
    for i in range(0, length, STEPS):
        place, mask = _tile(start, length, num_lines, line, i, IS_ALONG, STEPS)
        slope = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)  # [H, T]
        prob = tl.load(probs + place, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(prob * slope, 1, keep_dims=True)
    for i in range(0, length, STEPS):
        place, mask = _tile(start, length, num_lines, line, i, IS_ALONG, STEPS)
        moved = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32) - total
        prob = tl.load(probs + place, mask=mask, other=0.0).to(tl.float32)
        tl.store(out + place, prob * moved, mask=mask)


@triton.jit
def _block_of(offsets, squares, tiles, num_rows, width, LINES: tl.constexpr):
    """Return where the matrix of this program's row begins, its length and lines, the first line of
    the block.
    """
    program = tl.program_id(0).to(tl.int64)
    if tiles is None:
        begin = tl.load(offsets + program)
        length = tl.load(offsets + program + 1) - begin
        return begin * width, length, width, tl.program_id(1) * LINES
    else:  # noqa: RET505 (Triton compiles a branch only if it is an else)
        row = rows_of(tiles, program, num_rows)
        side = tl.load(offsets + row + 1) - tl.load(offsets + row)
        first = (program - tl.load(tiles + row)) * LINES
        return tl.load(squares + row), side, side, first


@triton.jit
def _tile(start, length, num_lines, line, i, IS_ALONG: tl.constexpr, STEPS: tl.constexpr):
    """Return where the numbers `i` on of each line lie, [H, T], and which there are."""
    step = i + tl.arange(0, STEPS)[None, :].to(tl.int64)
    mask = (line < num_lines)[:, None] & (step < length)
    if IS_ALONG:
        return start + line[:, None] * length + step, mask
    else:  # noqa: RET505
        return start + step * num_lines + line[:, None], mask
