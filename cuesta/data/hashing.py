"""A 64-bit hash of integers and strings: the same on every machine, in every version, for ever.

Integers: the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of the value's 64 bits.
Strings: FNV-1a (64 bits) of their UTF-8 bytes, then the same finaliser, which mends the weak low
bits of FNV. Saved models depend on these numbers; `tests/data/test_encoders.py` pins them.
"""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_FNV_BASIS = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


@numba.njit(nogil=True, cache=True, inline="always")
def mix(value: np.uint64) -> np.uint64:
    """Return splitmix64's finaliser of `value`: a bijection of the 64-bit numbers."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def hash_integers(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the hash of each integer."""
    hashes = np.empty(values.shape[0], np.uint64)
    _hash_integers(values, hashes)
    return hashes


def hash_into_rows(keys: NDArray[np.int64], size: int, out: NDArray[np.int64]) -> None:
    """Write 1 + hash mod (size - 1) of each integer to `out`."""
    _hash_into_rows(keys, np.uint64(size - 1), out)


def hash_strings(strings: pa.Array) -> NDArray[np.uint64]:
    """Return the hash of each string of an Arrow array; a null hashes as the empty string."""
    strings = strings.cast(pa.large_string())
    _, offsets_buffer, data_buffer = strings.buffers()
    hashes = np.empty(len(strings), np.uint64)
    if len(strings):
        offsets = np.frombuffer(offsets_buffer, np.int64)[strings.offset :]
        data = np.frombuffer(data_buffer or b"", np.uint8)
        _hash_strings(data, offsets, hashes)
    return hashes


@numba.njit(nogil=True, cache=True)
def _hash_integers(values, hashes):  # type: ignore[no-untyped-def]
    for i in range(values.shape[0]):
        hashes[i] = mix(np.uint64(values[i]))


@numba.njit(nogil=True, cache=True)
def _hash_into_rows(keys, modulus, out):  # type: ignore[no-untyped-def]
    for i in range(keys.shape[0]):
        out[i] = np.int64(mix(np.uint64(keys[i])) % modulus) + 1


@numba.njit(nogil=True, cache=True)
def _hash_strings(data, offsets, hashes):  # type: ignore[no-untyped-def]
    for i in range(hashes.shape[0]):
        value = _FNV_BASIS
        for position in range(offsets[i], offsets[i + 1]):
            value = (value ^ np.uint64(data[position])) * _FNV_PRIME
        hashes[i] = mix(value)
