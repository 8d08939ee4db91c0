"""`check`: every violation in a ranking log, by file, row group and row, in one bounded pass."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from cuesta.data.columns import Column
from cuesta.data.log import (
    ParquetLog,
    RowGroup,
    falls_of,
    find_mixed_types,
    num_rows_of,
    open_footer,
    parquet_files,
)
from cuesta.data.schema import SPLITS, Schema, load_schema, split_bounds
from cuesta.data.violations import Violation, ViolationError, find_violations


def check(
    paths: str | Path | Sequence[str | Path],
    schema: Schema | str | Path,
    *,
    limit: int = 10,
    progress: Callable[[int, int], None] | None = None,
) -> list[Violation]:
    """Return what is wrong with the Parquet files under `paths`; an empty list means nothing is.

    Of each kind the first `limit` are listed, and `Violation.total` says how many there are. Rows
    of a file that is corrupt or lacks columns are not looked at. `progress` is told the number of
    row groups done and of all. Raises `UserError` for a schema that is wrong or a path that does
    not exist.
    """
    schema = schema if isinstance(schema, Schema) else load_schema(schema)
    found = _Found(limit)
    footers: dict[Path, pq.FileMetaData] = {}
    files = parquet_files(paths)
    for file in files:
        try:
            footer, violations = open_footer(file, schema)
        except ViolationError as error:
            violations = [error.violation]
        else:
            if not violations:
                footers[file] = footer
        for violation in violations:
            found.add(violation)
    for violation in find_mixed_types(footers, schema):
        found.add(violation)
    log = ParquetLog.of(footers)
    if not found.totals and num_rows_of(log) == 0:
        found.add(Violation("no rows", files[0], "no rows at all; name a log with rows"))
    _check_rows(log, schema, found, progress)
    return found.violations()


class _Found:
    """Keep the first few violations of each kind and count all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._first: dict[str, list[Violation]] = {}
        self.totals: Counter[str] = Counter()

    def add(self, violation: Violation, *, count: int = 1) -> None:
        self.totals[violation.kind] += count
        first = self._first.setdefault(violation.kind, [])
        if len(first) < self._limit:
            first.append(violation)

    def room(self, kind: str) -> int:
        """Return how many more of a kind are listed."""
        return self._limit - len(self._first.get(kind, []))

    def violations(self) -> list[Violation]:
        return [
            dataclasses.replace(violation, total=self.totals[kind])
            for kind, first in self._first.items()
            for violation in first
        ]


class _Labels:
    """Count the labels of each split, whose rows come in order."""

    def __init__(self, num_rows: int, schema: Schema) -> None:
        self._bounds = split_bounds(num_rows, schema)
        self._ones = [0.0] * len(SPLITS)

    def add(self, column: Column, first: int) -> None:
        labels = column.values.to_numpy(zero_copy_only=False)
        for split in range(len(SPLITS)):
            begin, end = (max(bound - first, 0) for bound in self._bounds[split : split + 2])
            self._ones[split] += float(labels[begin:end].sum())

    def one_sided(self) -> list[tuple[str, int]]:
        """Return the splits that have rows of one label only, and that label."""
        return [
            (SPLITS[split], int(ones > 0))
            for split, ones in enumerate(self._ones)
            if (num_rows := self._bounds[split + 1] - self._bounds[split]) and ones in (0, num_rows)
        ]


def _check_rows(
    log: ParquetLog, schema: Schema, found: _Found, progress: Callable[[int, int], None] | None
) -> None:
    labels = _Labels(num_rows_of(log), schema)
    last: int | None = None
    for number, group in enumerate(log.groups):
        if progress is not None:
            progress(number, len(log.groups))
        try:
            columns = log.read(number, schema.columns())
        except ViolationError as error:
            found.add(error.violation)
            continue
        for finding in find_violations(columns, schema):
            listed = finding.rows[: max(found.room(finding.kind), 1)]
            unlisted = len(finding.rows) - len(listed)
            for position, row in enumerate(map(int, listed)):
                violation = _violation(group, row, finding.kind, finding.message(row))
                found.add(violation, count=1 + (unlisted if position == 0 else 0))
        last = _check_order(columns[schema.time], last, group, found)
        if not found.totals:
            labels.add(columns[schema.label], group.first)
    if not found.totals and log.groups:
        for split, label in labels.one_sided():
            message = f"every label of the {split} split is {label}; change `split` or add rows"
            found.add(Violation("one class", log.groups[0].file, message))


def _check_order(column: Column, last: int | None, group: RowGroup, found: _Found) -> int | None:
    """Add the first row earlier than the row before it; return the time of the last row."""
    if column.num_rows == 0 or column.values.null_count:
        return last
    falls, last = falls_of(column.values, last)
    if falls.size:
        message = (
            "time is earlier than in the row before; a small log is sorted when opened, sort a "
            "large one once with cuesta.data.sort_by_time(source, target, schema)"
        )
        found.add(_violation(group, int(falls[0]), "unsorted", message), count=falls.size)
    return last


def _violation(group: RowGroup, row: int, kind: str, message: str) -> Violation:
    return Violation(kind, group.file, message, group.number, row)
