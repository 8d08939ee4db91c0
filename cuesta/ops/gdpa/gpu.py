"""Triton bodies of gdpa: attention without a softmax, a program a tile of one row in one head.

Forward sums act(q k) v over the keys that a tile of queries meets. Backward computes the scores
anew twice, once a tile of queries and once a tile of keys, so that there are no atomics and results
have the same bits every time. tanh is taken as a sigmoid: (1 + tanh(u)) / 2 = sigmoid(2 u).
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
from cuesta.ops.gdpa.activations import FORMULAS, GELU_CUBIC, GELU_RATE, GELU_RATE_BF16, LEAK

_CUBIC, _LEAK = tl.constexpr(GELU_CUBIC), tl.constexpr(LEAK)
_RATE, _RATE_BF16 = tl.constexpr(GELU_RATE), tl.constexpr(GELU_RATE_BF16)
_LOG2E = tl.constexpr(math.log2(math.e))
_ROOT_HALF, _BELL = tl.constexpr(math.sqrt(0.5)), tl.constexpr(1 / math.sqrt(2 * math.pi))


def gdpa(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, offsets: Tensor,
    activation: int, before: int, after: int, aligns_last: bool, scale: float,
) -> Tensor:  # fmt: skip
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    attended = Attended(q, k, v, q_offsets, offsets, Band(before, after, aligns_last))
    out = v.new_empty(q.shape[0], q.shape[1], v.shape[2])
    numbers = (attended.num_rows, before, after, scale, FORMULAS[activation])
    if out.numel():
        plan = plan_of_queries(attended, is_backward=False)
        launch(_forward_kernel, plan, attended, (q, k, v, q_offsets, offsets, out), numbers)
    return out


def gdpa_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, offsets: Tensor,
    activation: int, before: int, after: int, aligns_last: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    attended = Attended(q, k, v, q_offsets, offsets, Band(before, after, aligns_last))
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    tensors = (grad, q, k, v, q_offsets, offsets)
    numbers = (attended.num_rows, before, after, scale, FORMULAS[activation])
    if q.numel():
        plan = plan_of_queries(attended, is_backward=True)
        launch(_query_grad_kernel, plan, attended, (*tensors, dq), numbers)
    if k.numel():
        launch(_key_grad_kernel, plan_of_keys(attended), attended, (*tensors, dk, dv), numbers)
    return dq, dk, dv


@triton.jit(do_not_specialize=["num_rows", "before", "after"])
def _forward_kernel(
    q, k, v, q_offsets, offsets, out, order, starts, num_rows, before, after, scale,
    FORMULA: tl.constexpr, SHAPE: tl.constexpr,
):  # fmt: skip
    if is_spare(starts, num_rows, SHAPE):
        return
    head, _, row, first = find_own(
        order, starts, q_offsets, offsets, num_rows, 0, before, after, 0, SHAPE.block_q, SHAPE
    )
    i = first + tl.arange(0, SHAPE.block_q)  # [Tq]
    query = load_queries(q, row, first, head, True, SHAPE)  # [Tq, D]
    total = tl.full([SHAPE.block_q, SHAPE.value_columns], 0.0, tl.float32)  # [Tq, C]
    met = keys_met(row, first, SHAPE)
    for IS_EDGE in tl.static_range(2):
        for n in range(met.num_edges if IS_EDGE else met.num_whole):
            first_key = tile_start(n, met, SHAPE.block_k, IS_EDGE)
            j = first_key + tl.arange(0, SHAPE.block_k)  # [T]
            key = load_keys(k, row, first_key, head, IS_EDGE, SHAPE)  # [T, D]
            scores = tl.dot(query, tl.trans(key), input_precision="ieee")  # [Tq, T]
            weights = scale * _activated(scores, FORMULA)
            if IS_EDGE and SHAPE.is_banded:  # beyond the row, values are zeros
                weights = tl.where(sees(row, i[:, None], j[None, :], SHAPE), weights, 0.0)
            value = load_values(v, row, first_key, head, IS_EDGE, SHAPE)  # [T, C]
            total = tl.dot(weights.to(value.dtype), value, total, input_precision="ieee")
    store_tile(
        out, row.out_begin, first, row.all_queries, head, total, SHAPE.heads, SHAPE.value_dim
    )


@triton.jit(do_not_specialize=["num_rows", "before", "after"])
def _query_grad_kernel(
    grad, q, k, v, q_offsets, offsets, dq, order, starts, num_rows, before, after, scale,
    FORMULA: tl.constexpr, SHAPE: tl.constexpr,
):  # fmt: skip
    if is_spare(starts, num_rows, SHAPE):
        return
    head, _, row, first = find_own(
        order, starts, q_offsets, offsets, num_rows, 0, before, after, 0, SHAPE.block_q, SHAPE
    )
    i = first + tl.arange(0, SHAPE.block_q)  # [Tq]
    query = load_queries(q, row, first, head, True, SHAPE)  # [Tq, D]
    slope = load_results(grad, row, first, head, True, SHAPE)  # [Tq, C]
    total = tl.full([SHAPE.block_q, SHAPE.columns], 0.0, tl.float32)  # [Tq, D]
    met = keys_met(row, first, SHAPE)
    for IS_EDGE in tl.static_range(2):
        for n in range(met.num_edges if IS_EDGE else met.num_whole):
            first_key = tile_start(n, met, SHAPE.block_k, IS_EDGE)
            j = first_key + tl.arange(0, SHAPE.block_k)  # [T]
            key = load_keys(k, row, first_key, head, IS_EDGE, SHAPE)  # [T, D]
            value = load_values(v, row, first_key, head, IS_EDGE, SHAPE)  # [T, C]
            scores = tl.dot(query, tl.trans(key), input_precision="ieee")  # [Tq, T]
            moved = tl.dot(slope, tl.trans(value), input_precision="ieee")
            slopes = scale * _slope(scores, FORMULA) * moved
            if IS_EDGE and SHAPE.is_banded:
                slopes = tl.where(sees(row, i[:, None], j[None, :], SHAPE), slopes, 0.0)
            total = tl.dot(slopes.to(key.dtype), key, total, input_precision="ieee")
    store_tile(dq, row.q_begin, first, row.all_queries, head, total, SHAPE.heads, SHAPE.dim)


@triton.jit(do_not_specialize=["num_rows", "before", "after"])
def _key_grad_kernel(
    grad, q, k, v, q_offsets, offsets, dk, dv, order, starts, num_rows, before, after, scale,
    FORMULA: tl.constexpr, SHAPE: tl.constexpr,
):  # fmt: skip
    if is_spare(starts, num_rows, SHAPE):
        return
    head, _, row, first = find_own(
        order, starts, q_offsets, offsets, num_rows, 0, before, after, 0, SHAPE.block_k, SHAPE
    )
    j = first + tl.arange(0, SHAPE.block_k)  # [T]
    key = load_keys(k, row, first, head, True, SHAPE)  # [T, D]
    value = load_values(v, row, first, head, True, SHAPE)  # [T, C]
    key_slope = tl.full([SHAPE.block_k, SHAPE.columns], 0.0, tl.float32)  # [T, D]
    value_slope = tl.full([SHAPE.block_k, SHAPE.value_columns], 0.0, tl.float32)  # [T, C]
    met = queries_met(row, first, SHAPE)
    for IS_EDGE in tl.static_range(2):
        for n in range(met.num_edges if IS_EDGE else met.num_whole):
            first_query = tile_start(n, met, SHAPE.block_q, IS_EDGE)
            i = first_query + tl.arange(0, SHAPE.block_q)  # [Tq]
            query = load_queries(q, row, first_query, head, IS_EDGE, SHAPE)  # [Tq, D]
            slope = load_results(grad, row, first_query, head, IS_EDGE, SHAPE)  # [Tq, C]
            scores = tl.dot(key, tl.trans(query), input_precision="ieee")  # [T, Tq]
            weights = scale * _activated(scores, FORMULA)
            moved = tl.dot(value, tl.trans(slope), input_precision="ieee")
            slopes = scale * _slope(scores, FORMULA) * moved
            if IS_EDGE and SHAPE.is_banded:  # beyond the row, queries and slopes are zeros
                is_seen = sees(row, i[None, :], j[:, None], SHAPE)
                weights = tl.where(is_seen, weights, 0.0)
                slopes = tl.where(is_seen, slopes, 0.0)
            weights = weights.to(slope.dtype)
            value_slope = tl.dot(weights, slope, value_slope, input_precision="ieee")
            key_slope = tl.dot(slopes.to(query.dtype), query, key_slope, input_precision="ieee")
    store_tile(dk, row.k_begin, first, row.all_keys, head, key_slope, SHAPE.heads, SHAPE.dim)
    store_tile(
        dv, row.k_begin, first, row.all_keys, head, value_slope, SHAPE.heads, SHAPE.value_dim
    )


@triton.jit
def _activated(x, FORMULA: tl.constexpr):
    """Return act(x)."""
    if FORMULA == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * _ROOT_HALF))
    elif FORMULA == "gelu_approx":
        x = x * _gate(_tanh_argument(x, _RATE))[0]
    elif FORMULA == "fast_gelu_bf16":
        x = x * _gate(_tanh_argument(x, _RATE_BF16))[0]
    elif FORMULA == "relu":
        x = tl.maximum(x, 0.0)
    elif FORMULA == "leaky_relu":
        x = tl.where(x > 0, x, x * _LEAK)
    elif FORMULA == "relu_squared":
        x = tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    elif FORMULA == "silu":
        x = x * _gate(x)[0]
    elif FORMULA == "hardswish":
        x = x * tl.minimum(tl.maximum(x + 3.0, 0.0), 6.0) * (1.0 / 6.0)
    else:
        tl.static_assert(FORMULA == "raw")
    return x


@triton.jit
def _slope(x, FORMULA: tl.constexpr):
    """Return act'(x)."""
    if FORMULA == "raw":
        slope = x * 0.0 + 1.0
    elif FORMULA == "gelu":
        slope = 0.5 * (1.0 + tl.erf(x * _ROOT_HALF)) + x * _BELL * tl.exp2(x * x * (-0.5 * _LOG2E))
    elif FORMULA == "gelu_approx" or FORMULA == "fast_gelu_bf16":
        rate: tl.constexpr = _RATE if FORMULA == "gelu_approx" else _RATE_BF16
        gate, bell = _gate(_tanh_argument(x, rate))
        slope = gate + x * bell * ((1.0 + x * x * (3.0 * _CUBIC)) * (2.0 * rate))
    elif FORMULA == "relu":
        slope = tl.where(x > 0, 1.0, 0.0)
    elif FORMULA == "leaky_relu":
        slope = tl.where(x > 0, 1.0, _LEAK)
    elif FORMULA == "relu_squared":
        slope = 2.0 * tl.maximum(x, 0.0)
    elif FORMULA == "silu":
        gate, bell = _gate(x)
        slope = gate + x * bell
    else:
        tl.static_assert(FORMULA == "hardswish")
        slope = tl.where(x <= -3.0, 0.0, tl.where(x >= 3.0, 1.0, (2.0 * x + 3.0) * (1.0 / 6.0)))
    return slope


@triton.jit
def _tanh_argument(x, RATE: tl.constexpr):
    """Return twice the u of GELU's tanh(u): (1 + tanh(u)) / 2 is the sigmoid of it."""
    return (x + x * x * x * _CUBIC) * (2.0 * RATE)


@triton.jit
def _gate(x):
    """Return the sigmoid of x and its slope, neither as a difference."""
    small = tl.exp2(tl.abs(x) * -_LOG2E)
    large = 1.0 / (1.0 + small)
    return tl.where(x < 0, small * large, large), small * large * large
