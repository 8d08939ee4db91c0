"""`ShardedEmbeddingBags`: tables cut over the ranks of a group as a plan says, with the face of `EmbeddingBags`.

Neo (ISCA 2022), 4D parallelism. The unsharded module on the batches of all ranks, one below the other, is the
specification. Every rank holds an ordinary `EmbeddingBags` of the parts that are its own, and another of the
tables that all hold; what is new is only who is asked. Whole tables, columns and copies learn with the same bits as
unsharded: ids of all ranks meet in the order of ranks. For tables cut by rows, sums over ranks round otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cuesta.errors import UserError
from cuesta.nn import EmbeddingBags, Storage, Table
from cuesta.nn.embedding import draw_tables
from cuesta.ops import TableOptimizer, bucketize_ids
from cuesta.ragged import Ragged, RaggedFeatures
from cuesta.rec.neo.ahead import Ahead, Asked
from cuesta.rec.neo.copies import Gradient, gathered
from cuesta.rec.neo.exchange import Ids, Received, Sending, Sent, Wire
from cuesta.rec.neo.plan import Plan, Shard
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.routes import PooledRoute, RowsRoute
from cuesta.rec.neo.row_state import step_with_shared_rows
from cuesta.rec.neo.sharding import RowState, Sharding, Slot, shard_name
from cuesta.rec.neo.tiers import TieredEmbeddingBags, Tiers


@final
@dataclass(frozen=True, kw_only=True)
class ShardedOptions:
    """Settle how numbers travel and what gradients mean.

    `gradient` says what a rank's loss is: `mean` over its rows, so that gradients become those of the mean over
    all ranks' rows; or `sum`, gradients as they are. `out_of_range` says what becomes of an id that no row has:
    an `error`; `clamp` takes the nearest row; `ignore` row 0, as FBGEMM does. `row_state` says what becomes of
    an optimiser's number for a whole row where columns are cut: it is `refused`; `shared` by the row's parts, as
    unsharded, for an exchange an update; or each part keeps one, `apart`. `tiers` says where a rank's parts lie if
    not in the memory that computes.
    """

    wire: Wire = field(default_factory=Wire)
    gradient: Gradient = "mean"
    out_of_range: Literal["error", "clamp", "ignore"] = "error"
    row_state: RowState = "refused"
    tiers: Tiers | None = None


@final
class ShardedEmbeddingBags(nn.Module):
    """Look up and train tables that are spread over ranks; every rank calls with its own rows of the batch.

    All else is as in `EmbeddingBags`; the state dict holds this rank's parts. Raises `UserError` as
    `Sharding` does, and `ValueError` naming an id that no row has, unless `options.out_of_range` says otherwise.

    >>> from cuesta.ops import SGD
    >>> from cuesta.rec.neo.plan import whole_tables
    >>> tables = [Table(name="item", num_rows=5, dim=2, pooled=("item",))]
    >>> bags = ShardedEmbeddingBags(tables, SGD(), whole_tables(tables, 1))
    >>> batch = RaggedFeatures.from_ragged({"item": Ragged.from_lengths(torch.tensor([1, 4]), [2, 0])})
    >>> bags(batch).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        tables: Sequence[Table],
        optimizer: TableOptimizer,
        plan: Plan,
        ranks: Ranks | None = None,
        *,
        storage: Storage = "float32",
        seed: int = 0,
        options: ShardedOptions | None = None,
    ) -> None:
        super().__init__()
        self.ranks = ranks or Ranks()
        self.tables, self.optimizer, self.plan = tuple(tables), optimizer, plan
        self.options = options or ShardedOptions()
        self.sharding = Sharding(
            tables, plan, optimizer, self.ranks.size, row_state=self.options.row_state
        )
        self.pooled_keys = tuple(key for table in tables for key in table.pooled)
        self.unpooled_keys = tuple(key for table in tables for key in table.unpooled)
        held, copied = self.sharding.held[self.ranks.rank], self.sharding.copied
        tiers = self.options.tiers
        if tiers is not None and any(self.sharding.wholes):
            raise UserError(
                "rows that share their state over ranks cannot lie in tiers; cut no columns, or keep states apart"
            )
        self._own: EmbeddingBags | TieredEmbeddingBags | None = None
        if held and tiers is not None:
            self._own = TieredEmbeddingBags(held, optimizer, tiers, storage=storage, seed=seed)
        elif held:
            self._own = EmbeddingBags(held, optimizer, storage=storage, seed=seed)
        self._copies: EmbeddingBags | None = None
        if copied:
            self._copies = EmbeddingBags(copied, optimizer, storage=storage, seed=seed)
        self._brought: dict[
            int, RaggedFeatures
        ] = {}  # of what was asked, whose rows are on their way
        self._answers = self.sharding.answers()
        self._blocks = _blocks(self.sharding.slots)
        self._dims = {
            key: table.dim for table in tables for key in (*table.pooled, *table.unpooled)
        }
        self._num_rows = {
            key: table.num_rows for table in tables for key in (*table.pooled, *table.unpooled)
        }
        self._num_parts = {
            key: plan.tables[table.name].columns
            for table in tables
            for key in (*table.pooled, *table.unpooled)
        }
        self._ahead = Ahead()
        self._asked_rows: dict[tuple[str, ...], None] = {}  # in the order of their first lookup
        self._draw(storage, seed)

    @property
    def width(self) -> int:
        """Return the number of columns of `forward`."""
        return sum(self.dims())

    def dims(self) -> tuple[int, ...]:
        """Return the dim of each pooled feature, in the order of `forward`'s columns."""
        return tuple(self._dims[key] for key in self.pooled_keys)

    @property
    def local(self) -> tuple[EmbeddingBags | TieredEmbeddingBags, ...]:
        """Return the ordinary modules of what this rank holds: its parts of tables, and its copies."""
        return tuple(bags for bags in (self._own, self._copies) if bags is not None)

    def num_bytes(self) -> int:
        """Return the bytes of the weights that this rank holds."""
        return sum(bags.num_bytes() for bags in self.local)

    def shards(self) -> dict[tuple[str, Shard], Float[Tensor, "rows columns"]]:
        """Return the weights of the parts that this rank holds, by table and place, as views."""
        own = {
            (table.name, shard): self._own.table(shard_name(table.name, shard))
            for table, shard in self.sharding.shards[self.ranks.rank]
            if self._own is not None
        }
        whole = {
            (table.name, Shard(self.ranks.rank, (0, table.num_rows), (0, table.dim))): (
                self._copies.table(table.name)
            )
            for table in self.sharding.copied
            if self._copies is not None
        }
        return own | whole

    def forward(self, features: RaggedFeatures) -> Float[Tensor, "B width"]:
        """Return the pooled rows of every pooled feature, side by side."""
        return self.send(features).wait()

    def send(self, features: RaggedFeatures) -> SentBags:
        """Start `forward`: what other ranks found is on its way while other layers work, until `wait` returns it.

        Gradients too travel while those of layers between `send` and `wait` are found.
        """
        (asked,) = self._ahead.take(features, ()) or [self._ask_pooled(features)]
        sent = None if asked.sending is None else self._answer_pooled(asked.features, asked.sending)
        copied: Tensor | None = None
        if self._copies is not None and self._copies.pooled_keys:
            copied = self._copies(asked.features)
        return SentBags(self, sent, copied)

    def announce(self, features: RaggedFeatures) -> None:
        """Tell other ranks how many ids a batch will ask of them, ahead of `fetch` and of its lookups.

        Lookups take what was announced if they get the same object, and else ask anew. Unpooled features are asked
        for as in the lookups so far. Every rank must announce, fetch and look up in the same order.
        """
        self._ahead.put(features, (), [self._ask_pooled(features)])
        for keys in self._asked_rows:
            self._ahead.put(features, keys, self._ask_rows(features, keys))

    def fetch(self, features: RaggedFeatures) -> None:
        """Send the ids of a batch that was announced, and have those of the other ranks sent."""
        for asked in self._ahead.of(features):
            if asked.sending is not None:
                asked.sending.start()

    def forget(self) -> None:
        """Forget what was announced and is not looked up; every rank must."""
        self._ahead = Ahead()
        self._brought = {}
        if isinstance(self._own, TieredEmbeddingBags):
            self._own.forget()

    def joined(self, sent: Tensor | None, copied: Tensor | None) -> Float[Tensor, "B width"]:
        """Return the columns of tables that are cut and of those that are copied in the order of features."""
        if copied is None or self._copies is None:
            assert sent is not None
            return sent
        if sent is None:
            return copied
        keys = (*self.sharding.pooled_keys, *self._copies.pooled_keys)
        widths = [self._dims[key] for key in keys]
        columns = dict(zip(keys, torch.cat([sent, copied], 1).split(widths, 1), strict=True))
        return torch.cat([columns[key] for key in self.pooled_keys], 1)

    def rows(self, features: RaggedFeatures, keys: Sequence[str]) -> list[Ragged]:
        """Return for each of these unpooled features, whose tables share a dim, its rows [T, D]."""
        self._asked_rows.setdefault(tuple(keys))
        asked = self._ahead.take(features, tuple(keys)) or self._ask_rows(features, keys)
        sent = [self._answer_rows(each) for each in asked]
        found: dict[str, Ragged] = {}
        for each, answers in zip(asked, sent, strict=True):
            if answers is not None:
                own = _raggeds(each.features, answers.wait())
            else:
                assert self._copies is not None
                own = self._copies.rows(each.features, each.features.keys)
            found |= zip(each.features.keys, own, strict=True)
        return [found[key] for key in keys]

    def step(self, lr_scale: float = 1.0) -> None:
        """Apply one exact update with all lookups since the last one, of all ranks."""
        if self._copies is not None and self.ranks.size > 1:
            with self.ranks.waits.during("gradients"):
                self._copies.pending = [
                    gathered(lookup, self.ranks, self.options.gradient)
                    for lookup in self._copies.pending
                ]
        if isinstance(self._own, TieredEmbeddingBags):
            self._bring()
        if any(self.sharding.wholes):
            assert not isinstance(self._own, TieredEmbeddingBags)
            own = self.sharding.wholes[self.ranks.rank]
            step_with_shared_rows(self._own, own, self.ranks, lr_scale)
        elif self._own is not None:
            self._own.step(lr_scale)
        if self._copies is not None:
            self._copies.step(lr_scale)

    def drop_gradients(self) -> None:
        """Forget the lookups since the last update; every rank must."""
        for bags in self.local:
            bags.drop_gradients()

    def extra_repr(self) -> str:
        return f"rank {self.ranks.rank} of {self.ranks.size}, {self.options.gradient} gradients"

    def _draw(self, storage: Storage, seed: int) -> None:
        """Write the weights that the unsharded module starts with, and keep what is this rank's."""
        views: dict[str, list[tuple[Shard, Tensor]]] = {}
        for (name, shard), view in self.shards().items():
            views.setdefault(name, []).append((shard, view))
        for table, drawn in zip(
            self.tables, draw_tables(self.tables, getattr(torch, storage), seed), strict=True
        ):
            for shard, view in views.get(table.name, ()):
                view.copy_(drawn[slice(*shard.rows), slice(*shard.columns)])

    def _in_range(self, features: RaggedFeatures) -> RaggedFeatures:
        """Return features whose ids all have a row, where ids without one are no error."""
        if self.options.out_of_range == "error":
            return features
        values, limits = features.values, self._limits(features)
        if self.options.out_of_range == "clamp":
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

    def _ask_pooled(self, features: RaggedFeatures) -> Asked:
        chosen = self._in_range(features.select(self.pooled_keys))
        cut = self.sharding.pooled_keys
        if not cut:
            return Asked(chosen)
        ids, _ = self._dealt(chosen.select(cut), self._blocks)
        return Asked(chosen, Sending(self.ranks, ids, [len(each) for each in self.sharding.slots]))

    def _answer_pooled(self, features: RaggedFeatures, sending: Sending) -> Sent:
        received = sending.wait()
        if self._own is None or not self._own.pooled_keys:
            values = torch.zeros(sum(received.num_rows), 0, device=features.values.device)
        else:
            values = self._own(self._asked_of_own(self._own.pooled_keys, sending))
        route = PooledRoute(
            self._answers, self.sharding.widths(), received,
            features.select(self.sharding.pooled_keys).lengths(), values.shape[1],
            self._share(received, features.num_rows),
        )  # fmt: skip
        return Sent(values, route, self.ranks, self.options.wire)

    def _ask_rows(self, features: RaggedFeatures, keys: Sequence[str]) -> list[Asked]:
        """Ask for unpooled features: those of copied tables, of nobody, and those of parts of each width."""
        features = self._in_range(features.select(keys))
        copied = self._copies.unpooled_keys if self._copies is not None else ()
        own = [key for key in keys if key in copied]
        asked = [Asked(features.select(own))] if own else []
        for width, same in self._by_width([key for key in keys if key not in copied]).items():
            chosen = features.select(same)
            slots = self._slots_of(same)
            ids, places = self._dealt(chosen, _blocks(slots), wants_places=True)
            ids = ids._replace(weights=None)
            sending = Sending(self.ranks, ids, [len(each) for each in slots])
            asked.append(Asked(chosen, sending, places, width))
        return asked

    def _answer_rows(self, asked: Asked) -> Sent | None:
        """Return the rows that other ranks find, on their way; None where they are this rank's own."""
        if asked.sending is None:
            return None
        received = asked.sending.wait()
        features, keys = asked.features, asked.features.keys
        slots = self._slots_of(keys)
        if slots[self.ranks.rank]:
            assert self._own is not None
            own = self._held_keys(keys)
            found = self._own.rows(self._asked_of_own(own, asked.sending), own)
            values = torch.cat([each.values for each in found])
        else:
            values = torch.zeros(0, asked.width, device=features.values.device)
        route = RowsRoute(
            slots, asked.sending.counts, asked.places, received,
            (features.values.numel(), self._dims[keys[0]]), asked.width,
            self._share(received, features.num_rows),
        )  # fmt: skip
        return Sent(values, route, self.ranks, self.options.wire)

    def _held_keys(self, keys: Sequence[str]) -> list[str]:
        """Return the names that this rank's own tables have for unpooled features, part by part."""
        assert self._own is not None
        held = self.sharding.unpooled_slots[self.ranks.rank]
        return [
            key
            for key, slot in zip(self._own.unpooled_keys, held, strict=True)
            if self.sharding.unpooled_keys[slot.feature] in keys
        ]

    def _asked_of_own(self, keys: Sequence[str], sending: Sending) -> RaggedFeatures:
        """Return what all ranks ask of this rank's own tables."""
        brought = self._brought.pop(id(sending), None)
        return _features(keys, sending.wait().ids) if brought is None else brought

    def _bring(self) -> None:
        """Have the rows moved to fast memory that the next batch asks for, if its ids are under way."""
        assert isinstance(self._own, TieredEmbeddingBags)
        for asked in self._ahead.next():
            if asked.sending is None or not asked.sending.is_started:
                continue
            keys = self._held_keys(asked.features.keys) if asked.width else self._own.pooled_keys
            if keys:
                features = self._asked_of_own(keys, asked.sending)
                self._brought[id(asked.sending)] = features
                self._own.prefetch(features)

    def _slots_of(self, keys: Sequence[str]) -> list[list[Slot]]:
        """Return each rank's slots of unpooled features, which are numbered as given."""
        numbers = {self.sharding.unpooled_keys.index(key): n for n, key in enumerate(keys)}
        return [
            [Slot(numbers[slot.feature], slot.shard) for slot in each if slot.feature in numbers]
            for each in self.sharding.unpooled_slots
        ]

    def _by_width(self, keys: Sequence[str]) -> dict[int, list[str]]:
        """Return unpooled features by the width of their tables' parts."""
        found: dict[int, list[str]] = {}
        for table in self.sharding.cut:
            for key in table.unpooled:
                if key in keys:
                    width = table.dim // self.plan.tables[table.name].columns
                    found.setdefault(width, []).append(key)
        return found

    def _share(self, received: Received, num_rows: int) -> float:
        """Return what this rank's gradients count: its share of all rows, or 1."""
        return num_rows / max(sum(received.num_rows), 1) if self.options.gradient == "mean" else 1.0


