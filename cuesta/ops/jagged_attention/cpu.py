"""Numba bodies of jagged_attention: the rows' softmax attention, block by block, never padded."""

from __future__ import annotations

import torch
from torch import Tensor

from cuesta.ops.attended_rows_cpu import NUM_CHUNKS, backward, forward, rows_of, uses_tiles
from cuesta.ops.attended_rows_weights import SOFTMAX

_ROWS_WIDENED = 1024


def jagged_attention(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor | None, offsets: Tensor,
    bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    rows = rows_of(
        q, k, v, q_offsets, offsets, bias, pairs,
        before, after, aligns_last, scale, longest, SOFTMAX,
    )  # fmt: skip
    num_out = q.shape[0] if q_offsets is not None else q.shape[0] * (offsets.numel() - 1)
    out = q.new_empty(num_out, v.shape[1], v.shape[2])
    lse = q.new_empty(num_out, v.shape[1], dtype=torch.float32)
    if longest:
        out.zero_()
        lse.fill_(-torch.inf)
    forward(rows, out, lse, tiles=uses_tiles(q, v))
    return out, lse


def jagged_attention_backward(
    grad: Tensor, lse_grad: Tensor,
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    q_offsets: Tensor | None, offsets: Tensor, bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    rows = rows_of(
        q, k, v, q_offsets, offsets, bias, pairs,
        before, after, aligns_last, scale, longest, SOFTMAX,
    )  # fmt: skip
    delta = _products(out, grad) - lse_grad
    shape = (q.shape[1], 0 if bias is None else bias.shape[1])
    dbias = q.new_zeros(shape)
    num_chunks = NUM_CHUNKS if q_offsets is None else 0
    shared_dq = q.new_zeros((num_chunks, *q.shape), dtype=torch.float32)
    dq, dk, dv = (each.new_empty(each.shape) for each in (q, k, v))
    if longest:
        dq, dk, dv = dq.zero_(), dk.zero_(), dv.zero_()
    tiles = uses_tiles(q, v)
    backward(rows, grad, delta, lse, dq, shared_dq, dk, dv, dbias, tiles=tiles)
    return shared_dq.sum(0).to(q.dtype) if num_chunks else dq, dk, dv, dbias


def _products(out: Tensor, grad: Tensor) -> Tensor:
    """Return the products [Tq, H] of outputs and their gradients, widened a few rows at a time."""
    pieces = zip(out.split(_ROWS_WIDENED), grad.split(_ROWS_WIDENED), strict=True)
    return torch.cat([torch.linalg.vecdot(a.float(), b.float()) for a, b in pieces])
