"""`FileRows`: rows of tables with their optimiser's state in a file on an SSD, one row a slot.

Neo (ISCA 2022), the memory hierarchy. A slot has a row's weight and moments side by side and is a multiple of a disk's
sector, so that a row that is missing is one read, and one that leaves one write; those of a batch are under way at once
(`direct_io.py`). Where the system cannot do that the file is mapped into memory, and a missing row is one page. The
file has no name, so that no crash leaves it behind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from cuesta.errors import UserError
from cuesta.rec.neo.direct_io import SECTOR, DirectFile, aligned_bytes
from cuesta.rec.neo.row_store import Values, move_rows

_AT_ONCE = 4 << 20  # bytes read or written between copies


@final
class FileRows:
    """Hold rows in a file of `folder`. Raises `UserError` where there is no room for them.

    `parts` are views of the file. What they show is the file's; after they were asked for, the next row that is moved
    waits until what was written to them is on the disk.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        dtypes: Sequence[torch.dtype],
        folder: Path,
        *,
        rounds_by_chance: bool = True,
    ) -> None:
        self._num_rows = shapes[0][0]
        self._widths, self._dtypes = [width for _, width in shapes], list(dtypes)
        sizes = [width * dtype.itemsize for width, dtype in zip(self._widths, dtypes, strict=True)]
        ends = np.cumsum([-(-size // 4) * 4 for size in sizes]).tolist()
        self._starts = [0, *ends[:-1]]
        self._slot_bytes = -(-ends[-1] // SECTOR) * SECTOR
        self._rounds_by_chance = rounds_by_chance
        self._file = _room(folder, self._num_rows * self._slot_bytes)
        self._is_viewed = False
        self._direct: DirectFile | None = None
        try:
            self._direct = DirectFile(self._file, self._slot_bytes)
            self._buffer = aligned_bytes(self._rows_at_once, self._slot_bytes)
            last = torch.tensor([self._num_rows - 1])
            self._direct.read(last, self._buffer[:1])  # some disks have sectors of 4096 bytes
        except OSError:
            if self._direct is not None:
                self._direct.close()
            self._direct = None
            self._mapped = self._map()

    @property
    def parts(self) -> Values:
        """Return views [rows, D] of all rows: the weight, then moments."""
        self._is_viewed = True
        return self._split(self._map())

    @property
    def likes(self) -> Values:
        """Return no rows, in float32."""
        return tuple(torch.zeros(0, width) for width in self._widths)

    def load(self, rows: Int64[Tensor, " T"], lines: Values, places: Int64[Tensor, " T"]) -> None:
        """Copy rows to these places of `lines`. Raises `OSError`."""
        if self._direct is None:
            for part, line in zip(self._split(self._mapped), lines, strict=True):
                move_rows(line, places, part, rows)
            return
        self._settle()
        for some, where in self._chunks(rows, places):
            buffer = self._buffer[: some.numel()]
            self._direct.read(some, buffer)
            order = torch.arange(some.numel())
            for part, line in zip(self._split(buffer), lines, strict=True):
                move_rows(line, where, part, order)

    def save(
        self, rows: Int64[Tensor, " T"], lines: Values, places: Int64[Tensor, " T"], key: int
    ) -> None:
        """Copy these places of `lines` to rows; 16 bits are rounded by chance, or to nearest. Raises `OSError`."""
        if self._direct is None:
            self._narrow(self._split(self._mapped), rows, lines, places, key)
            return
        self._settle()
        for number, (some, where) in enumerate(self._chunks(rows, places)):
            buffer = self._buffer[: some.numel()]
            order = torch.arange(some.numel())
            self._narrow(self._split(buffer), order, lines, where, key + (number << 40))
            self._direct.write(some, buffer)

    @property
    def _rows_at_once(self) -> int:
        return max(_AT_ONCE // self._slot_bytes, 1)

    def _chunks(self, rows: Tensor, places: Tensor) -> list[tuple[Tensor, Tensor]]:
        at_once = self._rows_at_once
        return list(zip(rows.cpu().split(at_once), places.split(at_once), strict=True))

    def _narrow(self, parts: Values, rows: Tensor, lines: Values, places: Tensor, key: int) -> None:
        random_key = key if self._rounds_by_chance else None
        for part, line in zip(parts, lines, strict=True):
            move_rows(part, rows, line, places, random_key)

    def _map(self) -> Tensor:
        shape = (self._num_rows, self._slot_bytes)
        with os.fdopen(os.dup(self._file), "r+b") as file:
            return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))

    def _split(self, slots: Tensor) -> Values:
        """Return the parts of slots as views."""
        return tuple(
            slots[:, start : start + width * dtype.itemsize].view(dtype)
            for start, width, dtype in zip(self._starts, self._widths, self._dtypes, strict=True)
        )

    def _settle(self) -> None:
        """Have what was written to views on the disk, and out of the system's cache."""
        if self._is_viewed:
            os.fsync(self._file)
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
            self._is_viewed = False

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            if self._direct is not None:
                self._direct.close()
            os.close(self._file)


def _room(folder: Path, num_bytes: int) -> int:
    """Return a file of zeros without a name. Raises `UserError` where there is no room."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(num_bytes, 1))
            else:
                file.truncate(max(num_bytes, 1))
            return os.dup(file.fileno())
    except OSError as error:
        raise UserError(
            f"no room for {num_bytes / 2**30:.2f} GiB of tables in {folder}: {error.strerror}; "
            "free some or name another folder"
        ) from None
