"""The Numba drivers of `jagged_attention` and `gdpa`: which thread computes what, block by block.

A unit is one head of one row, or of a span of its queries. Scores are computed transposed, [keys,
queries], 32 or 64 queries a block, so that sixteen queries lie in the lanes of a register: maxima
and sums along the keys need nothing across lanes, and the keys are multiplied as they lie in the
tensor. A block of scores never leaves the second cache. Units run from the longest to the
shortest, each taken by whichever thread is free; no sum depends on which that is.

float32, and bfloat16 widened a row at a time, are multiplied in float32 lanes; bfloat16 in AMX's
tiles where there are any, with weights and slopes rounded to bfloat16 and sums in float32. float16, rare
on CPUs, is widened whole, which spares the compiler a third set of kernels.
What differs is `attended_rows_factors`; the passes between the products are
`attended_rows_weights`.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from cuesta.ops.attended_rows_blocks import KEYS, Gradients, attend, attend_backward
from cuesta.ops.attended_rows_factors import close_engine, open_engine
from cuesta.ops.lanes import array_pointer, prefetch, prefetch_to_write
from cuesta.ops.numba_decorators import FLAGS, FROM_KERNELS
from cuesta.ops.numba_support import kernel, num_threads, view
from cuesta.ops.tiles import has_amx

SPAN = 1024  # queries of a unit, so that the keys of a long row are packed once for many queries
_TOKENS_AHEAD = 128  # of the longest row that is asked for ahead of its turn
_LINE = 64  # bytes of the cache
NUM_TASKS = 64  # of units, when there are more
NUM_CHUNKS = 16  # of rows over which the gradient of shared queries is summed in order

# Without _nrt=False each slice of a buffer counts a reference to it, atomically.
_bare = numba.njit(
    cache=True, nogil=True, fastmath=FLAGS, error_model="numpy", _nrt=False, **FROM_KERNELS
)


class Rows(NamedTuple):
    """Hold what all units read: flat arrays, offsets, sizes, the band and the semantics."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    q_offsets: np.ndarray  # empty: all rows share the queries
    offsets: np.ndarray
    bias: np.ndarray
    pairs: np.ndarray  # empty: no bias
    bias_heads: int
    num_queries: int
    num_heads: int
    q_row: int  # elements from a token to the next
    k_row: int
    v_row: int
    width: int
    value_width: int
    before: int
    after: int
    aligns_last: bool
    scale: np.float32
    longest: int
    activation: int


class Scratch(NamedTuple):
    """Hold the buffers of all threads, [threads, size] each, by what they hold in forward and
    backward.

    Their types choose the way to multiply: float32 throughout, or uint16 left and uint32 right
    factors.
    """

    keys: np.ndarray  # left factors: keys, and values, of one row
    values: np.ndarray
    summed: np.ndarray  # values in forward, keys in backward, as tiles sum them
    pairs: np.ndarray  # on the way there
    q: np.ndarray  # right factors: queries and slopes of the output, turned and as rows
    grad: np.ndarray
    q_rows: np.ndarray
    grad_rows: np.ndarray
    scores: np.ndarray  # float32 [KEYS, W]
    moved: np.ndarray
    weights: np.ndarray  # right factor of forward
    left_weights: np.ndarray  # left factors of backward
    left_slopes: np.ndarray
    slopes: np.ndarray  # right factor of backward
    sums: np.ndarray  # float32 [W, C or D], or turned
    keys_grad: np.ndarray  # float32 [keys, D]
    values_grad: np.ndarray
    largest: np.ndarray  # float32 [W]
    totals: np.ndarray
    decays: np.ndarray


class Units(NamedTuple):
    """Say in which order units are computed: `row` and first query of each, times all heads.

    Task t takes units bounds[t] .. bounds[t + 1], in which a row's heads follow each other; for the
    gradient of shared queries, one head of rows bounds[c] .. bounds[c + 1].
    """

    row: np.ndarray
    first: np.ndarray
    bounds: np.ndarray
    next_task: np.ndarray


def rows_of(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor | None, offsets: Tensor,
    bias: Tensor | None, pairs: Tensor | None,
    before: int, after: int, aligns_last: bool, scale: float, longest: int, activation: int,
) -> Rows:  # fmt: skip
    """Return the arrays of these tensors; q, k and v may be columns of wider ones."""
    q, k, v = (_by_token(_widened(each)) for each in (q, k, v))
    bias = q.new_empty(0) if bias is None else _widened(bias)
    nothing = np.zeros(0, np.int64)
    return Rows(
        *(_flat(each) for each in (q, k, v)),
        nothing if q_offsets is None else view(q_offsets),
        view(offsets),
        view(bias).reshape(-1),
        nothing if pairs is None else view(pairs),
        bias.shape[0],
        q.shape[0],
        q.shape[1],
        q.stride(0),
        k.stride(0),
        v.stride(0),
        q.shape[2],
        v.shape[2],
        before,
        after,
        aligns_last,
        np.float32(scale),
        longest,
        activation,
    )


