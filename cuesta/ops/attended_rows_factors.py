"""How the blocks of attention become factors of `tiles.product`: as they lie in the tensor, widened
to float32, or packed for AMX. The types of the tensor and of the buffer decide.

A left factor is (array, begin, row, step): element (m, k) is array[begin + m * row + k * step]. A
right factor is (array, begin, row), as `product` takes it.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from cuesta.ops.numba_decorators import FLAGS
from cuesta.ops.packing import copy_pairs, copy_rows, turn
from cuesta.ops.tiles import TILE_SETTINGS, close_tiles, open_tiles

_OPTIONS = {"fastmath": FLAGS}


def left(source, at, stride, rows, width, buffer, is_read_often):
    """Return rows of a tensor as a left factor.

    float32 rows that are read often are copied side by side: as they lie, far apart, only a few of
    them fit in the first cache, whose sets their addresses share.
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
        padded = (width + 31) // 32 * 32
        copy_rows(source, at, stride, rows, width, buffer, 0, (rows + 15) // 16 * 16, padded)
        return buffer, 0, padded, 1

    return pack


def turned(factor, source, at, stride, rows, width, buffer, pairs):
    """Return the transpose, [width, rows], of the rows that `left` made a factor."""


@overload(turned, jit_options=_OPTIONS)
def _turned(factor, source, at, stride, rows, width, buffer, pairs):
    if buffer.dtype == types.float32:

        def swap(factor, source, at, stride, rows, width, buffer, pairs):
            array, begin, row, step = factor
            return array, begin, step, row

        return swap

    def pack(factor, source, at, stride, rows, width, buffer, pairs):
        wide, long = (width + 15) // 16 * 16, (rows + 31) // 32 * 32
        copy_pairs(source, at, stride, rows, width, pairs, 0, long, wide)
        half = long // 2
        turn(pairs, 0, wide, half, wide, buffer, 0, half, half, wide)
        return buffer.view(np.uint16), 0, long, 1

    return pack


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
