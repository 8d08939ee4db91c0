"""Products of small matrices and transposition inside Numba kernels, at the speed of a vendor library.

`product` keeps a tile of the result in registers while the common dimension streams past: six rows
of four lanes with AVX-512, or eight of fewer. Where both factors are packed as bfloat16 and the processor has
AMX, its tile registers do the same, sixteen times as much an instruction (Intel, Architecture
Instruction Set Extensions, chapter 3). Offsets and strides are in elements, so that a factor may
lie in a tensor as it is, or be read transposed.
"""

from __future__ import annotations

import ctypes
import functools
import platform

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from cuesta.ops.lanes import (
    WIDTH,
    array_pointer,
    declared,
    every_lane,
    has_feature,
    lanes_at,
    put_lanes,
    stays_a_call,
)
from cuesta.ops.numba_decorators import FLAGS, inner

_HAS_AVX512 = has_feature("avx512f")
# Lanes and rows of a tile: what 32 registers of 16 floats hold, or 16 of 8.
_VECTORS = 4 if _HAS_AVX512 else 1
_WIDE_ROWS, _ROWS = (6, 8) if _HAS_AVX512 else (6, 6)
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_INT, _BYTE = ir.IntType(64), ir.IntType(8)
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18  # Linux on x86-64


@functools.cache
def has_amx() -> bool:
    """Return whether this process may multiply bfloat16 tiles; asks Linux for it the first time."""
    if not (has_feature("amx-tile") and has_feature("amx-bf16") and _HAS_AVX512):
        return False
    if platform.system() != "Linux":
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0


# Palette 1: eight tiles of sixteen rows of 64 bytes.
TILE_SETTINGS = np.zeros(64, np.uint8)
TILE_SETTINGS[0] = 1
TILE_SETTINGS[16:32].view(np.uint16)[:] = 64
TILE_SETTINGS[48:56] = 16


def product(a, a_at, a_row, a_step, b, b_at, b_row, c, c_at, c_row, rows, columns, depth, adds):
    """Write C = A B, or add to it if `adds`.

    A(m, k) is a[a_at + m * a_row + k * a_step], B(k, n) is b[b_at + k * b_row + n] and C(m, n) is
    c[c_at + m * c_row + n], n below `columns`, a multiple of 16. With float32 a and b, B has
    `depth` rows. With uint16 a (bfloat16) and uint32 b, the tiles of AMX multiply: a_step is 1, B's
    row k holds the pairs of rows 2 k and 2 k + 1, A has zeros up to the next multiple of 32 in k,
    and A and C have room for `rows` rounded up to 16.
    """


@overload(product, jit_options={"fastmath": FLAGS})
def _product(a, a_at, a_row, a_step, b, b_at, b_row, c, c_at, c_row, rows, columns, depth, adds):
    return _product_of_tiles if b.dtype == types.uint32 else _product_of_lanes


def _product_of_lanes(
    a, a_at, a_row, a_step, b, b_at, b_row, c, c_at, c_row, rows, columns, depth, adds
):  # fmt: skip
    _multiply_lanes(
        a, a_at, a_row, a_step, b, b_at, b_row, c, c_at, c_row, rows, columns, depth, adds
    )


def _product_of_tiles(
    a, a_at, a_row, a_step, b, b_at, b_row, c, c_at, c_row, rows, columns, depth, adds
):  # fmt: skip
    _multiply_tiles(a, a_at, a_row, b, b_at, b_row, c, c_at, c_row, rows, columns, depth, adds)


