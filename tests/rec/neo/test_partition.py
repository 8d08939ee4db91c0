"""Partitions keep within memory, lose nothing, and are as balanced as simulation says they can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuesta.rec.neo.partition import NoRoomError, Room, greedy, largest_differencing, repaired


def costs_of(num: int, sigma: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0.0, sigma, num)


def endless(num: int, num_ranks: int) -> Room:
    return Room(np.zeros(num), np.ones(num_ranks))


def over_mean(costs: np.ndarray, ranks: np.ndarray, num_ranks: int) -> float:
    return float(np.bincount(ranks, costs, num_ranks).max() / (costs.sum() / num_ranks))


@given(costs=st.lists(st.integers(0, 50), max_size=40), num_ranks=st.integers(1, 9))
def test_every_item_has_a_rank_and_no_method_is_worse_than_its_bound(
    costs: list[int], num_ranks: int
) -> None:
    items = np.array(costs, np.float64)
    for ranks in (
        greedy(items, np.zeros(num_ranks), endless(len(items), num_ranks)),
        largest_differencing(items, num_ranks),
    ):
        assert ranks.shape == items.shape
        assert ((ranks >= 0) & (ranks < num_ranks)).all()
        if len(items):  # Graham's bound of any list schedule, largest first or not
            most = np.bincount(ranks, items, num_ranks).max()
            assert most <= items.sum() / num_ranks + items.max() + 1e-9


def test_two_ranks_differ_as_karmarkar_and_karp_say() -> None:
    """8 - 7 = 1, 6 - 5 = 1; of 4, 1, 1: 4 - 1 = 3; 3 - 1 = 2."""
    costs = np.array([8.0, 7, 6, 5, 4])
    loads = np.bincount(largest_differencing(costs, 2), costs)
    assert sorted(loads) == [14, 16]


def test_three_ranks_differ_as_by_hand() -> None:
    """(8,0,0) (7,0,0) -> (8,7,0); with (6,0,0) -> (8,7,6); (5,0,0) joins the 6, (4,0,0) the 7."""
    costs = np.array([8.0, 7, 6, 5, 4])
    loads = np.bincount(largest_differencing(costs, 3), costs)
    assert sorted(loads) == [8, 11, 11]


@pytest.mark.parametrize(
    ("num", "num_ranks", "sigma", "least", "most"),
    [(200, 16, 1.0, 1.0, 1.05), (1000, 128, 0.5, 1.0, 1.02), (1000, 128, 1.0, 1.5, 2.6)],
)
def test_differencing_is_not_worse_than_greedy(
    num: int, num_ranks: int, sigma: float, least: float, most: float
) -> None:
    by_size, by_difference = [], []
    for seed in range(10):
        costs = costs_of(num, sigma, seed)
        ranks = greedy(costs, np.zeros(num_ranks), endless(num, num_ranks))
        by_size.append(over_mean(costs, ranks, num_ranks))
        by_difference.append(over_mean(costs, largest_differencing(costs, num_ranks), num_ranks))
    assert np.mean(by_difference) <= np.mean(by_size)
    assert least <= np.mean(by_difference) <= most


def test_splitting_what_is_heavy_balances() -> None:
    ratios = []
    for seed in range(10):
        costs = costs_of(1000, 1.0, seed)
        parts = np.clip(np.ceil(costs / (costs.sum() / 128) * 4), 1, 8).astype(int)
        split = np.repeat(costs / parts, parts)
        ratios.append(over_mean(split, largest_differencing(split, 128), 128))
    assert np.mean(ratios) <= 1.01


def test_ranks_that_are_busy_get_less() -> None:
    costs = np.ones(6)
    ranks = greedy(costs, np.array([4.0, 0.0]), endless(6, 2))
    assert np.bincount(ranks).tolist() == [1, 5]


@given(seed=st.integers(0, 1000))
def test_memory_is_never_exceeded(seed: int) -> None:
    draw = np.random.default_rng(seed)
    costs, sizes = draw.random(30), draw.random(30)
    room = Room(sizes, np.full(4, sizes.sum() / 4 + 1.0))
    by_difference = repaired(largest_differencing(costs, 4), costs, np.zeros(4), room)
    for ranks in (greedy(costs, np.zeros(4), room), by_difference):
        assert (np.bincount(ranks, sizes, 4) <= room.capacity + 1e-9).all()


def test_repairing_moves_only_what_it_must() -> None:
    costs, sizes = np.array([1.0, 1, 1, 1]), np.array([5.0, 1, 1, 1])
    ranks = np.array([0, 0, 1, 1])
    assert (repaired(ranks, costs, np.zeros(2), Room(sizes, np.full(2, 6.0))) == ranks).all()
    moved = repaired(ranks, costs, np.zeros(2), Room(sizes, np.full(2, 5.0)))
    assert np.bincount(moved, sizes, 2).max() <= 5


def test_what_has_no_room_is_told_by_how_much() -> None:
    with pytest.raises(NoRoomError) as error:
        greedy(np.array([1.0, 2.0]), np.zeros(2), Room(np.array([3.0, 9.0]), np.full(2, 4.0)))
    assert (error.value.item, error.value.missing) == (1, 5.0)
