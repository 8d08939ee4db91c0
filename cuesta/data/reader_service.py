"""`ReaderService`: reader processes that divide a log's row groups and hand over their rows of every batch.

```
reader 0   row groups 0, 2, 4, ...  --its rows of batch k, combined--> slots --+
reader 1   row groups 1, 3, 5, ...  --its rows of batch k, combined--> slots --+--merge--> batch k
```

The batches are those of one process, bit for bit and for any number of readers: a window is shuffled over all
readers, and the consumer, who knows the order too, puts rows where they belong. No row group is decoded twice,
so that a log of one row group keeps one reader busy. Slots are few and used again: a reader that is ahead waits.
After Neo's readers (Mudigere et al., ISCA 2022, data ingestion; Zhao et al., 2108.09373), whose tiers are
machines; so are `RayReader`s.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Protocol, final

import numpy as np
from numpy.typing import NDArray

from cuesta.data.batch import batch_of
from cuesta.data.order import Order, owners, permutation, pieces
from cuesta.data.parts import Layout, Part, Placed, merge
from cuesta.data.reader import Reader, prefetch
from cuesta.data.reader_process import Failure, Filled, Job
from cuesta.data.slots import Slot
from cuesta.errors import UserError

if TYPE_CHECKING:
    from cuesta.data.batch import RankingBatch

SLOTS = 4  # parts that a reader may be ahead
_BATCHES_AHEAD = 2
_PATIENCE_S = 10.0  # to see a process end


class BatchSource(Protocol):
    """Be what makes batches: a `Reader`, or one of the services over it."""

    def batches(self, order: Order) -> Iterator[RankingBatch]:
        """Yield the batches of one epoch."""
        ...


class PartSource(Protocol):
    """Be the consumer's end of one reader, which hands over its rows of one batch after another."""

    def begin(self, order: Order) -> None:
        """Let it read in this order."""
        ...

    def next_part(self, batch: str) -> Part:
        """Return its rows of the next batch in which it has any; the last part's memory is its own again.

        `batch` names the batch in errors.
        """
        ...

    def stop(self) -> None:
        """End the reader at once."""
        ...


@final
class ReaderService:
    """Make a reader's batches in `num_readers` others, processes or what `start` starts, from the first one asked for.

    They live on for the next epoch, until `close`, or the end of the service or of this process, however it ends;
    closing an iterator early ends them. A reader that dies ends the iteration with a `UserError`.
    """

    def __init__(
        self,
        reader: Reader,
        num_readers: int,
        start: Callable[[Reader, int, int], PartSource] | None = None,
    ) -> None:
        if num_readers < 1:
            raise UserError(f"a reader service needs at least 1 reader, got {num_readers}")
        self._reader = replace(reader, spare=[])
        self._num_readers = num_readers
        self._start = start or ReaderProcess
        self._idle: list[PartSource] = []
        self._finalizer = weakref.finalize(self, _stop, self._idle)

    def batches(self, order: Order) -> Iterator[RankingBatch]:
        """Yield the batches of one epoch, put together ahead by a thread that ends with the iterator."""
        return prefetch(self._batches(order), ahead=_BATCHES_AHEAD)

    def close(self) -> None:
        """End readers that wait for another epoch."""
        _stop(self._idle)

    def _batches(self, order: Order) -> Generator[RankingBatch]:
        remaining = max(order.num_batches(self._reader.num_rows) - order.start, 0)
        if not remaining:
            return
        of = min(self._num_readers, _num_spans(self._reader, order))
        sources = self._idle[:]
        self._idle.clear()
        try:
            while len(sources) < of:
                sources.append(self._start(self._reader, len(sources), of))
            for source in sources:
                source.begin(order)
            for batch in merged(self._reader, order, sources):
                remaining -= 1
                yield batch
        finally:
            if remaining or self._idle or not self._finalizer.alive:
                _stop(sources)
            else:
                self._idle += sources


