"""The prefetching reader: a background thread turns row groups into batches, a bounded queue ahead.

Which rows are in batch k depends on the `Order` alone, so `start` jumps: windows before it are never decoded.

Two threads decode row groups ahead, one encodes them into the window, two gather batches from it.
Memory is one window, a few decoded row groups and up to sixteen batches, however large the log.
A `ReaderService` divides the same work among processes.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from cuesta.data.columns import Column
from cuesta.data.encoders import Encoders
from cuesta.data.log import Log, read_sound
from cuesta.data.order import Order, Span, Stretch, owners, permutation, pieces, stretches
from cuesta.data.parts import Allocate, Layout, Part, join
from cuesta.data.rows import Rows, Window, gather
from cuesta.data.schema import Schema

if TYPE_CHECKING:
    from cuesta.data.batch import RankingBatch

Item = TypeVar("Item")
Result = TypeVar("Result")
_BATCHES_AHEAD = 4
_GROUPS_AHEAD = 3
_TURN = 4  # batches that a thread gathers before it waits for its turn again


class Chosen(NamedTuple):
    """Name rows of a window that go into one batch; with the last ones it is whole."""

    rows: NDArray[np.int64]
    is_last: bool


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

    @property
    def num_rows(self) -> int:
        """Return the number of rows in its range."""
        return self.end - self.begin

    def batches(self, order: Order) -> Iterator[RankingBatch]:
        """Yield the batches of one epoch, made ahead by a thread that ends with the iterator."""
        from cuesta.data.batch import batch_of

        layout = Layout.of(self.schema)
        whole = joined(self.windows(order), layout)
        return prefetch((batch_of(layout, part) for part in whole), ahead=_BATCHES_AHEAD)

    def parts(
        self, order: Order, number: int, of: int, memory: Callable[[], Allocate]
    ) -> Iterator[Part]:
        """Yield what reader `number` of `of` has of each batch in which it has rows, in memory asked for anew.

        Only its own row groups are decoded, one ahead.
        """
        layout = Layout.of(self.schema)
        pending: list[Part] = []
        for rows, choice in self.windows(order, number, of):
            for chosen, is_last in choice:
                if not is_last or pending:
                    pending += [gather(rows, chosen)] if len(chosen) else []
                if not is_last:
                    continue
                if pending:
                    yield join(layout, pending, memory())
                    pending = []
                elif len(chosen):
                    yield gather(rows, chosen, memory())

    def stretches(self, order: Order) -> list[Stretch]:
        """Return the windows of one epoch, from the first one wanted."""
        bytes_per_row = self.log.bytes_per_row(self.schema.columns())
        return stretches(self.log.groups, self.begin, self.end, order, bytes_per_row)

    def windows(
        self, order: Order, number: int = 0, of: int = 1
    ) -> Iterator[tuple[Rows, list[Chosen]]]:
        """Yield the rows of each window that are reader `number`'s, and which go into its batches."""
        wanted = self.stretches(order)
        own = [
            [span for place, span in enumerate(each.spans, each.first_span) if place % of == number]
            for each in wanted
        ]
        decoded = self._read(list(chain.from_iterable(own)), threads=2 if of == 1 else 1)
        try:
            window = self.spare.pop()
        except IndexError:
            window = Window(self.schema, self.encoders)
        for stretch, spans in zip(wanted, own, strict=True):
            window.clear()
            for _ in spans:
                window.append(next(decoded))
            yield window.rows(), list(self._chosen(order, stretch, number, of))
        self.spare[:] = [window]

    def _chosen(self, order: Order, stretch: Stretch, number: int, of: int) -> Iterator[Chosen]:
        rows = permutation(order, stretch)
        if of > 1:
            is_own = owners(stretch, of) == number
            rows = np.where(is_own, np.cumsum(is_own) - 1, -1)[rows]
        for begin, end, is_last in pieces(order, stretch, self.num_rows):
            piece = rows[begin:end]
            yield Chosen(piece if of == 1 else piece[piece >= 0], is_last)

    def _read(self, spans: Sequence[Span], *, threads: int) -> Iterator[dict[str, Column]]:
        """Yield each span's columns, while the spans after it are being decoded."""

        def read(span: Span) -> dict[str, Column]:
            columns = read_sound(self.log, span.group, self.schema)
            return {name: column.rows(span.begin, span.end) for name, column in columns.items()}

        with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="cuesta-decode") as decoder:
            yield from map_ahead(decoder, read, spans, ahead=_GROUPS_AHEAD)


def joined(windows: Iterable[tuple[Rows, list[Chosen]]], layout: Layout) -> Generator[Part]:
    """Yield the batches whose rows each window gives, in order; a batch may span windows.

    Two threads gather, and none of them looks into a window when the next one is asked for.
    """
    pending: list[Part] = []
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="cuesta-gather") as gatherers:
        for rows, choice in windows:
            turns = [choice[turn : turn + _TURN] for turn in range(0, len(choice), _TURN)]
            gathered = map_ahead(gatherers, partial(_gather_each, rows), turns, ahead=2)
            for part, (_, is_last) in zip(chain.from_iterable(gathered), choice, strict=True):
                pending.append(part)
                if is_last:
                    yield pending[0] if len(pending) == 1 else join(layout, pending)
                    pending = []


def _gather_each(rows: Rows, choice: Sequence[Chosen]) -> list[Part]:
    return [gather(rows, each.rows) for each in choice]


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
