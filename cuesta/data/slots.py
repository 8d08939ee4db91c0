"""`Slot`: memory that two processes share and use again and again, one `Part` at a time.

It is a file without a name: gone when both processes have closed it, however they ended, and on Linux not counted
by /dev/shm, which is small in containers. It grows to what its largest part needs.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import final

import numpy as np

from cuesta.data.parts import Allocate, Part


@final
class Slot:
    """Hold the memory of one file descriptor."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._map: mmap.mmap | None = None

    @staticmethod
    def new() -> Slot:
        """Return a slot of no bytes."""
        if hasattr(os, "memfd_create"):
            return Slot(os.memfd_create("cuesta-reader", 0))
        with tempfile.TemporaryFile() as file:
            return Slot(os.dup(file.fileno()))

    def allocator(self) -> Allocate:
        """Return what hands out the slot's memory, from its beginning."""
        end = 0

        def allocate(length: int, dtype: type[np.generic]) -> np.ndarray:
            nonlocal end
            begin, end = end, end + length * np.dtype(dtype).itemsize
            return self._array(begin, length, dtype)

        return allocate

    def part(self, lengths: tuple[int, int, int]) -> Part:
        """Return the part of these lengths that the allocator's arrays hold."""
        allocate = self.allocator()
        num_offsets, num_integers, num_floats = lengths
        return Part(
            allocate(num_offsets, np.int64),
            allocate(num_integers, np.int64),
            allocate(num_floats, np.float32),
        )

    def close(self) -> None:
        """Give up the memory; arrays in use keep theirs."""
        self._map = None
        os.close(self.file)

    def _array(self, begin: int, length: int, dtype: type[np.generic]) -> np.ndarray:
        end = begin + length * np.dtype(dtype).itemsize
        size = os.fstat(self.file).st_size
        if size < end:
            size = max(2 * end, mmap.PAGESIZE)  # what is not written to takes no memory
            os.ftruncate(self.file, size)
        if self._map is None or len(self._map) < end:
            self._map = mmap.mmap(self.file, size)
        return np.frombuffer(self._map, dtype, length, begin)