def _widened(tensor: Tensor) -> Tensor:
    """Return a float16 tensor as float32, others as they are."""
    return tensor.float() if tensor.dtype is torch.float16 else tensor


def _by_token(tensor: Tensor) -> Tensor:
    """Return the tensor, copied unless each token's numbers lie side by side and the tokens an even
    number of elements apart, as tiles want it.
    """
    _, heads, width = tensor.shape
    row, head, one = tensor.stride()
    is_readable = one == 1 and head == width and row >= heads * width and row % 2 == 0
    return tensor if is_readable else tensor.contiguous()


def _flat(tensor: Tensor) -> np.ndarray:
    """Return all that lies between the first number of a tensor and its last."""
    tokens, heads, width = tensor.shape
    size = (tokens - 1) * tensor.stride(0) + heads * width if tensor.numel() else 0
    return view(tensor.as_strided((size,), (1,)))


def uses_tiles(q: Tensor, v: Tensor) -> bool:
    """Return whether bfloat16 tiles multiply: AMX is there, and elements pair up."""
    is_even = q.shape[2] % 2 == 0 and v.shape[2] % 2 == 0
    return q.dtype is torch.bfloat16 and is_even and has_amx()


def forward(rows: Rows, out: Tensor, lse: Tensor, *, tiles: bool) -> None:
    """Write the outputs [Tq, H, C], and for a softmax the log-sum-exp of scores [Tq, H]."""
    queries, keys = _lengths(rows)
    units = _units(queries, keys, rows.num_heads, SPAN)
    scratch = _scratch(rows, int(keys.max(initial=0)), tiles=tiles, is_backward=False)
    threads = scratch.scores.shape[0]
    wide = _widened(out)
    _forward(rows, scratch, units, view(wide).reshape(-1), view(lse).reshape(-1), threads)
    if wide is not out:
        out.copy_(wide)


def backward(
    rows: Rows, grad: Tensor, delta: Tensor, lse: Tensor,
    dq: Tensor, shared_dq: Tensor, dk: Tensor, dv: Tensor, dbias: Tensor, *, tiles: bool,
) -> None:  # fmt: skip
    """Write the gradients; that of shared queries is added to `shared_dq`, float32 [NUM_CHUNKS, S, H,
    D], instead of being written to `dq`.

    delta [Tq, H] is each output times its gradient, less the gradient of the log-sum-exp.
    """
    queries, keys = _lengths(rows)
    if rows.q_offsets.size:
        units = _units(queries, keys, rows.num_heads, max(int(queries.max(initial=0)), 1))
    else:
        units = _chunks(len(keys), rows.num_heads)
    scratch = _scratch(rows, int(keys.max(initial=0)), tiles=tiles, is_backward=True)
    threads = scratch.scores.shape[0]
    given = (grad, delta, lse, dq, shared_dq, dk, dv, dbias)
    wide = [_widened(each) for each in given]
    flat = Gradients(*(view(each).reshape(-1) for each in wide))
    _backward(rows, scratch, units, flat, threads)
    for each, computed in zip(given, wide, strict=True):
        if computed is not each:
            each.copy_(computed)


