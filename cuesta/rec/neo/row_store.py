"""Rows of tables with their optimiser's state in memory that is large and slow: host memory, or a file on an SSD.

Neo (ISCA 2022), the memory hierarchy. Tables of one width lie one below the other; a row has a weight and up to two
moments, each a tensor of its own. Weights may be stored in 16 bits while everything above computes in float32: they
are rounded when they are written, by chance if the optimiser says so, and only then. Files are mapped into memory,
and asked for ahead, which keeps many reads under way; they have no name, so that no crash leaves them behind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from cuesta.errors import UserError
from cuesta.ops import copy_rows

Values = tuple[Tensor, ...]  # weight [rows, D], then moments [rows, D] or [rows, 1]


class RowStore(Protocol):
    """Be where rows are found by their number, and put back."""

    @property
    def likes(self) -> Values:
        """Return no rows, of the shapes and dtypes that lines over this store have."""
        ...

    def load(self, rows: Int64[Tensor, " T"], lines: Values, places: Int64[Tensor, " T"]) -> None:
        """Copy rows to these places of `lines`."""
        ...

    def save(
        self, rows: Int64[Tensor, " T"], lines: Values, places: Int64[Tensor, " T"], key: int
    ) -> None:
        """Copy these places of `lines` to rows, which differ; `key` chooses the random bits of rounding."""
        ...


@final
class TensorRows:
    """Hold rows in tensors in host memory, or in files of `folder`."""

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        dtypes: Sequence[torch.dtype],
        *,
        folder: Path | None = None,
        rounds_by_chance: bool = True,
    ) -> None:
        self._files: list[int] = []
        self._rounds_by_chance = rounds_by_chance
        parts = []
        for shape, dtype in zip(shapes, dtypes, strict=True):
            if folder is None:
                parts.append(host_zeros(shape, dtype))
            else:
                part, file = _mapped(folder, shape, dtype)
                parts.append(part)
                self._files.append(file)
        self.parts = tuple(parts)

    @property
    def likes(self) -> Values:
        """Return no rows, in float32."""
        return tuple(part[:0].float() for part in self.parts)

    def load(self, rows: Int64[Tensor, " T"], lines: Values, places: Int64[Tensor, " T"]) -> None:
        """Copy rows to these places of `lines`."""
        for part, file in zip(self.parts, self._files, strict=False):
            _ask_for(file, rows, part.shape[1] * part.itemsize)
        for part, line in zip(self.parts, lines, strict=True):
            move_rows(line, places, part, rows)

    def save(
        self, rows: Int64[Tensor, " T"], lines: Values, places: Int64[Tensor, " T"], key: int
    ) -> None:
        """Copy these places of `lines` to rows; weights of 16 bits are rounded by chance, or to nearest."""
        random_key = key if self._rounds_by_chance else None
        for part, line in zip(self.parts, lines, strict=True):
            move_rows(part, rows, line, places, random_key)

    def __del__(self) -> None:
        for file in self._files:
            os.close(file)


def host_zeros(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return zeros in memory from numpy, which asks for the huge pages that rows at random need."""
    flat = np.zeros(shape[0] * shape[1] * dtype.itemsize, np.uint8)
    return torch.from_numpy(flat).view(dtype).view(shape)


def move_rows(
    target: Tensor, target_rows: Tensor, source: Tensor, source_rows: Tensor,
    random_key: int | None = None,
) -> None:  # fmt: skip
    """Do what `copy_rows` does, between devices too; rows may be numbered on either."""
    if target.device == source.device:
        rows = target_rows.to(target.device), source_rows.to(source.device)
        copy_rows(target, rows[0], source, rows[1], random_key=random_key)
        return
    packed = source.new_empty(source_rows.numel(), source.shape[1])
    order = torch.arange(source_rows.numel(), device=source.device)
    copy_rows(packed, order, source, source_rows.to(source.device))
    order = order.to(target.device)
    copy_rows(
        target,
        target_rows.to(target.device),
        packed.to(target.device),
        order,
        random_key=random_key,
    )


def _mapped(folder: Path, shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, int]:
    """Return zeros in a file without a name, and the file. Raises `UserError` where there is no room."""
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, max(num_bytes, 1))
            flat = np.memmap(file, np.uint8, "r+", shape=(num_bytes,))
            kept = os.dup(file.fileno())
    except OSError as error:
        raise UserError(
            f"no room for {num_bytes / 2**30:.2f} GiB of tables in {folder}: {error.strerror}; "
            "free some or name another folder"
        ) from None
    os.posix_fadvise(kept, 0, 0, os.POSIX_FADV_RANDOM)
    return torch.from_numpy(flat).view(dtype).view(shape), kept


def _ask_for(file: int, rows: Tensor, row_bytes: int) -> None:
    """Have the pages of rows read, all at once."""
    for start in (rows * row_bytes).tolist():
        os.posix_fadvise(file, start, row_bytes, os.POSIX_FADV_WILLNEED)
