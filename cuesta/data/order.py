"""Which rows are in which batch: a function of the log's row groups and an `Order`, and of nothing else.

```
row groups of the range --shuffled--> windows --rows permuted in each--> the epoch's rows --cut--> batches
```

Shuffling is by (seed, epoch): the row groups are permuted, joined into windows of about `window_bytes` decoded
bytes, and the rows within a window are permuted. A range that fits one window is shuffled fully. Without a seed
every row group is a window. All that read a log, threads, processes and machines, work this out alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from cuesta.data.log import RowGroup

WINDOW_BYTES = 256 * 2**20


@final
@dataclass(frozen=True, kw_only=True)
class Order:
    """Say which batches an iteration makes; `seed` None keeps the file's order.

    Of each batch rank `rank` of `num_ranks` gets its share of the rows, which lie together.
    """

    batch_size: int
    seed: int | None = None
    epoch: int = 0
    start: int = 0
    drop_last: bool = False
    window_bytes: int = WINDOW_BYTES
    rank: int = 0
    num_ranks: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.start < 0:
            raise ValueError(f"start must not be negative, got {self.start}")
        if not 0 <= self.rank < self.num_ranks:
            raise ValueError(f"rank must be within 0 .. {self.num_ranks - 1}, got {self.rank}")

    def num_batches(self, num_rows: int) -> int:
        """Return how many batches `num_rows` rows make, `start` not counted."""
        full, rest = divmod(num_rows, self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def rows_of(self, batch: int, num_rows: int) -> tuple[int, int]:
        """Return the first of the epoch's `num_rows` rows in a batch, and the one after its last."""
        return batch * self.batch_size, min((batch + 1) * self.batch_size, num_rows)


class Span(NamedTuple):
    """Name rows `begin` to `end` of a row group."""

    group: int
    begin: int
    end: int

    @property
    def num_rows(self) -> int:
        """Return how many rows these are."""
        return self.end - self.begin


class Stretch(NamedTuple):
    """Hold the rows of one window: its number, its place among the epoch's rows, its row groups.

    `first_span` counts the row groups of the windows before it.
    """

    number: int
    first: int
    first_span: int
    spans: Sequence[Span]

    @property
    def num_rows(self) -> int:
        """Return the rows of the window."""
        return sum(span.num_rows for span in self.spans)


class Piece(NamedTuple):
    """Name places `begin` to `end` in a window's order, which go into one batch; with the last piece it is whole."""

    begin: int
    end: int
    is_last: bool


def stretches(
    groups: Sequence[RowGroup], begin: int, end: int, order: Order, bytes_per_row: float
) -> list[Stretch]:
    """Return the windows of rows `begin` to `end` of a log, from the first one that `order` wants."""
    spans = []
    for number, group in enumerate(groups):
        first, last = max(begin - group.first, 0), min(end - group.first, group.num_rows)
        if first < last:
            spans.append(Span(number, first, last))
    found: list[Stretch] = []
    rows = count = 0
    for number, part in enumerate(_windows(spans, order, bytes_per_row)):
        found.append(Stretch(number, rows, count, part))
        rows, count = rows + found[-1].num_rows, count + len(part)
    skip = order.start * order.batch_size
    return [stretch for stretch in found if stretch.first + stretch.num_rows > skip]


def permutation(order: Order, stretch: Stretch) -> NDArray[np.int64]:
    """Return the order of a window's rows."""
    if order.seed is None:
        return np.arange(stretch.num_rows)
    return _generator(order, 1 + stretch.number).permutation(stretch.num_rows)


def pieces(order: Order, stretch: Stretch, num_rows: int) -> Iterator[Piece]:
    """Yield what the rank of `order` gets of each of its batches out of one window of `num_rows` rows in all."""
    length = stretch.num_rows
    last = stretch.first + length
    stop = min(-(-last // order.batch_size), order.num_batches(num_rows))
    for batch in range(max(order.start, stretch.first // order.batch_size), stop):
        begin, end = order.rows_of(batch, num_rows)
        bounds = (
            begin + (end - begin) * rank // order.num_ranks - stretch.first
            for rank in (order.rank, order.rank + 1)
        )
        low, high = (min(max(bound, 0), length) for bound in bounds)
        yield Piece(low, high, end <= last)


def owners(stretch: Stretch, of: int) -> NDArray[np.int16]:
    """Return for each row of a window, in the file's order, which of `of` readers decodes it.

    Row groups go round: the next one of the epoch is the next reader's.
    """
    numbers = np.arange(stretch.first_span, stretch.first_span + len(stretch.spans)) % of
    return np.repeat(numbers.astype(np.int16), [span.num_rows for span in stretch.spans])


def _windows(spans: Sequence[Span], order: Order, bytes_per_row: float) -> list[list[Span]]:
    """Return the windows as lists of spans."""
    if order.seed is None:
        return [[span] for span in spans]
    most = order.window_bytes / max(bytes_per_row, 1)
    windows: list[list[Span]] = [[]]
    num_rows = 0
    for number in _generator(order, 0).permutation(len(spans)):
        span = spans[number]
        if windows[-1] and num_rows + span.num_rows > most:
            windows.append([])
            num_rows = 0
        windows[-1].append(span)
        num_rows += span.num_rows
    return windows if spans else []


def _generator(order: Order, stream: int) -> np.random.Generator:
    assert order.seed is not None
    return np.random.default_rng([order.seed, order.epoch, stream])
