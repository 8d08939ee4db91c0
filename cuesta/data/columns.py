"""`Column`: one column of a row group, its flat values and the offsets of its lists, if it has any.

Also what Arrow types a schema's columns may have. All that looks into a log sees it as columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Column(NamedTuple):
    """Hold consecutive rows; row i of a list column is values[offsets[i] : offsets[i + 1]]."""

    values: pa.Array
    offsets: NDArray[np.int64] | None

    @property
    def num_rows(self) -> int:
        """Return the number of rows, not of values."""
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def rows(self, begin: int, end: int) -> Column:
        """Return rows `begin` to `end` as a view."""
        if self.offsets is None:
            return Column(self.values.slice(begin, end - begin), None)
        offsets = self.offsets[begin : end + 1]
        values = self.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
        return Column(values, offsets - offsets[0])

    def row_of(self, position: int) -> int:
        """Return the row that the value at `position` belongs to."""
        if self.offsets is None:
            return position
        return int(np.searchsorted(self.offsets, position, side="right")) - 1


def columns_of(table: pa.Table) -> dict[str, Column]:
    """Return the columns of an Arrow table by name; a null list becomes an empty one."""
    return {name: _column_of(table.column(name)) for name in table.column_names}


def is_list(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is a list."""
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def is_number(kind: pa.DataType) -> bool:
    """Return whether an Arrow type may hold labels, dense values or weights."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def is_time(kind: pa.DataType) -> bool:
    """Return whether an Arrow type may order the rows."""
    return pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def category(kind: pa.DataType) -> str | None:
    """Return "integer" or "string" for a type that may hold categories, else None."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "integer"
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return "string" if is_string or pa.types.is_string_view(kind) else None


def ticks_of(times: pa.Array) -> NDArray[np.int64]:
    """Return a time column as integers in its own unit, which is what orders the rows."""
    if pa.types.is_date32(times.type):
        times = times.cast(pa.int32())
    return times.cast(pa.int64()).to_numpy(zero_copy_only=False)


def seconds_of(times: pa.Array) -> NDArray[np.int64]:
    """Return a time column in whole seconds; integers are seconds already."""
    ticks = ticks_of(times)
    if pa.types.is_timestamp(times.type):
        return ticks // {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[times.type.unit]
    if pa.types.is_date32(times.type):
        return ticks * 86400
    return ticks // 1000 if pa.types.is_date64(times.type) else ticks


def floats_of(values: pa.Array) -> NDArray[np.float32]:
    """Return numbers without nulls as float32; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        return values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)


def _column_of(chunked: pa.ChunkedArray) -> Column:
    array = chunked.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # what combine_chunks returns when there are no chunks
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], chunked.type)
    if not is_list(array.type):
        return Column(array, None)
    if array.null_count or pa.types.is_fixed_size_list(array.type):
        offsets = np.zeros(len(array) + 1, np.int64)
        lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        np.cumsum(lengths, out=offsets[1:])
        return Column(array.flatten(), offsets)
    offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    values = array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    return Column(values, offsets - offsets[0])
