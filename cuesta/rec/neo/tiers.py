"""`TieredEmbeddingBags`: tables larger than fast memory, trained as if they were in it; the face of `EmbeddingBags`.

Neo (ISCA 2022), the memory hierarchy: a GPU's memory over host memory over an SSD, or on a CPU host memory over an
SSD. Tables of one width share a cache of rows (`row_cache.py`) over a store of them all (`row_store.py`). A batch's ids
become numbers of lines, and lookups and updates are the ordinary ops on the lines; so training gives the same bits as
`EmbeddingBags`, whose tables are float32. Tables in 16 bits are a store under float32 lines: what is used often gathers
small updates, and is rounded when it leaves. `prefetch` has the rows of the next batch moved while this one trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cuesta.errors import UserError
from cuesta.nn import Storage, Table
from cuesta.nn.embedding import draw_into, load_views, look_up
from cuesta.ops import Lookup, TableLayout, TableOptimizer, TableState, embedding_update
from cuesta.ragged import Ragged, RaggedFeatures
from cuesta.rec.neo.file_rows import FileRows
from cuesta.rec.neo.row_cache import CacheCounts, Policy, RowCache
from cuesta.rec.neo.row_store import BottomStore, RowStore, TensorRows


@final
@dataclass(frozen=True, kw_only=True)
class Tiers:
    """Say what share of all rows fast memory holds, and where the rest is.

    `fast` is the share in the memory that computes. Without `folder` all rows lie in host memory; with it in files
    there, and `host`, where it is above 0, is the share of them that host memory holds between. `policy` says which
    row leaves: that used longest ago (`lru`), or least often (`lfu`), whose counts are halved every `halve_every`
    batches.
    """

    fast: float = 0.2
    folder: Path | None = None
    host: float = 0.0
    policy: Policy = "lru"
    halve_every: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fast <= 1 or not 0 <= self.host <= 1:
            raise UserError(
                f"tiers.fast must be in (0, 1] and tiers.host in [0, 1], got {self.fast} and {self.host}"
            )
        if self.host and self.folder is None:
            raise UserError("tiers.host is a share of rows in files; name a tiers.folder too")


@final
class TieredEmbeddingBags(nn.Module):
    """Look up and train tables that are larger than fast memory.

    State-dict keys are those of `EmbeddingBags`; to make one, the caches are written back and emptied, and `ValueError`
    is raised between a lookup and its update. Ids out of range raise `ValueError` naming the feature.

    >>> from cuesta.ops import RowwiseAdagrad
    >>> tables = [Table(name="item", num_rows=5, dim=2, pooled=("item",))]
    >>> bags = TieredEmbeddingBags(tables, RowwiseAdagrad(lr=0.1), Tiers(fast=0.4))
    >>> batch = RaggedFeatures.from_ragged({"item": Ragged.from_lengths(torch.tensor([1, 4]), [2, 0])})
    >>> bags(batch).sum().backward(); bags.step()
    >>> bags.counts().misses
    2
    """

    def __init__(
        self,
        tables: Sequence[Table],
        optimizer: TableOptimizer,
        tiers: Tiers,
        *,
        storage: Storage = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tables, self.optimizer, self.tiers = tuple(tables), optimizer, tiers
        self.storage: Storage = storage
        self.seed = seed
        self.pooled_keys = tuple(key for table in tables for key in table.pooled)
        self.unpooled_keys = tuple(key for table in tables for key in table.unpooled)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.updates: Tensor
        by_dim: dict[int, list[Table]] = {}
        for table in tables:
            by_dim.setdefault(table.dim, []).append(table)
        self._groups = [_Group(same, self) for same in by_dim.values()]
        self._placed: dict[int, _Placed] = {}
        views = self._views()
        draw_into(tables, [views[f"tables.{table.name}"] for table in tables], seed)

    @property
    def width(self) -> int:
        """Return the number of columns of `forward`."""
        return sum(self.dims())

    def dims(self) -> tuple[int, ...]:
        """Return the dim of each pooled feature, in the order of `forward`'s columns."""
        return tuple(table.dim for table in self.tables for _ in table.pooled)

    def num_bytes(self) -> int:
        """Return the bytes of all tables' weights, without the optimiser's state."""
        itemsize = getattr(torch, self.storage).itemsize
        return sum(table.num_rows * table.dim * itemsize for table in self.tables)

    def counts(self) -> CacheCounts:
        """Return what the caches of fast memory counted, together."""
        each = [group.cache.counts for group in self._groups]
        return CacheCounts(
            *(sum(values) for values in zip(*(vars(c).values() for c in each), strict=True))
        )

    def prefetch(self, features: RaggedFeatures) -> None:
        """Give a batch's rows lines, and have them moved there, ahead of the lookups with the same object."""
        self._place(features)

    def wait(self) -> None:
        """Return when all rows that were asked for are there. Raises what reading or writing raised."""
        for group in self._groups:
            group.cache.wait()

    def forward(self, features: RaggedFeatures) -> Float[Tensor, "B width"]:
        """Return the pooled rows of every pooled feature, side by side."""
        missing = [key for key in self.pooled_keys if key not in features.keys]
        if missing:
            raise KeyError(f"no feature {missing[0]!r}; this batch has {list(features.keys)}")
        placed = self._place(features)
        columns: dict[str, Tensor] = {}
        for group in self._groups:
            if group.pooled_keys:
                lines = placed.lines[group]
                group.cache.wait(placed.batches[group])
                values = group.look_up(
                    lines, group.pooled_keys, is_pooled=True, learns=self._learns
                )
                widths = [group.dim] * len(group.pooled_keys)
                columns |= zip(group.pooled_keys, values.split(widths, 1), strict=True)
        self._looked_up(features, placed)
        return torch.cat([columns[key] for key in self.pooled_keys], 1)

    def rows(self, features: RaggedFeatures, keys: Sequence[str]) -> list[Ragged]:
        """Return for each of these unpooled features, whose tables share a dim, its rows [T, D]."""
        for key in keys:
            if key not in self.unpooled_keys:
                raise ValueError(
                    f"no unpooled feature {key!r}; the tables have {sorted(self.unpooled_keys)}"
                )
        placed = self._place(features)
        group = next(group for group in self._groups if keys[0] in group.unpooled_keys)
        lines = placed.lines[group].select(keys)
        group.cache.wait(placed.batches[group])
        values = group.look_up(lines, keys, is_pooled=False, learns=self._learns)
        self._looked_up(features, placed)
        counts = lines.lengths().sum(1).tolist()
        parts = zip(keys, values.split(counts), strict=True)
        return [Ragged(rows, lines[key].offsets) for key, rows in parts]

    def step(self, lr_scale: float = 1.0) -> None:
        """Apply one exact update with all lookups since the last one, at the optimiser's lr times `lr_scale`."""
        if any(group.pending for group in self._groups):
            self.updates += 1
        for group in self._groups:
            group.update(int(self.updates), self.optimizer.lr * lr_scale, self.seed)
        self._let_go()

    def drop_gradients(self) -> None:
        """Forget the lookups since the last update."""
        for group in self._groups:
            group.pending = []
        self._let_go()

    def forget(self) -> None:
        """Forget what was prefetched and is not looked up."""
        self.wait()
        for number, placed in list(self._placed.items()):
            if not placed.is_used:
                self._drop(number)

    def table(self, name: str) -> Float[Tensor, "rows D"]:
        """Return the weights of table `name` as a view of where they are stored; the caches are emptied."""
        self._flush()
        return self._views()[f"tables.{name}"]

    def extra_repr(self) -> str:
        shapes = ", ".join(f"{table.name} {table.num_rows}x{table.dim}" for table in self.tables)
        return f"{shapes}; {self.storage}, {self.tiers}, {self.optimizer}"

    @property
    def _learns(self) -> bool:
        return torch.is_grad_enabled() and self.training

    def _place(self, features: RaggedFeatures) -> _Placed:
        """Return the lines of a batch's rows, which are on their way."""
        if id(features) not in self._placed:
            own = {
                group: features.select(keys)
                for group in self._groups
                if (keys := group.keys_of(features))
            }
            for group, each in own.items():
                group.check(each)
            found = {group: group.place(each) for group, each in own.items()}
            self._placed[id(features)] = _Placed(
                features,
                {group: batch for group, (batch, _) in found.items()},
                {group: lines for group, (_, lines) in found.items()},
            )
        return self._placed[id(features)]

    def _looked_up(self, features: RaggedFeatures, placed: _Placed) -> None:
        if self._learns:
            self._placed[id(features)] = placed._replace(is_used=True)
        else:
            self._drop(id(features))

    def _let_go(self) -> None:
        for number, placed in list(self._placed.items()):
            if placed.is_used:
                self._drop(number)

    def _drop(self, number: int) -> None:
        placed = self._placed.pop(number)
        for group, batch in placed.batches.items():
            group.cache.done(batch)

    def _flush(self) -> None:
        self.forget()
        for group in self._groups:
            group.flush()

    def _views(self) -> dict[str, Tensor]:
        """Return state-dict names and the views of the stores that they name."""
        names = ("tables.{}", *(f"moments.{{}}.{moment}" for moment in _moments(self.optimizer)))
        found = {}
        for group in self._groups:
            for name, part in zip(names, group.store.parts, strict=True):
                for table, first in zip(group.tables, group.firsts, strict=True):
                    own = part[first : first + table.num_rows]
                    found[name.format(table.name)] = own if own.shape[1] == group.dim else own[:, 0]
        return {
            name.format(table.name): found[name.format(table.name)]
            for table in self.tables for name in names
        }  # fmt: skip

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        for group in self._groups:
            if self.updates.is_cuda and isinstance(group.store, TensorRows):
                group.store.pin()
            group.cache.to(self.updates.device)
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        self._flush()
        for name, view in self._views().items():
            destination[prefix + name] = view
        destination[prefix + "updates"] = self.updates

    def _load_from_state_dict(  # type: ignore[no-untyped-def]
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ):
        self._flush()
        expected = {**self._views(), "updates": self.updates}
        load_views(expected, state_dict, prefix, strict, missing, unexpected, errors)


