"""Triton bodies of the layout ops: copies of whole elements, blind to what their bits mean.

Unlike the reference, which walks the rows, a program writes a block of the result and finds its
source.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.squares import square_offsets
from cuesta.ops.triton_support import TILE_ELEMENTS, rows_of

_RAW = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def pad_squares(scores: Tensor, offsets: Tensor, longest: int, padding: float) -> Tensor:
    out = scores.new_empty(offsets.numel() - 1, longest, longest)
    fill = _raw(torch.tensor([padding], dtype=scores.dtype)).item()
    _pad_kernel[_grid(out)](
        _raw(scores), offsets, square_offsets(offsets), _raw(out), out.numel(), longest, fill,
        TILE_ELEMENTS,
    )  # fmt: skip
    return out


def unpad_squares(padded: Tensor, offsets: Tensor, num_scores: int) -> Tensor:
    out = padded.new_empty(num_scores)
    _unpad_kernel[_grid(out)](
        _raw(padded), offsets, square_offsets(offsets), _raw(out),
        padded.shape[0], num_scores, padded.shape[1], TILE_ELEMENTS,
    )  # fmt: skip
    return out


def dense_jagged_cat(dense: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    out = values.new_empty(values.shape[0] + dense.shape[0])
    _cat_kernel[_grid(out)](
        _raw(dense), _raw(values), _firsts(offsets), _raw(out),
        dense.shape[0], out.numel(), TILE_ELEMENTS,
    )  # fmt: skip
    return out


def dense_jagged_split(joined: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    num_rows = offsets.numel() - 1
    dense, values = joined.new_empty(num_rows), joined.new_empty(joined.shape[0] - num_rows)
    _split_kernel[_grid(joined)](
        _raw(joined), _firsts(offsets), _raw(dense), _raw(values),
        num_rows, joined.numel(), TILE_ELEMENTS,
    )  # fmt: skip
    return dense, values


def _raw(tensor: Tensor) -> Tensor:
    return tensor.view(_RAW[tensor.dtype.itemsize])


def _grid(out: Tensor) -> tuple[int]:
    return (triton.cdiv(out.numel(), TILE_ELEMENTS),)


def _firsts(offsets: Tensor) -> Tensor:
    """Return the offsets of rows that have one more value."""
    return offsets + torch.arange(offsets.numel(), device=offsets.device)


@triton.jit(do_not_specialize=["num_places", "longest", "fill"])
def _pad_kernel(scores, offsets, squares, out, num_places, longest, fill, SIZE: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)  # [B * L * L]
    mask = place < num_places
    row, i, j = place // longest // longest, place // longest % longest, place % longest
    begin = tl.load(offsets + row, mask=mask, other=0)
    side = tl.load(offsets + row + 1, mask=mask, other=0) - begin
    source = tl.load(squares + row, mask=mask, other=0) + i * side + j
    value = tl.load(scores + source, mask=mask & (i < side) & (j < side), other=fill)
    tl.store(out + place, value, mask=mask)


@triton.jit(do_not_specialize=["num_rows", "num_scores", "longest"])
def _unpad_kernel(padded, offsets, squares, out, num_rows, num_scores, longest, SIZE: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    row = rows_of(squares, place, num_rows)
    side = tl.maximum(tl.load(offsets + row + 1) - tl.load(offsets + row), 1)
    inside = place - tl.load(squares + row)
    i, j = inside // side, inside % side
    mask = place < num_scores
    source = (row * longest + i) * longest + j
    value = tl.load(padded + source, mask=mask & (i < longest) & (j < longest), other=0)
    tl.store(out + place, value, mask=mask)


@triton.jit(do_not_specialize=["num_rows", "num_places"])
def _cat_kernel(dense, values, firsts, out, num_rows, num_places, SIZE: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)  # [T + B]
    mask = place < num_places
    row = rows_of(firsts, place, num_rows)
    is_first = place == tl.load(firsts + row)
    value = tl.load(values + place - row - 1, mask=mask & ~is_first, other=0)
    first = tl.load(dense + row, mask=mask & is_first, other=0)
    tl.store(out + place, tl.where(is_first, first, value), mask=mask)


@triton.jit(do_not_specialize=["num_rows", "num_places"])
def _split_kernel(joined, firsts, dense, values, num_rows, num_places, SIZE: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)  # [T + B]
    mask = place < num_places
    row = rows_of(firsts, place, num_rows)
    is_first = place == tl.load(firsts + row)
    value = tl.load(joined + place, mask=mask, other=0)
    tl.store(dense + row, value, mask=mask & is_first)
    tl.store(values + place - row - 1, value, mask=mask & ~is_first)
