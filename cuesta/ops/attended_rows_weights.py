"""What happens to a block of scores between the products: softmax or activation forward, slopes
backward.

A block is [keys, queries], sixteen queries a vector. Weights go where the next product wants them:
`put_right` as rows of float32 or pairs of bfloat16, left factors as rows of either.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from cuesta.ops.gdpa.activations import FORMULAS, GELU_CUBIC, GELU_RATE, GELU_RATE_BF16, LEAK
from cuesta.ops.lane_math import (
    clipped,
    error_function,
    exponential,
    larger,
    number,
    power_of_two,
    rough_power_of_two,
    sigmoid,
    where_positive,
    within,
)
from cuesta.ops.lanes import WIDTH, load, spread, stays_a_call, store, zeros
from cuesta.ops.numba_decorators import FLAGS, inlined, inner
from cuesta.ops.numba_support import narrow, widen
from cuesta.ops.packing import put_pair

SOFTMAX = -1  # in the place of an activation's number
_RAW, _GELU, _GELU_APPROX, _GELU_BF16, _RELU, _LEAKY, _RELU_SQUARED, _SILU, _HARDSWISH = range(
    len(FORMULAS)
)
_LOG2_E = 1.4426950408889634
_LARGEST_BIAS = (
    1e8  # of finite ones: beside larger ones a score is rounded by more than its weight bears
)
_NEGATIVE_INFINITY = np.float32(-np.inf)


class Block(NamedTuple):
    """Say which keys and queries of a row a block holds, and what the band hides of it."""

    first_key: int
    num_keys: int
    first_query: int
    num_queries: int
    stride: int  # queries that a row of the block has room for
    low: int  # key j is seen by queries from j - low ...
    high: int  # ... to j - high
    is_cut: bool  # some pairs are hidden


@inlined
def seen(block, j, n, value, other):
    """Return `value` where queries n .. n + 15 of the block see its key j, else `other`."""
    if not block.is_cut:
        return value
    key = block.first_key + j - block.first_query - n
    return within(value, key - block.low, key - block.high, other)


@inner
def add_bias(scores, scale, bias, at, stride, block):
    """Scale the scores and add bias[at + query * stride + key]."""
    stays_a_call()
    for i in range(block.num_queries):
        begin = at + (block.first_query + i) * stride + block.first_key
        for j in range(block.num_keys):
            place = j * block.stride + i
            more = widen(bias[begin + j])
            if _LARGEST_BIAS < abs(more) < np.inf:
                more = math.copysign(_LARGEST_BIAS, more)
            scores[place] = scores[place] * scale + more


@inner
def put_bias_slopes(slopes, target, at, stride, block):
    """Write a block of slopes to target[at + query * stride + key]."""
    stays_a_call()
    for i in range(block.num_queries):
        begin = at + (block.first_query + i) * stride + block.first_key
        for j in range(block.num_keys):
            target[begin + j] = narrow(slopes[j * block.stride + i], target)


def put_right(target, j, n, stride, low, high):
    """Write queries n .. n + 15 of keys j, an even one, and j + 1 as rows of a right factor."""


@overload(put_right, jit_options={"fastmath": FLAGS})
def _put_right(target, j, n, stride, low, high):
    if target.dtype == types.uint32:
        return lambda target, j, n, stride, low, high: put_pair(
            target, j // 2 * stride + n, low, high
        )
    return lambda target, j, n, stride, low, high: _put_rows(target, j, n, stride, low, high)


@inlined
def _put_rows(target, j, n, stride, low, high):
    store(target, j * stride + n, low)
    store(target, (j + 1) * stride + n, high)


@inner
def clear(target, first, last):
    """Write zeros to target[first .. last - 1]."""
    for i in range(first, last):
        target[i] = 0


def clear_right(target, num_keys, stride):
    """Write zeros to the rows that AMX reads beyond `num_keys` of a right factor."""


@overload(clear_right, jit_options={"fastmath": FLAGS})
def _clear_right(target, num_keys, stride):
    if target.dtype == types.uint32:
        return lambda target, num_keys, stride: clear(
            target, (num_keys + 1) // 2 * stride, (num_keys + 31) // 32 * 16 * stride
        )
    return lambda target, num_keys, stride: None


@inner
def soften(scores, scale, weights, block, largest, totals, decays, is_meta):
    """Turn scores into weights exp(scale * score - largest), and take a new maximum into account.

    `largest`, in units of ln 2, and `totals` are those of each query so far; `decays` receives what
    the maximum's growth makes of older weights. Under Meta's semantics hidden pairs take part in
    totals, and their weights are 0 for the values alone.
    """
    stays_a_call()
    stride, last = block.stride, block.num_keys - 1
    high_scale = np.float32(scale * _LOG2_E)
    low_scale = np.float32(scale * _LOG2_E - high_scale)
    for n in range(0, stride, WIDTH):
        old = load(largest, n)
        best = old
        for j in range(block.num_keys):
            x = spread(high_scale) * load(scores, j * stride + n)
            if not is_meta:
                x = seen(block, j, n, x, spread(_NEGATIVE_INFINITY))
            best = larger(x, best)
        store(largest, n, best)
        decay = power_of_two(old - best)
        store(decays, n, decay)
        total = decay * load(totals, n)
        for j in range(0, block.num_keys, 2):
            low = _weight(weights, scores, high_scale, low_scale, block, j, n, best, is_meta)
            high = zeros()
            if j < last:
                high = _weight(
                    weights, scores, high_scale, low_scale, block, j + 1, n, best, is_meta
                )
            total = total + (low + high)
            if is_meta:
                low = seen(block, j, n, low, zeros())
                high = seen(block, j + 1, n, high, zeros())
            put_right(weights, j, n, stride, low, high)
        store(totals, n, total)
    clear_right(weights, block.num_keys, stride)


@inlined
def _weight(weights, scores, high_scale, low_scale, block, j, n, best, is_meta):
    score = load(scores, j * block.stride + n)
    weight = _power(weights, score, high_scale, low_scale, best)
    return weight if is_meta else seen(block, j, n, weight, zeros())


def _power(weights, score, high_scale, low_scale, best):
    """Return 2^(scale * score - best) as exactly as the array of weights holds it."""


@overload(_power, jit_options={"fastmath": FLAGS})
def _power_as(weights, score, high_scale, low_scale, best):
    if weights.dtype == types.uint32:
        return lambda weights, score, high_scale, low_scale, best: rough_power_of_two(
            spread(high_scale) * score - best
        )
    return lambda weights, score, high_scale, low_scale, best: power_of_two(
        spread(high_scale) * score + (spread(low_scale) * score - best)
    )


@inner
def activate(scores, weights, block, activation):
    """Turn scores into weights act(score) of the pairs that are seen."""
    stays_a_call()
    stride, last = block.stride, block.num_keys - 1
    for n in range(0, stride, WIDTH):
        for j in range(0, block.num_keys, 2):
            at = j * stride + n
            low = seen(block, j, n, activated(load(scores, at), activation), zeros())
            high = zeros()
            if j < last:
                high = activated(load(scores, at + stride), activation)
                high = seen(block, j + 1, n, high, zeros())
            put_right(weights, j, n, stride, low, high)
    clear_right(weights, block.num_keys, stride)


class Slopes(NamedTuple):
    """Hold where `steepen` writes: weights as a left factor, slopes as left and right ones."""

    left_weights: np.ndarray
    left: np.ndarray
    right: np.ndarray


@inner
def steepen(scores, scale, moved, out, block, lse, delta, share, keeps):
    """Turn scores, and `moved`, the slopes of weights, into weights P and the slopes of the scores.

    Standard: slope = P (moved - delta) of the pairs that are seen. Meta's, where `share`, one over
    N, is above 0: slope = P (share * moved - delta), moved alone being hidden. `keeps` leaves the
    slopes in `moved`, which float32 lanes share with `out`.
    """
    stays_a_call()
    stride = block.stride
    for j in range(0, block.num_keys, 2):
        for n in range(0, stride, WIDTH):
            low, low_slope = _softmax_slope(
                scores, scale, moved, j, n, block, load(lse, n), load(delta, n), share, keeps
            )
            high, high_slope = zeros(), zeros()
            if j + 1 < block.num_keys:
                high, high_slope = _softmax_slope(
                    scores,
                    scale,
                    moved,
                    j + 1,
                    n,
                    block,
                    load(lse, n),
                    load(delta, n),
                    share,
                    keeps,
                )
            _put_slopes(
                out.right, out, moved, j, n, stride, low, high, low_slope, high_slope, keeps
            )
    _clear_slopes(out, block)


@inlined
def _softmax_slope(scores, scale, moved, j, n, block, lse, delta, share, has_bias):
    at = j * block.stride + n
    exponent = spread(scale) * load(scores, at) - lse
    if has_bias:  # beside a huge one the log-sum-exp is rounded
        exponent = where_positive(exponent, zeros(), exponent)
    weight = exponential(exponent)
    kept = seen(block, j, n, weight, zeros())
    if share > 0:
        hidden = seen(block, j, n, spread(share) * load(moved, at), zeros())
        return kept, weight * (hidden - delta)
    return kept, kept * (load(moved, at) - delta)


@inner
def steepen_activation(scores, moved, out, block, activation):
    """Turn scores and `moved`, the slopes of weights, into weights act(score) and act'(score) *
    moved of the pairs that are seen.
    """
    stays_a_call()
    stride = block.stride
    for j in range(0, block.num_keys, 2):
        for n in range(0, stride, WIDTH):
            low, low_slope = _activation_slope(scores, moved, j, n, block, activation)
            high, high_slope = zeros(), zeros()
            if j + 1 < block.num_keys:
                high, high_slope = _activation_slope(scores, moved, j + 1, n, block, activation)
            _put_slopes(
                out.right, out, moved, j, n, stride, low, high, low_slope, high_slope, False
            )
    _clear_slopes(out, block)


@inlined
def _activation_slope(scores, moved, j, n, block, activation):
    at = j * block.stride + n
    score = load(scores, at)
    slope = activation_slope(score, activation) * load(moved, at)
    weight = seen(block, j, n, activated(score, activation), zeros())
    return weight, seen(block, j, n, slope, zeros())


def _put_slopes(right, out, moved, j, n, stride, low, high, low_slope, high_slope, keeps):
    """Write weights and slopes of keys j and j + 1; `keeps` leaves the slopes in `moved` as well."""


@overload(_put_slopes, jit_options={"fastmath": FLAGS})
def _put_slopes_as(right, out, moved, j, n, stride, low, high, low_slope, high_slope, keeps):
    if right.dtype == types.float32:

        def into_one(right, out, moved, j, n, stride, low, high, low_slope, high_slope, keeps):
            _put_rows(out.left_weights, j, n, stride, low, high)
            _put_rows(out.left, j, n, stride, low_slope, high_slope)

        return into_one

    def into_both(right, out, moved, j, n, stride, low, high, low_slope, high_slope, keeps):
        _put_rows(out.left_weights, j, n, stride, low, high)
        _put_rows(out.left, j, n, stride, low_slope, high_slope)
        put_right(right, j, n, stride, low_slope, high_slope)
        if keeps:
            _put_rows(moved, j, n, stride, low_slope, high_slope)

    return into_both


@inner
def _clear_slopes(out, block):
    """Write zeros where AMX reads beyond the keys of the block."""
    first, last = (block.num_keys + 1) // 2 * 2, (block.num_keys + 15) // 16 * 16
    clear(out.left_weights, first * block.stride, last * block.stride)
    clear(out.left, first * block.stride, last * block.stride)
    clear_right(out.right, block.num_keys, block.stride)


@inlined
def activated(x, activation):
    """Return the activation of every lane."""
    if activation == _RAW:
        return x
    if activation == _GELU:
        half = number(0.5) * x
        return half + half * error_function(number(0.7071067811865476) * x)
    if activation == _GELU_APPROX:
        return x * sigmoid(_gelu_exponent(x, GELU_RATE))[0]
    if activation == _GELU_BF16:
        return x * sigmoid(_gelu_exponent(x, GELU_RATE_BF16))[0]
    if activation == _RELU:
        return where_positive(x, x, zeros())
    if activation == _LEAKY:
        return where_positive(x, x, number(LEAK) * x)
    if activation == _RELU_SQUARED:
        return where_positive(x, x * x, zeros())
    if activation == _SILU:
        return x * sigmoid(x)[0]
    return x * clipped(x + number(3.0), 0.0, 6.0) / number(6.0)


@inlined
def _gelu_exponent(x, rate):
    """Return u for which sigmoid(u) = (1 + tanh(rate * (x + 0.044715 x^3))) / 2."""
    return number(2 * rate) * (x + number(GELU_CUBIC) * x * x * x)


@inlined
def activation_slope(x, activation):
    """Return the derivative of the activation at every lane."""
    one = number(1.0)
    if activation == _RAW:
        return one
    if activation == _GELU:
        bell = number(0.3989422804014327) * exponential(number(-0.5) * x * x)
        half = number(0.5) + number(0.5) * error_function(number(0.7071067811865476) * x)
        return half + x * bell
    if activation in (_GELU_APPROX, _GELU_BF16):
        rate = GELU_RATE if activation == _GELU_APPROX else GELU_RATE_BF16
        gate, slope = sigmoid(_gelu_exponent(x, rate))
        growth = number(2 * rate) * (one + number(3 * GELU_CUBIC) * x * x)
        return gate + x * slope * growth
    if activation == _RELU:
        return where_positive(x, one, zeros())
    if activation == _LEAKY:
        return where_positive(x, one, number(LEAK))
    if activation == _RELU_SQUARED:
        return where_positive(x, number(2.0) * x, zeros())
    if activation == _SILU:
        gate, slope = sigmoid(x)
        return gate + x * slope
    middle = number(1.0 / 3.0) * x + number(0.5)
    middle = where_positive(x + number(3.0), middle, zeros())
    return where_positive(number(3.0) - x, middle, where_positive(x, one, zeros()))