class _Placed(NamedTuple):
    """Hold for each group a batch's number, and its features with lines for ids; and the batch, so that it lives."""

    features: RaggedFeatures
    batches: dict[_Group, int]
    lines: dict[_Group, RaggedFeatures]
    is_used: bool = False


@final
class _Group:
    """Hold the tables of one width: their rows in the store, and the cache over it."""

    def __init__(self, tables: Sequence[Table], bags: TieredEmbeddingBags) -> None:
        self.tables, self.dim = tuple(tables), tables[0].dim
        self.pooled_keys = tuple(key for table in tables for key in table.pooled)
        self.unpooled_keys = tuple(key for table in tables for key in table.unpooled)
        self.pending: list[Lookup] = []
        self._optimizer, tiers = bags.optimizer, bags.tiers
        sizes = [table.num_rows for table in tables]
        self.firsts = [sum(sizes[:n]) for n in range(len(sizes))]
        num_rows = sum(sizes)
        shapes = {"weight": (num_rows, self.dim), **_moments(bags.optimizer, num_rows, self.dim)}
        dtypes = [getattr(torch, bags.storage), torch.float32, torch.float32]
        what = (list(shapes.values()), dtypes[: len(shapes)])
        by_chance = bags.optimizer.stochastic_rounding
        self.store: BottomStore = (
            TensorRows(*what, rounds_by_chance=by_chance)
            if tiers.folder is None
            else FileRows(*what, tiers.folder, rounds_by_chance=by_chance)
        )

        def key() -> int:
            return bags.seed * 1_000_003 + int(bags.updates)

        below: RowStore = self.store
        self._caches: list[RowCache] = []
        for share in (tiers.host, tiers.fast):
            if share:
                num_lines = int(share * num_rows)
                cache = RowCache(
                    below, num_rows, num_lines, policy=tiers.policy,
                    halve_every=tiers.halve_every, key=key,
                )  # fmt: skip
                self._caches.append(cache)
                below = cache
        self.cache = self._caches[-1]
        self._owners = {
            key: number
            for number, table in enumerate(tables)
            for key in (*table.pooled, *table.unpooled)
        }

    @property
    def weight(self) -> Tensor:
        """Return the flat weights of all lines."""
        return self.cache.lines[0].view(-1)

    def keys_of(self, features: RaggedFeatures) -> list[str]:
        """Return those of a batch's features that look up these tables."""
        return [key for key in features.keys if key in self._owners]

    def check(self, own: RaggedFeatures) -> None:
        """Raise `ValueError` for an id that no row has."""
        if not own.values.numel():
            return
        limits = self._of_ids(own, [table.num_rows for table in self.tables])
        is_bad = (own.values < 0) | (own.values >= limits)
        if bool(is_bad.any()):
            place = int(is_bad.nonzero()[0, 0])
            bag = int(torch.searchsorted(own.offsets, place, right=True)) - 1
            raise ValueError(
                f"feature {own.keys[bag // own.num_rows]!r}, row {bag % own.num_rows}: id "
                f"{int(own.values[place])} is out of range for a table of {int(limits[place])} rows"
            )

    def place(self, own: RaggedFeatures) -> tuple[int, RaggedFeatures]:
        """Return the number of a batch in the cache, and its features with lines for ids."""
        batch, lines = self.cache.place(own.values.long() + self._of_ids(own, self.firsts))
        return batch, RaggedFeatures(own.keys, lines, own.offsets, own.weights)

    def look_up(
        self, lines: RaggedFeatures, keys: Sequence[str], *, is_pooled: bool, learns: bool
    ) -> Tensor:
        """Return the pooled rows or all rows of features, which are there."""
        poolings = tuple(self.tables[self._owners[key]].pooling for key in keys)
        layout = TableLayout((self.cache.num_lines,), (self.dim,), (0,) * len(keys), poolings)
        return look_up(self, lines.select(keys), layout, is_pooled=is_pooled, learns=learns)

    def update(self, step: int, lr: float, seed: int) -> None:
        """Make the update of all pending lookups."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        rows, dims = (self.cache.num_lines,), (self.dim,)  # lines may be more than at a lookup
        pending = [
            each._replace(
                layout=TableLayout(rows, dims, each.layout.features, each.layout.poolings)
            )
            for each in pending
        ]
        flat = [each.view(-1) for each in self.cache.lines]
        none = flat[0].new_zeros(0)
        state = TableState(*(*flat, none, none)[:3])
        embedding_update(state, pending, self._optimizer, step=step, lr=lr, seed=seed)

    def flush(self) -> None:
        """Write all rows back to the store; the caches are empty then."""
        for cache in reversed(self._caches):
            cache.flush()

    def _of_ids(self, features: RaggedFeatures, of_tables: Sequence[int]) -> Tensor:
        """Return for each id a number of its table."""
        numbers = features.values.new_tensor(
            [of_tables[self._owners[key]] for key in features.keys], dtype=torch.int64
        )
        counts = features.lengths().sum(1)
        return numbers.repeat_interleave(counts, output_size=features.values.numel())


def _moments(
    optimizer: TableOptimizer, num_rows: int = 1, dim: int = 1
) -> dict[str, tuple[int, int]]:
    """Return the shapes of an optimiser's moments."""
    fresh = TableState.fresh(torch.empty(2), TableLayout((1,), (2,), (), ()), optimizer)
    sizes = {"first": fresh.first.numel(), "second": fresh.second.numel()}
    return {name: (num_rows, dim if size == 2 else 1) for name, size in sizes.items() if size}
