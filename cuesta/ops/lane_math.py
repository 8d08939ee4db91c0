"""Functions of sixteen float32 lanes: powers, sigmoid, error function, choices by lane.

A power of two is a polynomial in what its exponent lacks of a whole number, fitted to 2^f on
[-1/2, 1/2] for the least relative error, 2e-9; the exponential takes ln 2 off in two steps first
(Cody and Waite). The error function is an odd rational function on [-4, 4] (that of Eigen). All are
within a few units of the last place.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cuesta.ops.lanes import WIDTH, declared, has_feature, lanes, spread
from cuesta.ops.numba_decorators import inlined

_HAS_AVX512 = has_feature("avx512f")
_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_INTS = ir.VectorType(ir.IntType(32), WIDTH)
_POWER = (
    1.5353337e-4, 1.3398875e-3, 9.618438e-3, 5.5503324e-2, 0.24022648, 0.6931472, 1.0,
)  # fmt: skip
_ROUGH_POWER = (9.5828502e-3, 5.5906426e-2, 0.240240991, 0.693124175, 1.0)  # within 3e-6
_LOG2_E, _LN_2_HIGH, _LN_2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
_LN_2 = 0.6931471805599453
_SMALLEST = -125.0  # 2 to this and a half less is a normal float32


def _every(number):
    return ir.Constant(_FLOATS, [float(np.float32(number))] * WIDTH)


def _fused(builder, left, right, plus):
    return builder.fadd(builder.fmul(left, right, flags=("contract",)), plus, flags=("contract",))


def _nearest(builder, x):
    kind = ir.FunctionType(_FLOATS, [_FLOATS])
    return builder.call(declared(builder, "llvm.roundeven.v16f32", kind), [x])


def _power(builder, whole, part, coefficients=_POWER):
    """Return 2 to the whole + part, |part| at most a half; 0 instead of numbers below the normal ones,
    which would slow every product they enter down.
    """
    y = _every(coefficients[0])
    for coefficient in coefficients[1:]:
        y = _fused(builder, y, part, _every(coefficient))
    is_small = builder.fcmp_ordered("olt", whole, _every(_SMALLEST))
    if _HAS_AVX512:
        mask = builder.bitcast(builder.not_(is_small), ir.IntType(WIDTH))
        given = [y, whole, _every(0), mask, ir.IntType(32)(4)]
        kind = ir.FunctionType(_FLOATS, [value.type for value in given])
        return builder.call(declared(builder, "llvm.x86.avx512.mask.scalef.ps.512", kind), given)
    shift = builder.shl(builder.fptosi(whole, _INTS), ir.Constant(_INTS, [23] * WIDTH))
    y = builder.bitcast(builder.add(builder.bitcast(y, _INTS), shift), _FLOATS)
    return builder.select(is_small, _every(0), y)


def _power_of_two(coefficients):
    @intrinsic
    def power(typing_context, value):
        def generate(context, builder, signature, arguments):
            whole = _nearest(builder, arguments[0])
            part = builder.fsub(arguments[0], whole)
            return _power(builder, whole, part, coefficients)

        return lanes(lanes), generate

    return power


# Return 2 to the power of every lane up to 127; of NaN, NaN. The second is for results that are
# rounded to bfloat16.
power_of_two, rough_power_of_two = _power_of_two(_POWER), _power_of_two(_ROUGH_POWER)


@intrinsic
def exponential(typing_context, value):
    """Return e to the power of every lane up to 88; of NaN, NaN."""

    def generate(context, builder, signature, arguments):
        (x,) = arguments
        whole = _nearest(builder, builder.fmul(x, _every(_LOG2_E)))
        rest = _fused(builder, whole, _every(-_LN_2_HIGH), x)
        rest = _fused(builder, whole, _every(-_LN_2_LOW), rest)
        return _power(builder, whole, builder.fmul(rest, _every(_LOG2_E)))

    return lanes(lanes), generate


@intrinsic
def larger(typing_context, left, right):
    """Return the larger of every pair of lanes; `right` where either is NaN."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered("ogt", *arguments), *arguments)

    return lanes(lanes, lanes), generate


