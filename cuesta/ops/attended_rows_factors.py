"""The two ways to multiply the blocks of attention, which the types of the buffers choose.

In float32 lanes: float32 factors as they lie in the tensor, or copied side by side, 16-bit ones
widened; sums over keys are [queries, width]. In the bfloat16 tiles of AMX: packed factors; sums over
keys are [width, queries], since the weights are at hand as [keys, queries] and tiles do not turn
them.

A left factor is (array, begin, row, step): element (m, k) is array[begin + m * row + k * step]. A
right factor is (array, begin, row), as `tiles.product` takes it.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from cuesta.ops.lanes import WIDTH, load, spread, store, store_upto
from cuesta.ops.numba_decorators import FLAGS, inlined
from cuesta.ops.packing import copy_pairs, copy_rows, turn
from cuesta.ops.tiles import TILE_SETTINGS, close_tiles, open_tiles, product

_OPTIONS = {"fastmath": FLAGS}


def left(source, at, stride, rows, width, buffer, is_read_often):
    """Return rows of a tensor as a left factor.

    Rows that are read often are copied side by side: as they lie, far apart, only a few of them fit
    in the first cache, whose sets their addresses share. Tiles read whole rows of sixteen: where the
    last ones are other rows of the tensor, what comes of these is not looked at.
    """


@overload(left, jit_options=_OPTIONS)
def _left(source, at, stride, rows, width, buffer, is_read_often):
    if source.dtype == types.float32:

        def gather(source, at, stride, rows, width, buffer, is_read_often):
            if not is_read_often:
                return source, at, stride, 1
            padded = (width + 15) // 16 * 16
            copy_rows(source, at, stride, rows, width, buffer, 0, rows, padded)
            return buffer, 0, padded, 1

        return gather
    if buffer.dtype == types.float32:

        def widen(source, at, stride, rows, width, buffer, is_read_often):
            padded = (width + 15) // 16 * 16
            copy_rows(source, at, stride, rows, width, buffer, 0, rows, padded)
            return buffer, 0, padded, 1

        return widen

    def pack(source, at, stride, rows, width, buffer, is_read_often):
        rows_read, padded = (rows + 15) // 16 * 16, (width + 31) // 32 * 32
        end = at + (rows_read - 1) * stride + width
        if not is_read_often and width == padded and end <= source.size:
            return source, at, stride, 1
        copy_rows(source, at, stride, rows, width, buffer, 0, rows_read, padded)
        return buffer, 0, padded, 1

    return pack


def summed(source, at, stride, rows, width, left_buffer, buffer, pairs, is_read_often):
    """Return rows of a tensor in the form in which `accumulate` sums them."""


@overload(summed, jit_options=_OPTIONS)
def _summed(source, at, stride, rows, width, left_buffer, buffer, pairs, is_read_often):
    if buffer.dtype == types.float32:
        return lambda source, at, stride, rows, width, left_buffer, buffer, pairs, is_read_often: (
            left(source, at, stride, rows, width, left_buffer, is_read_often)[:3]
        )
    return lambda source, at, stride, rows, width, left_buffer, buffer, pairs, is_read_often: (
        _turned_pairs(source, at, stride, rows, width, buffer, pairs)
    )


def summed_again(factor, source, at, stride, rows, width, buffer, pairs):
    """Return the same for rows of which there is a left factor already."""


@overload(summed_again, jit_options=_OPTIONS)
def _summed_again(factor, source, at, stride, rows, width, buffer, pairs):
    if buffer.dtype == types.float32:
        return lambda factor, source, at, stride, rows, width, buffer, pairs: factor[:3]
    return lambda factor, source, at, stride, rows, width, buffer, pairs: _turned_pairs(
        source, at, stride, rows, width, buffer, pairs
    )


@inlined
def _turned_pairs(source, at, stride, rows, width, buffer, pairs):
    wide, long = (width + 15) // 16 * 16, (rows + 31) // 32 * 32
    copy_pairs(source, at, stride, rows, width, pairs, 0, long, wide)
    half = long // 2
    turn(pairs, 0, wide, half, wide, buffer, 0, half, half, wide)
    return buffer.view(np.uint16), 0, long


def accumulate(weights, rows, block, width, sums, adds):
    """Write, or add to `sums`, the block's weights times the rows of its keys, as `summed`."""


@overload(accumulate, jit_options=_OPTIONS)
def _accumulate(weights, rows, block, width, sums, adds):
    if weights.dtype == types.float32:

        def by_query(weights, rows, block, width, sums, adds):
            array, begin, row = rows
            padded = (width + 15) // 16 * 16
            product(
                weights, 0, 1, block.stride, array, begin + block.first_key * row, row,
                sums, 0, padded, block.num_queries, padded, block.num_keys, adds,
            )  # fmt: skip

        return by_query

    def by_column(weights, rows, block, width, sums, adds):
        array, begin, row = rows
        product(
            array, begin + block.first_key, row, 1, weights, 0, block.stride,
            sums, 0, block.stride, width, block.stride, block.num_keys, adds,
        )  # fmt: skip

    return by_column