def _lengths(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    keys = np.diff(rows.offsets)
    queries = (
        np.diff(rows.q_offsets) if rows.q_offsets.size else np.full_like(keys, rows.num_queries)
    )
    if rows.longest:
        return np.minimum(queries, rows.longest), np.minimum(keys, rows.longest)
    return queries, keys


def _units(queries: np.ndarray, keys: np.ndarray, num_heads: int, span: int) -> Units:
    """Return the spans of all rows, the most work first, and tasks of about equal work."""
    pieces = np.maximum(-(-queries // span), 1)
    row = np.repeat(np.arange(len(keys)), pieces)
    first = (np.arange(len(row)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * span
    work = np.minimum(queries[row] - first, span) * keys[row] + 16
    order = np.argsort(-work, kind="stable")
    ends = np.cumsum(np.repeat(work[order], num_heads))
    num_tasks = min(NUM_TASKS, len(ends))
    goals = (ends[-1:] * np.arange(1, num_tasks)) // max(num_tasks, 1)
    bounds = np.concatenate([[0], np.searchsorted(ends, goals), [len(ends)]])
    return Units(row[order], first[order], bounds, np.zeros(1, np.int64))


def _chunks(num_rows: int, num_heads: int) -> Units:
    """Return the rows in their order, a task being one head of one of `NUM_CHUNKS` chunks."""
    bounds = np.arange(NUM_CHUNKS + 1) * num_rows // NUM_CHUNKS
    row = np.arange(num_rows)
    return Units(row, np.zeros_like(row), bounds, np.zeros(1, np.int64))


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _scratch(rows: Rows, longest: int, *, tiles: bool, is_backward: bool) -> Scratch:
    threads = num_threads()
    queries = 32 if tiles else 64
    wide, value_wide = _up(rows.width, 32), _up(rows.value_width, 32)
    keys = _up(longest, 32)
    left_type, right_type = (np.uint16, np.uint32) if tiles else (np.float32, np.float32)
    halved = 2 if tiles else 1  # a uint32 holds two rows
    there = int(is_backward)

    def left_buffer(size: int) -> np.ndarray:
        return np.empty((threads, size), left_type)

    def right_buffer(size: int) -> np.ndarray:
        return np.empty((threads, size // halved), right_type)

    def floats(size: int) -> np.ndarray:
        return np.empty((threads, size), np.float32)

    summed_width = wide if is_backward else value_wide
    scores, moved = floats(KEYS * queries), floats(max(KEYS, wide) * queries * there)
    return Scratch(
        keys=left_buffer(keys * wide),
        values=left_buffer(keys * value_wide * (is_backward or not tiles)),
        summed=right_buffer(keys * summed_width * tiles),
        pairs=right_buffer(keys * summed_width * tiles),
        q=right_buffer(wide * queries),
        grad=right_buffer(value_wide * queries * there),
        q_rows=right_buffer(_up(queries, 32) * wide * there),
        grad_rows=right_buffer(_up(queries, 32) * value_wide * there),
        scores=scores,
        moved=moved,
        weights=right_buffer(KEYS * queries) if tiles else scores,
        left_weights=left_buffer(KEYS * queries * there) if tiles else scores,
        left_slopes=left_buffer(KEYS * queries * there) if tiles else moved,
        slopes=right_buffer(KEYS * queries * there) if tiles else moved,
        sums=floats(max(wide, value_wide) * queries),
        keys_grad=floats(keys * wide * there),
        values_grad=floats(keys * value_wide * there),
        largest=floats(queries),
        totals=floats(queries),
        decays=floats(queries),
    )


@intrinsic
def _claim(typing_context, counter):
    """Return counter[0] and raise it by one, as no two threads at once."""

    def generate(context, builder, signature, arguments):
        pointer = array_pointer(context, builder, signature, arguments, 0)
        return builder.atomic_rmw("add", pointer, ir.IntType(64)(1), "monotonic")

    return types.int64(counter), generate


@kernel
def _forward(rows, scratch, units, out, lse, threads):
    for thread in numba.prange(threads):
        _forward_units(rows, scratch, units, out, lse, np.int64(thread))


@_bare
def _forward_units(rows, scratch, units, out, lse, thread):
    open_engine(scratch.weights)
    while True:
        task = _claim(units.next_task)
        if task >= units.bounds.size - 1:
            break
        for unit in range(units.bounds[task], units.bounds[task + 1]):
            place, head = unit // rows.num_heads, unit % rows.num_heads
            first = units.first[place]
            if place + 1 < units.row.size:
                _ask_ahead(rows, units.row[place + 1], head, out)
            attend(rows, scratch, units.row[place], head, first, SPAN, out, lse, thread)
    close_engine(scratch.weights)


@_bare
def _ask_ahead(rows, row, head, out):
    """Ask for a share of a short row's keys, values, queries and outputs; its heads' shares make the
    whole.

    A row's tokens lie side by side, where each head's numbers are apart: this is how the processor
    reads memory fastest.
    """
    first, last = _share(rows.offsets, row, head, rows.num_heads)
    _ask_for(rows.k, first * rows.k_row, last * rows.k_row)
    _ask_for(rows.v, first * rows.v_row, last * rows.v_row)
    if rows.q_offsets.size > 0:
        first, last = _share(rows.q_offsets, row, head, rows.num_heads)
        _ask_for(rows.q, first * rows.q_row, last * rows.q_row)
        out_row = rows.num_heads * rows.value_width
        for place in range(first * out_row, last * out_row, _LINE // out.itemsize):
            prefetch_to_write(out, place)


@_bare
def _share(offsets, row, part, num_parts):
    """Return the range of a row's tokens that is one of `num_parts`; none of a long row."""
    begin, tokens = offsets[row], offsets[row + 1] - offsets[row]
    if tokens > _TOKENS_AHEAD:
        return 0, 0
    return begin + tokens * part // num_parts, begin + tokens * (part + 1) // num_parts


@_bare
def _ask_for(array, first, last):
    for place in range(first, last, _LINE // array.itemsize):
        prefetch(array, place)


@kernel
def _backward(rows, scratch, units, given, threads):
    for thread in numba.prange(threads):
        _backward_units(rows, scratch, units, given, np.int64(thread))


@_bare
def _backward_units(rows, scratch, units, given, thread):
    open_engine(scratch.weights)
    heads, is_shared = rows.num_heads, rows.q_offsets.size == 0
    while True:
        task = _claim(units.next_task)
        begin, step, chunk = task, 1, -1
        if is_shared:  # a task takes one head of its rows, instead of all
            begin, step, chunk = task // heads, heads, task // heads
        if begin >= units.bounds.size - 1:
            break
        first, last = units.bounds[begin] * step, units.bounds[begin + 1] * step
        for unit in range(first + (task % heads if is_shared else 0), last, step):
            row, head = units.row[unit // heads], unit % heads
            attend_backward(rows, scratch, row, head, chunk, given, thread)
    close_engine(scratch.weights)
