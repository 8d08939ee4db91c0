"""`RaggedFeatures`: the batch format of the ranking wing, many ragged id features in at most three
tensors.

The layout is feature-major, as in TorchRec's KeyedJaggedTensor and the "combined format" of Neo
(ISCA 2022, data ingestion), but with offsets as the one word for ragged instead of lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from cuesta.ragged.ragged import Ragged, check_offsets, offsets_from_lengths


@final
@dataclass(frozen=True, eq=False)
class RaggedFeatures:
    """Hold F named ragged features of the same B rows in one values, one offsets and one optional
    weights tensor.

    ```
    keys     user              item                       F = 2, B = 3
    row         0    1    2       0      1     2
    values     u0 | u1 | u2 |  a b |      | c d e         [T]
    offsets    0    1    2    3     5      5       8      [F * B + 1]
    ```

    Bag `f * B + b` is feature f of row b. `values` are int32 or int64 ids; `weights` are float, one
    a value. Raises `ValueError` naming the feature and the row when a bag is malformed.

    >>> features = RaggedFeatures.from_ragged({
    ...     "user": Ragged.from_lengths(torch.tensor([7, 8, 9]), [1, 1, 1]),
    ...     "item": Ragged.from_lengths(torch.tensor([1, 2, 3, 4, 5]), [2, 0, 3]),
    ... })
    >>> features["item"].row(2).tolist(), features.num_rows
    ([3, 4, 5], 3)
    """

    keys: tuple[str, ...]
    values: Int[Tensor, " T"]
    offsets: Int64[Tensor, " F*B+1"]
    weights: Float[Tensor, " T"] | None = None

    def __post_init__(self) -> None:
        if not self.keys or len(set(self.keys)) != len(self.keys):
            raise ValueError(f"keys must be unique and at least one, got {list(self.keys)}")
        if self.values.dtype not in (torch.int32, torch.int64) or self.values.dim() != 1:
            raise ValueError(
                f"values must be 1-D int32 or int64 ids, got {self.values.dtype} of shape {tuple(self.values.shape)}"
            )
        if (self.offsets.numel() - 1) % len(self.keys):
            raise ValueError(
                f"offsets must hold F * B + 1 numbers for F = {len(self.keys)} features, got {self.offsets.numel()}"
            )
        if self.weights is not None and self.weights.shape != self.values.shape:
            raise ValueError(
                f"weights must have one number per value, {self.values.numel()}, got shape {tuple(self.weights.shape)}"
            )
        check_offsets(self.offsets, num_values=self.values.shape[0], what="bag (feature-major)")

    @staticmethod
    def from_ragged(
        features: Mapping[str, Ragged], weights: Mapping[str, Float[Tensor, _]] | None = None
    ) -> RaggedFeatures:
        """Return one batch of `features`, all with the same rows; features without an entry in
        `weights` weigh 1.
        """
        num_rows = {key: feature.num_rows for key, feature in features.items()}
        if len(set(num_rows.values())) > 1:
            raise ValueError(f"features must have the same number of rows, got {num_rows}")
        values = torch.cat([feature.values for feature in features.values()])
        lengths = torch.cat([feature.lengths() for feature in features.values()])
        joined = None
        if weights:
            ones = {
                key: torch.ones(f.values.shape[0], device=values.device)
                for key, f in features.items()
            }
            joined = torch.cat([weights.get(key, ones[key]) for key in features])
        return RaggedFeatures(tuple(features), values, offsets_from_lengths(lengths), joined)

    @property
    def num_rows(self) -> int:
        """Return B."""
        return (self.offsets.numel() - 1) // len(self.keys)

    def __getitem__(self, key: str) -> Ragged:
        """Return feature `key`; its values are a view."""
        begin, end, offsets = self._span(key)
        return Ragged(self.values[begin:end], offsets - begin)

    def weights_of(self, key: str) -> Float[Tensor, _]:
        """Return the weights of feature `key`, ones when the batch carries none."""
        begin, end, _ = self._span(key)
        if self.weights is None:
            return torch.ones(end - begin, device=self.values.device)
        return self.weights[begin:end]

    def lengths(self) -> Int64[Tensor, "F B"]:
        """Return the number of ids of each feature in each row."""
        return self.offsets.diff().view(len(self.keys), self.num_rows)

    def select(self, keys: Sequence[str]) -> RaggedFeatures:
        """Return the batch of these features in this order."""
        if tuple(keys) == self.keys:
            return self
        spans = [self._span(key) for key in keys]
        values = torch.cat([self.values[begin:end] for begin, end, _ in spans])
        weights = None
        if self.weights is not None:
            weights = torch.cat([self.weights[begin:end] for begin, end, _ in spans])
        lengths = torch.cat([offsets.diff() for _, _, offsets in spans])
        return RaggedFeatures(tuple(keys), values, offsets_from_lengths(lengths), weights)

    def select_rows(self, rows: Int64[Tensor, _]) -> RaggedFeatures:
        """Return these rows of every feature, in the given order; a row may repeat."""
        starts = torch.arange(len(self.keys), device=rows.device) * self.num_rows
        bags = (starts[:, None] + rows).flatten()
        every = Ragged(torch.arange(self.values.shape[0], device=rows.device), self.offsets)
        picked = every.select_rows(bags)
        weights = None if self.weights is None else self.weights[picked.values]
        return RaggedFeatures(self.keys, self.values[picked.values], picked.offsets, weights)

    @staticmethod
    def cat(parts: Sequence[RaggedFeatures]) -> RaggedFeatures:
        """Return the rows of all `parts`, one after another; all must have the same keys."""
        keys = parts[0].keys
        for part in parts:
            if part.keys != keys:
                raise ValueError(
                    f"parts must have the same keys, got {list(keys)} and {list(part.keys)}"
                )
        features = {key: Ragged.cat([part[key] for part in parts]) for key in keys}
        if all(part.weights is None for part in parts):
            return RaggedFeatures.from_ragged(features)
        weights = {key: torch.cat([part.weights_of(key) for part in parts]) for key in keys}
        return RaggedFeatures.from_ragged(features, weights)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> RaggedFeatures:
        """Return this batch on `device`: at most three copies, whatever F is."""
        weights = self.weights
        return RaggedFeatures(
            self.keys,
            self.values.to(device, non_blocking=non_blocking),
            self.offsets.to(device, non_blocking=non_blocking),
            None if weights is None else weights.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> RaggedFeatures:
        """Return a copy in page-locked host memory."""
        weights = None if self.weights is None else self.weights.pin_memory()
        return RaggedFeatures(
            self.keys, self.values.pin_memory(), self.offsets.pin_memory(), weights
        )

    def __repr__(self) -> str:
        return (
            f"RaggedFeatures({list(self.keys)}, {self.num_rows} rows, {self.values.shape[0]} ids)"
        )

    def _span(self, key: str) -> tuple[int, int, Int64[Tensor, " B+1"]]:
        if key not in self.keys:
            raise KeyError(f"no feature {key!r}; this batch has {list(self.keys)}")
        first = self.keys.index(key) * self.num_rows
        offsets = self.offsets[first : first + self.num_rows + 1]
        return int(offsets[0]), int(offsets[-1]), offsets
