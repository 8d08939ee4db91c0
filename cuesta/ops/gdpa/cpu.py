"""Numba bodies of gdpa: those of jagged_attention with an activation in the softmax's place."""

from __future__ import annotations

import torch
from torch import Tensor

from cuesta.ops.attended_rows_cpu import Rows, backward, forward, rows_of, uses_tiles


def gdpa(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, offsets: Tensor,
    activation: int, before: int, after: int, aligns_last: bool, scale: float,
) -> Tensor:  # fmt: skip
    rows = _rows(q, k, v, q_offsets, offsets, before, after, aligns_last, scale, activation)
    out = q.new_empty(q.shape[0], v.shape[1], v.shape[2])
    forward(rows, out, _nothing(), tiles=uses_tiles(q, v))
    return out


def gdpa_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, offsets: Tensor,
    activation: int, before: int, after: int, aligns_last: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    rows = _rows(q, k, v, q_offsets, offsets, before, after, aligns_last, scale, activation)
    dq, dk, dv = (each.new_empty(each.shape) for each in (q, k, v))
    none = _nothing()
    backward(rows, grad, none, none, dq, none, dk, dv, q.new_empty(0), tiles=uses_tiles(q, v))
    return dq, dk, dv


def _rows(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, offsets: Tensor,
    before: int, after: int, aligns_last: bool, scale: float, activation: int,
) -> Rows:  # fmt: skip
    return rows_of(
        q, k, v, q_offsets, offsets, None, None, before, after, aligns_last, scale, 0, activation
    )


def _nothing() -> Tensor:
    return torch.empty(0, dtype=torch.float32)
