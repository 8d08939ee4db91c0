"""Triton bodies of pad and unpad: copies of whole elements, blind to what their bits mean.

Unlike the reference, which walks the rows, a program writes a block of the result and finds its
source.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.triton_support import rows_of, tile_grid, tile_shape

_RAW = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pad(values: Tensor, offsets: Tensor, longest: int, padding: float) -> Tensor:
    num_rows, dim = offsets.numel() - 1, values.shape[1]
    out = values.new_empty(num_rows, longest, dim)
    fill = _raw(torch.tensor([padding], dtype=values.dtype)).item()
    _pad_kernel[tile_grid(num_rows * longest, dim)](
        _raw(values), offsets, _raw(out), num_rows, longest, dim, fill, *tile_shape(dim)
    )
    return out


def unpad(padded: Tensor, offsets: Tensor, num_values: int) -> Tensor:
    num_rows, longest, dim = padded.shape
    out = padded.new_empty(num_values, dim)
    _unpad_kernel[tile_grid(num_values, dim)](
        _raw(padded), offsets, _raw(out), num_rows, num_values, longest, dim, *tile_shape(dim)
    )
    return out


def _raw(tensor: Tensor) -> Tensor:
    return tensor.view(_RAW[tensor.dtype.itemsize])


@triton.jit(do_not_specialize=["num_rows", "longest", "fill"])
def _pad_kernel(
    values, offsets, out, num_rows, longest, dim, fill, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    target = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [B * L]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)  # [D]
    row, i = target // longest, target % longest
    begin = tl.load(offsets + row, mask=row < num_rows, other=0)
    end = tl.load(offsets + row + 1, mask=row < num_rows, other=0)
    is_column = (column < dim)[None, :]
    is_kept = (i < end - begin)[:, None] & is_column
    source = (begin + i)[:, None] * dim + column[None, :]
    value = tl.load(values + source, mask=is_kept, other=fill)  # [B * L, D]
    tl.store(
        out + target[:, None] * dim + column[None, :],
        value,
        mask=(row < num_rows)[:, None] & is_column,
    )


@triton.jit(do_not_specialize=["num_rows", "num_values", "longest"])
def _unpad_kernel(
    padded, offsets, out, num_rows, num_values, longest, dim,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [T]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)  # [D]
    row = rows_of(offsets, position, num_rows)
    i = position - tl.load(offsets + row)
    mask = (position < num_values)[:, None] & (column < dim)[None, :]
    source = (row * longest + i)[:, None] * dim + column[None, :]
    value = tl.load(padded + source, mask=mask & (i < longest)[:, None], other=0)  # [T, D]
    tl.store(out + position[:, None] * dim + column[None, :], value, mask=mask)
