"""Rows of tables with their optimiser's state in host memory, below what computes; `file_rows.py` has them in a file.

Neo (ISCA 2022), the memory hierarchy. Tables of one width lie one below the other; a row has a weight and up to two
moments. Weights may be stored in 16 bits while everything above computes in float32: they are rounded when they are
written, by chance if the optimiser says so, and only then.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class BottomStore(RowStore, Protocol):
    """Be where all rows are."""

    @property
    def parts(self) -> Values:
        """Return views of all rows: the weight, then moments."""
        ...


@final
class TensorRows:
    """Hold rows in tensors in host memory, which a GPU reads and writes by itself once `pin` was called."""

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        dtypes: Sequence[torch.dtype],
        *,
        rounds_by_chance: bool = True,
    ) -> None:
        self._rounds_by_chance = rounds_by_chance
        self._pinned: list[int] = []
        self.parts: Values = tuple(
            host_zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)
        )

    @property
    def likes(self) -> Values:
        """Return no rows, in float32."""
        return tuple(part[:0].float() for part in self.parts)

    def load(self, rows: Int64[Tensor, " T"], lines: Values, places: Int64[Tensor, " T"]) -> None:
        """Copy rows to these places of `lines`."""
        for part, line in zip(self.parts, lines, strict=True):
            move_rows(line, places, part, rows)

    def save(
        self, rows: Int64[Tensor, " T"], lines: Values, places: Int64[Tensor, " T"], key: int
    ) -> None:
        """Copy these places of `lines` to rows; weights of 16 bits are rounded by chance, or to nearest."""
        random_key = key if self._rounds_by_chance else None
        for part, line in zip(self.parts, lines, strict=True):
            move_rows(part, rows, line, places, random_key)

    def pin(self) -> None:
        """Keep the rows where they are in memory, for GPUs. Raises `UserError` where the system does not allow it."""
        for part in self.parts if not self._pinned else ():
            failed = torch.cuda.cudart().cudaHostRegister(part.data_ptr(), part.nbytes, 0)
            if int(failed):
                raise UserError(
                    f"{part.nbytes / 2**30:.2f} GiB of tables cannot be pinned in host memory (CUDA error "
                    f"{int(failed)}); raise the limit of locked memory (ulimit -l)"
                )
            self._pinned.append(part.data_ptr())

    def __del__(self) -> None:
        for place in self._pinned:
            torch.cuda.cudart().cudaHostUnregister(place)


def host_zeros(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return zeros in memory from numpy, which asks for the huge pages that rows at random need."""
    flat = np.zeros(shape[0] * shape[1] * dtype.itemsize, np.uint8)
    return torch.from_numpy(flat).view(dtype).view(shape)


def move_rows(
    target: Tensor, target_rows: Tensor, source: Tensor, source_rows: Tensor,
    random_key: int | None = None,
) -> None:  # fmt: skip
    """Do what `copy_rows` does, between any devices; rows may be numbered on either."""
    where = target.device if target.is_cuda else source.device
    rows = target_rows.to(where), source_rows.to(where)
    if target.device == source.device or target.is_pinned() or source.is_pinned():
        copy_rows(target, rows[0], source, rows[1], random_key=random_key)
        return
    packed = source.new_empty(source_rows.numel(), source.shape[1])
    order = torch.arange(source_rows.numel(), device=source.device)
    copy_rows(packed, order, source, source_rows.to(source.device))
    own = packed.to(target.device)
    order = order.to(target.device)
    copy_rows(target, target_rows.to(target.device), own, order, random_key=random_key)
