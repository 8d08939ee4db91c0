"""Triton bodies of row_cache: a program looks up a block of rows; one a set inserts, and holds the set's ways in
registers while its rows take their turns.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cuesta.ops.triton_support import TILE_ELEMENTS


def cache_find(line_of: Tensor, stamps: Tensor, rows: Tensor, now: int) -> tuple[Tensor, Tensor]:
    lines, size = torch.empty_like(rows), rows.numel()
    if size:
        _find_kernel[(triton.cdiv(size, TILE_ELEMENTS),)](
            line_of, stamps, rows, lines, size, now, TILE_ELEMENTS
        )
    return lines, rows[lines < 0]


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


@triton.jit(do_not_specialize=["size", "now"])
def _find_kernel(line_of, stamps, rows, lines, size, now, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + i, mask=i < size, other=0)
    line = tl.load(line_of + row, mask=i < size, other=-1).to(tl.int64)
    tl.store(lines + i, line, mask=i < size)
    tl.store(stamps + line, tl.full([BLOCK], 0, tl.int64) + now, mask=line >= 0)


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
