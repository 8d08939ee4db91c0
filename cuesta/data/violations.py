"""What can be wrong with a ranking log, each named by file, row group and row.

`cuesta data check` collects violations, the reader raises the first one it meets; both look with
`find_violations`, whose cost on sound data is one pass over each column.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cuesta.data.columns import Column, category, floats_of, is_list, is_number, is_time
from cuesta.data.schema import Feature, Schema
from cuesta.errors import UserError


@final
@dataclass(frozen=True)
class Violation:
    """Name one thing that is wrong, where, and what to do; `total` counts those of its kind.

    `row` counts from 0 within the row group; both are None where the whole file is meant.
    """

    kind: str
    file: Path
    message: str
    row_group: int | None = None
    row: int | None = None
    total: int = 1

    def __str__(self) -> str:
        where = str(self.file)
        if self.row_group is not None:
            where += f": row group {self.row_group}"
        if self.row is not None:
            where += f", row {self.row}"
        return f"{where}: {self.message}"


@final
class ViolationError(UserError):
    """Stop at a violation."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


class Finding(NamedTuple):
    """Hold the offending rows of one kind in one column, and the message for each of them."""

    kind: str
    rows: NDArray[np.int64]
    message: Callable[[int], str]


def find_type_violations(file: Path, types: pa.Schema, schema: Schema) -> Iterator[Violation]:
    """Yield the columns of `schema` that a file's Arrow schema lacks or has with a wrong type."""
    for column in schema.columns():
        if column not in types.names:
            close = difflib.get_close_matches(column, types.names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(types.names)}"
            yield Violation("missing column", file, f"no column {column!r}; {hint}")

    def wrong(column: str, remedy: str) -> Violation:
        given = types.field(column).type
        return Violation("wrong type", file, f"column {column!r} is of type {given}; {remedy}")

    for column in (schema.label, *schema.dense):
        if column in types.names and not is_number(types.field(column).type):
            yield wrong(column, "write numbers")
    if schema.time in types.names and not is_time(types.field(schema.time).type):
        yield wrong(schema.time, "write integers (seconds), timestamps or dates")
    if schema.user in types.names and category(types.field(schema.user).type) is None:
        yield wrong(schema.user, "write integers or strings")
    for feature in schema.features:
        if feature.column in types.names:
            remedy = _type_remedy(feature, types, schema)
            if remedy:
                yield wrong(feature.column, remedy)
        if feature.weights is not None and feature.weights in types.names:
            kind = types.field(feature.weights).type
            if not is_list(kind) or not is_number(kind.value_type):
                yield wrong(feature.weights, "write lists of numbers")


def find_violations(columns: Mapping[str, Column], schema: Schema) -> Iterator[Finding]:
    """Yield what is wrong with the values of these rows, whose types are right."""
    yield from _label_findings(columns[schema.label], schema.label)
    for name in dict.fromkeys((schema.time, schema.user)):
        yield from _null_findings(columns[name], name, "fill it or drop the row")
    for name in schema.dense:
        yield from _number_findings(columns[name], name)
    for feature in schema.features:
        if feature.weights:
            yield from _number_findings(columns[feature.weights], feature.weights)
        size = schema.feature(feature.encoder).size
        if size is not None and schema.feature(feature.encoder).kind == "id":
            yield from _id_findings(columns[feature.column], feature.column, size)
    for group, members in schema.groups().items():
        names = [member.column for member in members]
        names += [member.weights for member in members if member.weights]
        yield from _length_findings(columns, group, names)


