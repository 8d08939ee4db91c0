"""`ShardedEmbeddingBags`: tables cut over the ranks of a group as a plan says, with the face of `EmbeddingBags`.

Neo (ISCA 2022), 4D parallelism. The unsharded module on the batches of all ranks, one below the other, is the
specification. Every rank holds an ordinary `EmbeddingBags` of the parts that are its own, and another of the
tables that all hold; what is new is only who is asked. Whole tables, columns and copies learn with the same bits as
unsharded: ids of all ranks meet in the order of ranks. For tables cut by rows, sums over ranks round otherwise.
What is asked is in `asking.py`, how answers travel in `ways.py` and `routes.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cuesta.errors import UserError
from cuesta.nn import EmbeddingBags, Storage, Table
from cuesta.nn.embedding import draw_rows
from cuesta.ops import TableOptimizer
from cuesta.ragged import Ragged, RaggedFeatures
from cuesta.rec.neo.ahead import Ahead, Asked
from cuesta.rec.neo.asking import Asking, OutOfRange
from cuesta.rec.neo.copies import Gradient, gathered
from cuesta.rec.neo.exchange import Ids, Leg, Received, Sending, Sent, Wire
from cuesta.rec.neo.plan import Plan, Shard
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.routes import RowsRoute
from cuesta.rec.neo.row_state import step_with_shared_rows
from cuesta.rec.neo.sharding import Columns, RowState, Sharding, shard_name
from cuesta.rec.neo.tiers import TieredEmbeddingBags, Tiers
from cuesta.rec.neo.ways import Bags, ways_of


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
    out_of_range: OutOfRange = "error"
    row_state: RowState = "refused"
    tiers: Tiers | None = None


@final
class ShardedEmbeddingBags(nn.Module):
    """Look up and train tables that are spread over ranks; every rank calls with its own rows of the batch.

    All else is as in `EmbeddingBags`; the state dict holds this rank's parts. Sums over the ranks of one node cross to
    other nodes once, if `ranks` know of nodes (`Ranks.of_mesh`). Raises `UserError` as `Sharding` does, and
    `ValueError` naming an id that no row has, unless `options.out_of_range` says otherwise.

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
        self._dims = {
            key: table.dim for table in tables for key in (*table.pooled, *table.unpooled)
        }
        self._asking = Asking(self.sharding, plan, self.ranks, self.options.out_of_range)
        self._ways = ways_of(self.sharding, self.ranks)
        self._columns = self._arriving_columns()
        self._ahead = Ahead()
        self._asked_rows: dict[tuple[str, ...], None] = {}  # in the order of their first lookup
        self._draw(seed)

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
        (asked,) = self._ahead.take(features, ()) or [self._asking.pooled(features)]
        sent = [] if asked.sending is None else self._answer_pooled(asked.features, asked.sending)
        copied: Tensor | None = None
        if self._copies is not None and self._copies.pooled_keys:
            copied = self._copies(asked.features)
        return SentBags(self, sent, copied)

    def announce(self, features: RaggedFeatures) -> None:
        """Tell other ranks how many ids a batch will ask of them, ahead of `fetch` and of its lookups.

        Lookups take what was announced if they get the same object, and else ask anew. Unpooled features are asked
        for as in the lookups so far. Every rank must announce, fetch and look up in the same order.
        """
        self._ahead.put(features, (), [self._asking.pooled(features)])
        for keys in self._asked_rows:
            self._ahead.put(features, keys, self._asking.rows(features, keys))

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

    def joined(self, arrived: Sequence[Tensor]) -> Float[Tensor, "B width"]:
        """Return the columns of all ways, and then of copied tables, in the order of features."""
        values = arrived[0] if len(arrived) == 1 else torch.cat(list(arrived), 1)
        if self._columns == sorted(self._columns):
            return values
        parts = values.split([columns.width for columns in self._columns], 1)
        placed = sorted(zip(self._columns, parts, strict=True), key=lambda each: each[0])
        return torch.cat([part for _, part in placed], 1)

    def rows(self, features: RaggedFeatures, keys: Sequence[str]) -> list[Ragged]:
        """Return for each of these unpooled features, whose tables share a dim, its rows [T, D]."""
        self._asked_rows.setdefault(tuple(keys))
        asked = self._ahead.take(features, tuple(keys)) or self._asking.rows(features, keys)
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

    def _draw(self, seed: int) -> None:
        """Write the weights that the unsharded module starts with, of which this rank keeps its own."""
        views: dict[str, list[tuple[Shard, Tensor]]] = {}
        for (name, shard), view in self.shards().items():
            views.setdefault(name, []).append((shard, view))
        for table, first, drawn in draw_rows(self.tables, seed):
            for shard, view in views.get(table.name, ()):
                begin = max(shard.rows[0], first)
                end = min(shard.rows[1], first + len(drawn))
                if begin < end:
                    own = view[begin - shard.rows[0] : end - shard.rows[0]]
                    own.copy_(drawn[begin - first : end - first, slice(*shard.columns)])

    def _arriving_columns(self) -> list[Columns]:
        """Return what `joined` gets, with the numbers that features have among all pooled ones."""
        numbers = {key: number for number, key in enumerate(self.pooled_keys)}
        cut = [numbers[key] for key in self.sharding.pooled_keys]
        sent = [each._replace(feature=cut[each.feature]) for w in self._ways for each in w.columns]
        copied = [key for table in self.sharding.copied for key in table.pooled]
        return sent + [Columns(numbers[key], 0, self._dims[key]) for key in copied]

    def _answer_pooled(self, features: RaggedFeatures, sending: Sending) -> list[Sent]:
        """Return what this rank finds for all, on each of the ways."""
        received = sending.wait()
        if self._own is None or not self._own.pooled_keys:
            values = torch.zeros(sum(received.num_rows), 0, device=features.values.device)
        else:
            values = self._own(self._asked_of_own(self._own.pooled_keys, sending))
        lengths = features.select(self.sharding.pooled_keys).lengths()
        bags = Bags(received.num_rows, lengths, self._share(received, features.num_rows))
        return [way.send(values, bags, self.options.wire) for way in self._ways]

    def _answer_rows(self, asked: Asked) -> Sent | None:
        """Return the rows that other ranks find, on their way; None where they are this rank's own."""
        if asked.sending is None:
            return None
        received = asked.sending.wait()
        features, keys = asked.features, asked.features.keys
        slots = self._asking.slots_of(keys)
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
        return Sent(values, [Leg(route, self.ranks)], self.options.wire, self.ranks.waits)

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

    def _share(self, received: Received, num_rows: int) -> float:
        """Return what this rank's gradients count: its share of all rows, or 1."""
        return num_rows / max(sum(received.num_rows), 1) if self.options.gradient == "mean" else 1.0


@final
class SentBags:
    """Hold a lookup whose answers are on their way."""

    def __init__(
        self, bags: ShardedEmbeddingBags, sent: Sequence[Sent], copied: Tensor | None
    ) -> None:
        self._bags, self._sent, self._copied = bags, sent, copied

    def wait(self) -> Float[Tensor, "B width"]:
        """Return what `ShardedEmbeddingBags.forward` does."""
        arrived = [each.wait() for each in self._sent]
        return self._bags.joined(arrived if self._copied is None else [*arrived, self._copied])


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
