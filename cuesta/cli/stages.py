"""Progress of work in stages: a bar a stage on a terminal, else a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from cuesta.engine.progress import clock

OnStage = Callable[[str, int, int], None]
_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def show_stages(stream: TextIO) -> Iterator[OnStage]:
    """Yield what shows `(stage, done, total)`; a total of 0 is not known."""
    if stream.isatty():
        with _bars(stream) as show:
            yield show
    else:
        yield _Lines(stream).show


class _Lines:
    """Print a line when a stage begins, and then one every few seconds with what is left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage, self._began, self._last = "", 0.0, 0.0

    def show(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began = stage, now
        elif now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        print(stage + _words(done, total, now - self._began), file=self._stream, flush=True)


def _words(done: int, total: int, seconds: float) -> str:
    """Return how far a stage is and how long it will take at this rate.

    >>> _words(10, 40, 5.0), _words(0, 0, 5.0)
    (' 10/40 · 0:15 left', '')
    """
    if total == 0:
        return ""
    left = f" · {clock(seconds * (total - done) / done)} left" if 0 < done < total else ""
    return f" {done}/{total}{left}"


@contextmanager
def _bars(stream: TextIO) -> Iterator[OnStage]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(file=stream)) as bars:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield show
