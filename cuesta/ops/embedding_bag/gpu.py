"""Triton bodies of embedding_bag: one launch for all tables, a program a block of a feature's bags.

Unlike the reference, an id outside its table reads as a row of zeros, since a GPU cannot raise
without making the host wait; and a mean divides the sum, not each term. Bags are summed in their
ids' order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.triton_support import ALIGNMENT, multiple_of, rows_of, tile_grid, tile_shape


def embedding_bag(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    sample_weights: Tensor | None,
    grid: Tensor,
    width: int,
) -> Tensor:
    num_features = grid.shape[0]
    num_rows = (offsets.numel() - 1) // num_features
    out = weight.new_empty(num_rows, width, dtype=torch.float32)  # [B, D]
    rows, columns = tile_shape(triton.cdiv(width, num_features))
    _pool_kernel[(triton.cdiv(num_rows, rows), num_features)](
        weight, ids, offsets, sample_weights, grid, out, num_rows, width, rows, columns
    )
    return out


def embedding_rows(weight: Tensor, ids: Tensor, offsets: Tensor, grid: Tensor, dim: int) -> Tensor:
    out = weight.new_empty(ids.numel(), dim, dtype=torch.float32)  # [T, D]
    num_rows = (offsets.numel() - 1) // grid.shape[0]
    starts = offsets[:: max(num_rows, 1)].contiguous()  # of the features, [F + 1]
    _gather_kernel[tile_grid(ids.numel(), dim)](
        weight, ids, starts, grid, out, ids.numel(), grid.shape[0], dim, *tile_shape(dim)
    )
    return out


def sample_weight_grad(
    grad: Tensor, weight: Tensor, ids: Tensor, offsets: Tensor, grid: Tensor
) -> Tensor:
    out = grad.new_empty(ids.numel())
    num_rows, width = grad.shape
    rows, columns = tile_shape(triton.cdiv(width, grid.shape[0]))
    _dot_kernel[(triton.cdiv(ids.numel(), rows),)](
        grad, weight, ids, offsets, grid, out, ids.numel(), offsets.numel() - 1, num_rows, width,
        rows, columns,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["num_rows"])
def _pool_kernel(
    weight, ids, offsets, sample_weights, grid, out, num_rows, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    feature = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [B]
    start, _, num_entries, dim, out_column, is_mean = layout_of(grid, feature)
    bag = offsets + feature * num_rows + row
    begin = tl.load(bag, mask=row < num_rows, other=0)
    end = tl.load(bag + 1, mask=row < num_rows, other=0)
    divisor = tl.where((is_mean == 1) & (end > begin), end - begin, 1).to(tl.float32)
    # Known at run time alone, hence two bodies: loads are 16 bytes wide in the first.
    if (start | dim | out_column | width) % ALIGNMENT == 0:
        _pool(
            weight, ids, sample_weights, out, begin, end, num_entries, start, dim, divisor,
            row * width + out_column, row < num_rows, ALIGNMENT, COLUMNS,
        )  # fmt: skip
    else:
        _pool(
            weight, ids, sample_weights, out, begin, end, num_entries, start, dim, divisor,
            row * width + out_column, row < num_rows, 1, COLUMNS,
        )  # fmt: skip


@triton.jit
def _pool(
    weight, ids, sample_weights, out, begin, end, num_entries, start, dim, divisor, target, is_row,
    MULTIPLE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the weighted sum of each bag's rows, over `divisor`, to out[target] on."""
    start, dim = multiple_of(start, MULTIPLE), multiple_of(dim, MULTIPLE)
    target = multiple_of(target, MULTIPLE)
    longest = tl.max(end - begin, 0)
    for first_column in range(0, dim, COLUMNS):
        column = first_column + tl.arange(0, COLUMNS)  # [D]
        total = tl.zeros([begin.shape[0], COLUMNS], tl.float32)  # [B, D]
        for i in tl.range(0, longest, loop_unroll_factor=4):
            position = begin + i  # [B]
            entry = tl.load(ids + position, mask=position < end, other=-1).to(tl.int64)
            mask = ((entry >= 0) & (entry < num_entries))[:, None] & (column < dim)[None, :]
            place = (start + entry * dim)[:, None] + column[None, :]
            value = tl.load(weight + place, mask=mask, other=0.0).to(tl.float32)  # [B, D]
            if sample_weights is not None:
                scale = tl.load(sample_weights + position, mask=position < end, other=0.0)
                value *= scale.to(tl.float32)[:, None]
            total += value
        mask = is_row[:, None] & (column < dim)[None, :]
        total = tl.div_rn(total, divisor[:, None])
        tl.store(out + target[:, None] + column[None, :], total, mask=mask)


