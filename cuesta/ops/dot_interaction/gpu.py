"""Triton bodies of dot_interaction: a program a row of the batch and a tile of its vectors.

Products are matrix products on tiles of vectors; float32 is multiplied as float32, not as TF32. Of
the matrix of products only tiles on or below the diagonal start, and only pairs are written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 32  # vectors of a tile
MAX_COLUMNS = 64  # of the vectors taken at a time


def dot_interaction(dense: Tensor, sparse: Tensor) -> Tensor:
    num_rows, num_sparse, dim = sparse.shape
    out = dense.new_empty(num_rows, dim + num_sparse * (num_sparse + 1) // 2)
    if num_rows:
        _forward_kernel[(num_rows, triton.cdiv(num_sparse + 1, TILE))](
            dense, sparse, out, num_sparse, dim, TILE, _columns(dim)
        )
    return out


def dot_interaction_backward(grad: Tensor, dense: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
    dense_grad, sparse_grad = torch.empty_like(dense), torch.empty_like(sparse)
    num_rows, num_sparse, dim = sparse.shape
    if num_rows:
        _backward_kernel[(num_rows, triton.cdiv(num_sparse + 1, TILE))](
            grad, dense, sparse, dense_grad, sparse_grad, num_sparse, dim, TILE, _columns(dim)
        )
    return dense_grad, sparse_grad


def _columns(dim: int) -> int:
    return min(max(triton.next_power_of_2(dim), 16), MAX_COLUMNS)  # tl.dot takes 16 at least


@triton.jit
def _forward_kernel(
    dense, sparse, out, num_sparse, dim, TILE: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * TILE + tl.arange(0, TILE)  # [F]
    out += row * (dim + num_sparse * (num_sparse + 1) // 2)
    if tl.program_id(1) == 0:
        for first in range(0, dim, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            value = tl.load(dense + row * dim + column, mask=column < dim, other=0.0)
            tl.store(out + column, value, mask=column < dim)
    for first_other in range(0, (tl.program_id(1) + 1) * TILE, TILE):
        j = first_other + tl.arange(0, TILE)
        products = tl.zeros([TILE, TILE], tl.float32)
        for first in range(0, dim, COLUMNS):
            left = _vectors(dense, sparse, row, i, first, num_sparse, dim, COLUMNS)
            right = _vectors(dense, sparse, row, j, first, num_sparse, dim, COLUMNS)
            products = tl.dot(left, tl.trans(right), products, input_precision="ieee")
        mask = (i[:, None] <= num_sparse) & (j[None, :] < i[:, None])
        tl.store(out + dim + _pair(i[:, None], j[None, :]), products, mask=mask)


@triton.jit
def _backward_kernel(
    grad, dense, sparse, dense_grad, sparse_grad, num_sparse, dim,
    TILE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * TILE + tl.arange(0, TILE)  # [F]
    grad += row * (dim + num_sparse * (num_sparse + 1) // 2)
    for first in range(0, dim, COLUMNS):
        column = first + tl.arange(0, COLUMNS)  # [D]
        is_column = (column < dim)[None, :]
        is_dense = (i == 0)[:, None] & is_column
        moved = tl.load(grad + column[None, :], mask=is_dense, other=0.0).to(tl.float32)
        for first_other in range(0, num_sparse + 1, TILE):
            j = first_other + tl.arange(0, TILE)
            low = tl.minimum(i[:, None], j[None, :])
            high = tl.maximum(i[:, None], j[None, :])
            mask = (high <= num_sparse) & (low < high)
            slopes = tl.load(grad + dim + _pair(high, low), mask=mask, other=0.0)  # [F, F]
            others = _vectors(dense, sparse, row, j, first, num_sparse, dim, COLUMNS)
            moved = tl.dot(slopes, others, moved, input_precision="ieee")
        tl.store(dense_grad + row * dim + column[None, :] + 0 * i[:, None], moved, mask=is_dense)
        place = (row * num_sparse + i - 1)[:, None] * dim + column[None, :]
        is_sparse = ((i > 0) & (i <= num_sparse))[:, None] & is_column
        tl.store(sparse_grad + place, moved, mask=is_sparse)


@triton.jit
def _vectors(dense, sparse, row, i, first, num_sparse, dim, COLUMNS: tl.constexpr):
    """Return columns `first` on of vectors `i` of a row: 0 is the dense one; zeros beyond."""
    column = first + tl.arange(0, COLUMNS)
    is_column = (column < dim)[None, :]
    place = (row * num_sparse + i - 1)[:, None] * dim + column[None, :]
    is_sparse = ((i > 0) & (i <= num_sparse))[:, None] & is_column
    value = tl.load(sparse + place, mask=is_sparse, other=0.0)
    of_dense = dense + row * dim + column[None, :] + 0 * i[:, None]
    return value + tl.load(of_dense, mask=(i == 0)[:, None] & is_column, other=0.0)


@triton.jit
def _pair(i, j):
    """Return where the pair (i, j), j < i, lies among all pairs."""
    return i * (i - 1) // 2 + j
