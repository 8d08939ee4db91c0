"""What Triton bodies share: the shape of a tile, and the row in which a position lies.

Kernels come in two kinds. Those that reduce rows give a program a block of rows, and walk their
positions. Those that write one result a value give a program a block of values, and find the rows
by binary search, so that one long row costs no more than many short ones. Launched functions end in
`_kernel`; counts that change from batch to batch are not specialised, so that no batch waits for a
compiler.
"""

from __future__ import annotations

import triton
import triton.language as tl

TILE_ELEMENTS = 1024  # of a program's tile: 8 a thread, two 16-byte loads of float32
MAX_COLUMNS = 256
ALIGNMENT = tl.constexpr(8)  # elements: 16 bytes of a 16-bit type


def tile_shape(dim: int) -> tuple[int, int]:
    """Return a tile's rows and columns, both powers of two, for rows of `dim` elements.

    >>> tile_shape(21), tile_shape(1), tile_shape(5000)
    ((32, 32), (1024, 1), (4, 256))
    """
    columns = min(triton.next_power_of_2(max(dim, 1)), MAX_COLUMNS)
    return TILE_ELEMENTS // columns, columns


def tile_grid(num_rows: int, dim: int) -> tuple[int, int]:
    """Return how many tiles of `tile_shape(dim)` cover `num_rows` rows and `dim` columns."""
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
def multiple_of(number, divisor: tl.constexpr):
    """Return `number`, a multiple of `divisor`, so that the compiler knows it and widens loads."""
    return number // divisor * divisor