def _type_remedy(feature: Feature, types: pa.Schema, schema: Schema) -> str | None:
    kind = types.field(feature.column).type
    if is_list(kind) != feature.ragged:
        flag = "true" if is_list(kind) else "false"
        return f"set ragged = {flag} in [features.{feature.name}] or change the column"
    kind = kind.value_type if is_list(kind) else kind
    owner = schema.feature(feature.encoder)
    if category(kind) is None or (owner.kind == "id" and category(kind) != "integer"):
        return "write integers" if owner.kind == "id" else "write integers or strings"
    if owner.column in types.names and owner is not feature:
        theirs = types.field(owner.column).type
        theirs = theirs.value_type if is_list(theirs) else theirs
        if category(theirs) != category(kind):
            return f"write {theirs}, as column {owner.column!r}, whose vocabulary it shares"
    return None


def _label_findings(column: Column, name: str) -> Iterator[Finding]:
    remedy = "a label is 0 or 1"
    yield from _null_findings(column, name, remedy)
    if pa.types.is_boolean(column.values.type):
        return
    labels = column.values.drop_null() if column.values.null_count else column.values
    labels = labels.to_numpy(zero_copy_only=False)
    if not ((labels == 0) | (labels == 1)).all():
        every = column.values.fill_null(0).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero((every != 0) & (every != 1))
        yield Finding("label", wrong, lambda row: f"{name} is {every[row]}; {remedy}")


def _null_findings(column: Column, name: str, remedy: str) -> Iterator[Finding]:
    if column.values.null_count:
        is_null = pc.is_null(column.values).to_numpy(zero_copy_only=False)
        rows = _rows_where(column, is_null)
        yield Finding("null", rows, lambda _: f"{name} is null; {remedy}")


def _number_findings(column: Column, name: str) -> Iterator[Finding]:
    yield from _null_findings(column, name, "fill it, with 0 for example, or drop the row")
    if pa.types.is_floating(column.values.type):
        values = column.values.fill_null(0) if column.values.null_count else column.values
        is_wrong = ~np.isfinite(floats_of(values))
        if is_wrong.any():
            message = f"{name} is NaN or infinite; fill it, with 0 for example, or drop the row"
            yield Finding("not finite", _rows_where(column, is_wrong), lambda _: message)


def _id_findings(column: Column, name: str, size: int) -> Iterator[Finding]:
    yield from _null_findings(column, name, "an id is never missing")
    values = column.values
    ends = pc.min_max(values).as_py()
    if ends["min"] is not None and (ends["min"] < 0 or ends["max"] >= size):
        is_wrong = pc.or_(pc.less(values, 0), pc.greater_equal(values, size)).fill_null(False)
        positions = np.flatnonzero(is_wrong.to_numpy(zero_copy_only=False))
        first = {column.row_of(int(position)): int(position) for position in positions[::-1]}
        remedy = f"ids are 0 .. {size - 1}: raise size in the schema or mend the ids"
        yield Finding(
            "id range",
            np.array(sorted(first), np.int64),
            lambda row: f"{name} is {values[first[row]].as_py()}; {remedy}",
        )


def _length_findings(
    columns: Mapping[str, Column], group: str, names: list[str]
) -> Iterator[Finding]:
    first = columns[names[0]].offsets
    assert first is not None
    for name in dict.fromkeys(names[1:]):
        offsets = columns[name].offsets
        assert offsets is not None
        if not np.array_equal(first, offsets):
            ours, theirs = np.diff(offsets), np.diff(first)
            yield Finding(
                "lengths",
                np.flatnonzero(ours != theirs),
                partial(_length_message, (name, ours), (names[0], theirs), group),
            )


def _length_message(
    ours: tuple[str, NDArray[np.int64]], theirs: tuple[str, NDArray[np.int64]], group: str, row: int
) -> str:
    return (
        f"{ours[0]} has {ours[1][row]} values but {theirs[0]} has {theirs[1][row]}; "
        f"columns of group {group!r} must agree in length"
    )


def _rows_where(column: Column, is_wrong: NDArray[np.bool_]) -> NDArray[np.int64]:
    positions = np.flatnonzero(is_wrong)
    if column.offsets is None:
        return positions
    return np.unique(np.searchsorted(column.offsets, positions, side="right") - 1)