def merged(reader: Reader, order: Order, sources: Sequence[PartSource]) -> Generator[RankingBatch]:
    """Yield the batches that the parts of all sources make."""
    layout = Layout.of(reader.schema)
    for number, owner in enumerate(_owners_by_batch(reader, order, len(sources)), order.start):
        given = []
        for index, source in enumerate(sources):
            places = np.flatnonzero(owner == index)
            if len(places):
                part = source.next_part(f"batch {number} of epoch {order.epoch}")
                given.append(Placed(part, places))
        yield batch_of(layout, merge(layout, given, len(owner)))


def _owners_by_batch(reader: Reader, order: Order, of: int) -> Iterator[NDArray[np.int16]]:
    """Yield for each batch which reader has each of its rows."""
    pending = [np.empty(0, np.int16)]
    for stretch in reader.stretches(order):
        of_rows = owners(stretch, of)[permutation(order, stretch)]
        for begin, end, is_last in pieces(order, stretch, reader.num_rows):
            pending.append(of_rows[begin:end])
            if is_last:
                yield np.concatenate(pending)
                del pending[1:]


def _num_spans(reader: Reader, order: Order) -> int:
    return sum(len(each.spans) for each in reader.stretches(replace(order, start=0)))


@final
class ReaderProcess:
    """Hold the consumer's end of one process."""

    def __init__(self, reader: Reader, number: int, of: int) -> None:
        self._name = f"reader {number + 1} of {of}"
        self._groups = reader.log.groups
        self._slots = [Slot.new() for _ in range(SLOTS)]
        self._place = Slot.new()
        self._group = self._place.allocator()(1, np.int64)
        self._group[0] = -1
        self._taken: int | None = None
        self._channel, theirs = Pipe()
        files = tuple(slot.file for slot in self._slots)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _program(theirs.fileno()), f"cuesta {self._name}"],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), self._place.file, *files],
                start_new_session=True,  # Ctrl-C is the consumer's to answer
            )
        self._send(Job(reader, number, of, files, self._place.file))

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid

    def begin(self, order: Order) -> None:
        """Let it read in this order."""
        self._give_back()
        self._send(order)

    def next_part(self, batch: str) -> Part:
        """Return its rows of the next batch; raise `UserError` if it ends instead."""
        self._give_back()
        try:
            message: Filled | Failure = self._channel.recv()
        except (EOFError, OSError):
            raise UserError(self._end(batch)) from None
        if isinstance(message, Failure):
            raise UserError(f"{self._name}, at {batch}: {message.text}")
        self._taken = message.slot
        return self._slots[message.slot].part(message.lengths)

    def stop(self) -> None:
        """Kill the process, which leaves nothing to tidy but what was shared."""
        self._process.kill()
        self._process.wait()
        self._channel.close()
        for slot in (*self._slots, self._place):
            slot.close()

    def _give_back(self) -> None:
        if self._taken is not None:
            self._send(self._taken)
            self._taken = None

    def _send(self, message: Job | Order | int) -> None:
        with suppress(OSError):  # one that has died is met by `next_part`
            self._channel.send(message)

    def _end(self, batch: str) -> str:
        """Say how the process ended, and what it was at."""
        status = self._process.wait(_PATIENCE_S)
        how = (
            f"was killed by {signal.Signals(-status).name}"
            if status < 0
            else f"ended with status {status}"
        )
        if status == -signal.SIGKILL:
            how += ", as by a system out of memory"
        place = int(self._group[0])
        where = "before it read anything"
        if place >= 0:
            file, number = self._groups[place][:2]
            where = f"at {file}: row group {number}"
        return (
            f"{self._name} (process {self.pid}) {how}, {where}, while {batch} waited for it; "
            "train on with --resume, with fewer --task.readers if memory ran out"
        )


def _program(file: int) -> str:
    return (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from cuesta.data.reader_process import main; main({file})"
    )


def _stop(sources: list[PartSource]) -> None:
    while sources:
        sources.pop().stop()
