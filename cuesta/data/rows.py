"""`Rows`: decoded and encoded rows of a log, from which batches are gathered in any order.

```
columns of row groups --Window.append--> Rows of a window --gather(order)--> batch
```

What a row has one of lies side by side, so that a shuffled row costs few cache misses. A ragged
feature keeps its values as decoded: that only the last `longest` count is said by `spans`, so that
cutting histories copies nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numba
import numpy as np
from numpy.typing import NDArray

from cuesta.data.cache_lines import ask_for_line
from cuesta.data.columns import Column, floats_of, seconds_of
from cuesta.data.encoders import Encoders, group_keys
from cuesta.data.parts import NUM_FIXED, Allocate, Layout, Part
from cuesta.data.schema import Feature, Schema

_AHEAD = 16  # rows between asking for a history and copying it
_LINE = 64  # bytes of a cache line


@final
@dataclass(frozen=True, eq=False)
class Rows:
    """Hold B encoded rows."""

    layout: Layout
    numbers: NDArray[np.float32]  # [B, 1 + D] label, dense
    integers: NDArray[np.int64]  # [B, 2 + ...] user, time, one column a feature of one id a row
    spans: NDArray[np.int64]  # [B, groups, 2] first value and number of values
    values: tuple[NDArray[np.int64], ...]  # [T] ids of each ragged feature
    weights: tuple[NDArray[np.float32] | None, ...]  # [T] beside them


@final
class Buffer:
    """Hold a growing array, whose memory is used again after `clear`."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self._held: np.ndarray = np.empty((0, *shape), dtype)
        self.length = 0

    def extend(self, length: int) -> np.ndarray:
        """Return `length` new entries at the end, to be written."""
        begin, self.length = self.length, self.length + length
        if self.length > self._held.shape[0]:
            capacity = 4 * self.length  # what is not written to takes no memory
            grown = np.empty((capacity, *self._held.shape[1:]), self._held.dtype)
            grown[:begin] = self._held[:begin]
            self._held = grown
        return self._held[begin : self.length]

    def filled(self) -> np.ndarray:
        """Return all entries."""
        return self._held[: self.length]

    def clear(self) -> None:
        """Forget all entries."""
        self.length = 0


@final
class Window:
    """Encode row groups one after another into memory that the next window uses again.

    To ask the system for that much memory anew would cost as much as to fill it.
    """

    def __init__(self, schema: Schema, encoders: Encoders) -> None:
        self._schema = schema
        self._encoders = encoders
        self._layout = Layout.of(schema)
        num_single = len(schema.features) - len(self._layout.ragged)
        self._numbers = Buffer((1 + len(schema.dense),), np.float32)
        self._integers = Buffer((NUM_FIXED + num_single,), np.int64)
        self._spans = Buffer((len(schema.groups()), 2), np.int64)
        self._values = {f.name: Buffer((), np.int64) for f in schema.features if f.ragged}
        self._weights = {f.name: Buffer((), np.float32) for f in schema.features if f.weights}

    def clear(self) -> None:
        """Forget all rows; their memory will be written over."""
        for buffer in (self._numbers, self._integers, self._spans):
            buffer.clear()
        for buffer in (*self._values.values(), *self._weights.values()):
            buffer.clear()

    def append(self, columns: Mapping[str, Column]) -> None:
        """Add rows whose columns were found sound."""
        schema = self._schema
        num_rows = columns[schema.label].num_rows
        numbers = self._numbers.extend(num_rows)
        for position, name in enumerate((schema.label, *schema.dense)):
            numbers[:, position] = floats_of(columns[name].values)
        integers = self._integers.extend(num_rows)
        integers[:, 0] = group_keys(columns[schema.user].values)
        integers[:, 1] = seconds_of(columns[schema.time].values)
        spans = self._spans.extend(num_rows)
        for number, members in enumerate(schema.groups().values()):
            first = self._values[members[0].name].length
            _cut(columns[members[0].column], members[0], first, spans[:, number])
        for feature, place in zip(schema.features, self._layout.places, strict=True):
            values = columns[feature.column].values
            ragged = self._values.get(feature.name)
            ids = integers[:, place] if ragged is None else ragged.extend(len(values))
            self._encoders.encode(feature.name, values, out=ids)
            if feature.weights:
                weights = self._weights[feature.name].extend(len(values))
                weights[:] = floats_of(columns[feature.weights].values)

    def rows(self) -> Rows:
        """Return the rows added since the last `clear`; they live until the next one."""
        keys = [self._layout.keys[position] for position in self._layout.ragged]
        return Rows(
            layout=self._layout,
            numbers=self._numbers.filled(),
            integers=self._integers.filled(),
            spans=self._spans.filled(),
            values=tuple(self._values[key].filled() for key in keys),
            weights=tuple(
                self._weights[key].filled() if key in self._weights else None for key in keys
            ),
        )


