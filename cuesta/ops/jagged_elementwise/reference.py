"""The specification of the elementwise ops: one row after another; numbers that `dense` lacks count
as zeros.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def jagged_dense_add(values: Tensor, dense: Tensor, offsets: Tensor) -> Tensor:
    out = values.clone()
    for row, (begin, length) in enumerate(_rows(offsets)):
        kept = min(length, dense.shape[1])
        out[begin : begin + kept] += dense[row, :kept]
    return out


def jagged_dense_mul(scores: Tensor, dense: Tensor, offsets: Tensor) -> Tensor:
    out = torch.zeros_like(scores)
    for part, side in _squares(offsets):
        kept = min(side, dense.shape[0])
        block = scores[part].view(side, side)[:kept, :kept]
        out[part].view(side, side)[:kept, :kept] = block * dense[:kept, :kept]
    return out


def jagged_dense_mul_backward(
    grad: Tensor, scores: Tensor, offsets: Tensor, longest: int
) -> Tensor:
    total = grad.new_zeros(longest, longest, dtype=_wide(grad))
    for part, side in _squares(offsets):
        kept = min(side, longest)
        product = grad[part].to(total.dtype) * scores[part]
        total[:kept, :kept] += product.view(side, side)[:kept, :kept]
    return total.to(grad.dtype)


def jagged_self_subtraction(values: Tensor, offsets: Tensor, num_scores: int) -> Tensor:
    out = values.new_empty(num_scores)
    sides = (offsets.diff() - 1).clamp(min=0)
    for (part, side), (begin, _) in zip(_squares_of(sides), _rows(offsets), strict=True):
        ours, others = values[begin : begin + side], values[begin + 1 : begin + 1 + side]
        out[part] = (ours[:, None] - others[None, :]).flatten()
    return out


def jagged_self_subtraction_backward(grad: Tensor, offsets: Tensor, num_values: int) -> Tensor:
    out = grad.new_zeros(num_values, dtype=_wide(grad))
    sides = (offsets.diff() - 1).clamp(min=0)
    for (part, side), (begin, _) in zip(_squares_of(sides), _rows(offsets), strict=True):
        block = grad[part].view(side, side).to(out.dtype)
        out[begin : begin + side] += block.sum(1)
        out[begin + 1 : begin + 1 + side] -= block.sum(0)
    return out.to(grad.dtype)


def _rows(offsets: Tensor) -> Iterator[tuple[int, int]]:
    """Yield where each row begins, and its length."""
    return zip(offsets[:-1].tolist(), offsets.diff().tolist(), strict=True)


def _squares(offsets: Tensor) -> Iterator[tuple[slice, int]]:
    """Yield where each square lies, and its side."""
    return _squares_of(offsets.diff())


def _squares_of(sides: Tensor) -> Iterator[tuple[slice, int]]:
    begin = 0
    for side in sides.tolist():
        yield slice(begin, begin + side * side), side
        begin += side * side


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
