"""Dividing costs over ranks so that the busiest has least: largest first, and the largest-differencing method.

Greedy places the largest item on the least loaded rank that has room (Graham, 1969). The largest-differencing method
(Karmarkar and Karp, 1982) starts from one k-tuple of loads an item, (cost, 0, ..., 0), and merges the two tuples whose
loads differ most, the largest loads of one with the smallest of the other, until one is left. It knows nothing of
room: ranks that overflow afterwards give items away. With one item above the mean neither helps; splitting it does.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

Costs = Float64[np.ndarray, "_"]
Ranks = Int64[np.ndarray, "_"]


class Room(NamedTuple):
    """Hold what each item takes [items] and what each rank has [ranks], in bytes."""

    sizes: Float64[np.ndarray, _]
    capacity: Float64[np.ndarray, _]


class NoRoomError(Exception):
    """Say which item has no rank that could take it, and by how many bytes the roomiest falls short."""

    def __init__(self, item: int, missing: float) -> None:
        super().__init__(f"item {item} misses {missing:.0f} bytes")
        self.item, self.missing = item, missing


def greedy(costs: Costs, loads: Costs, room: Room, *, by: Costs | None = None) -> Ranks:
    """Return a rank for each item, the costliest first, or those with most of `by`, each to the least loaded rank with
    room for it.

    `loads` are what ranks have to do already. Ties go to the lower rank. Raises `NoRoomError`.
    """
    ranks = np.empty(len(costs), np.int64)
    sizes, prices, left = room.sizes.tolist(), costs.tolist(), room.capacity.tolist()
    queue = [(load, rank) for rank, load in enumerate(loads.tolist())]
    heapq.heapify(queue)
    for item in np.argsort(-(costs if by is None else by), kind="stable").tolist():
        size, full = sizes[item], []
        while queue and left[queue[0][1]] < size:
            full.append(heapq.heappop(queue))
        if not queue:
            raise NoRoomError(item, size - max(left))
        load, rank = queue[0]
        heapq.heapreplace(queue, (load + prices[item], rank))
        for entry in full:
            heapq.heappush(queue, entry)
        ranks[item] = rank
        left[rank] -= size
    return ranks


def largest_differencing(costs: Costs, num_ranks: int) -> Ranks:
    """Return a rank for each item by Karmarkar's and Karp's method, ranks being all alike and empty.

    >>> largest_differencing(np.array([8.0, 7, 6, 5, 4]), 2).tolist()
    [1, 0, 1, 0, 0]
    """
    if not len(costs):
        return np.empty(0, np.int64)
    loads: list[NDArray[np.float64]] = []
    merged: list[tuple[int, int, NDArray[np.int64]] | None] = []
    queue: list[tuple[float, int]] = []
    for item, cost in enumerate(costs.tolist()):
        alone = np.zeros(num_ranks)
        alone[0] = cost
        loads.append(alone)
        merged.append(None)
        queue.append((-cost if num_ranks > 1 else 0.0, item))
    heapq.heapify(queue)
    while len(queue) > 1:
        (_, one), (_, other) = heapq.heappop(queue), heapq.heappop(queue)
        sums = loads[one] + loads[other][::-1]
        order = np.argsort(-sums, kind="stable")
        loads.append(sums[order])
        merged.append((one, other, order))
        heapq.heappush(queue, (-float(loads[-1][0] - loads[-1][-1]), len(loads) - 1))
    return _unfolded(merged, len(costs), num_ranks)


def _unfolded(
    merged: Sequence[tuple[int, int, NDArray[np.int64]] | None], num_items: int, num_ranks: int
) -> Ranks:
    """Return the rank of each item, given what each tuple was merged from and in which order it came out."""
    places: list[NDArray[np.int64] | None] = [None] * len(merged)
    places[-1] = np.arange(num_ranks)
    ranks = np.empty(num_items, np.int64)
    for number in range(len(merged) - 1, -1, -1):
        own, parents = places[number], merged[number]
        assert own is not None
        places[number] = None
        if parents is None:
            ranks[number] = own[0]
            continue
        one, other, order = parents
        before = np.empty_like(own)
        before[order] = own
        places[one], places[other] = before, before[::-1]
    return ranks


def repaired(ranks: Ranks, costs: Costs, loads: Costs, room: Room) -> Ranks:
    """Return the assignment with items moved off ranks that overflow: those that cost least for their size, each to
    the least loaded rank with room. Raises `NoRoomError`.
    """
    ranks = ranks.copy()
    left = room.capacity - np.bincount(ranks, room.sizes, len(room.capacity))
    loads = loads + np.bincount(ranks, costs, len(loads))
    for rank in np.nonzero(left < 0)[0].tolist():
        own = np.nonzero(ranks == rank)[0]
        value = costs[own] / np.maximum(room.sizes[own], 1.0)
        for item in own[np.argsort(value, kind="stable")].tolist():
            if left[rank] >= 0:
                break
            size = room.sizes[item]
            fits = np.where(left >= size, loads, np.inf)
            goal = int(fits.argmin())
            if size == 0 or not np.isfinite(fits[goal]):
                continue
            ranks[item] = goal
            left[rank], left[goal] = left[rank] + size, left[goal] - size
            loads[rank], loads[goal] = loads[rank] - costs[item], loads[goal] + costs[item]
        if left[rank] < 0:
            worst = int(own[np.argmax(room.sizes[own])])
            raise NoRoomError(worst, float(-left[rank]))
    return ranks
