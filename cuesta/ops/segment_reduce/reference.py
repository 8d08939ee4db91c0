"""The specification of segment_reduce: a row of the result from the values of a row, one row after
another.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values: Tensor, offsets: Tensor, is_mean: bool) -> Tensor:
    lengths = offsets.diff()
    rows = torch.repeat_interleave(lengths)
    total = values.new_zeros(lengths.numel(), values.shape[1], dtype=_wide(values))
    total = total.index_add(0, rows, values.to(total.dtype))
    return (total / lengths.clamp(min=1)[:, None] if is_mean else total).to(values.dtype)


def segment_sum_backward(grad: Tensor, offsets: Tensor, num_values: int, is_mean: bool) -> Tensor:
    lengths = offsets.diff()
    share = grad.to(_wide(grad)) / lengths.clamp(min=1)[:, None] if is_mean else grad
    return share.repeat_interleave(lengths, 0, output_size=num_values).to(grad.dtype)


def segment_max(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    out = values.new_zeros(offsets.numel() - 1, values.shape[1])
    winner = torch.full_like(out, -1, dtype=torch.int64)
    for row, (begin, end) in enumerate(
        zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ):
        if end > begin:
            out[row] = values[begin:end].amax(0)
            is_largest = (values[begin:end] == out[row]) | values[begin:end].isnan()
            winner[row] = begin + is_largest.int().argmax(0)
    return out, winner


def segment_max_backward(grad: Tensor, winner: Tensor, num_values: int) -> Tensor:
    rows, columns = (winner >= 0).nonzero(as_tuple=True)
    out = grad.new_zeros(num_values, grad.shape[1])
    out[winner[rows, columns], columns] = grad[rows, columns]
    return out


def _wide(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype is torch.float64 else torch.float32
