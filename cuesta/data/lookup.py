"""`Lookup`: from 64-bit keys to row numbers, fast enough to keep up with the Parquet decoder.

Keys that lie close together are looked up in a plain array; others in an open-addressing hash table
with linear probing, at most half full, whose slot holds key and row side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numba
import numpy as np
from numpy.typing import NDArray

from cuesta.data.hashing import mix

_BLOCK = 256


@final
@dataclass(frozen=True, eq=False)
class Lookup:
    """Map `keys[i]` to i + 1 and every other key to 0.

    >>> Lookup.of(np.array([70, 50])).rows(np.array([50, 60, 70]), out=(rows := np.empty(3, int)))
    >>> rows.tolist()
    [2, 0, 1]
    """

    table: NDArray[
        np.int64
    ]  # direct: [span] rows; hashed: [capacity, 2] keys and rows, row 0 = free
    first: int | None  # the key of table[0] when direct

    @staticmethod
    def of(keys: NDArray[np.int64]) -> Lookup:
        """Return the lookup of unique `keys`."""
        if not keys.size:
            return Lookup(np.zeros(1, np.int64), first=0)
        first, last = int(keys.min()), int(keys.max())
        if last - first < 4 * keys.size + 1024:
            table = np.zeros(last - first + 1, np.int64)
            table[keys - first] = np.arange(1, keys.size + 1)
            return Lookup(table, first)
        capacity = 1 << (2 * keys.size - 1).bit_length()
        slots = np.zeros((capacity, 2), np.int64)
        _insert(slots, keys)
        return Lookup(slots, first=None)

    def rows(self, keys: NDArray[np.int64], out: NDArray[np.int64]) -> None:
        """Write the row of each key to `out`, 0 where it is unknown."""
        if self.first is None:
            _find(self.table, keys, out)
        else:
            _pick(self.table, self.first, keys, out)


@numba.njit(nogil=True, cache=True)
def _insert(slots, keys):  # type: ignore[no-untyped-def]
    last = np.uint64(slots.shape[0] - 1)
    for i in range(keys.shape[0]):
        slot = mix(np.uint64(keys[i])) & last
        while slots[slot, 1] != 0:
            slot = (slot + np.uint64(1)) & last
        slots[slot, 0] = keys[i]
        slots[slot, 1] = i + 1


@numba.njit(nogil=True, cache=True)
def _find(slots, keys, rows):  # type: ignore[no-untyped-def]
    last = np.uint64(slots.shape[0] - 1)
    homes = np.empty(_BLOCK, np.uint64)
    touched = 0
    for begin in range(0, keys.shape[0], _BLOCK):
        block = keys[begin : begin + _BLOCK]
        for i in range(block.shape[0]):
            homes[i] = mix(np.uint64(block[i])) & last
        for i in range(block.shape[0]):  # nothing branches here, so the cache misses overlap
            touched ^= slots[homes[i], 0]
        for i in range(block.shape[0]):
            slot = homes[i]
            while slots[slot, 1] != 0 and slots[slot, 0] != block[i]:
                slot = (slot + np.uint64(1)) & last
            rows[begin + i] = slots[slot, 1]
    return touched  # so that the compiler keeps the touching


@numba.njit(nogil=True, cache=True)
def _pick(table, first, keys, rows):  # type: ignore[no-untyped-def]
    span = np.uint64(table.shape[0])
    for i in range(keys.shape[0]):
        position = np.uint64(keys[i] - first)  # a key below the first wraps round to a huge one
        rows[i] = table[position] if position < span else 0
