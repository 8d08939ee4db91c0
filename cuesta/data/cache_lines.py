"""`ask_for_line`: the processor's prefetch for Numba code, as in `cuesta.ops.lanes`, without the ops and torch.

A reader process must start fast, and what it imports is most of its start.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE_POINTER = ir.IntType(8).as_pointer()


def _ask(typing_context, array, index):  # type: ignore[no-untyped-def]  # noqa: ARG001
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [_BYTE_POINTER, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        given = builder.bitcast(builder.gep(held.data, [arguments[1]]), _BYTE_POINTER)
        builder.call(function, [given, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


# Ask for the cache line of array[index] of a contiguous array ahead of its reading.
ask_for_line: Callable[..., None] = intrinsic(_ask)
