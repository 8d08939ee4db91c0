"""`Ragged`: B rows of unequal length, held as `values` [T, ...] and `offsets` [B + 1].

The layout is Arrow's list array and torch's jagged nested tensor; the drawing in the class
docstring is the whole idea. Every kernel of the project takes this pair, so that nothing is ever
padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor


def offsets_from_lengths(lengths: Int64[Tensor, " B"]) -> Int64[Tensor, " B+1"]:
    """Return the running sum of `lengths` with a leading 0.

    >>> offsets_from_lengths(torch.tensor([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    offsets = lengths.new_zeros(lengths.numel() + 1)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def check_offsets(offsets: Tensor, *, num_values: int, what: str = "row") -> None:
    """Raise `ValueError` naming the first offending row unless `offsets` runs from 0 to
    `num_values` without falling.

    On an accelerator only shape and dtype are checked: reading the numbers would wait for the
    device.
    """
    if offsets.dtype != torch.int64 or offsets.dim() != 1:
        raise ValueError(
            f"offsets must be a 1-D int64 tensor, got {offsets.dtype} of shape {tuple(offsets.shape)}"
        )
    if offsets.numel() == 0:
        raise ValueError("offsets must hold at least one number, the leading 0; got none")
    if offsets.device.type != "cpu" or torch.compiler.is_compiling() or _is_fake(offsets):
        return
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0:
        raise ValueError(f"offsets must start at 0, got {first}")
    if bool((offsets[1:] < offsets[:-1]).any()):
        row = int((offsets[1:] < offsets[:-1]).nonzero()[0])
        raise ValueError(
            f"offsets must never fall, but {what} {row} runs from {int(offsets[row])} to {int(offsets[row + 1])}"
        )
    if last != num_values:
        raise ValueError(
            f"offsets must end at the number of values, {num_values}, but the last {what} ends at {last}"
        )


@final
@dataclass(frozen=True, eq=False)
class Ragged:
    """Hold B rows of unequal length without padding.

    ```
    row 0: a b c        values   a b c d e f        [T, ...]   T = 6
    row 1:              offsets  0     3 3 4     6  [B + 1]    B = 4
    row 2: d
    row 3: e f          row i is values[offsets[i] : offsets[i + 1]]
    ```

    `values` may have any dtype and any trailing shape; `offsets` is int64 on the same device,
    starts at 0, never falls and ends at T. Empty rows and zero rows are legal. Raises `ValueError`
    naming the row otherwise.

    >>> r = Ragged.from_rows([torch.tensor([1.0, 2.0]), torch.tensor([]), torch.tensor([3.0])])
    >>> r.lengths().tolist(), r.to_padded().tolist()
    ([2, 0, 1], [[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
    """

    values: Shaped[Tensor, "T ..."]
    offsets: Int64[Tensor, " B+1"]

    def __post_init__(self) -> None:
        if self.values.dim() == 0:
            raise ValueError("values must have at least one dimension, got a scalar")
        if self.values.device != self.offsets.device:
            raise ValueError(
                f"values and offsets must share a device, got {self.values.device} and {self.offsets.device}"
            )
        check_offsets(self.offsets, num_values=self.values.shape[0])

    @staticmethod
    def from_lengths(
        values: Shaped[Tensor, "T ..."], lengths: Int64[Tensor, " B"] | Sequence[int]
    ) -> Ragged:
        """Return the ragged tensor whose row i holds the next `lengths[i]` values."""
        lengths = torch.as_tensor(lengths, dtype=torch.int64, device=values.device)
        if lengths.device.type == "cpu" and bool((lengths < 0).any()):
            row = int((lengths < 0).nonzero()[0])
            raise ValueError(f"lengths must not be negative, but row {row} has {int(lengths[row])}")
        return Ragged(values, offsets_from_lengths(lengths))

    @staticmethod
    def from_rows(rows: Sequence[Shaped[Tensor, "_ ..."]]) -> Ragged:
        """Return the concatenation of `rows`, at least one, as one ragged tensor."""
        if not rows:
            raise ValueError("from_rows needs at least one row to know the dtype; got none")
        return Ragged.from_lengths(torch.cat(list(rows)), [row.shape[0] for row in rows])

    @staticmethod
    def from_padded(padded: Shaped[Tensor, "B L ..."], lengths: Int64[Tensor, " B"]) -> Ragged:
        """Return the first `lengths[i]` entries of each padded row; the inverse of `to_padded`."""
        longest = padded.shape[1]
        if lengths.device.type == "cpu" and bool((lengths > longest).any()):
            row = int((lengths > longest).nonzero()[0])
            raise ValueError(
                f"row {row} claims {int(lengths[row])} values of a padded length {longest}"
            )
        mask = torch.arange(longest, device=padded.device) < lengths[:, None]  # [B, L]
        return Ragged.from_lengths(padded[mask], lengths)

    @staticmethod
    def cat(parts: Sequence[Ragged]) -> Ragged:
        """Return the rows of all `parts`, one after another."""
        values = torch.cat([part.values for part in parts])
        return Ragged.from_lengths(values, torch.cat([part.lengths() for part in parts]))

    @property
    def num_rows(self) -> int:
        """Return B."""
        return self.offsets.numel() - 1

    def __len__(self) -> int:
        return self.num_rows

    def row(self, index: int) -> Shaped[Tensor, "_ ..."]:
        """Return row `index` as a view of `values`."""
        return self.values[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def lengths(self) -> Int64[Tensor, " B"]:
        """Return the number of values in each row."""
        return self.offsets.diff()

    def row_ids(self) -> Int64[Tensor, " T"]:
        """Return for each value the row it belongs to."""
        rows = torch.arange(self.num_rows, device=self.offsets.device)
        return torch.repeat_interleave(rows, self.lengths(), output_size=self.values.shape[0])

    def mask(self, longest: int | None = None) -> Bool[Tensor, "B L"]:
        """Return True where the padded form holds a value; `longest` defaults to the longest
        row.
        """
        lengths = self.lengths()
        if longest is None:
            longest = int(lengths.max()) if self.num_rows else 0
        return torch.arange(longest, device=self.offsets.device) < lengths[:, None]

    def to_padded(
        self, *, padding: float = 0.0, longest: int | None = None
    ) -> Shaped[Tensor, "B L ..."]:
        """Return rows padded at their end to `longest`; values beyond it are dropped. `ops.pad` is
        the fast twin.
        """
        mask = self.mask(longest)
        padded = self.values.new_full((*mask.shape, *self.values.shape[1:]), padding)
        position = torch.arange(self.values.shape[0], device=self.offsets.device)
        position = position - self.offsets[:-1].repeat_interleave(
            self.lengths(), output_size=self.values.shape[0]
        )
        padded[mask] = self.values[position < mask.shape[1]]
        return padded

    def select_rows(self, rows: Int64[Tensor, _]) -> Ragged:
        """Return the given rows, in the given order; a row may repeat."""
        lengths = self.lengths()[rows]
        offsets = offsets_from_lengths(lengths)
        shift = torch.repeat_interleave(self.offsets[rows] - offsets[:-1], lengths)
        return Ragged(
            self.values[torch.arange(shift.numel(), device=shift.device) + shift], offsets
        )

    def with_values(self, values: Shaped[Tensor, "T ..."]) -> Ragged:
        """Return these rows around other values of the same length T."""
        return Ragged(values, self.offsets)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Ragged:
        """Return this ragged tensor on `device`."""
        values = self.values.to(device, non_blocking=non_blocking)
        return Ragged(values, self.offsets.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Ragged:
        """Return a copy in page-locked host memory, from which `to(..., non_blocking=True)`
        overlaps.
        """
        return Ragged(self.values.pin_memory(), self.offsets.pin_memory())

    def __repr__(self) -> str:
        trailing = list(self.values.shape[1:])
        return f"Ragged({self.num_rows} rows, {self.values.shape[0]} values of shape {trailing}, {self.values.dtype})"


def _is_fake(tensor: Tensor) -> bool:
    return type(tensor) is not Tensor and not isinstance(tensor, torch.nn.Parameter)


torch.export.register_dataclass(Ragged, serialized_type_name="cuesta.Ragged")
