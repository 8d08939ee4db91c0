"""A ranking log opened for reading: its Parquet files as one sequence of row groups.

`ParquetLog` decodes a row group when asked; `TableLog` holds a small log in memory, which is how
one that is not in time order is opened. Both answer with `Column`s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuesta.data.columns import Column, category, columns_of, is_list, ticks_of
from cuesta.data.schema import Schema
from cuesta.data.violations import (
    Violation,
    ViolationError,
    find_type_violations,
    find_violations,
)
from cuesta.errors import UserError

TABLE_ROW_GROUP = 65_536


class RowGroup(NamedTuple):
    """Name a row group: the file, its number there, its rows, and its first row within the log."""

    file: Path
    number: int
    num_rows: int
    first: int


class Log(Protocol):
    """Read row groups; the rows of the log are those of its row groups, one after another."""

    @property
    def groups(self) -> Sequence[RowGroup]:
        """Return the row groups in order."""
        ...

    def read(self, group: int, names: Sequence[str]) -> dict[str, Column]:
        """Return these columns of a row group; raise `ViolationError` when it cannot be decoded."""
        ...

    def bytes_per_row(self, names: Sequence[str]) -> float:
        """Return about how much memory a decoded row of these columns takes."""
        ...


@final
@dataclass(frozen=True, eq=False)
class ParquetLog:
    """Read the row groups of Parquet files, whose footers are held."""

    groups: tuple[RowGroup, ...]
    footers: dict[Path, pq.FileMetaData]

    @staticmethod
    def of(footers: dict[Path, pq.FileMetaData]) -> ParquetLog:
        """Return the log of these files, in this order."""
        groups: list[RowGroup] = []
        first = 0
        for file, footer in footers.items():
            for number in range(footer.num_row_groups):
                num_rows = footer.row_group(number).num_rows
                groups.append(RowGroup(file, number, num_rows, first))
                first += num_rows
        return ParquetLog(tuple(groups), footers)

    def read(self, group: int, names: Sequence[str]) -> dict[str, Column]:
        """Return these columns of a row group, string columns as dictionaries."""
        file, number = self.groups[group][:2]
        return columns_of(self._table(file, number, names, as_dictionaries=True))

    def bytes_per_row(self, names: Sequence[str]) -> float:
        """Return 8 bytes a value, by the counts in the footers."""
        num_values = num_rows = 0
        for footer in self.footers.values():
            num_rows += footer.num_rows
            leaves = _leaves(footer, names)
            for number in range(footer.num_row_groups):
                group = footer.row_group(number)
                num_values += sum(group.column(leaf).num_values for leaf in leaves)
        return 8 * num_values / max(num_rows, 1)

    def table_of(self, group: int, names: Sequence[str]) -> pa.Table:
        """Return these columns of a row group as they are in the file."""
        file, number = self.groups[group][:2]
        return self._table(file, number, names, as_dictionaries=False)

    def _table(
        self, file: Path, number: int, names: Sequence[str], *, as_dictionaries: bool
    ) -> pa.Table:
        footer = self.footers[file]
        strings = [
            footer.schema.column(leaf).path
            for leaf in _leaves(footer, names)
            if footer.schema.column(leaf).physical_type == "BYTE_ARRAY"
        ]
        try:
            with pq.ParquetFile(
                file, metadata=footer, read_dictionary=strings if as_dictionaries else None
            ) as opened:
                return opened.read_row_group(number, columns=list(names))
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            message = f"cannot be decoded ({reason}); the file is corrupt, write it again"
            raise ViolationError(Violation("corrupt", file, message, number)) from error


@final
@dataclass(frozen=True, eq=False)
class TableLog:
    """Read slices of an Arrow table as if they were row groups."""

    groups: tuple[RowGroup, ...]
    rows: pa.Table

    @staticmethod
    def of(rows: pa.Table, file: Path) -> TableLog:
        """Return the log of a table that came from `file`."""
        firsts = range(0, rows.num_rows, TABLE_ROW_GROUP)
        groups = [
            RowGroup(file, number, min(TABLE_ROW_GROUP, rows.num_rows - first), first)
            for number, first in enumerate(firsts)
        ]
        return TableLog(tuple(groups), rows)

    def read(self, group: int, names: Sequence[str]) -> dict[str, Column]:
        """Return these columns of a slice."""
        part = self.groups[group]
        return columns_of(self.rows.select(list(names)).slice(part.first, part.num_rows))

    def bytes_per_row(self, names: Sequence[str]) -> float:
        """Return the table's bytes by its rows."""
        return self.rows.select(list(names)).nbytes / max(self.rows.num_rows, 1)


def open_log(paths: str | Path | Sequence[str | Path], schema: Schema) -> ParquetLog:
    """Return the log in these files and folders; raise `UserError` at what is wrong with them."""
    footers = {}
    for file in parquet_files(paths):
        footers[file], violations = open_footer(file, schema)
        if violations:
            raise ViolationError(violations[0])
    for violation in find_mixed_types(footers, schema):
        raise ViolationError(violation)
    return ParquetLog.of(footers)