@final
class SentBags:
    """Hold a lookup whose answers are on their way."""

    def __init__(
        self, bags: ShardedEmbeddingBags, sent: Sent | None, copied: Tensor | None
    ) -> None:
        self._bags, self._sent, self._copied = bags, sent, copied

    def wait(self) -> Float[Tensor, "B width"]:
        """Return what `ShardedEmbeddingBags.forward` does."""
        sent = None if self._sent is None else self._sent.wait()
        return self._bags.joined(sent, self._copied)


def _blocks(slots: Sequence[Sequence[Slot]]) -> Tensor:
    """Return what `bucketize_ids` reads of all ranks' slots."""
    blocks = [(slot.feature, *slot.shard.rows) for each in slots for slot in each]
    return torch.tensor(blocks, dtype=torch.int64).view(-1, 3)


def _features(keys: Sequence[str], ids: Ids) -> RaggedFeatures:
    return RaggedFeatures(tuple(keys), ids.values, ids.offsets(), ids.weights)


def _raggeds(features: RaggedFeatures, rows: Float[Tensor, "T D"]) -> list[Ragged]:
    """Return the rows of each feature."""
    found, num_rows = [], features.num_rows
    for f in range(len(features.keys)):
        offsets = features.offsets[f * num_rows : (f + 1) * num_rows + 1]
        begin, end = int(offsets[0]), int(offsets[-1])
        found.append(Ragged(rows[begin:end], offsets - begin))
    return found
