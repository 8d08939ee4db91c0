"""Progress of a run: what the loop tells after each step, and how it is shown."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

_SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Hold where a run is, its losses and rate, and the metrics right after an evaluation."""

    step: int
    num_steps: int
    epoch: int
    losses: Mapping[str, float]
    examples_per_second: float
    remaining_s: float
    metrics: Mapping[str, float] | None = None

    def line(self) -> str:
        """Return one line of plain text.

        >>> Progress(step=5, num_steps=10, epoch=0, losses={"loss": 0.5}, examples_per_second=2e3,
        ...          remaining_s=61.0).line()
        'step 5/10 · loss 0.5000 · 2,000 examples/s · 1:01 left'
        """
        rate = f"{self.examples_per_second:,.0f} examples/s"
        losses = " · ".join(f"{name} {value:.4f}" for name, value in self.losses.items())
        left = f"{clock(self.remaining_s)} left"
        return f"step {self.step}/{self.num_steps} · {losses} · {rate} · {left}"

    def metrics_line(self) -> str:
        """Return the metrics of the evaluation at this step as one line of plain text."""
        metrics = " · ".join(f"{name} {value:.4g}" for name, value in (self.metrics or {}).items())
        return f"step {self.step}: validation {metrics}"


OnProgress = Callable[[Progress], None]


def ignore_progress(_progress: Progress) -> None:
    """Show nothing."""


@contextmanager
def show_progress(stream: TextIO = sys.stderr) -> Iterator[OnProgress]:
    """Yield what shows progress: a bar on a terminal, else a line every few seconds."""
    if stream.isatty():
        with _bar(stream) as show:
            yield show
    else:
        yield _lines(stream)


def clock(seconds: float) -> str:
    """Return `m:ss`, or `h:mm:ss` from an hour on.

    >>> clock(59.6), clock(3723)
    ('1:00', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _lines(stream: TextIO) -> OnProgress:
    last = -math.inf

    def show(progress: Progress) -> None:
        nonlocal last
        if progress.metrics is not None:
            print(progress.metrics_line(), file=stream, flush=True)
        elif time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(progress.line(), file=stream, flush=True)

    return show


@contextmanager
def _bar(stream: TextIO) -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
    with Bars(*columns, console=Console(file=stream)) as bars:
        bar = bars.add_task("training", total=None, words="")

        def show(progress: Progress) -> None:
            if progress.metrics is not None:
                bars.console.print(progress.metrics_line(), highlight=False)
            bars.update(
                bar, completed=progress.step, total=progress.num_steps, words=progress.line()
            )

        yield show
