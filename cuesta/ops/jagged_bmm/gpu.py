"""Triton body of jagged_bmm: a program a tile of a row's product.

Where the number of rows of a product is the length of its row, nobody knows how many tiles there
are without waiting for the device: programs are launched for as many as there may be, find their
row by binary search among the rows' first tiles, and those beyond the end exit at once. A program
sums its row's terms in their order; float32 is multiplied as float32, not as TF32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.squares import LENGTH, most_lines, square_offsets, tile_offsets
from cuesta.ops.triton_support import rows_of

ROWS, DEPTH = 32, 32  # of a tile
MAX_COLUMNS = 64
MAX_PROGRAMS = 8  # side by side, where the number of columns is not known


def jagged_bmm(
    a: Tensor, b: Tensor, offsets: Tensor, m: int, n: int, k: int,
    turns_a: bool, turns_b: bool, num_out: int,
) -> Tensor:  # fmt: skip
    out = a.new_empty(num_out)
    num_rows = offsets.numel() - 1
    tiles = None
    if m == LENGTH:
        tiles = tile_offsets(offsets, ROWS)
        num_lines = most_lines(num_rows, num_out) if n == LENGTH else num_out // max(n, 1)
        num_tiles = num_lines // ROWS + num_rows
    else:
        num_tiles = num_rows * triton.cdiv(m, ROWS)
    columns = MAX_COLUMNS if n == LENGTH else _width(n)
    across = MAX_PROGRAMS if n == LENGTH else triton.cdiv(n, columns)
    depth = DEPTH if k == LENGTH else min(_width(k), DEPTH)
    if num_out:
        _multiply_kernel[(num_tiles, across)](
            a, b, offsets, square_offsets(offsets), tiles, out, num_rows, num_out,
            *(None if size == LENGTH else size for size in (m, n, k)),
            turns_a, turns_b, ROWS, columns, depth,
        )  # fmt: skip
    return out


def _width(size: int) -> int:
    return min(max(triton.next_power_of_2(size), 16), MAX_COLUMNS)  # tl.dot takes 16 at least


@triton.jit(do_not_specialize=["num_rows", "num_out"])
def _multiply_kernel(
    a, b, offsets, squares, tiles, out, num_rows, num_out, m, n, k,
    TURNS_A: tl.constexpr, TURNS_B: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    if m is None:
        row = rows_of(tiles, program, num_rows)
        first = (program - tl.load(tiles + row)) * ROWS
    else:
        row = program // tl.cdiv(m, ROWS)
        first = program % tl.cdiv(m, ROWS) * ROWS
    begin = tl.load(offsets + row)
    square = tl.load(squares + row)
    length = tl.load(offsets + row + 1) - begin
    num_lines = length if m is None else m
    num_columns = length if n is None else n
    num_terms = length if k is None else k
    if first >= num_lines:
        return
    a += _start(row, begin, square, m, k)
    b += _start(row, begin, square, k, n)
    start = _start(row, begin, square, m, n)
    line = first + tl.arange(0, ROWS)  # [T]
    for first_column in range(
        tl.program_id(1) * COLUMNS, num_columns, tl.num_programs(1) * COLUMNS
    ):
        column = first_column + tl.arange(0, COLUMNS).to(tl.int64)  # [D]
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for first_term in range(0, num_terms, DEPTH):
            term = first_term + tl.arange(0, DEPTH).to(tl.int64)
            left = _block(a, line, term, num_lines, num_terms, TURNS_A)
            right = _block(b, term, column, num_terms, num_columns, TURNS_B)
            total = tl.dot(left, right, total, input_precision="ieee")
        place = start + line[:, None] * num_columns + column[None, :]
        is_in = (line < num_lines)[:, None] & (column < num_columns)[None, :]
        tl.store(out + place, total, mask=is_in & (place < num_out))


@triton.jit
def _start(row, begin, square, rows, columns):
    """Return where the matrix of a row begins; None is the row's length."""
    if rows is None and columns is None:
        return square
    elif rows is None:  # noqa: RET505 (Triton compiles a branch only if it is an else)
        return begin * columns
    elif columns is None:
        return begin * rows
    else:
        return row * rows * columns


@triton.jit
def _block(values, i, j, rows, columns, IS_TURNED: tl.constexpr):
    """Return the lines `i` and columns `j` of a matrix, zeros beyond it."""
    mask = (i < rows)[:, None] & (j < columns)[None, :]
    if IS_TURNED:
        return tl.load(values + j[None, :] * rows + i[:, None], mask=mask, other=0.0)
    else:  # noqa: RET505
        return tl.load(values + i[:, None] * columns + j[None, :], mask=mask, other=0.0)
