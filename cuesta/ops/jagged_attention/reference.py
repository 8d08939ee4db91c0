"""The specification of jagged_attention: one row after another, all of its scores at once.

Of a row with queries Q, keys K, values V and bias M: S = scale * Q K^T + M, and P its softmax over
the keys within the band. The published kernels' form (`longest` > 0) takes the softmax over all
keys, then leaves out those beyond the band and divides by `longest`; rows end at `longest`. In 16
bits only weights, slopes and results are rounded, as in the kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cuesta.ops.attended_rows import lengths_of, widened


def jagged_attention(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor | None, offsets: Tensor,
    bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    band, dtype = (before, after, aligns_last), q.dtype
    q, k, v = widened(q, k, v)
    rows = _rows(q, q_offsets, offsets, pairs, longest)
    num_out = q.shape[0] if q_offsets is not None else q.shape[0] * len(rows)
    out = v.new_zeros(num_out, v.shape[1], v.shape[2])
    lse = out.new_full(out.shape[:2], -torch.inf)
    for row in rows:
        scores, seen = _scores(q, k, bias, row, band, scale)
        softmaxed = scores if longest else scores.masked_fill(~seen, -torch.inf)
        lse[row.out] = torch.logsumexp(softmaxed, 2).T
        is_blind = lse[row.out].T[:, :, None] == -torch.inf  # the query sees no key
        weights = torch.softmax(softmaxed, 2).masked_fill(is_blind, 0.0)
        if longest:
            weights = weights * seen / longest
        weights = weights.to(dtype).to(v.dtype)
        out[row.out] = torch.einsum("hqk,khc->qhc", weights, v[row.keys])
    return out.to(dtype), lse


def jagged_attention_backward(
    grad: Tensor, lse_grad: Tensor,
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    q_offsets: Tensor | None, offsets: Tensor, bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    band, dtype = (before, after, aligns_last), q.dtype
    grad, q, k, v, out = widened(grad, q, k, v, out)
    dq, dk, dv = (torch.zeros_like(each) for each in (q, k, v))
    dbias = dq.new_zeros(q.shape[1], 0 if bias is None else bias.shape[1])
    delta = (out * grad).sum(2) - lse_grad  # [Tq, H]
    for row in _rows(q, q_offsets, offsets, pairs, longest):
        scores, seen = _scores(q, k, bias, row, band, scale)
        softmaxed = scores if longest else scores.masked_fill(~seen, -torch.inf)
        weights = _softmax(softmaxed, lse[row.out])
        kept = weights * seen / longest if longest else weights
        rounded = kept.to(dtype).to(v.dtype)
        dv[row.keys] = torch.einsum("hqk,qhc->khc", rounded, grad[row.out])
        moved = torch.einsum("qhc,khc->hqk", grad[row.out], v[row.keys])
        slopes = kept * moved - weights * delta[row.out].T[:, :, None]  # [H, queries, keys]
        if bias is not None:
            num_queries, num_keys = row.full
            block = slopes.new_zeros(q.shape[1], num_queries, num_keys)
            block[:, : slopes.shape[1], : slopes.shape[2]] = slopes
            dbias[:, row.pairs] = block.flatten(1)
        slopes = (slopes * scale).to(dtype).to(q.dtype)
        dq[row.queries] += torch.einsum("hqk,khd->qhd", slopes, k[row.keys])
        dk[row.keys] = torch.einsum("hqk,qhd->khd", slopes, q[row.queries])
    return dq.to(dtype), dk.to(dtype), dv.to(dtype), dbias.to(dtype)


class _Row(NamedTuple):
    """Say where one row's queries, outputs, keys and block of pairs lie."""

    queries: slice
    out: slice
    keys: slice
    pairs: slice
    full: tuple[int, int]  # numbers of queries and keys before `longest` cut them


def _rows(
    q: Tensor, q_offsets: Tensor | None, offsets: Tensor, pairs: Tensor | None, longest: int
) -> list[_Row]:
    found = []
    limit = longest or int(offsets[-1]) + q.shape[0]
    num_queries, num_keys = lengths_of(q_offsets, offsets, q.shape[0])
    begin_pairs = pairs if pairs is not None else torch.zeros_like(offsets)
    out = 0
    for row, (queries, keys) in enumerate(
        zip(num_queries.tolist(), num_keys.tolist(), strict=True)
    ):
        first = 0 if q_offsets is None else out
        kept, begin = min(queries, limit), int(offsets[row])
        found.append(
            _Row(
                queries=slice(first, first + kept),
                out=slice(out, out + kept),
                keys=slice(begin, begin + min(keys, limit)),
                pairs=slice(int(begin_pairs[row]), int(begin_pairs[row]) + queries * keys),
                full=(queries, keys),
            )
        )
        out += queries
    return found


def _scores(
    q: Tensor, k: Tensor, bias: Tensor | None, row: _Row, band: tuple[int, int, bool], scale: float
) -> tuple[Tensor, Tensor]:
    """Return a row's scores [H, queries, keys] and which of them lie in the band [queries, keys]."""
    ours, theirs = q[row.queries], k[row.keys]
    scores = torch.einsum("qhd,khd->hqk", ours, theirs) * scale
    num_queries, num_keys = scores.shape[1:]
    if bias is not None:
        block = bias[:, row.pairs].unflatten(1, row.full)
        scores = scores + block[:, :num_queries, :num_keys]
    before, after, aligns_last = band
    place = torch.arange(num_queries, device=q.device)[:, None]
    if aligns_last:
        place = place + (num_keys - num_queries)
    key = torch.arange(num_keys, device=q.device)
    return scores, (key >= place - before) & (key <= place + after)


def _softmax(scores: Tensor, lse: Tensor) -> Tensor:
    """Return exp(scores - lse) of scores [H, queries, keys] and lse [queries, H]; zeros for a query
    that sees no key.
    """
    total = lse.masked_fill(lse == -torch.inf, 0.0)
    return torch.exp(scores - total.T[:, :, None])
