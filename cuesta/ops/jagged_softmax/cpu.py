"""Numba bodies of jagged_softmax: blocks of sixteen columns, or lines, dealt to threads by their
work.

Columns are sixteen lanes walking down; a line is sixteen lanes walking along, joined at its end.
Each number depends on its own column or line alone, and so not on the threads.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.lane_math import exponential, number, within
from cuesta.ops.lanes import WIDTH, at, largest, load_upto, spread, store, store_upto, total, zeros
from cuesta.ops.numba_decorators import inlined
from cuesta.ops.numba_support import kernel, num_threads, view
from cuesta.ops.squares import LENGTH, deal, matrix_starts

RUN = 32  # steps down: in one long sum of float32 errors would pile up


def jagged_softmax(values: Tensor, offsets: Tensor, width: int, is_along: bool) -> Tensor:
    out = torch.empty_like(values)
    run = _softmax_along if is_along else _softmax_down
    run(view(values), view(out), *_parts(offsets, width, is_along))
    return out


def jagged_softmax_backward(
    grad: Tensor, probs: Tensor, offsets: Tensor, width: int, is_along: bool
) -> Tensor:
    out = torch.empty_like(probs)
    run = _backward_along if is_along else _backward_down
    run(view(grad), view(probs), view(out), *_parts(offsets, width, is_along))
    return out


def _parts(offsets: Tensor, width: int, is_along: bool) -> tuple[np.ndarray, ...]:
    """Return where each row's matrix begins, its lengths and widths, and which task does what."""
    starts, lengths = matrix_starts(offsets, LENGTH, width).numpy(), offsets.diff().numpy()
    widths = lengths if width == LENGTH else np.full_like(lengths, width)
    num_blocks = np.where(lengths > 0, -(-widths // WIDTH), 0)
    dealt = deal(lengths, widths + 1, num_threads()) if is_along else None
    return starts, lengths, widths, *(dealt or deal(num_blocks, lengths + 1, num_threads()))


@kernel
def _softmax_down(values, out, starts, lengths, widths, parts, first_rows, first_parts):
    for task in numba.prange(first_rows.size):
        row = first_rows[task]
        for part in range(first_parts[task], first_parts[task + 1]):
            while part >= parts[row + 1]:
                row += 1
            width, column = widths[row], (part - parts[row]) * WIDTH
            begin, left = starts[row] + column, width - column
            end = begin + lengths[row] * width
            top = load_upto(values, begin, left)
            for i in range(begin + width, end, width):
                top = largest(top, load_upto(values, i, left))
            sums = zeros()
            for first in range(begin, end, RUN * width):
                run = zeros()
                for i in range(first, min(first + RUN * width, end), width):
                    run = run + exponential(load_upto(values, i, left) - top)
                sums = sums + run
            for i in range(begin, end, width):
                power = exponential(load_upto(values, i, left) - top)
                store_upto(out, i, power / sums, left)


@kernel
def _backward_down(grad, probs, out, starts, lengths, widths, parts, first_rows, first_parts):
    for task in numba.prange(first_rows.size):
        row = first_rows[task]
        for part in range(first_parts[task], first_parts[task + 1]):
            while part >= parts[row + 1]:
                row += 1
            width, column = widths[row], (part - parts[row]) * WIDTH
            begin, left = starts[row] + column, width - column
            end = begin + lengths[row] * width
            sums = zeros()
            for first in range(begin, end, RUN * width):
                run = zeros()
                for i in range(first, min(first + RUN * width, end), width):
                    run = run + load_upto(probs, i, left) * load_upto(grad, i, left)
                sums = sums + run
            for i in range(begin, end, width):
                moved = load_upto(grad, i, left) - sums
                store_upto(out, i, load_upto(probs, i, left) * moved, left)


@kernel
def _softmax_along(values, out, starts, lengths, widths, parts, first_rows, first_parts):
    for task in numba.prange(first_rows.size):
        row = first_rows[task]
        lanes_of_top = np.empty(WIDTH, np.float32)
        for part in range(first_parts[task], first_parts[task + 1]):
            while part >= parts[row + 1]:
                row += 1
            begin = starts[row] + (part - parts[row]) * widths[row]
            end = begin + widths[row]
            lowest = number(-np.inf)
            tops = lowest
            for i in range(begin, end, WIDTH):
                tops = largest(tops, within(load_upto(values, i, end - i), 0, end - i - 1, lowest))
            store(lanes_of_top, 0, tops)
            top = spread(_largest_of(lanes_of_top))
            sums = zeros()
            for i in range(begin, end, WIDTH):
                power = exponential(load_upto(values, i, end - i) - top)
                sums = sums + within(power, 0, end - i - 1, zeros())
            whole = spread(total(sums))
            for i in range(begin, end, WIDTH):
                power = exponential(load_upto(values, i, end - i) - top)
                store_upto(out, i, power / whole, end - i)


@inlined
def _largest_of(lanes):
    """Return the largest of sixteen numbers."""
    top = at(lanes, 0)
    for i in range(1, WIDTH):
        top = max(top, at(lanes, i))
    return top


@kernel
def _backward_along(grad, probs, out, starts, lengths, widths, parts, first_rows, first_parts):
    for task in numba.prange(first_rows.size):
        row = first_rows[task]
        for part in range(first_parts[task], first_parts[task + 1]):
            while part >= parts[row + 1]:
                row += 1
            begin = starts[row] + (part - parts[row]) * widths[row]
            end = begin + widths[row]
            sums = zeros()
            for i in range(begin, end, WIDTH):
                sums = sums + load_upto(probs, i, end - i) * load_upto(grad, i, end - i)
            whole = spread(total(sums))
            for i in range(begin, end, WIDTH):
                moved = load_upto(grad, i, end - i) - whole
                store_upto(out, i, load_upto(probs, i, end - i) * moved, end - i)
