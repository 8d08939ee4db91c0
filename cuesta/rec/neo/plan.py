"""`Plan`: which rank holds which rows and columns of which table; JSON out and in, checked against a model and a world.

The form is the planner's output and what sharded tables are built from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

from cuesta.data.files import atomic_file
from cuesta.errors import UserError
from cuesta.nn import Table
from cuesta.rec.neo.costs import SCHEMES, Scheme

_VERSION = 1


class Shard(NamedTuple):
    """Say which rows and columns, first and end, a rank holds."""

    rank: int
    rows: tuple[int, int]
    columns: tuple[int, int]


@final
@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """Cut one table: `columns` parts of columns, each on one rank, or its rows over ranks in turn.

    `ranks` are those of the parts, one a part for `table`, `column` and `table_column`; all for `row` and `data`; for
    `table_row` and `grid` those of the node of each part, one node after the other.
    """

    name: str
    num_rows: int
    dim: int
    scheme: Scheme
    columns: int
    ranks: tuple[int, ...]

    def shards(self) -> Iterator[Shard]:
        """Yield what each rank holds; blocks of rows are ceil(rows / ranks), the last ones short or empty."""
        width = self.dim // self.columns
        each = len(self.ranks) // self.columns
        if self.scheme == "data":
            for rank in self.ranks:
                yield Shard(rank, (0, self.num_rows), (0, self.dim))
            return
        block = -(-self.num_rows // each)
        for place, rank in enumerate(self.ranks):
            part, number = divmod(place, each)
            rows = (min(number * block, self.num_rows), min((number + 1) * block, self.num_rows))
            yield Shard(rank, rows, (part * width, (part + 1) * width))


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Hold the plan of every table for a world of ranks, by name."""

    world_size: int
    ranks_per_node: int
    tables: Mapping[str, TablePlan]

    def to_json(self) -> dict[str, Any]:
        """Return it in plain data."""
        tables = {
            name: {
                "rows": table.num_rows,
                "dim": table.dim,
                "scheme": table.scheme,
                "columns": table.columns,
                "ranks": list(table.ranks),
            }
            for name, table in self.tables.items()
        }
        return {
            "version": _VERSION,
            "world_size": self.world_size,
            "ranks_per_node": self.ranks_per_node,
            "tables": tables,
        }

    def check(self, shapes: Mapping[str, tuple[int, int]], world_size: int) -> None:
        """Raise `UserError` if this is no plan for these tables, (rows, dim) by name, and this world."""
        if world_size != self.world_size:
            raise UserError(
                f"the plan is for {self.world_size} ranks, here are {world_size}; plan again"
            )
        missing, foreign = sorted(shapes.keys() - self.tables), sorted(self.tables.keys() - shapes)
        if missing or foreign:
            raise UserError(
                f"the plan is for other tables: it lacks {missing or 'none'} and has {foreign or 'none'} "
                "that the model has not; plan again"
            )
        for name, shape in shapes.items():
            planned = (self.tables[name].num_rows, self.tables[name].dim)
            if planned != shape:
                raise UserError(
                    f"table {name!r} is {shape[0]} x {shape[1]}, in the plan {planned[0]} x {planned[1]}; "
                    "plan again"
                )


def whole_tables(tables: Iterable[Table], world_size: int) -> Plan:
    """Return the plan that deals whole tables to ranks in turn: what needs no planner."""
    planned = {
        table.name: TablePlan(
            name=table.name,
            num_rows=table.num_rows,
            dim=table.dim,
            scheme="table",
            columns=1,
            ranks=(place % world_size,),
        )
        for place, table in enumerate(tables)
    }
    return Plan(world_size=world_size, ranks_per_node=world_size, tables=planned)


def write_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan as JSON, whole or not at all."""
    with atomic_file(Path(path)) as temporary:
        temporary.write_text(json.dumps(plan.to_json(), indent=1) + "\n", encoding="utf-8")


def read_plan(path: str | Path) -> Plan:
    """Return the plan in a file. Raises `UserError` naming the file and what is wrong in it."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `cuesta plan … --out {path}` makes one") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no plan ({error})") from error
    try:
        return _parsed(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: no plan of this version ({error}); plan again") from error


def _parsed(content: Any) -> Plan:
    if content["version"] != _VERSION:
        raise ValueError(f"version {content['version']!r}")
    world, tables = int(content["world_size"]), {}
    for name, given in content["tables"].items():
        table = TablePlan(
            name=str(name),
            num_rows=int(given["rows"]),
            dim=int(given["dim"]),
            scheme=given["scheme"],
            columns=int(given["columns"]),
            ranks=tuple(int(rank) for rank in given["ranks"]),
        )
        _check(table, world)
        tables[table.name] = table
    return Plan(world_size=world, ranks_per_node=int(content["ranks_per_node"]), tables=tables)


def _check(table: TablePlan, world: int) -> None:
    if table.scheme not in SCHEMES:
        raise ValueError(f"table {table.name!r}: scheme {table.scheme!r}")
    if min(table.num_rows, table.dim, table.columns) < 1 or table.dim % table.columns:
        raise ValueError(
            f"table {table.name!r}: {table.num_rows} x {table.dim} in {table.columns} parts of columns"
        )
    each, rest = divmod(len(table.ranks), table.columns)
    whole = {"table": 1, "column": 1, "table_column": 1, "row": world, "data": world}
    if rest or each < 1 or each != whole.get(table.scheme, each):
        raise ValueError(f"table {table.name!r}: {len(table.ranks)} ranks for {table.scheme!r}")
    if any(not 0 <= rank < world for rank in table.ranks):
        raise ValueError(f"table {table.name!r}: a rank that is not 0 to {world - 1}")
