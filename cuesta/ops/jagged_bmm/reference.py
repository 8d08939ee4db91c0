"""The specification of jagged_bmm: one row after another, its two matrices multiplied."""

from __future__ import annotations

from torch import Tensor

from cuesta.ops.squares import LENGTH, matrix_starts


def jagged_bmm(
    a: Tensor, b: Tensor, offsets: Tensor, m: int, n: int, k: int,
    turns_a: bool, turns_b: bool, num_out: int,
) -> Tensor:  # fmt: skip
    out = a.new_empty(num_out)
    starts_a, starts_b, starts = (
        matrix_starts(offsets, *sizes).tolist() for sizes in ((m, k), (k, n), (m, n))
    )
    for row, length in enumerate(offsets.diff().tolist()):
        rows, columns, depth = (length if size == LENGTH else size for size in (m, n, k))
        left = _matrix(a, starts_a[row], rows, depth, turns_a)
        right = _matrix(b, starts_b[row], depth, columns, turns_b)
        out[starts[row] : starts[row] + rows * columns] = (left @ right).flatten()
    return out


def _matrix(values: Tensor, start: int, rows: int, columns: int, is_turned: bool) -> Tensor:
    flat = values[start : start + rows * columns]
    return flat.view(columns, rows).T if is_turned else flat.view(rows, columns)