def find_mixed_types(
    footers: Mapping[Path, pq.FileMetaData], schema: Schema
) -> Iterator[Violation]:
    """Yield the columns that hold integers in one file and strings in another."""
    columns = {schema.user, *(feature.column for feature in schema.features)}
    first: dict[str, tuple[str | None, Path]] = {}
    for file, footer in footers.items():
        types = footer.schema.to_arrow_schema()
        for column in sorted(columns):
            kind = types.field(column).type
            kind = category(kind.value_type if is_list(kind) else kind)
            other, where = first.setdefault(column, (kind, file))
            if kind != other:
                message = f"column {column!r} holds {kind}s but in {where} {other}s; write one type"
                yield Violation("wrong type", file, message)


def num_rows_of(log: Log) -> int:
    """Return the number of rows of a log."""
    return log.groups[-1].first + log.groups[-1].num_rows if log.groups else 0


def parquet_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files named: Parquet files as they are, folders as their *.parquet by name."""
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(p for p in path.glob("*.parquet") if not p.name.startswith("."))
            if not inside:
                raise UserError(f"{path}: the folder has no *.parquet file; name another")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{path}: no such file or folder; name a Parquet file or a folder")
    return files


def open_footer(file: Path, schema: Schema) -> tuple[pq.FileMetaData, list[Violation]]:
    """Return a file's footer and what is wrong with its columns.

    Raises `ViolationError` when it is no whole Parquet file.
    """
    try:
        with open(file, "rb") as opened:
            is_empty, starts = file.stat().st_size == 0, opened.read(4)
        if is_empty:
            raise ViolationError(Violation("empty file", file, "the file is empty; write it again"))
        if starts != b"PAR1":
            message = f"not a Parquet file, it begins with {starts!r}; name another"
            raise ViolationError(Violation("not Parquet", file, message))
        footer = pq.read_metadata(file)
        return footer, list(find_type_violations(file, footer.schema.to_arrow_schema(), schema))
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        message = f"truncated or corrupt Parquet ({reason}); write it again"
        raise ViolationError(Violation("corrupt", file, message)) from error
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}; name another"
        raise ViolationError(Violation("unreadable", file, message)) from error


def read_sound(log: Log, group: int, schema: Schema) -> dict[str, Column]:
    """Return the schema's columns of a row group; raise `ViolationError` at what is wrong."""
    columns = log.read(group, schema.columns())
    for finding in find_violations(columns, schema):
        file, number = log.groups[group][:2]
        row = int(finding.rows[0])
        raise ViolationError(Violation(finding.kind, file, finding.message(row), number, row))
    return columns


def find_unsorted(log: Log, time: str) -> Iterator[tuple[int, int]]:
    """Yield (row group, row) of the first row in each row group that is earlier than the last."""
    last: int | None = None
    for number, group in enumerate(log.groups):
        times = log.read(number, [time])[time].values
        if group.num_rows and not times.null_count:
            falls, last = falls_of(times, last)
            if falls.size:
                yield number, int(falls[0])


def falls_of(times: pa.Array, last: int | None) -> tuple[NDArray[np.int64], int]:
    """Return the rows earlier than the row before, and the last time.

    `last` is the time before the first row, None at the beginning of a log.
    """
    ticks = ticks_of(times)
    before = np.concatenate([ticks[:1] if last is None else [last], ticks[:-1]])
    return np.flatnonzero(ticks < before), int(ticks[-1])


def sorted_in_memory(log: ParquetLog, schema: Schema) -> TableLog:
    """Return the log with its rows in time order; rows of equal time keep theirs."""
    tables = [log.table_of(number, schema.columns()) for number in range(len(log.groups))]
    rows = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    order = np.argsort(ticks_of(rows.column(schema.time).combine_chunks()), kind="stable")
    return TableLog.of(rows.take(order), log.groups[0].file)


def parts(log: Log, begin: int, end: int, names: Sequence[str]) -> Iterator[dict[str, Column]]:
    """Yield these columns of rows `begin` to `end`, row group by row group."""
    for number, group in enumerate(log.groups):
        first, last = max(begin - group.first, 0), min(end - group.first, group.num_rows)
        if first < last:
            columns = log.read(number, names)
            yield {name: column.rows(first, last) for name, column in columns.items()}


def _leaves(footer: pq.FileMetaData, names: Sequence[str]) -> list[int]:
    """Return the Parquet leaf columns of these columns: `name` itself, or `name.list.element`."""
    paths = [footer.schema.column(leaf).path for leaf in range(footer.num_columns)]
    return [
        leaf
        for leaf, path in enumerate(paths)
        if any(path == name or path.startswith(f"{name}.") for name in names)
    ]
