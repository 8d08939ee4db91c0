"""Triton bodies of jagged_attention: flash attention, a program a tile of one row in one head.

Forward walks the keys that its tile of queries meets, and keeps the maximum and the sum of each
query's softmax so far. Backward computes the scores anew twice: a program a tile of queries gives
the gradients of these and of the biases, a program a tile of keys those of keys and values. There
are no atomics, so results have the same bits every time: gradients of queries that are every row's
are summed over a chunk of rows a program, in order, then over the chunks. Weights are powers of
two, so scores are scaled by `rate`, the scale times log2(e). A query that sees no key has the level
inf, and weights 2^-inf.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.attended_rows import Band
from cuesta.ops.attended_rows_triton import (
    Attended,
    find_own,
    find_row,
    is_spare,
    keys_met,
    launch,
    load_keys,
    load_queries,
    load_results,
    load_values,
    plan_of_keys,
    plan_of_queries,
    queries_met,
    sees,
    store_tile,
    tile_start,
)

CHUNK_PROGRAMS = 1024  # at most, among which the rows are dealt when they share queries

_LOG2E = tl.constexpr(math.log2(math.e))
_LN2 = tl.constexpr(math.log(2))
_FAR = tl.constexpr(1e29)  # a bias as large hides every score, and scaled does not overflow


def jagged_attention(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor | None, offsets: Tensor,
    bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    attended = Attended(
        q, k, v, q_offsets, offsets, Band(before, after, aligns_last), bias, longest
    )
    out = v.new_empty(attended.num_out, q.shape[1], v.shape[2])
    lse = v.new_empty(attended.num_out, q.shape[1], dtype=torch.float32)
    if out.numel():
        plan = plan_of_queries(attended, is_backward=False)
        tensors = (q, k, v, q_offsets, offsets, bias, pairs, out, lse)
        numbers = (
            attended.num_rows, q.shape[0], _num_pairs(bias), before, after, scale * _LOG2E.value,
            longest,
        )  # fmt: skip
        launch(_forward_kernel, plan, attended, tensors, numbers)
    return out, lse


def jagged_attention_backward(
    grad: Tensor, lse_grad: Tensor,
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    q_offsets: Tensor | None, offsets: Tensor, bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    attended = Attended(
        q, k, v, q_offsets, offsets, Band(before, after, aligns_last), bias, longest
    )
    levels = q.new_empty(2, *lse.shape[::-1], dtype=torch.float32)  # of weights, and of slopes
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    dbias = q.new_zeros(q.shape[1], _num_pairs(bias))  # for pairs that none meets
    tensors = (grad, q, k, v, q_offsets, offsets, bias, pairs, levels)
    numbers = (
        attended.num_out, attended.num_rows, q.shape[0], _num_pairs(bias), before, after, scale,
        scale * _LOG2E.value, longest,
    )  # fmt: skip
    results = (lse_grad, out, lse, None if bias is None else dbias)
    dq = _query_grad(attended, (*tensors, *results), numbers)
    if k.numel():
        launch(_key_grad_kernel, plan_of_keys(attended), attended, (*tensors, dk, dv), numbers)
    return dq, dk, dv, dbias


def _query_grad(
    attended: Attended, tensors: tuple[Tensor | None, ...], numbers: tuple[int | float, ...]
) -> Tensor:
    """Return the gradient of queries; write those of biases, and the levels that other kernels read."""
    q = attended.q
    if attended.num_out * q.shape[1] == 0:
        return torch.zeros_like(q)
    plan = plan_of_queries(attended, is_backward=True)
    if attended.q_offsets is not None:
        dq = torch.empty_like(q)
        launch(_query_grad_kernel, plan, attended, (*tensors, dq), numbers)
        return dq
    num_tiles = triton.cdiv(q.shape[0], plan.shape.block_q) * q.shape[1]
    chunk = triton.cdiv(attended.num_rows, triton.cdiv(CHUNK_PROGRAMS, num_tiles))  # of rows
    num_parts = triton.cdiv(attended.num_rows, chunk)
    parts = q.new_empty(num_parts, *q.shape, dtype=torch.float32)
    _shared_query_grad_kernel[(num_tiles * num_parts,)](
        *tensors, parts, chunk, *numbers, plan.shape, **plan.options
    )
    return parts.sum(0).to(q.dtype)


def _num_pairs(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.shape[1]


@triton.jit(
    do_not_specialize=["num_rows", "num_queries", "num_pairs", "before", "after", "longest"]
)
def _forward_kernel(
    q, k, v, q_offsets, offsets, bias, pairs, out, lse, order, starts,
    num_rows, num_queries, num_pairs, before, after, rate, longest, SHAPE: tl.constexpr,
):  # fmt: skip
    if is_spare(starts, num_rows, SHAPE):
        return
    head, index, row, first = find_own(
        order, starts, q_offsets, offsets, num_rows, num_queries, before, after, longest,
        SHAPE.block_q, SHAPE,
    )  # fmt: skip
    if bias is not None:
        bias += tl.load(pairs + index) + head % SHAPE.bias_heads * num_pairs
    i = first + tl.arange(0, SHAPE.block_q)  # [Tq]
    query = load_queries(q, row, first, head, True, SHAPE)  # [Tq, D]
    total, top, mass = _attend(query, k, v, bias, row, first, head, rate, SHAPE)
    is_blind = (mass == 0) | (i >= row.num_queries)
    mass = tl.where(is_blind, 1.0, mass)
    total = tl.where(is_blind[:, None], 0.0, total / mass[:, None])
    if SHAPE.is_cut:
        total /= longest
    store_tile(
        out, row.out_begin, first, row.all_queries, head, total, SHAPE.heads, SHAPE.value_dim
    )
    level = tl.where(is_blind, float("-inf"), (top + tl.log2(mass)) * _LN2)
    tl.store(lse + (row.out_begin + i) * SHAPE.heads + head, level, mask=i < row.all_queries)


@triton.jit
def _attend(query, k, v, bias, row, first, head, rate, SHAPE: tl.constexpr):
    """Return of queries `first` on the sum of the values of keys, weighted by 2^(score - top); top,
    the largest score; and the sum of the weights.
    """
    BLOCK_Q: tl.constexpr = SHAPE.block_q
    i = first + tl.arange(0, BLOCK_Q)  # [Tq]
    total = tl.full([BLOCK_Q, SHAPE.value_columns], 0.0, tl.float32)  # [Tq, C]
    top = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    mass = tl.full([BLOCK_Q], 0.0, tl.float32)
    met = keys_met(row, first, SHAPE)
    for IS_EDGE in tl.static_range(2):
        for n in range(met.num_edges if IS_EDGE else met.num_whole):
            first_key = tile_start(n, met, SHAPE.block_k, IS_EDGE)
            j = first_key + tl.arange(0, SHAPE.block_k)  # [T]
            key = load_keys(k, row, first_key, head, IS_EDGE, SHAPE)  # [T, D]
            scores = rate * tl.dot(query, tl.trans(key), input_precision="ieee")  # [Tq, T]
            if bias is not None:
                scores += _load_bias(bias, row, i[:, None], j[None, :])
            if IS_EDGE:
                is_seen = sees(row, i[:, None], j[None, :], SHAPE)
                is_weighed = (j < row.num_keys)[None, :] if SHAPE.is_cut else is_seen
                scores = tl.where(is_weighed, scores, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, 1))
            base = new_top
            if IS_EDGE or bias is not None:  # there may be no finite score yet
                base = tl.where(new_top == float("-inf"), 0.0, new_top)
            weights = tl.exp2(scores - base[:, None])
            shrink = tl.exp2(top - base)
            mass = mass * shrink + tl.sum(weights, 1)
            if IS_EDGE and SHAPE.is_cut:
                weights = tl.where(is_seen, weights, 0.0)
            value = load_values(v, row, first_key, head, IS_EDGE, SHAPE)  # [T, C]
            weights = weights.to(value.dtype)
            total = tl.dot(weights, value, total * shrink[:, None], input_precision="ieee")
            top = new_top
    return total, top, mass


@triton.jit
def _load_bias(bias, row, i, j):
    """Return the biases of queries `i` and keys `j`, in powers of two; finite ones stay finite."""
    place = bias + i.to(tl.int64) * row.all_keys + j
    mask = (i < row.num_queries) & (j < row.num_keys)
    values = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    near = tl.clamp(values, -_FAR, _FAR)
    return tl.where(tl.abs(values) < float("inf"), near, values) * _LOG2E


@triton.jit
def _weights(scores, level, bias):
    """Return 2^(scores - level). None is above 1; but beside a bias of millions, roundings of the
    level are.
    """
    powers = scores - level
    if bias is not None:
        powers = tl.minimum(powers, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.exp2(powers)


@triton.jit(
    do_not_specialize=[
        "num_out", "num_rows", "num_queries", "num_pairs", "before", "after", "longest"
    ]
)  # fmt: skip
def _query_grad_kernel(
    grad, q, k, v, q_offsets, offsets, bias, pairs, levels, lse_grad, out, lse, dbias,
    dq, order, starts,
    num_out, num_rows, num_queries, num_pairs, before, after, scale, rate, longest,
    SHAPE: tl.constexpr,
):  # fmt: skip
    if is_spare(starts, num_rows, SHAPE):
        return
    head, index, row, first = find_own(
        order, starts, q_offsets, offsets, num_rows, num_queries, before, after, longest,
        SHAPE.block_q, SHAPE,
    )  # fmt: skip
    total = tl.full([SHAPE.block_q, SHAPE.columns], 0.0, tl.float32)  # [Tq, D]
    total = _add_query_grad(
        total, grad, q, k, v, bias, pairs, levels, lse_grad, out, lse, dbias,
        index, row, first, head, num_out, num_pairs, rate, longest, SHAPE,
    )  # fmt: skip
    total *= scale
    store_tile(dq, row.q_begin, first, row.all_queries, head, total, SHAPE.heads, SHAPE.dim)


@triton.jit(
    do_not_specialize=[
        "chunk", "num_out", "num_rows", "num_queries", "num_pairs", "before", "after", "longest"
    ]
)  # fmt: skip
def _shared_query_grad_kernel(
    grad, q, k, v, q_offsets, offsets, bias, pairs, levels, lse_grad, out, lse, dbias,
    parts, chunk,
    num_out, num_rows, num_queries, num_pairs, before, after, scale, rate, longest,
    SHAPE: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of queries that are every row's over a chunk of rows, in their order."""
    head = (tl.program_id(0) % SHAPE.heads).to(tl.int64)
    num_tiles = tl.cdiv(num_queries, SHAPE.block_q)
    first = tl.program_id(0) // SHAPE.heads % num_tiles * SHAPE.block_q
    part = (tl.program_id(0) // SHAPE.heads // num_tiles).to(tl.int64)
    total = tl.full([SHAPE.block_q, SHAPE.columns], 0.0, tl.float32)  # [K, D]
    for n in range(tl.minimum(chunk, num_rows - part * chunk)):
        index = part * chunk + n
        row = find_row(index, q_offsets, offsets, num_queries, before, after, longest, SHAPE)
        total = _add_query_grad(
            total, grad, q, k, v, bias, pairs, levels, lse_grad, out, lse, dbias,
            index, row, first, head, num_out, num_pairs, rate, longest, SHAPE,
        )  # fmt: skip
    total *= scale
    store_tile(parts, part * num_queries, first, num_queries, head, total, SHAPE.heads, SHAPE.dim)


@triton.jit
def _add_query_grad(
    total, grad, q, k, v, bias, pairs, levels, lse_grad, out, lse, dbias,
    index, row, first, head, num_out, num_pairs, rate, longest, SHAPE: tl.constexpr,
):  # fmt: skip
    """Return `total` plus what a row gives to the gradient of queries `first` on, but for the scale;
    write their levels and the gradients of their biases.
    """
    i = first + tl.arange(0, SHAPE.block_q)  # [Tq]
    query = load_queries(q, row, first, head, True, SHAPE)  # [Tq, D]
    slope = load_results(grad, row, first, head, True, SHAPE)  # [Tq, C]
    result = load_results(out, row, first, head, True, SHAPE)  # [Tq, C]
    number, mask = (row.out_begin + i) * SHAPE.heads + head, i < row.num_queries
    delta = tl.sum(result.to(tl.float32) * slope.to(tl.float32), 1)
    delta -= tl.load(lse_grad + number, mask=mask, other=0.0)
    level = tl.load(lse + number, mask=mask, other=float("-inf")) * _LOG2E
    level = tl.where(level == float("-inf"), float("inf"), level)
    levels += head * num_out + row.out_begin
    tl.store(levels + i, level, mask=mask)
    tl.store(levels + tl.cast(num_out, tl.int64) * SHAPE.heads + i, delta, mask=mask)
    if bias is not None:
        start = tl.load(pairs + index)
        bias += start + head % SHAPE.bias_heads * num_pairs
        dbias += start + head * num_pairs
    met = keys_met(row, first, SHAPE)
    for IS_EDGE in tl.static_range(2):
        for n in range(met.num_edges if IS_EDGE else met.num_whole):
            first_key = tile_start(n, met, SHAPE.block_k, IS_EDGE)
            j = first_key + tl.arange(0, SHAPE.block_k)  # [T]
            key = load_keys(k, row, first_key, head, IS_EDGE, SHAPE)  # [T, D]
            value = load_values(v, row, first_key, head, IS_EDGE, SHAPE)  # [T, C]
            scores = rate * tl.dot(query, tl.trans(key), input_precision="ieee")  # [Tq, T]
            if bias is not None:
                scores += _load_bias(bias, row, i[:, None], j[None, :])
            weights = _weights(scores, level[:, None], bias)
            moved = tl.dot(slope, tl.trans(value), input_precision="ieee")
            if SHAPE.is_cut:
                moved *= 1.0 / longest
            if IS_EDGE:
                is_seen = sees(row, i[:, None], j[None, :], SHAPE)
                is_weighed = is_seen
                if SHAPE.is_cut:
                    moved = tl.where(is_seen, moved, 0.0)
                    is_weighed = (j < row.num_keys)[None, :]
                weights = tl.where(is_weighed, weights, 0.0)
            slopes = weights * (moved - delta[:, None])
            if dbias is not None:
                place = dbias + i.to(tl.int64)[:, None] * row.all_keys + j[None, :]
                tl.store(place, slopes, mask=(i < row.num_queries)[:, None] & (j < row.num_keys))
            total = tl.dot(slopes.to(key.dtype), key, total, input_precision="ieee")
    return total


@triton.jit(
    do_not_specialize=[
        "num_out", "num_rows", "num_queries", "num_pairs", "before", "after", "longest"
    ]
)  # fmt: skip
def _key_grad_kernel(
    grad, q, k, v, q_offsets, offsets, bias, pairs, levels,
    dk, dv, order, starts,
    num_out, num_rows, num_queries, num_pairs, before, after, scale, rate, longest,
    SHAPE: tl.constexpr,
):  # fmt: skip
    if is_spare(starts, num_rows, SHAPE):
        return
    head, index, row, first = find_own(
        order, starts, q_offsets, offsets, num_rows, num_queries, before, after, longest,
        SHAPE.block_k, SHAPE,
    )  # fmt: skip
    if bias is not None:
        bias += tl.load(pairs + index) + head % SHAPE.bias_heads * num_pairs
    key_slope, value_slope = _key_grad(
        grad, q, k, v, bias, levels, row, first, head, num_out, rate, longest, SHAPE
    )
    if SHAPE.is_cut:
        is_key = (first + tl.arange(0, SHAPE.block_k) < row.num_keys)[:, None]
        key_slope = tl.where(is_key, key_slope, 0.0)
        value_slope = tl.where(is_key, value_slope / longest, 0.0)
    key_slope *= scale
    store_tile(dk, row.k_begin, first, row.all_keys, head, key_slope, SHAPE.heads, SHAPE.dim)
    store_tile(
        dv, row.k_begin, first, row.all_keys, head, value_slope, SHAPE.heads, SHAPE.value_dim
    )


@triton.jit
def _key_grad(
    grad, q, k, v, bias, levels, row, first, head, num_out, rate, longest, SHAPE: tl.constexpr
):
    """Return the gradients of keys `first` on, but for the scale, and of their values, in Meta's
    semantics but for the division.
    """
    j = first + tl.arange(0, SHAPE.block_k)  # [T]
    key = load_keys(k, row, first, head, True, SHAPE)  # [T, D]
    value = load_values(v, row, first, head, True, SHAPE)  # [T, C]
    key_slope = tl.full([SHAPE.block_k, SHAPE.columns], 0.0, tl.float32)  # [T, D]
    value_slope = tl.full([SHAPE.block_k, SHAPE.value_columns], 0.0, tl.float32)  # [T, C]
    levels += head * num_out + row.out_begin
    deltas = levels + tl.cast(num_out, tl.int64) * SHAPE.heads
    met = queries_met(row, first, SHAPE)
    for IS_EDGE in tl.static_range(2):
        for n in range(met.num_edges if IS_EDGE else met.num_whole):
            first_query = tile_start(n, met, SHAPE.block_q, IS_EDGE)
            i = first_query + tl.arange(0, SHAPE.block_q)  # [Tq]
            query = load_queries(q, row, first_query, head, IS_EDGE, SHAPE)
            slope = load_results(grad, row, first_query, head, IS_EDGE, SHAPE)
            level = _load_numbers(levels, i, row.num_queries, IS_EDGE)  # [Tq]
            delta = _load_numbers(deltas, i, row.num_queries, IS_EDGE)  # [Tq]
            scores = rate * tl.dot(key, tl.trans(query), input_precision="ieee")  # [T, Tq]
            if bias is not None:
                scores += _load_bias(bias, row, i[None, :], j[:, None])
            weights = _weights(scores, level[None, :], bias)
            moved = tl.dot(value, tl.trans(slope), input_precision="ieee")
            if SHAPE.is_cut:
                moved *= 1.0 / longest
            kept = weights
            if IS_EDGE and SHAPE.is_banded:
                is_seen = sees(row, i[None, :], j[:, None], SHAPE)
                kept = tl.where(is_seen, weights, 0.0)
                moved = tl.where(is_seen, moved, 0.0)
                if not SHAPE.is_cut:
                    weights = kept
            value_slope = tl.dot(kept.to(slope.dtype), slope, value_slope, input_precision="ieee")
            slopes = (weights * (moved - delta[None, :])).to(query.dtype)
            key_slope = tl.dot(slopes, query, key_slope, input_precision="ieee")
    return key_slope, value_slope


@triton.jit
def _load_numbers(numbers, i, length, IS_EDGE: tl.constexpr):
    """Return numbers `i` of `length`; beyond, 0, as queries and gradients are: nothing moves."""
    return tl.load(numbers + i, mask=i < length, other=0.0) if IS_EDGE else tl.load(numbers + i)
