"""Triton body of copy_rows: a program a block of rows and columns."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.embedding_update.gpu import random_bits, round_to
from cuesta.ops.triton_support import TILE_ELEMENTS


def copy_rows(
    target: Tensor, target_rows: Tensor, source: Tensor, source_rows: Tensor, random_key: int | None
) -> None:
    num_rows, dim = target_rows.numel(), target.shape[1]
    if num_rows == 0 or dim == 0:
        return
    columns = min(triton.next_power_of_2(dim), TILE_ELEMENTS)
    rows = max(TILE_ELEMENTS // columns, 1)
    _copy_kernel[(triton.cdiv(num_rows, rows), triton.cdiv(dim, columns))](
        target, target_rows, source, source_rows, num_rows, dim,
        random_key if target.itemsize == 2 else None, rows, columns,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows", "dim", "key"])
def _copy_kernel(
    target, target_rows, source, source_rows, num_rows, dim, key,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (i < num_rows)[:, None] & (column < dim)[None, :]
    begin = tl.load(source_rows + i, mask=i < num_rows, other=0) * dim
    end = tl.load(target_rows + i, mask=i < num_rows, other=0) * dim
    value = tl.load(source + begin[:, None] + column[None, :], mask=mask, other=0.0)
    place = end[:, None] + column[None, :]
    if key is not None:
        new = round_to(value.to(tl.float32), random_bits(key, place), target.dtype.element_ty)
        tl.store(target + place, new, mask=mask)
    else:
        tl.store(target + place, value.to(target.dtype.element_ty), mask=mask)
