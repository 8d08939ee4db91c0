"""Numba body of cache_insert: rows come sorted by set, and the first of a set's rows does all of them."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.numba_support import kernel, num_threads, view


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
