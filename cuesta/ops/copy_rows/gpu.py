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
        target, target_rows, target.stride(0), source, source_rows, source.stride(0), num_rows, dim,
        random_key if target.itemsize == 2 else None, rows, columns,
    )  # fmt: skip


@triton.jit(do_not_specialize=["target_step", "source_step", "num_rows", "dim", "key"])
def _copy_kernel(
    target, target_rows, target_step, source, source_rows, source_step, num_rows, dim, key,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (i < num_rows)[:, None] & (column < dim)[None, :]
    begin = tl.load(source_rows + i, mask=i < num_rows, other=0) * source_step
    row = tl.load(target_rows + i, mask=i < num_rows, other=0)
    value = tl.load(source + begin[:, None] + column[None, :], mask=mask, other=0.0)
    place = target + (row * target_step)[:, None] + column[None, :]
    if key is not None:
        bits = random_bits(key, (row * dim)[:, None] + column[None, :])
        tl.store(place, round_to(value.to(tl.float32), bits, target.dtype.element_ty), mask=mask)
    else:
        tl.store(place, value.to(target.dtype.element_ty), mask=mask)