def _lane_tile(num_rows: int, num_vectors: int):
    """Return the intrinsic that computes `num_rows` rows of `num_vectors` lanes of a product.

    Rows beyond the `last` repeat it, and write the same numbers to the same place.
    """

    @intrinsic
    def tile(typing_context, a, a_at, a_row, a_step, b, b_at, b_row, c, c_at, c_row, last, depth, adds):  # fmt: skip
        def generate(context, builder, signature, arguments):
            _, a_at, a_row, a_step, _, b_at, b_row, _, c_at, c_row, last, depth, adds = arguments
            a, b, c = (array_pointer(context, builder, signature, arguments, i) for i in (0, 4, 7))
            grid = [(m, n) for m in range(num_rows) for n in range(num_vectors)]
            sums = {place: cgutils.alloca_once(builder, _FLOATS) for place in grid}
            begins, targets = [], {}
            for m in range(num_rows):
                row = builder.select(builder.icmp_signed("<", _INT(m), last), _INT(m), last)
                begins.append(builder.gep(a, [builder.add(a_at, builder.mul(row, a_row))]))
                place = builder.add(c_at, builder.mul(row, c_row))
                for n in range(num_vectors):
                    targets[m, n] = builder.gep(c, [builder.add(place, _INT(WIDTH * n))])
            for place in grid:
                builder.store(ir.Constant(_FLOATS, None), sums[place])
            with cgutils.for_range(builder, depth) as loop:
                row = builder.gep(b, [builder.add(b_at, builder.mul(loop.index, b_row))])
                vectors = [
                    lanes_at(builder, builder.gep(row, [_INT(WIDTH * n)]))
                    for n in range(num_vectors)
                ]
                step = builder.mul(loop.index, a_step)
                for m in range(num_rows):
                    factor = every_lane(builder, builder.load(builder.gep(begins[m], [step])))
                    for n in range(num_vectors):
                        more = builder.fmul(factor, vectors[n], flags=("contract",))
                        total = builder.fadd(builder.load(sums[m, n]), more, flags=("contract",))
                        builder.store(total, sums[m, n])
            with builder.if_then(builder.icmp_signed("!=", adds, _INT(0))):
                for place in grid:  # all before the first is written: places may repeat
                    total = builder.fadd(
                        lanes_at(builder, targets[place]), builder.load(sums[place])
                    )
                    builder.store(total, sums[place])
            for place in grid:
                put_lanes(builder, builder.load(sums[place]), targets[place])
            return context.get_dummy_value()

        i = types.intp
        return types.void(a, i, i, i, b, i, i, c, i, i, i, i, i), generate

    return tile


