"""Triton body of cache_insert: a program a set, which holds its ways in registers while its rows take their turns."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def cache_insert(
    tags: Tensor, stamps: Tensor, worths: Tensor,
    sets: Tensor, rows: Tensor, worth: Tensor, now: int, oldest: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    lines, evicted = torch.empty_like(rows), torch.empty_like(rows)
    num_rows, num_ways = rows.numel(), tags.shape[1]
    if num_rows:
        _insert_kernel[(num_rows,)](
            tags, stamps, worths, sets, rows, worth, lines, evicted,
            num_rows, now, oldest, num_ways, triton.next_power_of_2(num_ways), num_warps=1,
        )  # fmt: skip
    return lines, evicted


@triton.jit(do_not_specialize=["num_rows", "now", "oldest", "num_ways"])
def _insert_kernel(
    tags, stamps, worths, sets, rows, worth, lines, evicted, num_rows, now, oldest, num_ways,
    WAYS: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    at = tl.load(sets + i)
    if tl.load(sets + i - 1, mask=i > 0, other=-1) != at:
        way = tl.arange(0, WAYS)
        place, mask = at * num_ways + way, way < num_ways
        tag = tl.load(tags + place, mask=mask, other=-1)
        stamp = tl.load(stamps + place, mask=mask, other=0)
        theirs = tl.load(worths + place, mask=mask, other=0)
        next_set = at
        while next_set == at:
            mine = tl.load(worth + i)
            is_free = mask & (stamp < oldest)
            value = tl.where(is_free, tl.where(tag >= 0, theirs, -1), mine + 1)
            least = tl.min(value, 0)
            chosen = tl.min(tl.where(value == least, way, WAYS), 0)
            fits = least <= mine
            is_chosen = (way == chosen) & fits
            old = tl.sum(tl.where(is_chosen, tag, 0), 0)
            tl.store(lines + i, tl.where(fits, at * num_ways + chosen, -1))
            tl.store(evicted + i, tl.where(fits, old, -1))
            tag = tl.where(is_chosen, tl.load(rows + i), tag)
            stamp = tl.where(is_chosen, now, stamp)
            theirs = tl.where(is_chosen, mine, theirs)
            i += 1
            next_set = tl.load(sets + i, mask=i < num_rows, other=-1)
        tl.store(tags + place, tag, mask=mask)
        tl.store(stamps + place, stamp, mask=mask)
        tl.store(worths + place, theirs, mask=mask)
