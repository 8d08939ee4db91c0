"""Numba body of jagged_bmm: panels of each row's product dealt to threads by their work.

A block of each factor is copied to float32 with zeros around it, the right one so that its rows
hold the columns of the result, and multiplied in registers. A number of the result is the sum of
sums of `RUN` products, each in their order, whichever thread computes it.
"""

from __future__ import annotations

import numba
import numpy as np
from torch import Tensor

from cuesta.ops.lanes import load, store, store_upto
from cuesta.ops.numba_decorators import inner
from cuesta.ops.numba_support import kernel, num_threads, view
from cuesta.ops.packing import copy_rows, turn
from cuesta.ops.squares import LENGTH, deal, matrix_starts
from cuesta.ops.tiles import product

PANEL, COLUMNS, DEPTH = 96, 96, 256  # of a block: rows and columns of the result, terms of its sums
RUN = 32  # terms: in one long sum of float32 errors would pile up


def jagged_bmm(
    a: Tensor, b: Tensor, offsets: Tensor, m: int, n: int, k: int,
    turns_a: bool, turns_b: bool, num_out: int,
) -> Tensor:  # fmt: skip
    out = a.new_empty(num_out)
    lengths = offsets.diff().numpy()
    matrices = np.empty((lengths.size, 6), np.int64)  # sizes, and where A, B and C begin
    for column, size in enumerate((m, n, k)):
        matrices[:, column] = lengths if size == LENGTH else size
    for column, sizes in enumerate(((m, k), (k, n), (m, n))):
        matrices[:, 3 + column] = matrix_starts(offsets, *sizes).numpy()
    num_panels, work = -(-matrices[:, 0] // PANEL), matrices[:, 1] * (matrices[:, 2] + 1) + 1
    num_tasks = num_threads()
    _multiply(
        view(a), view(b), view(out), turns_a, turns_b, matrices, *deal(num_panels, work, num_tasks),
        np.empty((num_tasks, PANEL * DEPTH), np.float32),
        np.empty((num_tasks, DEPTH * COLUMNS), np.float32),
        np.empty((num_tasks, PANEL * COLUMNS), np.float32),
        np.empty((num_tasks, PANEL * COLUMNS), np.float32),
    )  # fmt: skip
    return out


@kernel
def _multiply(
    a, b, out, turns_a, turns_b, matrices, parts, first_rows, first_parts,
    lefts, rights, sums, runs,
):  # fmt: skip
    for task in numba.prange(first_rows.size):
        row, before = first_rows[task], -1
        for part in range(first_parts[task], first_parts[task + 1]):
            while part >= parts[row + 1]:
                row += 1
            _multiply_panel(
                a, b, out, turns_a, turns_b, matrices[row], (part - parts[row]) * PANEL,
                row == before, lefts[task], rights[task], sums[task], runs[task],
            )  # fmt: skip
            before = row


@inner
def _multiply_panel(
    a, b, out, turns_a, turns_b, matrix, first, is_same_row, left, right, sums, run
):  # fmt: skip
    """Write the rows of a product from `first` on."""
    m, n, k, a_at, b_at, out_at = matrix[0], matrix[1], matrix[2], matrix[3], matrix[4], matrix[5]
    rows, is_ready = min(m - first, PANEL), is_same_row and n <= COLUMNS and k <= DEPTH
    for column in range(0, n, COLUMNS):
        columns = min(n - column, COLUMNS)
        padded = -(-columns // 16) * 16
        for term in range(0, max(k, 1), DEPTH):
            depth = min(k - term, DEPTH)
            if not is_ready and turns_b:
                at = b_at + column * k + term
                turn(b, at, k, columns, depth, right, 0, padded, padded, depth)
            elif not is_ready:
                at = b_at + term * n + column
                copy_rows(b, at, n, depth, columns, right, 0, depth, padded)
            if turns_a:
                at = a_at + term * m + first
                copy_rows(a, at, m, depth, rows, left, 0, depth, PANEL)
                a_row, a_step = 1, PANEL
            else:
                at = a_at + first * k + term
                copy_rows(a, at, k, rows, depth, left, 0, rows, DEPTH)
                a_row, a_step = DEPTH, 1
            for i in range(0, max(depth, 1), RUN):
                product(
                    left, i * a_step, a_row, a_step, right, i * padded, padded,
                    sums if term + i == 0 else run, 0, COLUMNS,
                    rows, padded, min(depth - i, RUN), False,
                )  # fmt: skip
                if term + i > 0:
                    for j in range(0, rows * COLUMNS, 16):
                        store(sums, j, load(sums, j) + load(run, j))
        for i in range(rows):
            begin = out_at + (first + i) * n + column
            for j in range(0, columns, 16):
                store_upto(out, begin + j, load(sums, i * COLUMNS + j), columns - j)
