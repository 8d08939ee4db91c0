"""`Rows`: decoded and encoded rows of a log, from which batches are gathered in any order.

```
columns of a row group --encode_rows--> Rows --Window--> Rows of a window --gather(order)--> batch
```

What a row has one of lies side by side, so that a shuffled row costs few cache misses. A ragged
feature keeps its values as decoded: that only the last `longest` count is said by `spans`, so that
cutting histories copies nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.data.batch import RankingBatch
from cuesta.data.columns import Column, floats_of, seconds_of
from cuesta.data.encoders import Encoders, group_keys
from cuesta.data.schema import Feature, Schema
from cuesta.ragged import RaggedFeatures

_NUM_FIXED = 2  # columns of `integers` before the ids: user, time


class Layout(NamedTuple):
    """Say where each feature of a schema lies in `Rows`."""

    keys: tuple[str, ...]
    places: NDArray[np.int64]  # [F] of one id a row: its column of `integers`; ragged: -1 - group
    ragged: tuple[int, ...]  # the ragged features, in the order of `Rows.values`

    @staticmethod
    def of(schema: Schema) -> Layout:
        """Return the layout of rows under `schema`."""
        groups = {
            member.name: -1 - number
            for number, members in enumerate(schema.groups().values())
            for member in members
        }
        single = [feature.name for feature in schema.features if not feature.ragged]
        columns = {name: _NUM_FIXED + number for number, name in enumerate(single)}
        places = [{**groups, **columns}[feature.name] for feature in schema.features]
        return Layout(
            tuple(feature.name for feature in schema.features),
            np.array(places, np.int64),
            tuple(f for f, feature in enumerate(schema.features) if feature.ragged),
        )


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


def encode_rows(columns: Mapping[str, Column], schema: Schema, encoders: Encoders) -> Rows:
    """Return rows whose columns were found sound, as `gather` needs them."""
    layout = Layout.of(schema)
    num_rows = columns[schema.label].num_rows
    groups = schema.groups()
    numbers = np.empty((num_rows, 1 + len(schema.dense)), np.float32)
    for position, name in enumerate((schema.label, *schema.dense)):
        numbers[:, position] = floats_of(columns[name].values)
    integers = np.empty((num_rows, _NUM_FIXED + len(layout.keys) - len(layout.ragged)), np.int64)
    integers[:, 0] = group_keys(columns[schema.user].values)
    integers[:, 1] = seconds_of(columns[schema.time].values)
    for feature, place in zip(schema.features, layout.places, strict=True):
        if place >= 0:
            ids = integers[:, place]
            encoders.encode(feature.name, columns[feature.column].values, out=ids)
    spans = np.empty((num_rows, len(groups), 2), np.int64)
    for number, members in enumerate(groups.values()):
        _cut(columns[members[0].column], members[0], spans[:, number])
    ragged = [schema.features[position] for position in layout.ragged]
    return Rows(
        layout=layout,
        numbers=numbers,
        integers=integers,
        spans=spans,
        values=tuple(encoders.encode(f.name, columns[f.column].values) for f in ragged),
        weights=tuple(floats_of(columns[f.weights].values) if f.weights else None for f in ragged),
    )


class Window:
    """Hold the memory in which windows are joined: to ask the system for it anew costs as much."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def join(self, parts: Sequence[Rows]) -> Rows:
        """Return the rows of all parts, one after another; they live until the next call."""
        if len(parts) == 1:
            return parts[0]
        spans = self._join("spans", [part.spans for part in parts])
        first = 0
        for part in parts[:-1]:
            first += part.spans.shape[0]
            for number, ids in _values_of_groups(part):
                spans[first:, number, 0] += ids.shape[0]
        values = zip(*(part.values for part in parts), strict=True)
        weights = zip(*(part.weights for part in parts), strict=True)
        return Rows(
            layout=parts[0].layout,
            numbers=self._join("numbers", [part.numbers for part in parts]),
            integers=self._join("integers", [part.integers for part in parts]),
            spans=spans,
            values=tuple(self._join(f"values {n}", each) for n, each in enumerate(values)),
            weights=tuple(
                None if each[0] is None else self._join(f"weights {n}", each)
                for n, each in enumerate(weights)
            ),
        )

    def _join(self, name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
        length = sum(part.shape[0] for part in parts)
        held = self._buffers.get(name)
        if held is None or held.shape[0] < length:
            held = np.empty((length + length // 8, *parts[0].shape[1:]), parts[0].dtype)
            self._buffers[name] = held
        return np.concatenate(parts, out=held[:length])


def gather(rows: Rows, order: NDArray[np.int64]) -> RankingBatch:
    """Return rows `order` as one batch; ids, offsets and weights are written once."""
    num_rows, layout = order.shape[0], rows.layout
    offsets = np.zeros(len(layout.keys) * num_rows + 1, np.int64)
    _fill_offsets(layout.places, rows.spans, order, offsets)
    label = np.empty(num_rows, np.float32)
    dense = np.empty((num_rows, rows.numbers.shape[1] - 1), np.float32)
    user, time = np.empty(num_rows, np.int64), np.empty(num_rows, np.int64)
    values = np.empty(offsets[-1], np.int64)
    _gather_numbers(rows.numbers, order, label, dense)
    _gather_integers(rows.integers, order, user, time, layout.places, offsets, values)
    has_weights = any(weights is not None for weights in rows.weights)
    joined = np.ones(offsets[-1], np.float32) if has_weights else None
    for feature, ids, weights in zip(layout.ragged, rows.values, rows.weights, strict=True):
        spans = rows.spans[:, -1 - layout.places[feature]]
        begins = offsets[feature * num_rows : (feature + 1) * num_rows]
        _gather_ragged(ids, spans, order, begins, values)
        if joined is not None and weights is not None:
            _gather_ragged(weights, spans, order, begins, joined)
    features = RaggedFeatures(
        layout.keys,
        torch.from_numpy(values),
        torch.from_numpy(offsets),
        None if joined is None else torch.from_numpy(joined),
    )
    return RankingBatch(
        label=torch.from_numpy(label),
        dense=torch.from_numpy(dense),
        features=features,
        user=torch.from_numpy(user),
        time=torch.from_numpy(time),
    )


def batches_of(
    windows: Iterable[tuple[Rows, NDArray[np.int64]]], batch_size: int, *, drop_last: bool = False
) -> Iterator[RankingBatch]:
    """Yield batches of the rows that each window holds, in the order it gives.

    A batch may span windows; only the last one is short.
    """
    pending: list[RankingBatch] = []
    missing = batch_size
    for rows, order in windows:
        position = 0
        while position < len(order):
            pending.append(gather(rows, order[position : position + missing]))
            position += pending[-1].num_rows
            missing -= pending[-1].num_rows
            if missing == 0:
                yield _join_batches(pending)
                pending, missing = [], batch_size
    if pending and not drop_last:
        yield _join_batches(pending)


def _join_batches(parts: Sequence[RankingBatch]) -> RankingBatch:
    if len(parts) == 1:
        return parts[0]
    return RankingBatch(
        label=torch.cat([part.label for part in parts]),
        dense=torch.cat([part.dense for part in parts]),
        features=RaggedFeatures.cat([part.features for part in parts]),
        user=torch.cat([part.user for part in parts]),
        time=torch.cat([part.time for part in parts]),
    )


def _cut(column: Column, feature: Feature, spans: NDArray[np.int64]) -> None:
    """Write where the last `longest` values of each row begin, and how many they are."""
    assert column.offsets is not None
    lengths = np.diff(column.offsets)
    if feature.longest is not None:
        lengths = np.minimum(lengths, feature.longest)
    spans[:, 0] = column.offsets[1:] - lengths
    spans[:, 1] = lengths


def _values_of_groups(rows: Rows) -> list[tuple[int, NDArray[np.int64]]]:
    """Return each group's number and the values of one of its members."""
    groups = {
        int(-1 - rows.layout.places[feature]): values
        for feature, values in zip(rows.layout.ragged, rows.values, strict=True)
    }
    return list(groups.items())


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
    for i, row in enumerate(order):
        source = values[spans[row, 0] : spans[row, 0] + spans[row, 1]]
        target = out[begins[i] : begins[i] + spans[row, 1]]
        for position in range(source.shape[0]):
            target[position] = source[position]