def rescale(weights, sums, factors, num_queries, columns, width):
    """Multiply the sums of each query by its factor."""


@overload(rescale, jit_options=_OPTIONS)
def _rescale(weights, sums, factors, num_queries, columns, width):
    if weights.dtype == types.float32:

        def by_query(weights, sums, factors, num_queries, columns, width):
            padded = (width + 15) // 16 * 16
            for i in range(num_queries):
                for place in range(i * padded, (i + 1) * padded, WIDTH):
                    store(sums, place, spread(factors[i]) * load(sums, place))

        return by_query

    def by_column(weights, sums, factors, num_queries, columns, width):
        for place in range(0, width * columns, columns):
            for n in range(0, columns, WIDTH):
                store(sums, place + n, load(factors, n) * load(sums, place + n))

    return by_column


def put_sums(weights, sums, factors, num_queries, columns, width, target, at, stride):
    """Write the sums of queries, times a factor for each query, to rows of a tensor."""


@overload(put_sums, jit_options=_OPTIONS)
def _put_sums(weights, sums, factors, num_queries, columns, width, target, at, stride):
    if weights.dtype == types.float32:

        def by_query(weights, sums, factors, num_queries, columns, width, target, at, stride):
            padded = (width + 15) // 16 * 16
            for i in range(num_queries):
                factor = spread(factors[i])
                for n in range(0, width, WIDTH):
                    value = factor * load(sums, i * padded + n)
                    store_upto(target, at + i * stride + n, value, width - n)

        return by_query

    def by_column(weights, sums, factors, num_queries, columns, width, target, at, stride):
        rescale(weights, sums, factors, num_queries, columns, width)
        turn(sums, 0, columns, width, num_queries, target, at, stride, width, num_queries)

    return by_column


def padded_columns(buffer, num_queries):
    """Return how many queries a block of backward has room for: whole lanes, or two tiles."""


@overload(padded_columns, jit_options=_OPTIONS)
def _padded_columns(buffer, num_queries):
    step = 32 if buffer.dtype == types.uint32 else WIDTH
    return lambda buffer, num_queries: (num_queries + step - 1) // step * step


def right_turned(source, at, stride, rows, width, buffer, columns):
    """Return the transpose of some rows of a tensor, [width, columns], as a right factor."""


@overload(right_turned, jit_options=_OPTIONS)
def _right_turned(source, at, stride, rows, width, buffer, columns):
    if buffer.dtype == types.float32:

        def turn_floats(source, at, stride, rows, width, buffer, columns):
            turn(source, at, stride, rows, width, buffer, 0, columns, columns, width)
            return buffer, 0, columns

        return turn_floats

    def turn_pairs(source, at, stride, rows, width, buffer, columns):
        pairs, half = source.view(np.uint32), (width + 31) // 32 * 16
        turn(pairs, at // 2, stride // 2, rows, width // 2, buffer, 0, columns, columns, half)
        return buffer, 0, columns

    return turn_pairs


def right_rows(source, at, stride, rows, width, buffer):
    """Return some rows of a tensor, [rows, width rounded up to 16], as a right factor."""


@overload(right_rows, jit_options=_OPTIONS)
def _right_rows(source, at, stride, rows, width, buffer):
    if buffer.dtype == types.float32 and source.dtype == types.float32:

        def as_they_lie(source, at, stride, rows, width, buffer):
            if width % 16 == 0:
                return source, at, stride
            padded = (width + 15) // 16 * 16
            copy_rows(source, at, stride, rows, width, buffer, 0, rows, padded)
            return buffer, 0, padded

        return as_they_lie
    if buffer.dtype == types.float32:

        def widen(source, at, stride, rows, width, buffer):
            padded = (width + 15) // 16 * 16
            copy_rows(source, at, stride, rows, width, buffer, 0, rows, padded)
            return buffer, 0, padded

        return widen

    def pack(source, at, stride, rows, width, buffer):
        padded = (width + 15) // 16 * 16
        copy_pairs(source, at, stride, rows, width, buffer, 0, (rows + 31) // 32 * 32, padded)
        return buffer, 0, padded

    return pack


def open_engine(buffer):
    """Prepare this thread for products of right factors like this."""


@overload(open_engine, jit_options=_OPTIONS)
def _open_engine(buffer):
    if buffer.dtype == types.uint32:
        settings = TILE_SETTINGS
        return lambda buffer: open_tiles(settings)
    return lambda buffer: None


def close_engine(buffer):
    """Undo `open_engine`."""


@overload(close_engine, jit_options=_OPTIONS)
def _close_engine(buffer):
    if buffer.dtype == types.uint32:
        return lambda buffer: close_tiles()
    return lambda buffer: None
