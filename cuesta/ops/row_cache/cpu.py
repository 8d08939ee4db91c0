"""Numba bodies of row_cache: a stretch of rows a thread; rows to insert come sorted by set, and the first of a set's
rows does all of them.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.lanes import at, prefetch
from cuesta.ops.numba_support import kernel, num_threads, view

AHEAD = 16  # rows between asking for a line's number, or its stamp, and using it


def cache_find(line_of: Tensor, stamps: Tensor, rows: Tensor, now: int) -> tuple[Tensor, Tensor]:
    lines = torch.empty_like(rows)
    starts = torch.zeros(num_threads() + 1, dtype=torch.int64)
    _find(view(line_of), view(stamps), view(rows), now, view(lines), view(starts))
    starts = starts.cumsum(0)
    missed = rows.new_empty(int(starts[-1]))
    if missed.numel():
        _gather_missed(view(rows), view(lines), view(starts), view(missed))
    return lines, missed


def cache_insert(
    tags: Tensor, stamps: Tensor, worths: Tensor,
    sets: Tensor, rows: Tensor, worth: Tensor, now: int, oldest: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    lines, evicted = torch.empty_like(rows), torch.empty_like(rows)
    num_threads()
    _insert(
        view(tags), view(stamps), view(worths), view(sets), view(rows), view(worth),
        now, oldest, view(lines), view(evicted),
    )  # fmt: skip
    return lines, evicted


@kernel
def _find(line_of, stamps, rows, now, lines, counts):
    threads, size = counts.size - 1, rows.size
    for thread in numba.prange(threads):
        missed = 0
        end = size * (thread + 1) // threads
        for i in range(size * thread // threads, end):
            if i + 2 * AHEAD < end:
                prefetch(line_of, at(rows, i + 2 * AHEAD))
            if i + AHEAD < end:
                ahead = np.int64(at(line_of, at(rows, i + AHEAD)))
                if ahead >= 0:
                    prefetch(stamps, ahead)
            line = np.int64(at(line_of, at(rows, i)))
            lines[i] = line
            if line >= 0:
                stamps[line] = now
            else:
                missed += 1
        counts[thread + 1] = missed


@kernel
def _gather_missed(rows, lines, starts, missed):
    threads, size = starts.size - 1, rows.size
    for thread in numba.prange(threads):
        target = starts[thread]
        for i in range(size * thread // threads, size * (thread + 1) // threads):
            if lines[i] < 0:
                missed[target] = rows[i]
                target += 1


@kernel
def _insert(tags, stamps, worths, sets, rows, worth, now, oldest, lines, evicted):
    num_ways = tags.shape[1]
    for first in numba.prange(rows.size):
        if first == 0 or sets[first] != sets[first - 1]:
            at = sets[first]
            i = np.int64(first)
            while i < rows.size and sets[i] == at:
                chosen, least = -1, worth[i]
                for way in range(num_ways):
                    theirs = worths[at, way] if tags[at, way] >= 0 else -1
                    is_less = theirs < least or (theirs == least and chosen < 0)
                    if stamps[at, way] < oldest and is_less:
                        chosen, least = way, theirs
                lines[i], evicted[i] = -1, -1
                if chosen >= 0:
                    lines[i], evicted[i] = at * num_ways + chosen, tags[at, chosen]
                    tags[at, chosen] = rows[i]
                    stamps[at, chosen] = now
                    worths[at, chosen] = worth[i]
                i += 1
