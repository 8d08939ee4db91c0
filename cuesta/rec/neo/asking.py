"""What a rank asks of others for a batch: which ids go to which slots of which rank, and which have no row anywhere.

Neo (ISCA 2022), partitioning of inputs: ids are dealt to the ranks that hold their rows. Features of copied
tables are asked of nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor

from cuesta.ops import bucketize_ids
from cuesta.ragged import RaggedFeatures
from cuesta.rec.neo.ahead import Asked
from cuesta.rec.neo.exchange import Ids, Sending
from cuesta.rec.neo.plan import Plan
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.sharding import Sharding, Slot

OutOfRange = Literal["error", "clamp", "ignore"]


@final
class Asking:
    """Ask other ranks for the features of a batch. Raises `ValueError` naming an id that no row has, where that is an
    `error`.
    """

    def __init__(
        self, sharding: Sharding, plan: Plan, ranks: Ranks, out_of_range: OutOfRange
    ) -> None:
        self._sharding, self._ranks, self._rule = sharding, ranks, out_of_range
        owners = [(key, t) for t in sharding.tables for key in (*t.pooled, *t.unpooled)]
        self._num_rows = {key: table.num_rows for key, table in owners}
        self._num_parts = {key: plan.tables[table.name].columns for key, table in owners}
        self._widths = {key: table.dim // self._num_parts[key] for key, table in owners}
        self._pooled_keys = tuple(key for table in sharding.tables for key in table.pooled)
        self._copied = {key for table in sharding.copied for key in table.unpooled}
        self._blocks = _blocks(sharding.slots)

    def pooled(self, features: RaggedFeatures) -> Asked:
        """Ask for all pooled features."""
        chosen = self._in_range(features.select(self._pooled_keys))
        cut = self._sharding.pooled_keys
        if not cut:
            return Asked(chosen)
        ids, _ = self._dealt(chosen.select(cut), self._blocks)
        return Asked(
            chosen, Sending(self._ranks, ids, [len(each) for each in self._sharding.slots])
        )

    def rows(self, features: RaggedFeatures, keys: Sequence[str]) -> list[Asked]:
        """Ask for unpooled features: those of copied tables, of nobody, and those of parts of each width."""
        features = self._in_range(features.select(keys))
        own = [key for key in keys if key in self._copied]
        asked = [Asked(features.select(own))] if own else []
        for width, same in self._by_width(keys).items():
            chosen = features.select(same)
            slots = self.slots_of(same)
            ids, places = self._dealt(chosen, _blocks(slots), wants_places=True)
            ids = ids._replace(weights=None)
            sending = Sending(self._ranks, ids, [len(each) for each in slots])
            asked.append(Asked(chosen, sending, places, width))
        return asked

    def slots_of(self, keys: Sequence[str]) -> list[list[Slot]]:
        """Return each rank's slots of unpooled features, which are numbered as given."""
        numbers = {self._sharding.unpooled_keys.index(key): n for n, key in enumerate(keys)}
        return [
            [Slot(numbers[slot.feature], slot.shard) for slot in each if slot.feature in numbers]
            for each in self._sharding.unpooled_slots
        ]

    def _by_width(self, keys: Sequence[str]) -> dict[int, list[str]]:
        """Return the unpooled features among these by the width of their tables' parts."""
        found: dict[int, list[str]] = {}
        for key in self._sharding.unpooled_keys:
            if key in keys:
                found.setdefault(self._widths[key], []).append(key)
        return found

    def _in_range(self, features: RaggedFeatures) -> RaggedFeatures:
        """Return features whose ids all have a row, where ids without one are no error."""
        if self._rule == "error":
            return features
        values, limits = features.values, self._limits(features)
        if self._rule == "clamp":
            values = values.clamp(min=0).minimum(limits - 1)
        else:
            values = torch.where((values < 0) | (values >= limits), 0, values)
        return RaggedFeatures(features.keys, values, features.offsets, features.weights)

    def _limits(self, features: RaggedFeatures) -> Tensor:
        """Return the number of rows of each id's table."""
        rows = features.values.new_tensor([self._num_rows[key] for key in features.keys])
        counts = features.lengths().sum(1)
        return rows.repeat_interleave(counts, output_size=features.values.numel())

    def _dealt(
        self, features: RaggedFeatures, blocks: Tensor, *, wants_places: bool = False
    ) -> tuple[Ids, Tensor]:
        """Return the ids of all ranks' slots, and where they were. Raises `ValueError` for an id without a row."""
        weights = features.weights
        dealt = bucketize_ids(
            features.values, features.offsets, blocks.to(features.values.device),
            num_features=len(features.keys), wants_places=wants_places or weights is not None,
        )  # fmt: skip
        ends = features.offsets[:: features.num_rows] if features.num_rows else None
        expected = 0
        if ends is not None:
            counts = zip(features.keys, ends.diff().tolist(), strict=True)
            expected = sum(self._num_parts[key] * count for key, count in counts)
        if dealt.ids.numel() != expected:
            raise ValueError(self._out_of_range(features))
        chosen = None if weights is None else weights[dealt.places]
        return Ids(dealt.ids, dealt.lengths, chosen), dealt.places

    def _out_of_range(self, features: RaggedFeatures) -> str:
        """Return words about the first id that has no row."""
        is_bad = (features.values < 0) | (features.values >= self._limits(features))
        place = int(is_bad.nonzero()[0, 0])
        bag = int(torch.searchsorted(features.offsets, place, right=True)) - 1
        key, row = features.keys[bag // features.num_rows], bag % features.num_rows
        return (
            f"feature {key!r}, row {row}: id {int(features.values[place])} is out of range for a table "
            f"of {self._num_rows[key]} rows"
        )


def _blocks(slots: Sequence[Sequence[Slot]]) -> Tensor:
    """Return what `bucketize_ids` reads of all ranks' slots."""
    blocks = [(slot.feature, *slot.shard.rows) for each in slots for slot in each]
    return torch.tensor(blocks, dtype=torch.int64).view(-1, 3)
