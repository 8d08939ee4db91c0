"""`Rows`: decoded and encoded rows of a log, from which batches are gathered in any order.

```
columns of row groups --Window.append--> Rows of a window --gather(order)--> batch
```

What a row has one of lies side by side, so that a shuffled row costs few cache misses. A ragged
feature keeps its values as decoded: that only the last `longest` count is said by `spans`, so that
cutting histories copies nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import NamedTuple, TypeVar, final

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.data.batch import RankingBatch
from cuesta.data.columns import Column, floats_of, seconds_of
from cuesta.data.encoders import Encoders, group_keys
from cuesta.data.schema import Feature, Schema
from cuesta.ops.lanes import prefetch as ask_for_line
from cuesta.ragged import RaggedFeatures

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 16  # rows between asking for a history and copying it
_LINE = 64  # bytes of a cache line
_TURN = 4  # batches that a thread gathers before it waits for its turn again
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
        self._integers = Buffer((_NUM_FIXED + num_single,), np.int64)
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
) -> Generator[RankingBatch]:
    """Yield batches of the rows that each window holds, in the order it gives.

    A batch may span windows; only the last one is short. Two threads gather, and none of them looks
    into a window when the next one is asked for.
    """
    pending: list[RankingBatch] = []
    missing = batch_size
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="cuesta-gather") as gatherers:
        for rows, order in windows:
            begins = [0, *range(missing, len(order), batch_size)]
            pieces = [order[begin:end] for begin, end in pairwise([*begins, len(order)])]
            turns = [pieces[turn : turn + _TURN] for turn in range(0, len(pieces), _TURN)]
            for part in chain.from_iterable(
                map_ahead(gatherers, partial(_gather_each, rows), turns, ahead=2)
            ):
                pending.append(part)
                missing -= part.num_rows
                if missing == 0:
                    yield _join_batches(pending)
                    pending, missing = [], batch_size
    if pending and not drop_last:
        yield _join_batches(pending)


def _gather_each(rows: Rows, orders: Sequence[NDArray[np.int64]]) -> list[RankingBatch]:
    return [gather(rows, order) for order in orders]


def map_ahead(
    threads: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    ahead: int,
) -> Iterator[Result]:
    """Yield the function of each item, in order, while `threads` work on the next `ahead`."""
    futures: deque[Future[Result]] = deque()
    for item in items:
        futures.append(threads.submit(function, item))
        if len(futures) > ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


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
