"""Sixteen float32 lanes as one Numba value: what keeps a running sum in registers while rows stream
past.

A loop that adds rows of memory into a row of memory makes the compiler reload and store the sum for
every row, since the two might overlap. `Lanes` is LLVM's <16 x float>: one AVX-512 register, two of
AVX2, four of NEON.
"""

from __future__ import annotations

import operator

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, lower_builtin, register_model, type_callable

from cuesta.ops.numba_decorators import inlined

WIDTH = 16
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_SUFFIXES = {
    types.float32: "v16f32",
    types.int16: "v16f16",
    types.uint16: "v16i16",
    types.uint32: "v16i32",
}
_BYTE_POINTER = ir.IntType(8).as_pointer()


_FEATURES = numba.config.CPU_FEATURES or llvm.get_host_cpu_features().flatten()


def has_feature(name: str) -> bool:
    """Return whether the processor that Numba compiles for has a feature, as LLVM names it."""
    return f"+{name}" in _FEATURES.split(",")


class LanesType(types.Type):
    """The Numba type of sixteen float32 lanes."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes = LanesType()


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):
    """Represent lanes as an LLVM vector."""

    def __init__(self, manager, frontend_type):
        super().__init__(manager, frontend_type, _FLOATS)


@intrinsic
def zeros(typing_context):
    """Return sixteen zeros."""
    return lanes(), lambda context, builder, signature, arguments: ir.Constant(_FLOATS, None)


@intrinsic
def at(typing_context, array, index):
    """Return array[index] of a contiguous array, without Numba's check for an index from the end."""

    def generate(context, builder, signature, arguments):
        return builder.load(_pointer(context, builder, signature, arguments))

    return array.dtype(array, types.intp), generate