_tile_4, _half_4 = (_lane_tile(rows, _VECTORS) for rows in (_WIDE_ROWS, _WIDE_ROWS // 2))
_tile_3, _tile_2, _tile_1 = (_lane_tile(_ROWS, min(n, _VECTORS)) for n in (3, 2, 1))
_half_3, _half_2, _half_1 = (_lane_tile(_ROWS // 2, min(n, _VECTORS)) for n in (3, 2, 1))


@inner
def _multiply_lanes(
    a, a_at, a_row, a_step, b, b_at, b_row, c, c_at, c_row, rows, columns, depth, adds
):  # fmt: skip
    stays_a_call()
    for n in range(0, columns, WIDTH * _VECTORS):
        num_vectors = min((columns - n) // WIDTH, _VECTORS)
        tile_rows = _WIDE_ROWS if num_vectors == 4 else _ROWS
        bn = b_at + n
        for m in range(0, rows, tile_rows):
            am, cm, last = a_at + m * a_row, c_at + m * c_row + n, rows - 1 - m
            if last >= tile_rows // 2:
                if num_vectors == 4:
                    _tile_4(a, am, a_row, a_step, b, bn, b_row, c, cm, c_row, last, depth, adds)
                elif num_vectors == 3:
                    _tile_3(a, am, a_row, a_step, b, bn, b_row, c, cm, c_row, last, depth, adds)
                elif num_vectors == 2:
                    _tile_2(a, am, a_row, a_step, b, bn, b_row, c, cm, c_row, last, depth, adds)
                else:
                    _tile_1(a, am, a_row, a_step, b, bn, b_row, c, cm, c_row, last, depth, adds)
            elif num_vectors == 4:
                _half_4(a, am, a_row, a_step, b, bn, b_row, c, cm, c_row, last, depth, adds)
            elif num_vectors == 3:
                _half_3(a, am, a_row, a_step, b, bn, b_row, c, cm, c_row, last, depth, adds)
            elif num_vectors == 2:
                _half_2(a, am, a_row, a_step, b, bn, b_row, c, cm, c_row, last, depth, adds)
            else:
                _half_1(a, am, a_row, a_step, b, bn, b_row, c, cm, c_row, last, depth, adds)


def _amx(builder, name, *arguments):
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(declared(builder, f"llvm.x86.{name}", kind), arguments)


@intrinsic
def open_tiles(typing_context, settings):
    """Set this thread's tile registers up as `TILE_SETTINGS` says."""

    def generate(context, builder, signature, arguments):
        pointer = array_pointer(context, builder, signature, arguments, 0)
        _amx(builder, "ldtilecfg", builder.bitcast(pointer, _BYTE.as_pointer()))
        return context.get_dummy_value()

    return types.void(settings), generate


@intrinsic
def close_tiles(typing_context):
    """Give this thread's tile registers back."""

    def generate(context, builder, signature, arguments):
        _amx(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


def _amx_tile(num_rows: int, num_columns: int):
    """Return the intrinsic that computes num_rows x num_columns tiles of a product, two at most.

    Tiles 0 to 3 hold sums, 4 and 5 rows of A, 6 and 7 columns of B.
    """

    @intrinsic
    def tile(typing_context, a, a_at, a_row, b, b_at, b_row, c, c_at, c_row, depth, adds):
        def generate(context, builder, signature, arguments):
            _, a_at, a_row, _, b_at, b_row, _, c_at, c_row, depth, adds = arguments
            a, b, c = (array_pointer(context, builder, signature, arguments, i) for i in (0, 3, 6))
            a_bytes, b_bytes, c_bytes = (
                builder.mul(row, _INT(size)) for row, size in ((a_row, 2), (b_row, 4), (c_row, 4))
            )

            def pointer(base, *offsets):
                total = functools.reduce(builder.add, offsets)
                return builder.bitcast(builder.gep(base, [total]), _BYTE.as_pointer())

            grid = [(m, n) for m in range(num_rows) for n in range(num_columns)]
            targets = {
                (m, n): pointer(c, c_at, builder.mul(_INT(16 * m), c_row), _INT(16 * n))
                for m, n in grid
            }
            with builder.if_else(builder.icmp_signed("!=", adds, _INT(0))) as (adding, fresh):
                with adding:
                    for m, n in grid:
                        _amx(builder, "tileloadd64", _BYTE(2 * m + n), targets[m, n], c_bytes)
                with fresh:
                    for m, n in grid:
                        _amx(builder, "tilezero", _BYTE(2 * m + n))
            steps = builder.lshr(builder.add(depth, _INT(31)), _INT(5))
            with cgutils.for_range(builder, steps) as loop:
                k = loop.index
                for m in range(num_rows):
                    row = builder.mul(_INT(16 * m), a_row)
                    place = pointer(a, a_at, row, builder.mul(k, _INT(32)))
                    _amx(builder, "tileloadd64", _BYTE(4 + m), place, a_bytes)
                first = builder.mul(builder.mul(k, _INT(16)), b_row)
                for n in range(num_columns):
                    place = pointer(b, b_at, first, _INT(16 * n))
                    _amx(builder, "tileloadd64", _BYTE(6 + n), place, b_bytes)
                    for m in range(num_rows):
                        _amx(builder, "tdpbf16ps", _BYTE(2 * m + n), _BYTE(4 + m), _BYTE(6 + n))
            for m, n in grid:
                _amx(builder, "tilestored64", _BYTE(2 * m + n), targets[m, n], c_bytes)
            return context.get_dummy_value()

        i = types.intp
        return types.void(a, i, i, b, i, i, c, i, i, i, i), generate

    return tile


_amx_22, _amx_21, _amx_12, _amx_11 = (_amx_tile(m, n) for m in (2, 1) for n in (2, 1))


@inner
def _multiply_tiles(a, a_at, a_row, b, b_at, b_row, c, c_at, c_row, rows, columns, depth, adds):
    stays_a_call()
    for n in range(0, columns, 32):
        for m in range(0, rows, 32):
            am, bn, cm = a_at + m * a_row, b_at + n, c_at + m * c_row + n
            if rows - m > 16:
                if columns - n > 16:
                    _amx_22(a, am, a_row, b, bn, b_row, c, cm, c_row, depth, adds)
                else:
                    _amx_21(a, am, a_row, b, bn, b_row, c, cm, c_row, depth, adds)
            elif columns - n > 16:
                _amx_12(a, am, a_row, b, bn, b_row, c, cm, c_row, depth, adds)
            else:
                _amx_11(a, am, a_row, b, bn, b_row, c, cm, c_row, depth, adds)
