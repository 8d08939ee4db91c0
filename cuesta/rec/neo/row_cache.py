"""`RowCache`: lines of fast memory that hold the rows in use, above a store of all rows.

Neo (ISCA 2022), the software-managed cache, with FBGEMM's 32 ways. A row's line is found in a map of all rows, four
bytes a row, instead of by its tag; counts of uses take four more. Rows of a batch are *placed*: those that miss take
the lines of rows that were used longest ago, or least often. Lines of a batch in flight stay; rows that find no line in
their set get a spare one, which is given back as soon as no batch needs it. So every row that is looked up or trained
lies in a line, and training is what it is without a cache, to the bit. What leaves and what comes moves in a thread, in
the order it was asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Int64
from torch import Tensor

from cuesta.ops import CacheTags, cache_find, cache_insert
from cuesta.rec.neo.row_store import RowStore, Values, host_zeros, move_rows

Policy = Literal["lru", "lfu"]
WAYS = 32
SPARE_SHARE = 1 / 16  # of all lines, at first


@final
@dataclass
class CacheCounts:
    """Count since the beginning: batches and ids placed; rows that missed, each once a batch; of these, rows that found
    no line in their set; and rows that were written back.
    """

    batches: int = 0
    ids: int = 0
    misses: int = 0
    conflicts: int = 0
    written: int = 0


@final
class RowCache:
    """Hold `num_lines` rows and more of the `num_rows` in `below`, in tensors like its values.

    `halve_every` batches the counts of `lfu` are halved (0: never), so that what was popular once may leave.
    """

    def __init__(
        self,
        below: RowStore,
        num_rows: int,
        num_lines: int,
        *,
        policy: Policy = "lru",
        halve_every: int = 0,
        device: torch.device | str = "cpu",
        key: Callable[[], int] = lambda: 0,
    ) -> None:
        self.counts = CacheCounts()
        self._below, self._key = below, key
        self._policy, self._halve_every = policy, halve_every
        self._num_set_lines = max(-(-num_lines // WAYS), 1) * WAYS
        self._num_rows = num_rows
        self._device = torch.device(device)
        total = self._num_set_lines + max(int(self._num_set_lines * SPARE_SHARE), WAYS)
        self.lines = tuple(
            host_zeros((total, each.shape[1]), each.dtype).to(device) for each in below.likes
        )
        self._mover = ThreadPoolExecutor(1)
        self._moves: deque[tuple[int, Future[None]]] = deque()  # with the batch they are for
        self._now = 0
        self._spare: Tensor
        self._spare_in_use: Tensor
        self._allocate()

    @property
    def num_lines(self) -> int:
        """Return how many lines there are now, spare ones included."""
        return self.lines[0].shape[0]

    def place(self, rows: Int64[Tensor, " T"]) -> tuple[int, Int64[Tensor, " T"]]:
        """Give every row a line until `done` is told the number returned first; `wait` before lines are read."""
        self._now += 1
        now = self._now
        self._in_flight.add(now)
        lines, missed = cache_find(self._line_of, self._stamps, rows, now=now)
        if self._policy == "lfu":
            self._count(rows, lines)
        self.counts.batches += 1
        self.counts.ids += rows.numel()
        if missed.numel():
            self._fetch(missed, now)
            lines = cache_find(self._line_of, self._stamps, rows, now=now).lines
        return now, lines

    def wait(self, batch: int | None = None) -> None:
        """Return when the rows of a batch, or of all, are there. Raises what reading or writing raised."""
        while self._moves and (batch is None or self._moves[0][0] <= batch):
            self._moves.popleft()[1].result()

    def done(self, batch: int) -> None:
        """Take back the lines of a batch for which `wait` has returned; its rows may leave from now on."""
        self._in_flight.discard(batch)
        spare = self._spare_in_use
        if spare.numel():
            is_free = self._stamps[spare] < self._oldest()
            freed, self._spare_in_use = spare[is_free], spare[~is_free]
            self._leave(self._row_of[freed], freed)
            self._row_of[freed] = -1
            self._stamps[freed] = -1
            self._spare = torch.cat([self._spare, freed])

    def flush(self) -> None:
        """Write all rows back, and be empty. Raises `ValueError` where a batch is in flight."""
        if self._in_flight:
            raise ValueError("rows are in use; call step() or drop_gradients() first")
        held = (self._row_of >= 0).nonzero()[:, 0]
        if held.numel():
            rows, order = self._row_of[held].sort()  # neighbours in a file one after another
            self._leave(rows, held[order])
            self.wait()
            self._forget()

    @property
    def likes(self) -> Values:
        """Return no rows."""
        return tuple(each[:0] for each in self.lines)

    def load(self, rows: Int64[Tensor, " T"], lines: Values, places: Int64[Tensor, " T"]) -> None:
        """Copy rows to these places of `lines`, those of a cache above."""
        batch, own = self.place(rows.to(self._device))
        self.wait()
        for target, source in zip(lines, self.lines, strict=True):
            move_rows(target, places, source, own)
        self.done(batch)

    def save(
        self, rows: Int64[Tensor, " T"], lines: Values, places: Int64[Tensor, " T"], key: int
    ) -> None:
        """Copy these places of a cache above to rows; those that are not here go to the store at once."""
        self.wait()
        own = self._line_of.index_select(0, rows.to(self._device)).long()
        is_here = own >= 0
        for target, source in zip(self.lines, lines, strict=True):
            move_rows(target, own[is_here], source, places[is_here.to(places.device)])
        is_below = ~is_here.to(rows.device)
        self._below.save(rows[is_below], lines, places[is_below.to(places.device)], key)

    def to(self, device: torch.device) -> None:
        """Flush, and go on from another device."""
        if device == self._device:
            return
        self.flush()
        self._device = device
        self.lines = tuple(each.to(device) for each in self.lines)
        self._allocate()

    def _allocate(self) -> None:
        """Make the maps of rows and lines, which say that nothing is here."""
        device, total, counted = self._device, self.num_lines, self._policy == "lfu"
        self._line_of = torch.full((self._num_rows,), -1, dtype=torch.int32, device=device)
        self._uses = torch.zeros(self._num_rows * counted, dtype=torch.int32, device=device)
        self._row_of, self._stamps = torch.full((2, total), -1, device=device)
        self._worths = self._stamps.clone() if counted else self._stamps
        self._spare = torch.arange(self._num_set_lines, total, device=device)
        self._spare_in_use = self._spare[:0]
        self._in_flight: set[int] = set()

    def _forget(self) -> None:
        """Say that nothing is here."""
        for each in (self._line_of, self._row_of, self._stamps, self._worths):
            each.fill_(-1)
        self._uses.zero_()
        self._spare = torch.arange(self._num_set_lines, self.num_lines, device=self._device)
        self._spare_in_use = self._spare[:0]

    def _oldest(self) -> int:
        return min(self._in_flight, default=self._now + 1)

    def _count(self, rows: Tensor, lines: Tensor) -> None:
        """Count the uses of rows, some of which lie in lines."""
        if self._halve_every and self._now % self._halve_every == 0:
            self._uses >>= 1
            self._worths[self._worths > 0] >>= 1
        self._uses.index_add_(0, rows, torch.ones_like(rows, dtype=torch.int32))
        is_held = lines >= 0
        self._worths[lines[is_held]] = self._uses.index_select(0, rows[is_held]).long()

    def _fetch(self, rows: Tensor, now: int) -> None:
        """Give rows that miss lines, and have their values moved there."""
        tags = CacheTags(
            *(
                each[: self._num_set_lines].view(-1, WAYS)
                for each in (self._row_of, self._stamps, self._worths)
            )
        )
        worth = self._uses[rows].long() if self._policy == "lfu" else torch.full_like(rows, now)
        lines, evicted = cache_insert(tags, rows, worth, now=now, oldest=self._oldest())
        leaves = evicted >= 0
        self._leave(evicted[leaves], lines[leaves])
        conflicts = (lines < 0).nonzero()[:, 0]
        if conflicts.numel():
            lines[conflicts] = self._spare_lines(rows[conflicts], now)
        self._line_of[rows] = lines.int()
        self.counts.misses += rows.numel()
        self.counts.conflicts += conflicts.numel()
        moved = self._mover.submit(self._below.load, rows, self.lines, lines)
        self._moves.append((now, moved))

    def _leave(self, rows: Tensor, lines: Tensor) -> None:
        """Have lines written to the store before anything else comes there, and forget that their rows were here."""
        if not rows.numel():
            return
        self._line_of[rows] = -1
        self.counts.written += rows.numel()
        moved = self._mover.submit(self._below.save, rows, self.lines, lines, self._key())
        self._moves.append((self._now, moved))

    def _spare_lines(self, rows: Tensor, now: int) -> Tensor:
        """Return a line outside all sets for each row."""
        if self._spare.numel() < rows.numel():
            self._grow(rows.numel())
        lines, self._spare = self._spare.split([rows.numel(), self._spare.numel() - rows.numel()])
        self._row_of[lines], self._stamps[lines] = rows, now
        self._spare_in_use = torch.cat([self._spare_in_use, lines])
        return lines

    def _grow(self, least: int) -> None:
        """Add spare lines."""
        self.wait()
        before = self.num_lines
        more = max(least, before - self._num_set_lines)
        self.lines = tuple(
            torch.cat([each, each.new_zeros(more, *each.shape[1:])]) for each in self.lines
        )
        is_lru = self._worths is self._stamps
        self._row_of, self._stamps, self._worths = (
            torch.cat([each, each.new_full((more,), -1)])
            for each in (self._row_of, self._stamps, self._worths)
        )
        if is_lru:
            self._worths = self._stamps
        added = torch.arange(before, before + more, device=self._device)
        self._spare = torch.cat([self._spare, added])
