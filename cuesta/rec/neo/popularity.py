"""How often rows are asked for: a Zipf law that has as many distinct rows in a batch as were counted, and what follows.

The k-th row of a table is asked for in proportion to k^-s. How many rows n ids meet, and how many of these a cache
misses, are sums over rows; rows of nearly one popularity are taken together. What an LRU cache holds is Che's
approximation (Che, Tung and Wang, 2002): the rows that were used in the last so many batches, as many batches as fill
it. A cache of LFU that has counted for long holds the most popular. Both are of a cache that has filled: at first
every row is a miss, and so it is as long as ids drift.
"""

from __future__ import annotations

from functools import lru_cache
from typing import final

import numpy as np

from cuesta.rec.neo.row_cache import Policy

_APART = 64  # rows that are counted one by one
_WIDER = 1.1  # by which each group of rows after these ends later than the one before
_MOST = 8.0  # a steeper law is none of ids
_HALVINGS = 30


@final
class Popularity:
    """Be the law k^-`exponent` of a table's `num_rows` rows; 0 is even.

    >>> Popularity(100, 0.0).distinct(1e9)
    100.0
    """

    def __init__(self, num_rows: int, exponent: float) -> None:
        self.exponent = exponent
        ends = _ends(num_rows)
        firsts = np.concatenate([[0.0], ends[:-1]])
        self._counts = ends - firsts  # rows of each group
        middles = np.sqrt((firsts + 1) * ends)
        weights = middles**-exponent
        self._shares = weights / (self._counts @ weights)  # of all ids, that one row gets

    def distinct(self, ids: float) -> float:
        """Return how many rows so many ids are expected to meet."""
        return float(self._counts @ -np.expm1(-ids * self._shares))

    def repeated(self, ids: float) -> float:
        """Return the share of so many ids that were among them before."""
        return max(1 - self.distinct(ids) / ids, 0.0) if ids else 0.0

    def misses(self, ids: float, num_lines: float, policy: Policy = "lru") -> float:
        """Return how many rows a batch of `ids` is expected to miss, each once, in a full cache of `num_lines` rows."""
        if num_lines >= self._counts.sum():
            return 0.0
        met = -np.expm1(-ids * self._shares)
        if policy == "lfu":
            held = np.clip(num_lines - (np.cumsum(self._counts) - self._counts), 0, self._counts)
            return float((self._counts - held) @ met)
        low, high = -40.0, 80.0  # logarithms of batches
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            held = self._counts @ (1 - self._unused(ids, met, np.exp(middle)))
            low, high = (middle, high) if held < num_lines else (low, middle)
        return float((self._counts * met) @ self._unused(ids, met, np.exp(low)))

    def _unused(self, ids: float, met: np.ndarray, batches: float) -> np.ndarray:
        """Return how likely a row of each group is in none of so many batches, the last one being a part of one."""
        whole = np.floor(batches)
        return np.asarray(np.exp(-ids * whole * self._shares) * (1 - (batches - whole) * met))


@lru_cache(maxsize=4096)
def fitted(num_rows: int, ids: float, repeated: float) -> Popularity:
    """Return the law under which this share of a batch's `ids` were in it before; even where even is more."""
    if Popularity(num_rows, 0.0).repeated(ids) >= repeated:
        return Popularity(num_rows, 0.0)
    low, high = 0.0, _MOST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        few = Popularity(num_rows, middle).repeated(ids) < repeated
        low, high = (middle, high) if few else (low, middle)
    return Popularity(num_rows, low)


@lru_cache(maxsize=256)
def _ends(num_rows: int) -> np.ndarray:
    """Return where groups of rows end: single rows, then ever wider groups."""
    ends = list(range(1, min(num_rows, _APART) + 1))
    while ends[-1] < num_rows:
        ends.append(min(int(ends[-1] * _WIDER) + 1, num_rows))
    return np.array(ends, np.float64)
