"""The prefetching reader: a background thread turns row groups into batches, a bounded queue ahead.

Shuffling is by (seed, epoch): the row groups of the range are permuted, joined into windows of
about `window_bytes` decoded bytes, and the rows within a window are permuted. A range that fits one
window is shuffled fully. Which rows are in batch k depends on nothing else, so `start` jumps:
windows before it are never decoded.

Two threads decode row groups ahead, one encodes them into the window, two gather batches from it.
Memory is one window, a few decoded row groups and up to sixteen batches, however large the log.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from cuesta.data.batch import RankingBatch
from cuesta.data.columns import Column
from cuesta.data.encoders import Encoders
from cuesta.data.log import Log, read_sound
from cuesta.data.rows import Rows, Window, batches_of, map_ahead
from cuesta.data.schema import Schema

WINDOW_BYTES = 256 * 2**20
_BATCHES_AHEAD = 4
_GROUPS_AHEAD = 3


@final
@dataclass(frozen=True, kw_only=True)
class Order:
    """Say which batches an iteration makes; `seed` None keeps the file's order."""

    batch_size: int
    seed: int | None = None
    epoch: int = 0
    start: int = 0
    drop_last: bool = False
    window_bytes: int = WINDOW_BYTES

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.start < 0:
            raise ValueError(f"start must not be negative, got {self.start}")


class Span(NamedTuple):
    """Name rows `begin` to `end` of a row group."""

    group: int
    begin: int
    end: int


@final
@dataclass(frozen=True, eq=False)
class Reader:
    """Read rows `begin` to `end` of a log as batches.

    `spare` holds the window of an iteration that has ended: the next one writes into its memory.
    """

    log: Log
    schema: Schema
    encoders: Encoders
    begin: int
    end: int
    spare: list[Window] = field(default_factory=list)

    def batches(self, order: Order) -> Iterator[RankingBatch]:
        """Yield the batches of one epoch, made ahead by a thread that ends with the iterator."""
        windows = self._windows(order)
        return prefetch(
            batches_of(windows, order.batch_size, drop_last=order.drop_last), ahead=_BATCHES_AHEAD
        )

    def _windows(self, order: Order) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
        """Yield each window's rows and the order in which they go, from the first row wanted."""
        windows = self._spans(order)
        skip, first = order.start * order.batch_size, 0
        while first < len(windows) and skip >= _num_rows(windows[first]):
            skip -= _num_rows(windows[first])
            first += 1
        decoded = self._read([span for spans in windows[first:] for span in spans])
        try:
            window = self.spare.pop()
        except IndexError:
            window = Window(self.schema, self.encoders)
        for number in range(first, len(windows)):
            window.clear()
            for _ in windows[number]:
                window.append(next(decoded))
            num_rows = _num_rows(windows[number])
            if order.seed is None:
                permutation = np.arange(num_rows)
            else:
                permutation = _generator(order, 1 + number).permutation(num_rows)
            yield window.rows(), permutation[skip:]
            skip = 0
        self.spare[:] = [window]

    def _spans(self, order: Order) -> list[list[Span]]:
        """Return the windows as lists of spans."""
        spans = []
        for number, group in enumerate(self.log.groups):
            begin = max(self.begin - group.first, 0)
            end = min(self.end - group.first, group.num_rows)
            if begin < end:
                spans.append(Span(number, begin, end))
        if order.seed is None:
            return [[span] for span in spans]
        most = order.window_bytes / max(self.log.bytes_per_row(self.schema.columns()), 1)
        windows: list[list[Span]] = [[]]
        num_rows = 0
        for number in _generator(order, 0).permutation(len(spans)):
            span = spans[number]
            if windows[-1] and num_rows + span.end - span.begin > most:
                windows.append([])
                num_rows = 0
            windows[-1].append(span)
            num_rows += span.end - span.begin
        return windows if spans else []

    def _read(self, spans: Sequence[Span]) -> Iterator[dict[str, Column]]:
        """Yield each span's columns, while the spans after it are being decoded."""

        def read(span: Span) -> dict[str, Column]:
            columns = read_sound(self.log, span.group, self.schema)
            return {name: column.rows(span.begin, span.end) for name, column in columns.items()}

        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="cuesta-decode") as decoder:
            yield from map_ahead(decoder, read, spans, ahead=_GROUPS_AHEAD)


def prefetch(batches: Generator[RankingBatch], *, ahead: int) -> Generator[RankingBatch]:
    """Yield `batches` while a thread makes up to `ahead` of them in advance.

    The thread starts with the first `next`; an exception in it is raised here; closing the iterator
    (or dropping it) ends it.
    """
    ready: queue.SimpleQueue[RankingBatch | BaseException | None] = queue.SimpleQueue()
    places: queue.SimpleQueue[None] = queue.SimpleQueue()  # one a batch that may be made ahead
    is_closed = threading.Event()

    def has_place() -> bool:
        while not is_closed.is_set() and threading.main_thread().is_alive():
            try:
                places.get(timeout=0.1)
                return True
            except queue.Empty:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not has_place():
                    return
                ready.put(batch)
            ready.put(None)
        except BaseException as error:
            ready.put(error)
        finally:
            batches.close()

    for _ in range(ahead):
        places.put(None)
    thread = threading.Thread(target=work, name="cuesta-reader")
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            places.put(None)
            yield item
    finally:
        is_closed.set()
        thread.join()


def _generator(order: Order, stream: int) -> np.random.Generator:
    assert order.seed is not None
    return np.random.default_rng([order.seed, order.epoch, stream])


def _num_rows(spans: Sequence[Span]) -> int:
    return sum(span.end - span.begin for span in spans)


def num_batches(num_rows: int, order: Order) -> int:
    """Return how many batches `num_rows` rows make, `start` not counted."""
    full, rest = divmod(num_rows, order.batch_size)
    return full + (1 if rest and not order.drop_last else 0)
