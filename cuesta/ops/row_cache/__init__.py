"""Find the lines of rows in a set-associative cache, and give lines to those that are not there: what a tier of
embedding tables does for every batch.

Neo (ISCA 2022), the software-managed cache: a row may lie in the ways of one set, which its hash chooses, and takes
the place of the row that is worth least there. What worth is (when it was last used, how often) is the caller's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from cuesta.ops.bodies import body, plain_op

__all__ = ["CacheTags", "Found", "Inserted", "cache_find", "cache_insert"]


_WORTH_BITS = 40
_MOST_WORTH = (1 << _WORTH_BITS) - 1  # for the order of turns, in which more worth is alike


class CacheTags(NamedTuple):
    """Hold for each line the row that lies there (-1: none), the batch that used it last, and what it is worth."""

    rows: Int64[Tensor, "sets ways"]
    stamps: Int64[Tensor, "sets ways"]
    worth: Int64[Tensor, "sets ways"]

    @staticmethod
    def empty(num_sets: int, num_ways: int, device: torch.device | str = "cpu") -> CacheTags:
        """Return the tags of a cache without rows."""
        return CacheTags(*torch.full((3, num_sets, num_ways), -1, device=device))


class Found(NamedTuple):
    """Hold the line of each row (-1: none), and the rows that have none, each once, rising."""

    lines: Int64[Tensor, " T"]
    missed: Int64[Tensor, " missed"]


def cache_find(
    line_of: Int[Tensor, " rows"],
    stamps: Int64[Tensor, " lines"],
    rows: Int64[Tensor, " T"],
    *,
    now: int,
) -> Found:
    """Return the lines of rows, and stamp them `now` in place; `line_of` has every row's line, -1 for none.

    Not differentiable; waits for a GPU, for the number of missed rows.

    >>> stamps = torch.zeros(2, dtype=torch.int64)
    >>> cache_find(torch.tensor([-1, 1, -1], dtype=torch.int32), stamps, torch.tensor([1, 2, 1, 2, 0]), now=7)
    Found(lines=tensor([ 1, -1,  1, -1, -1]), missed=tensor([0, 2]))
    >>> stamps.tolist()
    [0, 7]
    """
    if rows.dim() != 1 or line_of.dim() != 1 or stamps.dim() != 1:
        raise ValueError(
            f"line_of, stamps and rows must be vectors, got {tuple(line_of.shape)}, {tuple(stamps.shape)} "
            f"and {tuple(rows.shape)}"
        )
    lines, missed = torch.ops.cuesta.cache_find(line_of, stamps, rows.contiguous(), now)
    return Found(lines, missed.unique() if missed.numel() else missed)


class Inserted(NamedTuple):
    """Hold the line that each row got (-1: none was free), and the row that had to leave it (-1: it was empty)."""

    lines: Int64[Tensor, " T"]
    evicted: Int64[Tensor, " T"]


def cache_insert(
    tags: CacheTags, rows: Int64[Tensor, " T"], worth: Int64[Tensor, " T"], *, now: int, oldest: int
) -> Inserted:
    """Put `rows`, which differ and are not in the cache, into lines of their sets, and write `tags` in place.

    A row takes an empty line, else that of the row of least worth (the first of several), unless this one is
    worth more than itself. Lines stamped `oldest` or later are in use and stay. New lines are stamped `now`. Rows
    of one set take turns, the most worthy first, then in the order given. Not differentiable. Raises `ValueError`
    where shapes differ. Source: the paper; FBGEMM's `lru_cache_populate` and `lfu_cache_populate` are the peers.

    >>> tags = CacheTags.empty(1, 2)
    >>> cache_insert(tags, torch.tensor([5, 7, 9]), torch.tensor([1, 1, 1]), now=1, oldest=1)
    Inserted(lines=tensor([ 0,  1, -1]), evicted=tensor([-1, -1, -1]))
    >>> cache_insert(tags, torch.tensor([9]), torch.tensor([2]), now=2, oldest=2)
    Inserted(lines=tensor([0]), evicted=tensor([5]))
    """
    if rows.dim() != 1 or rows.shape != worth.shape:
        raise ValueError(
            f"rows and worth must be of one length, got {tuple(rows.shape)} and {tuple(worth.shape)}"
        )
    if tags.rows.dim() != 2 or not tags.rows.shape == tags.stamps.shape == tags.worth.shape:
        raise ValueError(f"tags must be [sets, ways], got {[tuple(each.shape) for each in tags]}")
    sets = _hashed(rows) % tags.rows.shape[0]
    order = ((sets << _WORTH_BITS) + (_MOST_WORTH - worth).clamp(0)).argsort(stable=True)
    lines, evicted = torch.empty_like(rows), torch.empty_like(rows)
    found = torch.ops.cuesta.cache_insert(
        *tags, sets[order], rows[order], worth[order], now, oldest
    )
    lines[order], evicted[order] = found
    return Inserted(lines, evicted)


def _hashed(rows: Tensor) -> Tensor:
    """Return 63 mixed bits of each number: the finaliser of MurmurHash3."""
    mixed = rows
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed = (mixed ^ ((mixed >> 33) & 0x7FFFFFFF)) * (factor - (1 << 64))
    return (mixed ^ ((mixed >> 33) & 0x7FFFFFFF)) & 0x7FFFFFFFFFFFFFFF


@plain_op("cache_insert", mutates_args=("tags", "stamps", "worths"))
def _cache_insert(
    tags: Tensor, stamps: Tensor, worths: Tensor,
    sets: Tensor, rows: Tensor, worth: Tensor, now: int, oldest: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    run = body("row_cache", rows).cache_insert
    return run(tags, stamps, worths, sets, rows, worth, now, oldest)


@torch.library.register_fake("cuesta::cache_insert")
def _(
    tags: Tensor, stamps: Tensor, worths: Tensor,
    sets: Tensor, rows: Tensor, worth: Tensor, now: int, oldest: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(rows), torch.empty_like(rows)


@plain_op("cache_find", mutates_args=("stamps",))
def _cache_find(line_of: Tensor, stamps: Tensor, rows: Tensor, now: int) -> tuple[Tensor, Tensor]:
    return body("row_cache", rows).cache_find(line_of, stamps, rows, now)


@torch.library.register_fake("cuesta::cache_find")
def _(line_of: Tensor, stamps: Tensor, rows: Tensor, now: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows), rows.new_empty(torch.library.get_ctx().new_dynamic_size())
