"""A process of the `ReaderService`: it decodes its row groups and puts its rows of each batch into free slots.

It ends when the consumer does: both hold an end of one channel. Signals that a terminal or a scheduler sends to
all processes of a job are the consumer's to answer. It imports no torch, and so starts in a second.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import NamedTuple, final

import numpy as np

from cuesta.data.columns import Column
from cuesta.data.log import Log, RowGroup
from cuesta.data.order import Order
from cuesta.data.parts import Allocate
from cuesta.data.reader import Reader
from cuesta.data.slots import Slot
from cuesta.errors import UserError


class Job(NamedTuple):
    """Be told once what to read, and the descriptors of the slots and of where to say what is being read."""

    reader: Reader
    number: int
    of: int
    slots: tuple[int, ...]
    place: int


class Filled(NamedTuple):
    """Say that a slot holds a part with arrays of these lengths."""

    slot: int
    lengths: tuple[int, int, int]


class Failure(NamedTuple):
    """Say why this process ends."""

    text: str


class ConsumerGoneError(Exception):
    """Be what a lost channel is."""


def main(file: int) -> None:
    """Serve the consumer at the other end of a socket, until it closes it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        with Connection(file) as connection:
            _serve(_Channel(connection))
    except ConsumerGoneError:
        pass


def _serve(channel: _Channel) -> None:
    job = channel.receive()
    assert isinstance(job, Job)
    slots = _FreeSlots(channel, [Slot(file) for file in job.slots])
    try:
        place = Slot(job.place).allocator()(1, np.int64)
        reader = replace(job.reader, log=_WatchedLog(job.reader.log, place))
        while True:
            for part in reader.parts(slots.next_order(), job.number, job.of, slots.take):
                lengths = len(part.offsets), len(part.integers), len(part.floats)
                channel.send(Filled(slots.taken, lengths))
    except UserError as error:
        channel.send(Failure(str(error)))
    except ConsumerGoneError:
        raise
    except Exception as error:  # of whatever kind: the consumer is told, and raises
        traceback.print_exc()
        channel.send(Failure(f"{type(error).__name__}: {error}"))


@final
class _Channel:
    """Send and receive until the consumer is gone, which raises `ConsumerGoneError`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: Filled | Failure) -> None:
        try:
            self._connection.send(message)
        except OSError:
            raise ConsumerGoneError from None

    def receive(self) -> Job | Order | int:
        try:
            message: Job | Order | int = self._connection.recv()
            return message
        except (OSError, EOFError):
            raise ConsumerGoneError from None


@final
class _FreeSlots:
    """Know which slots the consumer has done with: it sends their numbers, and orders in between."""

    def __init__(self, channel: _Channel, slots: Sequence[Slot]) -> None:
        self._channel, self._slots = channel, slots
        self._free = list(range(len(slots)))
        self.taken = 0

    def take(self) -> Allocate:
        """Return the memory of a free slot, when there is one."""
        while not self._free:
            self._hear()
        self.taken = self._free.pop()
        return self._slots[self.taken].allocator()

    def next_order(self) -> Order:
        """Return what to read next."""
        while not isinstance(order := self._hear(), Order):
            pass
        return order

    def _hear(self) -> object:
        message = self._channel.receive()
        if isinstance(message, int):
            self._free.append(message)
        return message


@final
@dataclass(frozen=True, eq=False)
class _WatchedLog:
    """Be a log that writes down which row group is being read, for the consumer to know if this process dies."""

    log: Log
    place: np.ndarray

    @property
    def groups(self) -> Sequence[RowGroup]:
        """Return the log's row groups."""
        return self.log.groups

    def read(self, group: int, names: Sequence[str]) -> dict[str, Column]:
        """Return these columns of a row group."""
        self.place[0] = group
        return self.log.read(group, names)

    def bytes_per_row(self, names: Sequence[str]) -> float:
        """Return the log's answer."""
        return self.log.bytes_per_row(names)