@triton.jit(do_not_specialize=["num_positions", "num_features"])
def _gather_kernel(
    weight, ids, starts, grid, out, num_positions, num_features, dim,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [T]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)  # [D]
    is_position = position < num_positions
    feature = rows_of(starts, position, num_features)
    start, _, num_entries, _, _, _ = layout_of(grid, feature)
    entry = tl.load(ids + position, mask=is_position, other=-1).to(tl.int64)
    is_entry = (entry >= 0) & (entry < num_entries)
    is_column = (column < dim)[None, :]
    mask = is_entry[:, None] & is_column
    if tl.max(start % ALIGNMENT, 0) == 0:
        place = (multiple_of(start, ALIGNMENT) + entry * dim)[:, None] + column[None, :]
        value = tl.load(weight + place, mask=mask, other=0.0)  # [T, D]
    else:
        place = (start + entry * dim)[:, None] + column[None, :]
        value = tl.load(weight + place, mask=mask, other=0.0)
    target = position[:, None] * dim + column[None, :]
    tl.store(out + target, value, mask=is_position[:, None] & is_column)


@triton.jit(do_not_specialize=["num_positions", "num_bags", "num_rows"])
def _dot_kernel(
    grad, weight, ids, offsets, grid, out, num_positions, num_bags, num_rows, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    position = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [T]
    is_position = position < num_positions
    bag = rows_of(offsets, position, num_bags)
    start, _, num_entries, dim, out_column, is_mean = layout_of(grid, bag // num_rows)
    length = tl.load(offsets + bag + 1) - tl.load(offsets + bag)
    entry = tl.load(ids + position, mask=is_position, other=-1).to(tl.int64)
    is_entry = (entry >= 0) & (entry < num_entries)
    of_bag = bag % num_rows * width + out_column
    if tl.max((start | dim | out_column | width) % ALIGNMENT, 0) == 0:
        total = _dot(grad, weight, of_bag, start, entry, dim, is_entry, ALIGNMENT, COLUMNS)
    else:
        total = _dot(grad, weight, of_bag, start, entry, dim, is_entry, 1, COLUMNS)
    divisor = tl.where((is_mean == 1) & is_position, length, 1).to(tl.float32)
    tl.store(out + position, tl.div_rn(total, divisor), mask=is_position)


@triton.jit
def _dot(
    grad, weight, of_bag, start, entry, dim, is_entry, MULTIPLE: tl.constexpr, COLUMNS: tl.constexpr
):
    """Return the dot product of each entry's row with the gradient of its bag."""
    of_bag, dim = multiple_of(of_bag, MULTIPLE), multiple_of(dim, MULTIPLE)
    of_entry = multiple_of(start, MULTIPLE) + entry * dim
    total = tl.zeros([of_entry.shape[0]], tl.float32)
    for first_column in range(0, tl.max(dim, 0), COLUMNS):
        column = first_column + tl.arange(0, COLUMNS)[None, :]
        mask = is_entry[:, None] & (column < dim[:, None])
        slope = tl.load(grad + of_bag[:, None] + column, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(weight + of_entry[:, None] + column, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(slope * value, 1)  # [T]
    return total


@triton.jit
def layout_of(grid, feature):
    """Return start, first row, rows, dim, column and 1 for mean: a feature's line of the grid."""
    line = grid + feature * 6
    return (
        tl.load(line),
        tl.load(line + 1),
        tl.load(line + 2),
        tl.load(line + 3),
        tl.load(line + 4),
        tl.load(line + 5),
    )
