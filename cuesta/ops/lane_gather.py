"""Lanes that read where each of them wants to: bilinear and nearest samples of images, one a lane.

An image for bilinear samples is packed first: each pixel and its neighbours to the right and below,
8 bits each, in one uint32, so that a sample is one read. Positions are clamped to the image by the
caller.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cuesta.ops.lanes import WIDTH, declared, every_lane, has_feature, lanes
from cuesta.ops.numba_support import kernel

_HAS_AVX512, _HAS_AVX2 = has_feature("avx512f"), has_feature("avx2")
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_INT = ir.IntType(32)
_INTS = ir.VectorType(_INT, WIDTH)
_BYTE_POINTER = ir.IntType(8).as_pointer()


@kernel
def pack_quads(image, packed):
    """Write each pixel of uint8 [Y, X] with its right, lower and diagonal neighbour as uint32;
    beyond the image its border repeats.
    """
    height, width = image.shape
    for y in numba.prange(height):
        below = min(y + 1, height - 1)
        for x in range(width):
            right = min(x + 1, width - 1)
            packed[y, x] = (
                np.uint32(image[y, x])
                | np.uint32(image[y, right]) << np.uint32(8)
                | np.uint32(image[below, x]) << np.uint32(16)
                | np.uint32(image[below, right]) << np.uint32(24)
            )


@intrinsic
def bilinear(typing_context, packed, base, stride, u, v):
    """Return samples of the packed image that begins at `base`, with rows of `stride`, at columns u
    and rows v of pixels' centres; 0 <= u <= width - 1, 0 <= v <= height - 1.
    """

    def generate(context, builder, signature, arguments):
        pointer = _start(context, builder, signature, arguments)
        _, _, stride, u, v = arguments
        column, row = builder.fptosi(u, _INTS), builder.fptosi(v, _INTS)
        right = builder.fsub(u, builder.sitofp(column, _FLOATS))
        below = builder.fsub(v, builder.sitofp(row, _FLOATS))
        texels = _gather(builder, pointer, _index(builder, stride, column, row), _INT)
        a, b, c, d = (_byte(builder, texels, place) for place in range(4))
        top, bottom = _mix(builder, a, b, right), _mix(builder, c, d, right)
        return _mix(builder, top, bottom, below)

    return lanes(packed, types.intp, types.intp, lanes, lanes), generate


@intrinsic
def nearest(typing_context, array, base, stride, u, v):
    """Return the float32 elements of the image that begins at `base` whose pixels hold (u, v)."""

    def generate(context, builder, signature, arguments):
        pointer = _start(context, builder, signature, arguments)
        _, _, stride, u, v = arguments
        column, row = builder.fptosi(u, _INTS), builder.fptosi(v, _INTS)
        return _gather(builder, pointer, _index(builder, stride, column, row), ir.FloatType())

    return lanes(array, types.intp, types.intp, lanes, lanes), generate


def _start(context, builder, signature, arguments):
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


def _index(builder, stride, column, row):
    stride = builder.trunc(stride, _INT)
    undefined = ir.Constant(_INTS, ir.Undefined)
    one = builder.insert_element(undefined, stride, _INT(0))
    strides = builder.shuffle_vector(one, undefined, ir.Constant(_INTS, None))
    return builder.add(builder.mul(row, strides), column)


def _gather(builder, pointer, index, element):
    """Return the elements of 4 bytes at `pointer` + index, one a lane."""
    vector = ir.VectorType(element, WIDTH)
    if _HAS_AVX512:
        kind = "dpi" if element == _INT else "dps"
        mask = ir.Constant(ir.VectorType(ir.IntType(1), WIDTH), [1] * WIDTH)
        start = builder.bitcast(pointer, _BYTE_POINTER)
        given = [ir.Constant(vector, None), start, index, mask, _INT(4)]
        function = declared(
            builder,
            f"llvm.x86.avx512.mask.gather.{kind}.512",
            ir.FunctionType(vector, [value.type for value in given]),
        )
        return builder.call(function, given)
    if _HAS_AVX2:
        halves = [_half_gather(builder, pointer, index, element, first) for first in (0, 8)]
        return builder.shuffle_vector(*halves, ir.Constant(_INTS, list(range(WIDTH))))
    out = ir.Constant(vector, ir.Undefined)
    for lane in range(WIDTH):
        place = builder.sext(builder.extract_element(index, _INT(lane)), ir.IntType(64))
        out = builder.insert_element(out, builder.load(builder.gep(pointer, [place])), _INT(lane))
    return out


def _half_gather(builder, pointer, index, element, first):
    """Return eight of the elements: those of the lanes from `first` on."""
    eight = ir.VectorType(_INT, WIDTH // 2)
    half, lanes_of = ir.VectorType(element, WIDTH // 2), list(range(first, first + WIDTH // 2))
    places = builder.shuffle_vector(
        index, ir.Constant(_INTS, ir.Undefined), ir.Constant(eight, lanes_of)
    )
    kind = "d" if element == _INT else "ps"
    every = builder.bitcast(ir.Constant(eight, [-1] * (WIDTH // 2)), half)
    start = builder.bitcast(pointer, _BYTE_POINTER)
    given = [ir.Constant(half, None), start, places, every, ir.IntType(8)(4)]
    kind_of = ir.FunctionType(half, [value.type for value in given])
    return builder.call(declared(builder, f"llvm.x86.avx2.gather.d.{kind}.256", kind_of), given)


def _byte(builder, texels, place):
    if place:
        texels = builder.lshr(texels, ir.Constant(_INTS, [8 * place] * WIDTH))
    if place < 3:
        texels = builder.and_(texels, ir.Constant(_INTS, [255] * WIDTH))
    return builder.sitofp(texels, _FLOATS)


def _mix(builder, left, right, share):
    step = builder.fmul(builder.fsub(right, left), share, flags=("contract",))
    return builder.fadd(left, step, flags=("contract",))


@intrinsic
def load_every_other(typing_context, array, index):
    """Return elements index, index + 2, ... index + 30 of a contiguous float32 array."""

    def generate(context, builder, signature, arguments):
        wide = ir.VectorType(ir.FloatType(), 2 * WIDTH)
        pointer = builder.bitcast(_start(context, builder, signature, arguments), wide.as_pointer())
        both = builder.load(pointer, align=4)
        even = ir.Constant(_INTS, list(range(0, 2 * WIDTH, 2)))
        return builder.shuffle_vector(both, ir.Constant(wide, ir.Undefined), even)

    return lanes(array, types.intp), generate


@intrinsic
def store_every_other(typing_context, array, index, value, count):
    """Write the first `count` lanes, at most sixteen, to index, index + 2, ...; what lies between
    stays.
    """

    def generate(context, builder, signature, arguments):
        _, _, value, count = arguments
        wide = ir.VectorType(ir.FloatType(), 2 * WIDTH)
        pointer = builder.bitcast(_start(context, builder, signature, arguments), wide.as_pointer())
        twice = ir.Constant(
            ir.VectorType(_INT, 2 * WIDTH), [lane // 2 for lane in range(2 * WIDTH)]
        )
        values = builder.shuffle_vector(value, ir.Constant(_FLOATS, ir.Undefined), twice)
        bits = builder.sub(
            builder.shl(count.type(1), builder.mul(count, count.type(2))), count.type(1)
        )
        bits = builder.and_(bits, count.type(0x55555555))
        mask = builder.bitcast(builder.trunc(bits, _INT), ir.VectorType(ir.IntType(1), 2 * WIDTH))
        given = [values, pointer, _INT(4), mask]
        kind = ir.FunctionType(ir.VoidType(), [each.type for each in given])
        builder.call(declared(builder, "llvm.masked.store.v32f32.p0", kind), given)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes, types.intp), generate


@intrinsic
def ramp(typing_context, start, step):
    """Return start, start + step, ... start + 15 step."""

    def generate(context, builder, signature, arguments):
        start, step = (every_lane(builder, number) for number in arguments)
        count = ir.Constant(_FLOATS, [float(lane) for lane in range(WIDTH)])
        return builder.fadd(start, builder.fmul(count, step))

    return lanes(types.float32, types.float32), generate


@intrinsic
def clamp(typing_context, value, low, high):
    """Return every lane within [low, high], `low` for NaN."""

    def generate(context, builder, signature, arguments):
        value, low, high = arguments
        low, high = every_lane(builder, low), every_lane(builder, high)
        raised = builder.select(builder.fcmp_ordered("ogt", value, low), value, low)
        return builder.select(builder.fcmp_ordered("olt", raised, high), raised, high)

    return lanes(lanes, types.float32, types.float32), generate
