"""What every Numba body shares: the decorators, the threads, views of 16-bit storage, conversions,
random bits.

Numba knows neither bfloat16 nor float16. Storage is seen as uint16 for bfloat16 and as int16 for
float16; `widen` and `narrow` convert by type, with the processor's own instructions. The `omp`
layer is the one that is safe when a prefetching thread and the main thread both run kernels; it
shares torch's OpenMP runtime, hence never fork once this module is imported.
"""

from __future__ import annotations

import ctypes
import platform

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from torch import Tensor

from cuesta.ops.numba_decorators import FLAGS, inner

numba.config.THREADING_LAYER = "omp"

# Numba starts its threads once, and thereby tells the OpenMP runtime, and so torch, to use every core.
_torch_threads = torch.get_num_threads()
numba.set_num_threads(1)
torch.set_num_threads(_torch_threads)

# glibc hands freed memory back to the system, from 32 MB on at once, and a batch's outputs and scratch
# then fault in page by page, which costs more than the kernels. It keeps a gigabyte now; mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _KEPT = -1, -3, 1 << 30
if platform.libc_ver()[0] == "glibc":
    for _limit in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
        ctypes.CDLL(None).mallopt(_limit, _KEPT)

kernel = numba.njit(parallel=True, cache=True, nogil=True, fastmath=FLAGS, error_model="numpy")


def view(tensor: Tensor) -> np.ndarray:
    """Return a numpy array over the memory of a contiguous CPU tensor; bfloat16 as uint16, float16
    as int16.
    """
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    elif tensor.dtype is torch.float16:
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


def num_threads() -> int:
    """Make Numba use as many threads as torch does, and return how many."""
    threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(threads)
    return threads


@inner
def balanced_start(offsets, task, num_tasks):
    """Return the first row of `task` when rows are dealt to `num_tasks` by their values plus one
    each.
    """
    num_rows = offsets.size - 1
    goal = (offsets[num_rows] + num_rows) * task // num_tasks
    low, high = 0, num_rows
    while low < high:
        middle = (low + high) // 2
        if offsets[middle] + middle < goal:
            low = middle + 1
        else:
            high = middle
    return low


@intrinsic
def widen(typing_context, value):
    """Return a stored element as float32: float32 as it is, uint16 as bfloat16, int16 as
    float16.
    """

    def generate(context, builder, signature, arguments):
        (stored,) = arguments
        if signature.args[0] == types.uint16:
            wide = builder.shl(builder.zext(stored, ir.IntType(32)), ir.IntType(32)(16))
            return builder.bitcast(wide, ir.FloatType())
        if signature.args[0] == types.int16:
            return builder.fpext(builder.bitcast(stored, ir.HalfType()), ir.FloatType())
        return stored

    return types.float32(value), generate


@intrinsic
def _half_bits(typing_context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), generate


@intrinsic
def _bits(typing_context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _from_bits(typing_context, value):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


def narrow(value, storage):
    """Return a float32 as an element of the array `storage`, rounded to nearest, ties to even."""


@overload(narrow, jit_options={"fastmath": FLAGS})
def _narrow(value, storage):
    if storage.dtype == types.uint16:

        def to_bfloat16(value, storage):
            bits = _bits(value)
            if value != value:
                return np.uint16(0x7FC0)
            return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16)

        return to_bfloat16
    if storage.dtype == types.int16:
        return lambda value, storage: _half_bits(value)
    return lambda value, storage: value


def narrow_random(value, random, storage):
    """Return a float32 as an element of `storage`, rounded up or down with probabilities that keep
    its mean.

    `random` is 32 random bits. Values below the float16 normal range are rounded on its fixed
    subnormal grid, where adding random bits below the mantissa alone would be biased.
    """


@overload(narrow_random, jit_options={"fastmath": FLAGS})
def _narrow_random(value, random, storage):
    if storage.dtype == types.uint16:

        def to_bfloat16(value, random, storage):
            bits = _bits(value)
            if (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000):
                return narrow(value, storage)
            return np.uint16((bits + (random & np.uint32(0xFFFF))) >> 16)

        return to_bfloat16
    if storage.dtype == types.int16:

        def to_float16(value, random, storage):
            bits = _bits(value)
            if (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000):
                return _half_bits(value)
            if abs(value) < np.float32(2.0**-14):
                chance = np.float32(random >> 8) * np.float32(2.0**-24)
                steps = np.floor(abs(value) * np.float32(2.0**24) + chance)
                small = np.float32(steps) * np.float32(2.0**-24)
                return _half_bits(small if value > 0 else -small)
            return _half_bits(
                _from_bits((bits + (random & np.uint32(0x1FFF))) & np.uint32(0xFFFFE000))
            )

        return to_float16
    return lambda value, random, storage: value


@inner
def random_bits(key, index):
    """Return 32 random bits of the counter `index` under `key` (SplitMix64's finaliser of key +
    index steps).
    """
    z = np.uint64(key) + (np.uint64(index) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint32((z ^ (z >> np.uint64(31))) >> np.uint64(32))
