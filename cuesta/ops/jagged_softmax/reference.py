"""The specification of jagged_softmax: the softmax of one row's matrix after another, and
dX = P (dP - sum of P dP).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cuesta.ops.squares import LENGTH, matrix_starts


def jagged_softmax(values: Tensor, offsets: Tensor, width: int, is_along: bool) -> Tensor:
    out = torch.empty_like(values)
    for part, shape in _matrices(offsets, width):
        matrix = values[part].view(shape).to(_wide(values))
        out[part] = torch.softmax(matrix, int(is_along)).to(out.dtype).flatten()
    return out


def jagged_softmax_backward(
    grad: Tensor, probs: Tensor, offsets: Tensor, width: int, is_along: bool
) -> Tensor:
    out = torch.empty_like(probs)
    for part, shape in _matrices(offsets, width):
        p, dp = (each[part].view(shape).to(_wide(probs)) for each in (probs, grad))
        moved = p * (dp - (p * dp).sum(int(is_along), keepdim=True))
        out[part] = moved.to(out.dtype).flatten()
    return out


def _matrices(offsets: Tensor, width: int) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Yield where each row's matrix lies, and its shape."""
    starts = matrix_starts(offsets, LENGTH, width).tolist()
    for start, length in zip(starts, offsets.diff().tolist(), strict=True):
        columns = length if width == LENGTH else width
        yield slice(start, start + length * columns), (length, columns)


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
