"""Copies of small matrices inside Numba kernels into the forms that `tiles.product` multiplies.

A block of a tensor is [rows, width], its rows `stride` elements apart. `turn` moves it with rows
and columns exchanged, sixteen by sixteen through registers. For the tiles of AMX, bfloat16 factors
are packed with zeros around them: the left one as rows, the right one as pairs, where a uint32
holds the elements of two rows, the upper row in its low half.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from cuesta.ops.lanes import (
    WIDTH,
    array_pointer,
    declared,
    element_type,
    first_lanes,
    load_upto,
    narrowed,
    stays_a_call,
    store,
    suffix,
    widened,
)
from cuesta.ops.numba_decorators import FLAGS, inner

_INT = ir.IntType(64)


def _turner(is_whole: bool):
    """Return the intrinsic that turns one tile of up to sixteen rows and columns.

    Reads `rows` rows of `columns` elements, writes `columns_out` rows of `rows_out` elements; rows
    beyond `rows` count as zeros. A whole tile has sixteen of all.
    """

    @intrinsic
    def turn_tile(
        typing_context, source, at, stride, rows, columns,
        target, target_at, target_stride, columns_out, rows_out,
    ):  # fmt: skip
        def generate(context, builder, signature, arguments):
            _, at, stride, rows, columns, _, target_at, target_stride, columns_out, rows_out = (
                arguments
            )
            stored, written = signature.args[0].dtype, signature.args[5].dtype
            source = array_pointer(context, builder, signature, arguments, 0)
            target = array_pointer(context, builder, signature, arguments, 5)
            pointer, vectors = builder.gep(source, [at]), []
            for i in range(WIDTH):
                has_row = builder.icmp_signed("<", _INT(i), rows)
                count = None if is_whole else builder.select(has_row, columns, _INT(0))
                vectors.append(_load(builder, pointer, stored, count))
                pointer = builder.gep(pointer, [stride])
            pointer = builder.gep(target, [target_at])
            for i, vector in enumerate(_turned(builder, vectors)):
                has_row = builder.icmp_signed("<", _INT(i), columns_out)
                count = None if is_whole else builder.select(has_row, rows_out, _INT(0))
                _store(builder, vector, pointer, written, count)
                pointer = builder.gep(pointer, [target_stride])
            return context.get_dummy_value()

        i = types.intp
        return types.void(source, i, i, i, i, target, i, i, i, i), generate

    return turn_tile


def _load(builder, pointer, stored, count):
    vector = ir.VectorType(element_type(stored), WIDTH)
    pointer = builder.bitcast(pointer, vector.as_pointer())
    align = stored.bitwidth // 8
    if count is None:
        return widened(builder, builder.load(pointer, align=align), stored)
    given = [pointer, ir.IntType(32)(align), first_lanes(builder, count), ir.Constant(vector, None)]
    kind = ir.FunctionType(vector, [value.type for value in given])
    function = declared(builder, f"llvm.masked.load.{suffix(stored)}.p0", kind)
    return widened(builder, builder.call(function, given), stored)


def _store(builder, value, pointer, stored, count):
    value = narrowed(builder, value, stored)
    pointer = builder.bitcast(pointer, value.type.as_pointer())
    align = stored.bitwidth // 8
    if count is None:
        builder.store(value, pointer, align=align)
        return
    given = [value, pointer, ir.IntType(32)(align), first_lanes(builder, count)]
    kind = ir.FunctionType(ir.VoidType(), [each.type for each in given])
    builder.call(declared(builder, f"llvm.masked.store.{suffix(stored)}.p0", kind), given)


def _turned(builder, vectors):
    """Return the columns of sixteen rows: exchange halves, quarters, pairs and neighbours."""
    numbers = ir.VectorType(ir.IntType(32), WIDTH)
    distance = 1
    while distance < WIDTH:
        low = [n if n & distance == 0 else WIDTH + n - distance for n in range(WIDTH)]
        high = [n + distance if n & distance == 0 else WIDTH + n for n in range(WIDTH)]
        turned = list(vectors)
        for i in (i for i in range(WIDTH) if i & distance == 0):
            pair = vectors[i], vectors[i + distance]
            turned[i] = builder.shuffle_vector(*pair, ir.Constant(numbers, low))
            turned[i + distance] = builder.shuffle_vector(*pair, ir.Constant(numbers, high))
        vectors, distance = turned, 2 * distance
    return vectors


_turn_whole, _turn_part = _turner(is_whole=True), _turner(is_whole=False)


@inner
def turn(source, at, stride, rows, width, target, target_at, target_stride, rows_out, width_out):
    """Write target(n, m) = source(m, n) for m < rows_out and n < width_out; zeros beyond the source.

    Element types convert as `load` and `store` do.
    """
    stays_a_call()
    if rows == 1 and rows_out == WIDTH:
        for n in range(width_out):
            value = load_upto(source, at + n, 1 if n < width else 0)
            store(target, target_at + n * target_stride, value)
        return
    for n in range(0, width_out, WIDTH):
        columns, columns_out = min(width - n, WIDTH), min(width_out - n, WIDTH)
        for m in range(0, rows_out, WIDTH):
            count, count_out = min(rows - m, WIDTH), min(rows_out - m, WIDTH)
            begin, target_begin = at + m * stride + n, target_at + n * target_stride + m
            if min(count, columns, count_out, columns_out) == WIDTH:
                _turn_whole(
                    source, begin, stride, count, columns,
                    target, target_begin, target_stride, columns_out, count_out,
                )  # fmt: skip
            else:
                _turn_part(
                    source, begin, stride, max(count, 0), max(columns, 0),
                    target, target_begin, target_stride, columns_out, count_out,
                )  # fmt: skip


@inner
def copy_rows(source, at, stride, rows, width, target, target_at, rows_out, width_out):
    """Write the block with zeros around it as `rows_out` rows of `width_out`, a multiple of 16."""
    stays_a_call()
    for m in range(rows_out):
        begin, target_begin = at + m * stride, target_at + m * width_out
        count = width if m < rows else 0
        for n in range(0, width_out, WIDTH):
            left = max(min(count - n, WIDTH), 0)
            copy_upto(source, begin + n, left, target, target_begin + n)


def copy_upto(source, at, count, target, target_at):
    """Copy up to sixteen elements, and zeros to the sixteenth."""


@overload(copy_upto, jit_options={"fastmath": FLAGS})
def _copy_upto(source, at, count, target, target_at):
    if source.dtype == types.uint16 and target.dtype == types.uint16:
        return lambda source, at, count, target, target_at: _copy_bits(
            source, at, count, target, target_at
        )
    return lambda source, at, count, target, target_at: store(
        target, target_at, load_upto(source, at, count)
    )


@intrinsic
def _copy_bits(typing_context, source, at, count, target, target_at):
    def generate(context, builder, signature, arguments):
        _, at, count, _, target_at = arguments
        vector = ir.VectorType(ir.IntType(16), WIDTH)
        pointer = builder.gep(array_pointer(context, builder, signature, arguments, 0), [at])
        given = [
            builder.bitcast(pointer, vector.as_pointer()),
            ir.IntType(32)(2),
            first_lanes(builder, count),
            ir.Constant(vector, None),
        ]
        kind = ir.FunctionType(vector, [value.type for value in given])
        value = builder.call(declared(builder, "llvm.masked.load.v16i16.p0", kind), given)
        pointer = builder.gep(array_pointer(context, builder, signature, arguments, 3), [target_at])
        builder.store(value, builder.bitcast(pointer, vector.as_pointer()), align=2)
        return context.get_dummy_value()

    i = types.intp
    return types.void(source, i, i, target, i), generate


@inner
def copy_pairs(source, at, stride, rows, width, target, target_at, rows_out, width_out):
    """Write the block, bfloat16 as uint16, as pairs of rows with zeros around it: `rows_out` / 2 rows
    of `width_out`, multiples of 2 and 16.
    """
    stays_a_call()
    for m in range(0, rows_out, 2):
        begin, target_begin = at + m * stride, target_at + (m // 2) * width_out
        for n in range(0, width_out, WIDTH):
            count = max(min(width - n, WIDTH), 0)
            low = load_upto(source, begin + n, count if m < rows else 0)
            high = load_upto(source, begin + stride + n, count if m + 1 < rows else 0)
            put_pair(target, target_begin + n, low, high)


@intrinsic
def put_pair(typing_context, target, at, low, high):
    """Write sixteen uint32 of two rows' lanes as bfloat16, the first in the low half.

    Rounded to nearest, ties away from zero, which costs an instruction where ties to even cost four.
    """

    def generate(context, builder, signature, arguments):
        _, at, low, high = arguments
        wide = ir.VectorType(ir.IntType(32), WIDTH)

        def every(number):
            return ir.Constant(wide, [number] * WIDTH)

        low, high = (
            builder.add(builder.bitcast(value, wide), every(0x8000)) for value in (low, high)
        )
        both = builder.or_(builder.lshr(low, every(16)), builder.and_(high, every(0xFFFF0000)))
        pointer = builder.gep(array_pointer(context, builder, signature, arguments, 0), [at])
        builder.store(both, builder.bitcast(pointer, wide.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(target, types.intp, low, high), generate
