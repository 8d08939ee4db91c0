"""The specification of row_cache: look rows up; one after another, take the least worthy line not in use."""

from __future__ import annotations

import torch
from torch import Tensor


def cache_find(line_of: Tensor, stamps: Tensor, rows: Tensor, now: int) -> tuple[Tensor, Tensor]:
    lines = line_of[rows].long()
    stamps[lines[lines >= 0]] = now
    return lines, rows[lines < 0]


def cache_insert(
    tags: Tensor, stamps: Tensor, worths: Tensor,
    sets: Tensor, rows: Tensor, worth: Tensor, now: int, oldest: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    num_ways = tags.shape[1]
    lines, evicted = torch.full_like(rows, -1), torch.full_like(rows, -1)
    for i, (at, row, mine) in enumerate(
        zip(sets.tolist(), rows.tolist(), worth.tolist(), strict=True)
    ):
        theirs = [
            (int(worths[at, way]) if tags[at, way] >= 0 else -1, way)
            for way in range(num_ways)
            if stamps[at, way] < oldest
        ]
        least, way = min(theirs, default=(mine + 1, 0))
        if least <= mine:
            lines[i], evicted[i] = at * num_ways + way, tags[at, way]
            tags[at, way], stamps[at, way], worths[at, way] = row, now, mine
    return lines, evicted
