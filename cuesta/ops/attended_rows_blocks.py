"""One head of one row: attention forward and backward, a block of [keys, queries] after another.

Flash attention (Dao, 2023, arXiv 2307.08691, algorithms 1 and 2) with the queries in the lanes. The
band limits which blocks are visited; where it cuts through one, the passes hide single pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cuesta.ops.attended_rows_factors import (
    accumulate,
    left,
    padded_columns,
    put_sums,
    rescale,
    right_rows,
    right_turned,
    summed,
    summed_again,
)
from cuesta.ops.attended_rows_weights import (
    SOFTMAX,
    Block,
    Slopes,
    activate,
    add_bias,
    clear,
    put_bias_slopes,
    soften,
    steepen,
    steepen_activation,
)
from cuesta.ops.lane_math import logarithm, where_positive
from cuesta.ops.lanes import WIDTH, load, spread, store, store_upto
from cuesta.ops.numba_decorators import inlined, inner
from cuesta.ops.tiles import product

KEYS = 128  # of a block; the last one of a row may be shorter
_STEP = 32  # blocks begin and, but for a row's last, end at multiples of this
_FAR = np.float32(1e30)  # minus this begins a maximum; as a log-sum-exp it leaves no weight
_ONE = np.float32(1.0)
_LN_2 = np.float32(0.6931471805599453)
_NEGATIVE_INFINITY = np.float32(-np.inf)


@inlined
def _geometry(rows, row):
    """Return where a row's queries, outputs and keys begin, its numbers of queries and keys, and the
    key beside which its first query stands.
    """
    keys_at = rows.offsets[row]
    num_keys = rows.offsets[row + 1] - keys_at
    if rows.q_offsets.size > 0:
        out_at = rows.q_offsets[row]
        queries_at, num_queries = out_at, rows.q_offsets[row + 1] - out_at
    else:
        queries_at, num_queries = 0, rows.num_queries
        out_at = row * num_queries
    if rows.longest > 0:
        num_queries, num_keys = min(num_queries, rows.longest), min(num_keys, rows.longest)
    shift = num_keys - num_queries if rows.aligns_last else 0
    return queries_at, out_at, keys_at, num_queries, num_keys, shift


@inlined
def _even(num_queries, block_size):
    """Return the size of equal blocks, a multiple of sixteen up to `block_size`."""
    if num_queries <= block_size:
        return max((num_queries + WIDTH - 1) // WIDTH * WIDTH, WIDTH)
    num_blocks = (num_queries + block_size - 1) // block_size
    return max((num_queries + WIDTH * num_blocks - 1) // (WIDTH * num_blocks) * WIDTH, WIDTH)


@inlined
def _bias_layout(rows, row, head):
    """Return where the bias of a row and head begins, and the numbers of keys of its rows."""
    stride = rows.offsets[row + 1] - rows.offsets[row]
    at = rows.pairs[row]
    if rows.bias_heads > 1:
        at += head * (rows.bias.size // rows.bias_heads)
    return at, stride


@inlined
def _keys_seen(rows, first_query, last_query, shift, num_keys):
    """Return the range of keys that some query of a block needs, its ends rounded outwards."""
    if rows.longest > 0:
        return 0, num_keys
    low = max(first_query + shift - rows.before, 0)
    high = min(last_query + shift + rows.after + 1, num_keys)
    return low // _STEP * _STEP, min((high + _STEP - 1) // _STEP * _STEP, num_keys)


@inlined
def _block(rows, first_key, num_keys, first_query, num_queries, shift, stride):
    last_key, last_query = first_key + num_keys - 1, first_query + num_queries - 1
    is_cut = (
        last_key - first_query - shift > rows.after or last_query + shift - first_key > rows.before
    )
    return Block(
        first_key, num_keys, first_query, num_queries, stride,
        shift + rows.after, shift - rows.before, is_cut,
    )  # fmt: skip


@inlined
def attend(rows, scratch, row, head, first, span, out, lse, thread):
    """Compute the outputs and log-sum-exps of queries first .. first + span - 1 of a row and head."""
    queries_at, out_at, keys_at, num_queries, num_keys, shift = _geometry(rows, row)
    heads, width, value_width = rows.num_heads, rows.width, rows.value_width
    out_row = heads * value_width
    scores, weights, sums = scratch.scores[thread], scratch.weights[thread], scratch.sums[thread]
    largest, totals = scratch.largest[thread], scratch.totals[thread]
    decays = scratch.decays[thread]
    keys_begin = keys_at * rows.k_row + head * width
    values_begin = keys_at * rows.v_row + head * value_width
    end, room = min(first + span, num_queries), scratch.largest.shape[1]
    is_read_often, is_odd = end - first > room, value_width % WIDTH != 0
    keys, keys_0, keys_row, keys_step = left(
        rows.k, keys_begin, rows.k_row, num_keys, width, scratch.keys[thread], is_read_often
    )
    value_rows = summed(
        rows.v, values_begin, rows.v_row, num_keys, value_width, scratch.values[thread],
        scratch.summed[thread], scratch.pairs[thread], is_read_often or is_odd,
    )  # fmt: skip
    is_softmax, is_meta = rows.activation == SOFTMAX, rows.longest > 0
    block_size = _even(end - first, room)
    for i in range(first, end, block_size):
        count = min(block_size, end - i)
        columns = (count + WIDTH - 1) // WIDTH * WIDTH
        begin = (queries_at + i) * rows.q_row + head * width
        q, q_0, q_stride = right_turned(
            rows.q, begin, rows.q_row, count, width, scratch.q[thread], columns
        )
        for n in range(columns):
            largest[n], totals[n] = -_FAR, 0
        low, high = _keys_seen(rows, i, i + count - 1, shift, num_keys)
        adds = 0
        for j in range(low, high, KEYS):
            block = _block(rows, j, min(KEYS, high - j), i, count, shift, columns)
            product(
                keys, keys_0 + j * keys_row, keys_row, keys_step, q, q_0, q_stride,
                scores, 0, columns, block.num_keys, columns, width, 0,
            )  # fmt: skip
            if is_softmax:
                scale = rows.scale
                if rows.pairs.size > 0:
                    bias_at, bias_stride = _bias_layout(rows, row, head)
                    add_bias(scores, scale, rows.bias, bias_at, bias_stride, block)
                    scale = _ONE
                soften(scores, scale, weights, block, largest, totals, decays, is_meta)
                if adds != 0:
                    rescale(weights, sums, decays, count, columns, value_width)
            else:
                activate(scores, weights, block, rows.activation)
            accumulate(weights, value_rows, block, value_width, sums, adds)
            adds = 1
        if adds == 0:
            clear(sums, 0, sums.size)
        _finish(rows, largest, totals, count)
        begin = (out_at + i) * out_row + head * value_width
        put_sums(weights, sums, totals, count, columns, value_width, out, begin, out_row)
        if is_softmax:
            for n in range(count):
                lse[(out_at + i + n) * heads + head] = largest[n]


@inner
def _finish(rows, largest, totals, num_queries):
    """Turn the totals into what outputs are multiplied by, and maxima into log-sum-exps."""
    is_softmax = rows.activation == SOFTMAX
    number_of_keys = spread(np.float32(max(rows.longest, 1)))
    for n in range(0, num_queries, WIDTH):
        if not is_softmax:
            store(totals, n, spread(rows.scale))
            continue
        total = load(totals, n)
        share = spread(_ONE) / (total * number_of_keys)
        lse = spread(_LN_2) * load(largest, n) + logarithm(total)
        store(totals, n, where_positive(total, share, total))
        store(largest, n, where_positive(total, lse, total + spread(_NEGATIVE_INFINITY)))


class Gradients(NamedTuple):
    """Hold what backward reads besides the rows, and the gradients that it writes."""

    grad: np.ndarray  # of the outputs
    delta: np.ndarray
    lse: np.ndarray
    dq: np.ndarray
    shared_dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dbias: np.ndarray


@inlined
def attend_backward(rows, scratch, row, head, chunk, given, thread):
    """Compute the gradients of a row and head; those of shared queries are added to `shared_dq`."""
    queries_at, out_at, keys_at, num_queries, num_keys, shift = _geometry(rows, row)
    heads, width, value_width = rows.num_heads, rows.width, rows.value_width
    grad_row = heads * width
    padded, value_padded = (width + 15) // 16 * 16, (value_width + 15) // 16 * 16
    sums, factors = scratch.sums[thread], scratch.totals[thread]
    slopes = scratch.slopes[thread]
    keys_grad, values_grad = scratch.keys_grad[thread], scratch.values_grad[thread]
    keys_begin = keys_at * rows.k_row + head * width
    values_begin = keys_at * rows.v_row + head * value_width
    keys = left(rows.k, keys_begin, rows.k_row, num_keys, width, scratch.keys[thread], True)
    values = left(
        rows.v, values_begin, rows.v_row, num_keys, value_width, scratch.values[thread], True
    )
    key_rows = summed_again(
        keys, rows.k, keys_begin, rows.k_row, num_keys, width,
        scratch.summed[thread], scratch.pairs[thread],
    )  # fmt: skip
    clear(keys_grad, 0, num_keys * padded)
    clear(values_grad, 0, num_keys * value_padded)
    block_size = _even(num_queries, scratch.largest.shape[1])
    for i in range(0, num_queries, block_size):
        count = min(block_size, num_queries - i)
        columns = padded_columns(slopes, count)
        _steepen_keys(
            rows, scratch, row, head, given, thread, (keys, values, key_rows),
            queries_at, out_at, num_keys, shift, i, count, columns,
        )  # fmt: skip
        for n in range(columns):
            factors[n] = rows.scale
        begin = (queries_at + i) * grad_row + head * width
        if chunk < 0:
            put_sums(slopes, sums, factors, count, columns, width, given.dq, begin, grad_row)
        else:
            moved = scratch.moved[thread]
            put_sums(slopes, sums, factors, count, columns, width, moved, 0, width)
            begin += chunk * rows.num_queries * grad_row
            _add_rows(moved, count, width, given.shared_dq, begin, grad_row)
    begin = keys_at * grad_row + head * width
    _write_scaled(keys_grad, num_keys, width, padded, rows.scale, given.dk, begin, grad_row)
    value_scale = rows.scale
    if rows.activation == SOFTMAX:
        value_scale = _ONE / np.float32(max(rows.longest, 1))
    _write_scaled(
        values_grad, num_keys, value_width, value_padded, value_scale,
        given.dv, keys_at * heads * value_width + head * value_width, heads * value_width,
    )  # fmt: skip


@inlined
def _steepen_keys(
    rows, scratch, row, head, given, thread, factors,
    queries_at, out_at, num_keys, shift, first, count, columns,
):  # fmt: skip
    """Sum the slopes of a block of queries, and add what it gives to the gradients of its keys."""
    keys, values, key_rows = factors
    heads, width, value_width = rows.num_heads, rows.width, rows.value_width
    out_row = heads * value_width
    padded, value_padded = (width + 15) // 16 * 16, (value_width + 15) // 16 * 16
    scores, moved, sums = scratch.scores[thread], scratch.moved[thread], scratch.sums[thread]
    lse, delta = scratch.largest[thread], scratch.totals[thread]
    out = Slopes(scratch.left_weights[thread], scratch.left_slopes[thread], scratch.slopes[thread])
    begin = (queries_at + first) * rows.q_row + head * width
    grad_begin = (out_at + first) * out_row + head * value_width
    q = right_turned(rows.q, begin, rows.q_row, count, width, scratch.q[thread], columns)
    g = right_turned(
        given.grad, grad_begin, out_row, count, value_width, scratch.grad[thread], columns
    )
    q_rows = right_rows(rows.q, begin, rows.q_row, count, width, scratch.q_rows[thread])
    g_rows = right_rows(
        given.grad, grad_begin, out_row, count, value_width, scratch.grad_rows[thread]
    )
    is_softmax = rows.activation == SOFTMAX
    _take_statistics(rows, given, out_at + first, head, count, columns, lse, delta)
    share = _ONE / np.float32(rows.longest) if rows.longest > 0 else np.float32(0.0)
    low, high = _keys_seen(rows, first, first + count - 1, shift, num_keys)
    adds = 0
    for j in range(low, high, KEYS):
        block = _block(rows, j, min(KEYS, high - j), first, count, shift, columns)
        product(
            keys[0], keys[1] + j * keys[2], keys[2], keys[3], q[0], q[1], q[2],
            scores, 0, columns, block.num_keys, columns, width, 0,
        )  # fmt: skip
        product(
            values[0], values[1] + j * values[2], values[2], values[3], g[0], g[1], g[2],
            moved, 0, columns, block.num_keys, columns, value_width, 0,
        )  # fmt: skip
        if is_softmax:
            scale, has_bias = rows.scale, rows.pairs.size > 0
            if has_bias:
                bias_at, bias_stride = _bias_layout(rows, row, head)
                add_bias(scores, scale, rows.bias, bias_at, bias_stride, block)
                scale = _ONE
            steepen(scores, scale, moved, out, block, lse, delta, share, has_bias)
            if has_bias:
                bias_at = rows.pairs[row] + head * (given.dbias.size // heads)
                bias_stride = rows.offsets[row + 1] - rows.offsets[row]
                put_bias_slopes(moved, given.dbias, bias_at, bias_stride, block)
        else:
            steepen_activation(scores, moved, out, block, rows.activation)
        product(
            out.left_weights, 0, columns, 1, g_rows[0], g_rows[1], g_rows[2],
            scratch.values_grad[thread], j * value_padded, value_padded,
            block.num_keys, value_padded, count, 1,
        )  # fmt: skip
        product(
            out.left, 0, columns, 1, q_rows[0], q_rows[1], q_rows[2],
            scratch.keys_grad[thread], j * padded, padded, block.num_keys, padded, count, 1,
        )  # fmt: skip
        accumulate(out.right, key_rows, block, width, sums, adds)
        adds = 1
    if adds == 0:
        clear(sums, 0, sums.size)


@inner
def _take_statistics(rows, given, first, head, count, columns, lse, delta):
    """Write what the softmax of each query is made of; padding, and queries without keys, get what
    leaves no weight.
    """
    for n in range(columns):
        lse[n], delta[n] = _FAR, 0
        if rows.activation == SOFTMAX and n < count:
            place = (first + n) * rows.num_heads + head
            if given.lse[place] != -np.inf:
                lse[n], delta[n] = given.lse[place], given.delta[place]


@inner
def _add_rows(rows, num_rows, width, target, begin, stride):
    """Add rows to those of a tensor."""
    for m in range(num_rows):
        for d in range(width):
            target[begin + m * stride + d] += rows[m * width + d]


@inner
def _write_scaled(sums, num_rows, width, padded, scale, target, begin, stride):
    """Write the first `width` columns of float32 rows, times `scale`, to rows of a tensor."""
    for m in range(num_rows):
        for d in range(0, width, WIDTH):
            value = spread(scale) * load(sums, m * padded + d)
            store_upto(target, begin + m * stride + d, value, width - d)
