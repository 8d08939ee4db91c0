"""One head of one row: attention forward and backward, a block of [keys, queries] after another.

Flash attention (Dao, 2023, arXiv 2307.08691, algorithms 1 and 2) with the queries in the lanes. The
band limits which blocks are visited; where it cuts through one, the passes hide single pairs.
"""

from __future__ import annotations

import math

import numpy as np

from cuesta.ops.attended_rows_factors import (
    accumulate,
    left,
    put_sums,
    rescale,
    right_rows,
    right_turned,
    summed,
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
from cuesta.ops.lanes import WIDTH, load, spread, store_upto
from cuesta.ops.numba_decorators import inlined, inner
from cuesta.ops.tiles import product

KEYS = 128  # of a block; the last one of a row may be shorter
_STEP = 32  # blocks begin and, but for a row's last, end at multiples of this
_FAR = np.float32(1e30)  # minus this begins a maximum; as a log-sum-exp it leaves no weight
_ONE = np.float32(1.0)
_LN_2 = 0.6931471805599453


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
    num_blocks = max((num_queries + block_size - 1) // block_size, 1)
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
    q_row, v_row = heads * width, heads * value_width
    scores, weights, sums = scratch.scores[thread], scratch.weights[thread], scratch.sums[thread]
    largest, totals = scratch.largest[thread], scratch.totals[thread]
    decays = scratch.decays[thread]
    keys_begin, values_begin = keys_at * q_row + head * width, keys_at * v_row + head * value_width
    end, room = min(first + span, num_queries), scratch.largest.shape[1]
    is_read_often, is_odd = end - first > room, value_width % WIDTH != 0
    keys, keys_0, keys_row, keys_step = left(
        rows.k, keys_begin, q_row, num_keys, width, scratch.keys[thread], is_read_often
    )
    values = left(
        rows.v, values_begin, v_row, num_keys, value_width,
        scratch.values[thread], is_read_often or is_odd,
    )  # fmt: skip
    value_rows = summed(
        values, rows.v, values_begin, v_row, num_keys, value_width,
        scratch.summed[thread], scratch.pairs[thread],
    )  # fmt: skip
    is_softmax, is_meta = rows.activation == SOFTMAX, rows.longest > 0
    block_size = _even(end - first, room)
    for i in range(first, end, block_size):
        count = min(block_size, end - i)
        columns = (count + WIDTH - 1) // WIDTH * WIDTH
        begin = (queries_at + i) * q_row + head * width
        q, q_0, q_stride = right_turned(
            rows.q, begin, q_row, count, width, scratch.q[thread], columns
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
        rescale(weights, sums, totals, count, columns, value_width)
        begin = (out_at + i) * v_row + head * value_width
        put_sums(weights, sums, count, columns, value_width, out, begin, v_row)
        if is_softmax:
            for n in range(count):
                lse[(out_at + i + n) * heads + head] = largest[n]


@inner
def _finish(rows, largest, totals, num_queries):
    """Turn the totals into what outputs are multiplied by, and maxima into log-sum-exps."""
    for n in range(num_queries):
        share = rows.scale
        if rows.activation == SOFTMAX:
            share = np.float32(0.0)
            if totals[n] != 0:  # NaN is not 0
                share = _ONE / totals[n]
                if rows.longest > 0:
                    share /= np.float32(rows.longest)
                largest[n] = _LN_2 * np.float64(largest[n]) + math.log(np.float64(totals[n]))
            else:
                largest[n] = -np.inf
        totals[n] = share


@inlined
def attend_backward(
    rows, scratch, row, head, chunk, grad, delta, lse, dq, sums_dq, dk, dv, dbias, thread
):  # fmt: skip
    """Compute the gradients of a row and head; those of shared queries are added to `sums_dq`."""
    queries_at, out_at, keys_at, num_queries, num_keys, shift = _geometry(rows, row)
    heads, width, value_width = rows.num_heads, rows.width, rows.value_width
    room = scratch.largest.shape[1]
    q_row, v_row = heads * width, heads * value_width
    padded, value_padded = (width + 15) // 16 * 16, (value_width + 15) // 16 * 16
    scores, moved, sums = scratch.scores[thread], scratch.moved[thread], scratch.sums[thread]
    keys_grad, values_grad = scratch.keys_grad[thread], scratch.values_grad[thread]
    lse_lanes, delta_lanes = scratch.largest[thread], scratch.totals[thread]
    out = Slopes(scratch.left_weights[thread], scratch.left_slopes[thread], scratch.slopes[thread])
    keys_begin, values_begin = keys_at * q_row + head * width, keys_at * v_row + head * value_width
    key_factor = left(rows.k, keys_begin, q_row, num_keys, width, scratch.keys[thread], True)
    keys, keys_0, keys_row, keys_step = key_factor
    values, values_0, values_row, values_step = left(
        rows.v, values_begin, v_row, num_keys, value_width, scratch.values[thread], True
    )
    key_rows = summed(
        key_factor, rows.k, keys_begin, q_row, num_keys, width,
        scratch.summed[thread], scratch.pairs[thread],
    )  # fmt: skip
    clear(keys_grad, 0, num_keys * padded)
    clear(values_grad, 0, num_keys * value_padded)
    is_softmax = rows.activation == SOFTMAX
    share = _ONE / np.float32(rows.longest) if rows.longest > 0 else np.float32(0.0)
    block_size, step = _even(num_queries, room), 32 if room == 32 else WIDTH
    for i in range(0, num_queries, block_size):
        count = min(block_size, num_queries - i)
        columns = (count + step - 1) // step * step
        begin = (queries_at + i) * q_row + head * width
        grad_begin = (out_at + i) * v_row + head * value_width
        q, q_0, q_stride = right_turned(
            rows.q, begin, q_row, count, width, scratch.q[thread], columns
        )
        g, g_0, g_stride = right_turned(
            grad, grad_begin, v_row, count, value_width, scratch.grad[thread], columns
        )
        q_rows, q_rows_0, q_rows_stride = right_rows(
            rows.q, begin, q_row, count, width, scratch.q_rows[thread]
        )
        g_rows, g_rows_0, g_rows_stride = right_rows(
            grad, grad_begin, v_row, count, value_width, scratch.grad_rows[thread]
        )
        for n in range(columns):
            lse_lanes[n], delta_lanes[n] = _FAR, 0
            if is_softmax and n < count:
                place = (out_at + i + n) * heads + head
                if lse[place] != -np.inf:
                    lse_lanes[n], delta_lanes[n] = lse[place], delta[place]
        low, high = _keys_seen(rows, i, i + count - 1, shift, num_keys)
        adds = 0
        for j in range(low, high, KEYS):
            block = _block(rows, j, min(KEYS, high - j), i, count, shift, columns)
            product(
                keys, keys_0 + j * keys_row, keys_row, keys_step, q, q_0, q_stride,
                scores, 0, columns, block.num_keys, columns, width, 0,
            )  # fmt: skip
            product(
                values, values_0 + j * values_row, values_row, values_step, g, g_0, g_stride,
                moved, 0, columns, block.num_keys, columns, value_width, 0,
            )  # fmt: skip
            if is_softmax:
                scale = rows.scale
                bias_at, bias_stride = 0, 0
                if rows.pairs.size > 0:
                    bias_at, bias_stride = _bias_layout(rows, row, head)
                    add_bias(scores, rows.scale, rows.bias, bias_at, bias_stride, block)
                    scale = _ONE
                steepen(
                    scores, scale, moved, out, block, lse_lanes, delta_lanes, share,
                    rows.pairs.size > 0,
                )  # fmt: skip
                if rows.pairs.size > 0:
                    bias_at = rows.pairs[row] + head * (dbias.size // heads)
                    put_bias_slopes(moved, dbias, bias_at, bias_stride, block)
            else:
                steepen_activation(scores, moved, out, block, rows.activation)
            product(
                out.left_weights, 0, columns, 1, g_rows, g_rows_0, g_rows_stride,
                values_grad, j * value_padded, value_padded,
                block.num_keys, value_padded, count, 1,
            )  # fmt: skip
            product(
                out.left, 0, columns, 1, q_rows, q_rows_0, q_rows_stride,
                keys_grad, j * padded, padded, block.num_keys, padded, count, 1,
            )  # fmt: skip
            accumulate(out.right, key_rows, block, width, sums, adds)
            adds = 1
        if adds == 0:
            clear(sums, 0, sums.size)
        for n in range(columns):
            delta_lanes[n] = rows.scale
        rescale(out.right, sums, delta_lanes, count, columns, width)
        if chunk < 0:
            put_sums(out.right, sums, count, columns, width, dq, begin, q_row)
        else:
            put_sums(out.right, sums, count, columns, width, moved, 0, width)
            _add_rows(moved, count, width, sums_dq, begin + chunk * rows.num_queries * q_row, q_row)
    _write_scaled(keys_grad, num_keys, width, padded, rows.scale, dk, keys_begin, q_row)
    value_scale = share if rows.longest > 0 else _ONE if is_softmax else rows.scale
    _write_scaled(
        values_grad, num_keys, value_width, value_padded, value_scale, dv, values_begin, v_row
    )


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