def gather(rows: Rows, order: NDArray[np.int64], allocate: Allocate = np.empty) -> Part:
    """Return rows `order` in combined format; ids, offsets and weights are written once."""
    num_rows, layout = order.shape[0], rows.layout
    offsets = allocate(len(layout.keys) * num_rows + 1, np.int64)
    offsets[0] = 0
    _fill_offsets(layout.places, rows.spans, order, offsets)
    part = layout.rest_of(offsets, num_rows, allocate)
    into = layout.views(part)
    _gather_numbers(rows.numbers, order, into.label, into.dense)
    _gather_integers(
        rows.integers, order, into.user, into.time, layout.places, offsets, into.values
    )
    if into.weights is not None:
        into.weights[:] = 1
    for feature, ids, weights in zip(layout.ragged, rows.values, rows.weights, strict=True):
        spans = rows.spans[:, -1 - layout.places[feature]]
        begins = offsets[feature * num_rows : (feature + 1) * num_rows]
        _gather_ragged(ids, spans, order, begins, into.values)
        if weights is not None:
            _gather_ragged(weights, spans, order, begins, into.weights)
    return part


def _cut(column: Column, feature: Feature, first: int, spans: NDArray[np.int64]) -> None:
    """Write where the last `longest` values of each row begin, counted on from `first`."""
    assert column.offsets is not None
    lengths = np.diff(column.offsets)
    if feature.longest is not None:
        lengths = np.minimum(lengths, feature.longest)
    spans[:, 0] = column.offsets[1:] - lengths + first
    spans[:, 1] = lengths


@numba.njit(nogil=True, cache=True)
def _fill_offsets(places, spans, order, offsets):  # type: ignore[no-untyped-def]
    total, bag = 0, 0
    for place in places:
        for row in order:
            total += 1 if place >= 0 else spans[row, -1 - place, 1]
            bag += 1
            offsets[bag] = total


@numba.njit(nogil=True, cache=True)
def _gather_numbers(numbers, order, label, dense):  # type: ignore[no-untyped-def]
    for i, row in enumerate(order):
        label[i] = numbers[row, 0]
        for position in range(dense.shape[1]):
            dense[i, position] = numbers[row, position + 1]


@numba.njit(nogil=True, cache=True)
def _gather_integers(integers, order, user, time, places, offsets, values):  # type: ignore[no-untyped-def]
    num_rows = order.shape[0]
    for i, row in enumerate(order):
        user[i] = integers[row, 0]
        time[i] = integers[row, 1]
        for feature, place in enumerate(places):
            if place >= 0:
                values[offsets[feature * num_rows] + i] = integers[row, place]


@numba.njit(nogil=True, cache=True)
def _gather_ragged(values, spans, order, begins, out):  # type: ignore[no-untyped-def]
    line = _LINE // values.itemsize
    for i in range(order.size):
        if i + _AHEAD < order.size:
            start, length = spans[order[i + _AHEAD]]
            for position in range(0, length, line):
                ask_for_line(values, start + position)
        start, length = spans[order[i]]
        source, target = np.uint64(start), np.uint64(begins[i])
        for position in range(np.uint64(length)):  # unsigned: no check for an index from the end
            out[target + position] = values[source + position]
