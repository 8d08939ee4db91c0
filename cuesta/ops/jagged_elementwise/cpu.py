"""Numba bodies of the elementwise ops, sixteen lanes at a time: values, lines of squares, or blocks
of positions dealt to threads by their work.

Sums over rows and down columns are taken in their order, whichever thread takes them.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.lanes import WIDTH, at, load_upto, spread, store, store_upto, total, zeros
from cuesta.ops.numba_decorators import inner
from cuesta.ops.numba_support import kernel, narrow, num_threads, view, widen
from cuesta.ops.squares import deal, square_offsets
from cuesta.ragged import offsets_from_lengths

RUN = 32  # lines: in one long sum of float32 errors would pile up


def jagged_dense_add(values: Tensor, dense: Tensor, offsets: Tensor) -> Tensor:
    out = torch.empty_like(values)
    _, *tasks = deal(offsets.diff().numpy(), 1, num_threads())
    _add(view(values), view(dense), view(offsets), view(out), *tasks)
    return out


def jagged_dense_mul(scores: Tensor, dense: Tensor, offsets: Tensor) -> Tensor:
    out, squares, sides = torch.empty_like(scores), square_offsets(offsets), offsets.diff().numpy()
    lines = deal(sides, sides + 1, num_threads())
    _mul(view(scores), view(dense), view(squares), sides, view(out), *lines)
    return out


def jagged_dense_mul_backward(
    grad: Tensor, scores: Tensor, offsets: Tensor, longest: int
) -> Tensor:
    out, squares = grad.new_empty(longest, longest), square_offsets(offsets)
    sides, num_tasks = offsets.diff().numpy(), num_threads()
    _sum_of_products(view(grad), view(scores), view(squares), sides, view(out), num_tasks)
    return out


def jagged_self_subtraction(values: Tensor, offsets: Tensor, num_scores: int) -> Tensor:
    out, (squares, sides) = values.new_empty(num_scores), _squares(offsets)
    lines = deal(sides, sides + 1, num_threads())
    _subtract(view(values), view(offsets), squares, sides, view(out), *lines)
    return out


def jagged_self_subtraction_backward(grad: Tensor, offsets: Tensor, num_values: int) -> Tensor:
    out, (squares, sides), num_tasks = grad.new_empty(num_values), _squares(offsets), num_threads()
    blocks = deal(-(-offsets.diff().numpy() // WIDTH), sides + 1, num_tasks)
    scratch = np.empty((num_tasks, 2 * WIDTH), np.float32)
    _gather(view(grad), view(offsets), squares, sides, view(out), *blocks, scratch)
    return out


def _squares(offsets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return where the squares of rows with one value more than their side begin, and the sides."""
    sides = (offsets.diff() - 1).clamp(min=0)
    return offsets_from_lengths(sides.square()).numpy(), sides.numpy()


@kernel
def _add(values, dense, offsets, out, first_rows, first_values):
    longest, dim = dense.shape[1], dense.shape[2]
    source, target = values.reshape(values.size), out.reshape(out.size)
    others = dense.reshape(dense.size)
    for task in numba.prange(first_rows.size):
        row, i, last = first_rows[task], first_values[task], first_values[task + 1]
        while i < last:
            while i >= offsets[row + 1]:
                row += 1
            end = min(offsets[row + 1], last)
            kept = min(end, offsets[row] + longest) * dim  # beyond it there is nothing to add
            shift = (row * longest - offsets[row]) * dim
            for j in range(i * dim, kept, WIDTH):
                other = load_upto(others, j + shift, kept - j)
                store_upto(target, j, load_upto(source, j, kept - j) + other, kept - j)
            for j in range(max(i * dim, kept), end * dim, WIDTH):
                store_upto(target, j, load_upto(source, j, end * dim - j), end * dim - j)
            i = end


@kernel
def _mul(scores, dense, squares, sides, out, lines, first_rows, first_lines):
    longest, factors = dense.shape[0], dense.reshape(dense.size)
    for task in numba.prange(first_rows.size):
        row = first_rows[task]
        for line in range(first_lines[task], first_lines[task + 1]):
            while line >= lines[row + 1]:
                row += 1
            i, side = line - lines[row], sides[row]
            begin, kept = squares[row] + i * side, min(side, longest) if i < longest else 0
            for j in range(0, kept, WIDTH):
                factor = load_upto(factors, i * longest + j, kept - j)
                value = load_upto(scores, begin + j, kept - j)
                store_upto(out, begin + j, value * factor, kept - j)
            for j in range(kept, side, WIDTH):
                store_upto(out, begin + j, zeros(), side - j)


@kernel
def _sum_of_products(grad, scores, squares, sides, out, num_tasks):
    longest, target = out.shape[0], out.reshape(out.size)
    for task in numba.prange(num_tasks):
        for i in range(task, longest, num_tasks):  # the lower the line, the fewer rows reach it
            for j in range(0, longest, WIDTH):
                sums = zeros()
                for row in range(sides.size):
                    side = sides[row]
                    left = side - j
                    if i < side and left > 0:
                        place = squares[row] + i * side + j
                        sums = sums + load_upto(grad, place, left) * load_upto(scores, place, left)
                store_upto(target, i * longest + j, sums, longest - j)


@kernel
def _subtract(values, offsets, squares, sides, out, lines, first_rows, first_lines):
    for task in numba.prange(first_rows.size):
        row = first_rows[task]
        for line in range(first_lines[task], first_lines[task + 1]):
            while line >= lines[row + 1]:
                row += 1
            i, side = line - lines[row], sides[row]
            begin, first = squares[row] + i * side, offsets[row] + 1
            ours = spread(widen(at(values, offsets[row] + i)))
            for j in range(0, side, WIDTH):
                store_upto(out, begin + j, ours - load_upto(values, first + j, side - j), side - j)


@kernel
def _gather(grad, offsets, squares, sides, out, blocks, first_rows, first_blocks, scratch):
    for task in numba.prange(first_rows.size):
        row, columns = first_rows[task], scratch[task]
        for block in range(first_blocks[task], first_blocks[task + 1]):
            while block >= blocks[row + 1]:
                row += 1
            side, first = sides[row], (block - blocks[row]) * WIDTH
            # Value p takes column p - 1 away; value 0, which has none, takes zero away.
            store(columns, 0, zeros())
            begin = max(first - 1, 0)
            _sum_down(grad, squares[row] + begin, side, side - begin, columns, begin + 1 - first)
            for p in range(first, min(first + WIDTH, side + 1)):
                line = zeros()
                if p < side:
                    place = squares[row] + p * side
                    for j in range(place, place + side, WIDTH):
                        line = line + load_upto(grad, j, place + side - j)
                moved = total(line) - at(columns, p - first)
                out[offsets[row] + p] = narrow(np.float32(moved), out)


@inner
def _sum_down(values, begin, side, count, target, target_at):
    """Write the sums of up to sixteen columns of a square from `begin` on."""
    sums = zeros()
    for first in range(0, side, RUN):
        run = zeros()
        for i in range(first, min(first + RUN, side)):
            run = run + load_upto(values, begin + i * side, count)
        sums = sums + run
    store(target, target_at, sums)
