"""Where a step's time went that was not work: the seconds it stood still for data, other ranks and the disk.

What travels or is written while other work is done costs nothing here; what shows is what was not overlapped (Neo, ISCA
2022, pipelining). The clock is this thread's: on a GPU, where an exchange is only queued, the wait for it is not seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar, final, get_args

Wait = Literal["reader", "ids", "answers", "gradients", "dense gradients", "losses", "saving"]
WAITS: tuple[Wait, ...] = get_args(Wait)
Item = TypeVar("Item")


@final
class Waits:
    """Sum the seconds of each wait since they were last taken.

    >>> waits = Waits()
    >>> with waits.during("reader"):
    ...     batch = [1, 2, 3]
    >>> len(waits.take()) == len(WAITS)
    True
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(WAITS, 0.0)

    @contextmanager
    def during(self, wait: Wait) -> Iterator[None]:
        """Count the time of the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[wait] += time.perf_counter() - began

    def each(self, wait: Wait, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items, and count the time until each is there."""
        while True:
            with self.during(wait):
                item = next(items, None)
            if item is None:
                return
            yield item

    def take(self) -> list[float]:
        """Return the seconds of each wait, in the order of `WAITS`, and begin at none again."""
        taken = list(self._seconds.values())
        self._seconds = dict.fromkeys(WAITS, 0.0)
        return taken
