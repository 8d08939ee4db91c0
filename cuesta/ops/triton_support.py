"""What every Triton body shares: the shape of a tile, and the row that a position of a ragged tensor lies in.

Kernels come in two kinds. Those that reduce rows give a program a block of rows, and walk their positions in
order. Those that write one result a value give a program a block of values, and find the rows by binary search,
so that one long row costs no more than many short ones. Functions that are launched end in `_kernel`; counts that
change from batch to batch are not specialised, so that no batch waits for a compiler.
"""

from __future__ import annotations

import triton
import triton.language as tl

TILE_ELEMENTS = 1024  # of a program's tile: 8 a thread, two 16-byte loads of float32
MAX_COLUMNS = 256
ALIGNMENT = tl.constexpr(8)  # elements: 16 bytes of a 16-bit type


def tile_shape(dim: int) -> tuple[int, int]:
    """Return how many rows and columns a program's tile has for rows of `dim` elements, both powers of two.

    >>> tile_shape(21), tile_shape(1), tile_shape(5000)
    ((32, 32), (1024, 1), (4, 256))
    """
    columns = min(triton.next_power_of_2(max(dim, 1)), MAX_COLUMNS)
    return TILE_ELEMENTS // columns, columns


def tile_grid(num_rows: int, dim: int) -> tuple[int, int]:
    """Return how many programs cover `num_rows` rows of `dim` elements with tiles of `tile_shape(dim)`."""
    rows, columns = tile_shape(dim)
    return triton.cdiv(num_rows, rows), triton.cdiv(dim, columns)


@triton.jit
def rows_of(offsets, positions, num_rows):
    """Return for each position the last row that starts at or before it: the row that holds it."""
    row = positions * 0
    span = num_rows
    while span > 1:
        half = span // 2
        row = tl.where(tl.load(offsets + row + half) <= positions, row + half, row)
        span -= half
    return row


@triton.jit
def multiple_of(number, ALIGNMENT: tl.constexpr):
    """Return `number`, which is a multiple, in a form that lets the compiler load that many elements at once."""
    return number // ALIGNMENT * ALIGNMENT
