"""What a plan means for a model's tables: which rank looks up which slots, where a feature's columns come from.

A *slot* is one feature's lookup in one shard. Whatever the scheme, a rank answers the slots of the shards that it
holds: for a table cut by rows each answers with a part of the sum, for one cut by columns with some columns. Tables
of the scheme `data` have no slots: every rank looks them up in its own copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Literal, NamedTuple, final

from cuesta.errors import UserError
from cuesta.nn import Table
from cuesta.ops import SGD, Adagrad, TableOptimizer
from cuesta.rec.neo.plan import Plan, Shard, TablePlan
from cuesta.rec.neo.row_state import Whole

RowState = Literal["refused", "shared", "apart"]


class Columns(NamedTuple):
    """Say which columns, first and end, of a feature, a number among all of its kind."""

    feature: int
    first: int
    end: int

    @property
    def width(self) -> int:
        """Return how many they are."""
        return self.end - self.first


class Slot(NamedTuple):
    """Say which feature, a number among all of its kind, a shard is looked up by."""

    feature: int
    shard: Shard

    @property
    def columns(self) -> Columns:
        """Return what it answers, or a part of the sum of it."""
        return Columns(self.feature, *self.shard.columns)


class Piece(NamedTuple):
    """Say where a part of a sum is: from which rank, at which of its columns."""

    rank: int
    start: int


class Answers(NamedTuple):
    """Say how columns are put together, from the sum of `pieces`.

    `divides` says that the sum is to be divided by the bag's length: of a mean over rows on several ranks.
    """

    columns: Columns
    pieces: tuple[Piece, ...]
    divides: bool


class Layout(NamedTuple):
    """Say how many columns come from each rank, and what they are together: answers in order."""

    widths: list[int]
    answers: list[Answers]

    @classmethod
    def of(
        cls, ranks: Sequence[Sequence[Columns]], divided: AbstractSet[int] = frozenset()
    ) -> Layout:
        """Return the layout of what each of some ranks gives, side by side; what several give is summed.

        `divided` are the features whose sums are to be divided by the bags' lengths.
        """
        found: dict[Columns, list[Piece]] = {}
        for rank, given in enumerate(ranks):
            start = 0
            for columns in given:
                found.setdefault(columns, []).append(Piece(rank, start))
                start += columns.width
        answers = [
            Answers(columns, tuple(pieces), columns.feature in divided)
            for columns, pieces in sorted(found.items())
        ]
        return cls([sum(each.width for each in given) for given in ranks], answers)


@final
class Sharding:
    """Hold, for tables and a plan, the shards of each rank as tables of their own, and their slots.

    `held[r]` are the tables that rank r holds parts of, with slots for features; `slots[r]` those of `pooled`
    features in the order of its columns, `unpooled_slots[r]` of unpooled ones. `divided` are the pooled features that
    are means over rows on several ranks. `copied` are the tables that every rank has, `wholes[r]` the rows whose parts,
    some of them on r, share the optimiser's number a row.
    Raises `UserError` for a plan of other tables or another world, and for an optimiser that a scheme cannot keep
    exact, where `row_state` is "refused".
    """

    def __init__(
        self,
        tables: Sequence[Table],
        plan: Plan,
        optimizer: TableOptimizer,
        world_size: int,
        *,
        row_state: RowState = "refused",
    ) -> None:
        plan.check({table.name: (table.num_rows, table.dim) for table in tables}, world_size)
        self.tables = tuple(tables)
        self.copied = tuple(t for t in tables if plan.tables[t.name].scheme == "data")
        self.cut = tuple(t for t in tables if plan.tables[t.name].scheme != "data")
        self.pooled_keys = tuple(key for table in self.cut for key in table.pooled)
        self.unpooled_keys = tuple(key for table in self.cut for key in table.unpooled)
        self.shards: list[list[tuple[Table, Shard]]] = [[] for _ in range(world_size)]
        for table in self.cut:
            planned = plan.tables[table.name]
            if row_state == "refused":
                _check_exact(table, planned, optimizer)
            for shard in planned.shards():
                if shard.rows[0] < shard.rows[1]:
                    self.shards[shard.rank].append((table, shard))
        self.held = [[_part(table, shard) for table, shard in each] for each in self.shards]
        is_shared = row_state == "shared" and not isinstance(optimizer, (SGD, Adagrad))
        self.wholes = [self._wholes(rank) if is_shared else [] for rank in range(world_size)]
        self.slots = [self._slots(each, "pooled") for each in self.shards]
        self.unpooled_slots = [self._slots(each, "unpooled") for each in self.shards]
        numbers = {key: number for number, key in enumerate(self.pooled_keys)}
        self.divided = {
            numbers[key]
            for each in self.shards
            for table, shard in each
            if table.pooling == "mean" and _is_cut_by_rows(table, shard)
            for key in table.pooled
        }

    def _wholes(self, rank: int) -> list[Whole]:
        """Return rows that are cut by columns and of which a rank has a part."""
        found: dict[tuple[str, tuple[int, int]], list[tuple[tuple[int, int], int, int]]] = {}
        for holder, shards in enumerate(self.shards):
            for number, (table, shard) in enumerate(shards):
                part = (shard.columns, holder, number)
                found.setdefault((table.name, shard.rows), []).append(part)
        dims = {table.name: table.dim for table in self.cut}
        order = {table.name: place for place, table in enumerate(self.cut)}
        return [
            Whole(dims[name], tuple((holder, number) for _, holder, number in sorted(parts)))
            for (name, rows), parts in sorted(
                found.items(), key=lambda f: (order[f[0][0]], f[0][1])
            )
            if len(parts) > 1 and any(holder == rank for _, holder, _ in parts)
        ]

    def _slots(self, shards: list[tuple[Table, Shard]], kind: str) -> list[Slot]:
        keys = self.pooled_keys if kind == "pooled" else self.unpooled_keys
        numbers = {key: number for number, key in enumerate(keys)}
        return [
            Slot(numbers[key], shard) for table, shard in shards for key in getattr(table, kind)
        ]


def shard_name(name: str, shard: Shard) -> str:
    """Return the name of a part of a table: `item[0:500,0:16]`."""
    (first, end), (left, right) = shard.rows, shard.columns
    return f"{name}[{first}:{end},{left}:{right}]"


def _is_cut_by_rows(table: Table, shard: Shard) -> bool:
    return shard.rows != (0, table.num_rows)


def _part(table: Table, shard: Shard) -> Table:
    """Return a shard as a table; of a mean over a part of the rows it gives the sum."""
    name = shard_name(table.name, shard)
    return replace(
        table,
        name=name,
        num_rows=shard.rows[1] - shard.rows[0],
        dim=shard.columns[1] - shard.columns[0],
        pooled=tuple(f"{key} of {name}" for key in table.pooled),
        unpooled=tuple(f"{key} of {name}" for key in table.unpooled),
        pooling="sum" if _is_cut_by_rows(table, shard) else table.pooling,
    )


def _check_exact(table: Table, planned: TablePlan, optimizer: TableOptimizer) -> None:
    """Refuse to cut the columns of a table whose optimiser has a number for the whole row."""
    if planned.columns > 1 and not isinstance(optimizer, (SGD, Adagrad)):
        raise UserError(
            f"table {table.name!r} is cut into {planned.columns} parts of columns, and {type(optimizer).__name__} "
            'has one number for a whole row: plan without column schemes, or let parts share it (row_state "shared"), '
            'or keep one each ("apart"), which trains otherwise than unsharded'
        )
