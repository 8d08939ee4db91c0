"""Give rows lines of a set-associative cache, and say which rows leave it: what a tier of embedding tables does for
rows that it misses.

Neo (ISCA 2022), the software-managed cache: a row may lie in the ways of one set, which its hash chooses, and takes
the place of the row that is worth least there. What worth is (when it was last used, how often) is the caller's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from cuesta.ops.bodies import body, plain_op

__all__ = ["CacheTags", "Inserted", "cache_insert"]


class CacheTags(NamedTuple):
    """Hold for each line the row that lies there (-1: none), the batch that used it last, and what it is worth."""

    rows: Int64[Tensor, "sets ways"]
    stamps: Int64[Tensor, "sets ways"]
    worth: Int64[Tensor, "sets ways"]

    @staticmethod
    def empty(num_sets: int, num_ways: int, device: torch.device | str = "cpu") -> CacheTags:
        """Return the tags of a cache without rows."""
        return CacheTags(*torch.full((3, num_sets, num_ways), -1, device=device))


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
    order = worth.argsort(descending=True, stable=True)
    order = order[sets[order].argsort(stable=True)]
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
    run = body("cache_insert", rows).cache_insert
    return run(tags, stamps, worths, sets, rows, worth, now, oldest)


@torch.library.register_fake("cuesta::cache_insert")
def _(
    tags: Tensor, stamps: Tensor, worths: Tensor,
    sets: Tensor, rows: Tensor, worth: Tensor, now: int, oldest: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(rows), torch.empty_like(rows)
