"""The ids that the benches look up: a Zipf law or uniform, the same for every contender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from cuesta.ragged import RaggedFeatures


@final
@dataclass(frozen=True, eq=False)
class IdBatch:
    """Hold one batch as users of each library hold it, all made before any clock runs.

    `features` is ours, and its values and offsets are what FBGEMM takes; `apart` has the ids and
    the offsets [B + 1] of each feature for one nn.EmbeddingBag each.
    """

    features: RaggedFeatures
    apart: tuple[tuple[Tensor, Tensor], ...]

    @staticmethod
    def of(features: RaggedFeatures) -> IdBatch:
        """Return the batch in all its forms."""
        ragged = [features[key] for key in features.keys]
        return IdBatch(features, tuple((each.values.clone(), each.offsets) for each in ragged))

    def to(self, device: str) -> IdBatch:
        """Return the batch on `device`."""
        return self if device == "cpu" else IdBatch.of(self.features.to(device))


@final
@dataclass(frozen=True, kw_only=True)
class IdConfig:
    """Say what ids to draw: by a Zipf law whose ranks are shuffled over the table, or uniformly."""

    rows: tuple[int, ...]
    batch_size: int
    ids_per_bag: int
    zipf: float | None
    seed: int = 0

    def batches(self, count: int) -> list[IdBatch]:
        """Return batches with `ids_per_bag` ids in every bag."""
        lengths = torch.full((len(self.rows) * self.batch_size,), self.ids_per_bag)
        return self._batches([lengths] * count)

    def ragged_batches(self, count: int) -> list[IdBatch]:
        """Return batches whose bags hold 0 to 2 * `ids_per_bag` ids."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (len(self.rows) * self.batch_size,)
        most = 2 * self.ids_per_bag + 1
        return self._batches(
            [torch.randint(0, most, shape, generator=generator) for _ in range(count)]
        )

    def _batches(self, lengths: Sequence[Tensor]) -> list[IdBatch]:
        counts = [each.view(len(self.rows), -1).sum(1).tolist() for each in lengths]  # [batches, F]
        drawn: list[list[Tensor]] = []
        for feature, rows in enumerate(self.rows):
            each = [count[feature] for count in counts]
            draw = np.random.default_rng([self.seed, feature])
            ids = torch.from_numpy(_draw(draw, rows, sum(each), self.zipf))
            drawn.append(list(ids.split(each)))
        keys = tuple(f"feature_{feature}" for feature in range(len(self.rows)))
        batches = []
        for number, own in enumerate(lengths):
            values = torch.cat([ids[number] for ids in drawn])
            offsets = torch.zeros(own.numel() + 1, dtype=torch.int64)
            torch.cumsum(own, 0, out=offsets[1:])
            batches.append(IdBatch.of(RaggedFeatures(keys, values, offsets)))
        return batches


def num_distinct(batch: IdBatch) -> list[int]:
    """Return how many different ids each feature of the batch has."""
    return [int(ids.unique().numel()) for ids, _ in batch.apart]


def _draw(draw: np.random.Generator, rows: int, count: int, zipf: float | None) -> np.ndarray:
    if zipf is None:
        return draw.integers(0, rows, count)
    mass = np.cumsum(np.arange(1, rows + 1) ** -zipf)
    ranks = np.searchsorted(mass / mass[-1], draw.random(count))
    return draw.permutation(rows)[np.minimum(ranks, rows - 1)]