@intrinsic
def within(typing_context, value, first, last, other):
    """Return the lanes `first` to `last` of `value`, and `other` in those around them."""

    def generate(context, builder, signature, arguments):
        value, first, last, other = arguments
        numbers = ir.Constant(_INTS, list(range(WIDTH)))

        def every(count):
            limited = builder.trunc(_clamped(builder, count), ir.IntType(32))
            undefined = ir.Constant(_INTS, ir.Undefined)
            one = builder.insert_element(undefined, limited, ir.IntType(32)(0))
            return builder.shuffle_vector(one, undefined, ir.Constant(_INTS, None))

        from_first = builder.icmp_signed(">=", numbers, every(first))
        to_last = builder.icmp_signed("<=", numbers, every(last))
        return builder.select(builder.and_(from_first, to_last), value, other)

    return lanes(lanes, first, last, lanes), generate


def _clamped(builder, count):
    """Return a lane's number limited to -1 .. 16, so that 32 bits hold it."""
    low, high = count.type(-1), count.type(WIDTH)
    count = builder.select(builder.icmp_signed("<", count, low), low, count)
    return builder.select(builder.icmp_signed(">", count, high), high, count)


@intrinsic
def where_positive(typing_context, sign, positive, other):
    """Return `positive` in lanes where `sign` is above 0, else `other`."""

    def generate(context, builder, signature, arguments):
        sign, positive, other = arguments
        return builder.select(builder.fcmp_ordered("ogt", sign, _every(0)), positive, other)

    return lanes(lanes, lanes, lanes), generate


@intrinsic
def exponent_and_fraction(typing_context, value):
    """Return e and f for which every lane, positive and normal, is f * 2^e, f within [sqrt(1/2), sqrt(2))."""

    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], _INTS)
        middle = ir.Constant(_INTS, [0x3F3504F3] * WIDTH)  # sqrt(1/2)
        shifted = builder.sub(bits, middle)
        whole = builder.ashr(shifted, ir.Constant(_INTS, [23] * WIDTH))
        rest = builder.and_(shifted, ir.Constant(_INTS, [0x7FFFFF] * WIDTH))
        fraction = builder.bitcast(builder.add(rest, middle), _FLOATS)
        return context.make_tuple(
            builder, signature.return_type, [builder.sitofp(whole, _FLOATS), fraction]
        )

    return types.UniTuple(lanes, 2)(lanes), generate


@inlined
def logarithm(value):
    """Return the natural logarithm of every lane, a positive and normal number."""
    exponent, fraction = exponent_and_fraction(value)
    s = (fraction - number(1.0)) / (fraction + number(1.0))
    square = s * s
    series = number(2.0 / 9.0) * square + number(2.0 / 7.0)
    series = (series * square + number(0.4)) * square + number(2.0 / 3.0)
    return number(_LN_2) * exponent + (s * square * series + (s + s))


@inlined
def number(value):
    """Return sixteen copies of a constant."""
    return spread(np.float32(value))


@inlined
def clipped(value, low, high):
    """Return every lane within [low, high]."""
    raised = where_positive(value - number(low), value, number(low))
    return where_positive(number(high) - raised, raised, number(high))


@inlined
def sigmoid(value):
    """Return 1 / (1 + exp(-x)) of every lane, and its derivative, neither by subtracting from 1."""
    size = where_positive(value, value, number(0.0) - value)
    power = exponential(number(0.0) - size)
    high = number(1.0) / (number(1.0) + power)
    low = power * high
    return where_positive(value, high, low), high * low


@inlined
def error_function(value):
    """Return erf of every lane."""
    x = clipped(value, -4.0, 4.0)
    s = x * x
    p = number(-2.72614225801306e-10)
    p = p * s + number(2.77068142495902e-08)
    p = p * s + number(-2.10102402082508e-06)
    p = p * s + number(-5.69250639462346e-05)
    p = p * s + number(-7.34990630326855e-04)
    p = p * s + number(-2.95459980854025e-03)
    p = p * s + number(-1.60960333262415e-02)
    q = number(-1.45660718464996e-05)
    q = q * s + number(-2.13374055278905e-04)
    q = q * s + number(-1.68282697438203e-03)
    q = q * s + number(-7.37332916720468e-03)
    q = q * s + number(-1.42647390514189e-02)
    return x * p / q
