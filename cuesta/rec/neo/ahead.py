"""What was asked of other ranks ahead of lookups: the ids of batches to come, on their way while one trains.

Neo (ISCA 2022), pipelining. A lookup finds what was asked for it by the batch's own object, so that nothing is traced.
"""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import Tensor

from cuesta.ragged import RaggedFeatures
from cuesta.rec.neo.exchange import Sending


class Asked(NamedTuple):
    """Hold features of a lookup, and what was asked of other ranks for them: nothing if tables are copies."""

    features: RaggedFeatures
    sending: Sending | None = None
    places: Tensor = torch.empty(0)  # of unpooled ids, slot by slot
    width: int = 0  # of their tables' parts


@final
class Ahead:
    """Hold what was asked ahead of lookups, by batch and by the unpooled features asked for, () for the pooled."""

    def __init__(self) -> None:
        self._batches: list[tuple[RaggedFeatures, dict[tuple[str, ...], list[Asked]]]] = []

    def put(self, features: RaggedFeatures, keys: tuple[str, ...], asked: list[Asked]) -> None:
        """Keep what was asked for a batch."""
        if not any(batch is features for batch, _ in self._batches):
            self._batches.append((features, {}))
        self._of(features)[keys] = asked

    def of(self, features: RaggedFeatures) -> list[Asked]:
        """Return all that was asked for a batch."""
        return [each for asked in self._of(features).values() for each in asked]

    def next(self) -> list[Asked]:
        """Return all that was asked for the first batch to come."""
        return [each for _, asked in self._batches[:1] for own in asked.values() for each in own]

    def take(self, features: RaggedFeatures, keys: tuple[str, ...]) -> list[Asked] | None:
        """Return what was asked for a lookup, and keep it no longer; None if nothing was."""
        waiting = self._of(features)
        asked = waiting.pop(keys, None)
        if not waiting:
            self._batches = [each for each in self._batches if each[0] is not features]
        return asked

    def _of(self, features: RaggedFeatures) -> dict[tuple[str, ...], list[Asked]]:
        return next((asked for batch, asked in self._batches if batch is features), {})
