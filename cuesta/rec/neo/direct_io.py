"""`DirectFile`: many slots of a file read or written at once, past the system's cache; Linux's asynchronous I/O.

A row that is not in memory is one read of one slot, and a disk answers hundreds of these in the time of a few. Three
system calls do that without a thread a read: `io_setup(2)`, `io_submit(2)`, `io_getevents(2)`. Past the cache
(`O_DIRECT` of `open(2)`) pages of rows that will not come again soon push out nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import sys
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

SECTOR = 512  # bytes, what disks read and write
IN_FLIGHT = 256  # requests; more gained nothing on the disk that was measured
_READ, _WRITE = 0, 1

# struct iocb and struct io_event of linux/aio_abi.h on little-endian machines.
_REQUEST = np.dtype(
    [
        ("data", "u8"), ("key", "u4"), ("rw_flags", "i4"), ("opcode", "u2"), ("priority", "i2"),
        ("file", "u4"), ("buffer", "u8"), ("num_bytes", "u8"), ("offset", "i8"), ("reserved", "u8"),
        ("flags", "u4"), ("event_file", "u4"),
    ]
)  # fmt: skip
_EVENT = np.dtype([("data", "u8"), ("request", "u8"), ("result", "i8"), ("result_2", "i8")])


class _Calls(NamedTuple):
    """Hold the numbers of system calls on one kind of processor."""

    setup: int
    destroy: int
    getevents: int
    submit: int


_CALLS = {"x86_64": _Calls(206, 207, 208, 209), "aarch64": _Calls(0, 1, 4, 2)}


@final
class DirectFile:
    """Read and write slots of `slot_bytes`, a multiple of 512, of an open file. One thread at a time.

    Raises `OSError` where the system or the file's place cannot do this.
    """

    def __init__(self, file: int, slot_bytes: int) -> None:
        self._file, self._slot_bytes = file, slot_bytes
        self._context = ctypes.c_ulong(0)
        if not sys.platform.startswith("linux") or platform.machine() not in _CALLS:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._calls = _CALLS[platform.machine()]
        self._system = ctypes.CDLL(None, use_errno=True)
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_DIRECT)
        self._call(self._calls.setup, ctypes.c_long(IN_FLIGHT), ctypes.byref(self._context))

    def read(self, slots: Int64[Tensor, " T"], buffer: UInt8[Tensor, "T slot"]) -> None:
        """Read slot `slots[i]` to row i of `buffer`, which `aligned_bytes` made. Raises `OSError`."""
        self._transfer(_READ, slots, buffer)

    def write(self, slots: Int64[Tensor, " T"], buffer: UInt8[Tensor, "T slot"]) -> None:
        """Write row i of `buffer`, which `aligned_bytes` made, to slot `slots[i]`. Raises `OSError`."""
        self._transfer(_WRITE, slots, buffer)

    def close(self) -> None:
        """Give back what the system keeps for this; the file stays open."""
        if self._context.value:
            self._call(self._calls.destroy, self._context)
            self._context = ctypes.c_ulong(0)

    def _transfer(self, opcode: int, slots: Tensor, buffer: Tensor) -> None:
        count = slots.numel()
        requests = np.zeros(count, _REQUEST)
        requests["opcode"] = opcode
        requests["file"] = self._file
        requests["buffer"] = buffer.data_ptr() + np.arange(count) * self._slot_bytes
        requests["num_bytes"] = self._slot_bytes
        requests["offset"] = slots.numpy() * self._slot_bytes
        pointers = requests.ctypes.data + np.arange(count) * _REQUEST.itemsize
        submitted = done = failed = 0
        while done < submitted or (submitted < count and not failed):
            room = 0 if failed else min(count - submitted, IN_FLIGHT - (submitted - done))
            if room:
                at = ctypes.c_void_p(pointers.ctypes.data + submitted * pointers.itemsize)
                try:
                    submitted += self._call(
                        self._calls.submit, self._context, ctypes.c_long(room), at
                    )
                except OSError as error:
                    failed = error.errno or errno.EIO
            under_way = submitted - done  # after an error too: they use the buffer
            results = self._arrived(under_way)
            wrong = results[results != self._slot_bytes]
            if wrong.size:
                failed = int(-wrong[0]) if wrong[0] < 0 else errno.EIO
            done += results.size
        if failed:
            raise OSError(failed, os.strerror(failed))

    def _arrived(self, under_way: int) -> np.ndarray:
        """Wait for half of the requests under way, and return the results of what is done."""
        events = np.zeros(under_way, _EVENT)
        count = self._call(
            self._calls.getevents, self._context, ctypes.c_long(-(-under_way // 2)),
            ctypes.c_long(under_way), ctypes.c_void_p(events.ctypes.data), None,
        )  # fmt: skip
        return events["result"][:count]

    def _call(self, number: int, *arguments: object) -> int:
        """Return what a system call returns; a signal makes it start again."""
        while True:
            result = int(self._system.syscall(ctypes.c_long(number), *arguments))
            if result >= 0:
                return result
            if ctypes.get_errno() != errno.EINTR:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def aligned_bytes(rows: int, slot_bytes: int) -> UInt8[Tensor, "rows slot"]:
    """Return memory that begins where a sector may."""
    flat = np.empty(rows * slot_bytes + SECTOR, np.uint8)
    skipped = -flat.ctypes.data % SECTOR
    return torch.from_numpy(flat[skipped : skipped + rows * slot_bytes]).view(rows, slot_bytes)