@intrinsic
def load(typing_context, array, index):
    """Return elements index .. index + 15 of a contiguous array, widened to float32; uint32 as its
    bits.
    """

    def generate(context, builder, signature, arguments):
        stored = signature.args[0].dtype
        vector = ir.VectorType(element_type(stored), WIDTH)
        pointer = builder.bitcast(
            _pointer(context, builder, signature, arguments), vector.as_pointer()
        )
        return widened(builder, builder.load(pointer, align=stored.bitwidth // 8), stored)

    return lanes(array, types.intp), generate


@intrinsic
def load_part(typing_context, array, index, count):
    """Return `count` elements, fewer than sixteen, followed by zeros."""

    def generate(context, builder, signature, arguments):
        stored = signature.args[0].dtype
        vector = ir.VectorType(element_type(stored), WIDTH)
        pointer = builder.bitcast(
            _pointer(context, builder, signature, arguments), vector.as_pointer()
        )
        align = ir.IntType(32)(stored.bitwidth // 8)
        given = [pointer, align, first_lanes(builder, arguments[2]), ir.Constant(vector, None)]
        kind = ir.FunctionType(vector, [value.type for value in given])
        function = declared(builder, f"llvm.masked.load.{suffix(stored)}.p0", kind)
        return widened(builder, builder.call(function, given), stored)

    return lanes(array, types.intp, types.intp), generate


def first_lanes(builder, count):
    """Return the mask of the first `count` lanes, 0 to 16."""
    ones = builder.sub(builder.shl(count.type(1), count), count.type(1))
    bits = builder.trunc(ones, ir.IntType(WIDTH))
    return builder.bitcast(bits, ir.VectorType(ir.IntType(1), WIDTH))


def suffix(stored):
    """Return how LLVM's masked loads and stores name lanes of a stored type."""
    return _SUFFIXES[stored]


def element_type(stored):
    """Return the LLVM type of an element."""
    return {
        types.float32: ir.FloatType(),
        types.int16: ir.HalfType(),
        types.uint16: ir.IntType(16),
        types.uint32: ir.IntType(32),
    }[stored]


def widened(builder, vector, stored):
    """Return stored elements as lanes."""
    if stored == types.float32:
        return vector
    if stored == types.uint32:
        return builder.bitcast(vector, _FLOATS)
    if stored == types.int16:
        return builder.fpext(vector, _FLOATS)
    wide = ir.VectorType(ir.IntType(32), WIDTH)
    shifted = builder.shl(builder.zext(vector, wide), ir.Constant(wide, [16] * WIDTH))
    return builder.bitcast(shifted, _FLOATS)


@intrinsic
def store(typing_context, array, index, value):
    """Write sixteen lanes into a contiguous array from `index` on, rounded to nearest."""

    def generate(context, builder, signature, arguments):
        stored = signature.args[0].dtype
        value = narrowed(builder, arguments[2], stored)
        pointer = _pointer(context, builder, signature, arguments)
        pointer = builder.bitcast(pointer, value.type.as_pointer())
        builder.store(value, pointer, align=stored.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@intrinsic
def store_part(typing_context, array, index, value, count):
    """Write the first `count` lanes, fewer than sixteen."""

    def generate(context, builder, signature, arguments):
        stored = signature.args[0].dtype
        value = narrowed(builder, arguments[2], stored)
        pointer = _pointer(context, builder, signature, arguments)
        pointer = builder.bitcast(pointer, value.type.as_pointer())
        align = ir.IntType(32)(stored.bitwidth // 8)
        given = [value, pointer, align, first_lanes(builder, arguments[3])]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        function = declared(builder, f"llvm.masked.store.{suffix(stored)}.p0", kind)
        builder.call(function, given)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes, types.intp), generate


@inlined
def load_upto(array, index, count):
    """Return up to sixteen elements, `count` of them, followed by zeros."""
    if count >= 16:
        return load(array, index)
    return load_part(array, index, count)


@inlined
def store_upto(array, index, value, count):
    """Write the first `count` lanes, at most sixteen."""
    if count >= 16:
        store(array, index, value)
    else:
        store_part(array, index, value, count)


def narrowed(builder, value, stored):
    """Return lanes as elements to store, rounded to nearest."""
    if stored == types.float32:
        return value
    if stored == types.uint32:
        return builder.bitcast(value, ir.VectorType(ir.IntType(32), WIDTH))
    if stored == types.int16:
        return builder.fptrunc(value, ir.VectorType(ir.HalfType(), WIDTH))
    wide, short = ir.VectorType(ir.IntType(32), WIDTH), ir.VectorType(ir.IntType(16), WIDTH)

    def every(constant):
        return ir.Constant(wide, [constant] * WIDTH)

    bits = builder.bitcast(value, wide)
    odd = builder.and_(builder.lshr(bits, every(16)), every(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, every(0x7FFF))), every(16))
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(is_nan, every(0x7FC0), rounded), short)


@intrinsic
def spread(typing_context, number):
    """Return sixteen copies of a float32."""

    def generate(context, builder, signature, arguments):
        return every_lane(builder, arguments[0])

    return lanes(types.float32), generate


@intrinsic
def total(typing_context, value):
    """Return the sum of the sixteen lanes, halves first."""

    def generate(context, builder, signature, arguments):
        (part,) = arguments
        width = WIDTH
        while width > 1:
            width //= 2
            kind = ir.VectorType(ir.IntType(32), width)
            low = builder.shuffle_vector(part, part, ir.Constant(kind, list(range(width))))
            high = builder.shuffle_vector(
                part, part, ir.Constant(kind, list(range(width, 2 * width)))
            )
            part = builder.fadd(low, high)
        return builder.extract_element(part, ir.IntType(32)(0))

    return types.float32(lanes), generate


@intrinsic
def largest(typing_context, left, right):
    """Return the larger of every pair of lanes, a NaN where either is one."""

    def generate(context, builder, signature, arguments):
        left, right = arguments
        keeps = builder.or_(
            builder.fcmp_unordered("uno", left, left), builder.fcmp_ordered("oge", left, right)
        )
        return builder.select(keeps, left, right)

    return lanes(lanes, lanes), generate


@intrinsic
def root(typing_context, value):
    """Return the square root of every lane."""

    def generate(context, builder, signature, arguments):
        function = declared(builder, "llvm.sqrt.v16f32", ir.FunctionType(_FLOATS, [_FLOATS]))
        return builder.call(function, arguments)

    return lanes(lanes), generate


@intrinsic
def stays_a_call(typing_context):
    """Keep LLVM from copying the function that this stands in into its callers, which would compile
    it again and again.
    """

    def generate(context, builder, signature, arguments):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


def _prefetcher(is_to_write: int):
    @intrinsic
    def ask(typing_context, array, index):
        def generate(context, builder, signature, arguments):
            pointer = _pointer(context, builder, signature, arguments)
            flag = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [_BYTE_POINTER, flag, flag, flag])
            function = declared(builder, "llvm.prefetch.p0", kind)
            given = builder.bitcast(pointer, _BYTE_POINTER), flag(is_to_write), flag(3), flag(1)
            builder.call(function, given)
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    return ask


# Ask for the cache line of array[index] of a contiguous array ahead of its use.
prefetch, prefetch_to_write = _prefetcher(0), _prefetcher(1)


for _operator, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):

    @type_callable(_operator)
    def _type_of(context):
        def typer(left, right):
            return lanes if left == lanes and right == lanes else None

        return typer

    @lower_builtin(_operator, lanes, lanes)
    def _lower(context, builder, signature, arguments, instruction=_instruction):
        return getattr(builder, instruction)(*arguments, flags=("contract",))


def every_lane(builder, number):
    """Return sixteen copies of a float."""
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    one = builder.insert_element(undefined, number, ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), None)
    return builder.shuffle_vector(one, undefined, mask)


def lanes_at(builder, pointer):
    """Return the sixteen floats at a pointer to float."""
    return builder.load(builder.bitcast(pointer, _FLOATS.as_pointer()), align=4)


def put_lanes(builder, value, pointer):
    """Write sixteen floats to a pointer to float."""
    builder.store(value, builder.bitcast(pointer, _FLOATS.as_pointer()), align=4)


def array_pointer(context, builder, signature, arguments, index):
    """Return the address of the first element of the array that is argument `index`."""
    return context.make_array(signature.args[index])(context, builder, arguments[index]).data


def _pointer(context, builder, signature, arguments):
    return builder.gep(array_pointer(context, builder, signature, arguments, 0), [arguments[1]])


def declared(builder, name, kind):
    """Return LLVM's function `name`, declared in this module if it was not."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
