"""What a live system would know of ml-100k at each row: running means, residuals and neighbours.

One pass over the rows in time order. Every number of a row comes from events with a strictly
earlier timestamp: rows of equal time are read together, then written together. A residual is a
rating less the item's mean so far: taking the item out of what is known of the user is the largest
single lever on this data set. Means are shrunken: (sum + k prior) / (count + k).

| column | meaning (so far, so strictly before the row) |
| --- | --- |
| item_mean, item_log_count, item_positive | mean, log(1 + number), share >= 4 of its ratings |
| user_residual, user_log_count, user_residual_std | mean, log(1 + number), spread of residuals |
| user_genre_residual | residuals beyond the user's mean, over the candidate's genres |
| recent_residual | mean of the user's last 10 residuals |
| log_gap | log(1 + seconds since the user's last event) |
| neighbour_residual | residuals beyond the user's mean, weighted by similarity to the candidate |

The similarity of two items is the cosine of such residuals over the users who rated both, with a
prior in favour of items that share genres.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

DENSE = (
    "item_mean",
    "item_log_count",
    "item_positive",
    "user_residual",
    "user_log_count",
    "user_residual_std",
    "user_genre_residual",
    "recent_residual",
    "log_gap",
    "neighbour_residual",
)
_PRIOR_MEAN, _PRIOR_POSITIVE, _PRIOR_COUNT = 3.5, 0.55, 50.0
_SHRINK, _SHRINK_RECENT, _RECENT = 5.0, 2.0, 10
_SIMILARITY_SHRINK, _SIMILARITY_PRIOR, _NEIGHBOUR_SHRINK = 100.0, 10.0, 0.3


class Events(NamedTuple):
    """Hold N ratings in time order; users and items are counted from 0."""

    user: NDArray[np.int64]  # [N]
    item: NDArray[np.int64]  # [N]
    rating: NDArray[np.float32]  # [N] 1 .. 5
    time: NDArray[np.int64]  # [N] seconds
    genres: NDArray[np.float32]  # [items, genres] 0 or 1


class Known(NamedTuple):
    """Hold what was known at each row; histories are oldest first."""

    dense: NDArray[np.float32]  # [N, 10] the columns of `DENSE`
    residual: NDArray[np.float32]  # [N] the row's own, for later rows' histories only
    offsets: NDArray[np.int64]  # [N + 1]
    history: NDArray[np.int64]  # [T] rows of the user's earlier events
    similarity: NDArray[np.float32]  # [T] of each of them to the row's item, at the row's time


class _State(NamedTuple):
    """Hold the running sums."""

    item_count: NDArray[np.float64]
    item_sum: NDArray[np.float64]
    item_positive: NDArray[np.float64]
    user_count: NDArray[np.int64]
    user_sum: NDArray[np.float64]  # of residuals
    user_square: NDArray[np.float64]
    genre_count: NDArray[np.float64]  # [users, genres]
    genre_sum: NDArray[np.float64]  # [users, genres]
    product: NDArray[np.float32]  # [items, items] sum of z_i z_j over users who rated both
    square: NDArray[np.float32]  # [items, items] sum of z_i^2 over the same users
    events: NDArray[np.int64]  # [users, most events] rows
    total: NDArray[np.float64]  # [3] ratings, their sum, positives


def causal_features(events: Events, *, longest: int) -> Known:
    """Return what was known at each row; histories hold the last `longest` events."""
    num_users = int(events.user.max()) + 1
    num_items, num_genres = events.genres.shape
    both, own = events.genres @ events.genres.T, events.genres.sum(1)
    overlap = both / np.maximum(own[:, None] + own[None] - both, 1)  # Jaccard
    state = _State(
        item_count=np.zeros(num_items),
        item_sum=np.zeros(num_items),
        item_positive=np.zeros(num_items),
        user_count=np.zeros(num_users, np.int64),
        user_sum=np.zeros(num_users),
        user_square=np.zeros(num_users),
        genre_count=np.zeros((num_users, num_genres)),
        genre_sum=np.zeros((num_users, num_genres)),
        product=np.zeros((num_items, num_items), np.float32),
        square=np.zeros((num_items, num_items), np.float32),
        events=np.zeros((num_users, int(np.bincount(events.user).max())), np.int64),
        total=np.zeros(3),
    )
    return Known(*_scan(events, overlap.astype(np.float32), state, longest))


@numba.njit(cache=True)
def _scan(events, overlap, state, longest):  # type: ignore[no-untyped-def]
    num_rows = events.user.shape[0]
    dense = np.zeros((num_rows, 10), np.float32)
    residual = np.zeros(num_rows, np.float32)
    beyond = np.zeros(num_rows, np.float32)  # residual less the user's mean: z
    offsets = np.zeros(num_rows + 1, np.int64)
    history = np.zeros(num_rows * longest, np.int64)
    similarity = np.zeros(num_rows * longest, np.float32)
    begin = end = 0
    while begin < num_rows:
        while end < num_rows and events.time[end] == events.time[begin]:
            end += 1
        for row in range(begin, end):
            user, item = events.user[row], events.item[row]
            _know_item(dense[row], state, item)
            _know_user(dense[row], events, state, row, residual)
            count = state.user_count[user]
            kept = min(count, longest)
            last = offsets[row] + kept
            offsets[row + 1] = last
            weighted, weight = 0.0, 0.0
            for back in range(count):
                event = state.events[user, count - 1 - back]
                near = _similarity(state, overlap, item, events.item[event])
                weighted += near * abs(near) * beyond[event]
                weight += near * near
                if back < kept:
                    history[last - 1 - back] = event
                    similarity[last - 1 - back] = near
            dense[row, 9] = weighted / (weight + _NEIGHBOUR_SHRINK)
            residual[row] = events.rating[row] - dense[row, 0]
            beyond[row] = residual[row] - dense[row, 3]
        for row in range(begin, end):
            _learn(events, state, row, residual, beyond)
        begin = end
    num_values = offsets[num_rows]
    return dense, residual, offsets, history[:num_values], similarity[:num_values]


@numba.njit(cache=True)
def _know_item(known, state, item):  # type: ignore[no-untyped-def]
    count = state.total[0] + _PRIOR_COUNT
    mean = (state.total[1] + _PRIOR_MEAN * _PRIOR_COUNT) / count
    positive = (state.total[2] + _PRIOR_POSITIVE * _PRIOR_COUNT) / count
    count = state.item_count[item] + _SHRINK
    known[0] = (state.item_sum[item] + mean * _SHRINK) / count
    known[1] = np.log1p(state.item_count[item])
    known[2] = (state.item_positive[item] + positive * _SHRINK) / count


@numba.njit(cache=True)
def _know_user(known, events, state, row, residual):  # type: ignore[no-untyped-def]
    user, item = events.user[row], events.item[row]
    count = state.user_count[user]
    mean = state.user_sum[user] / (count + _SHRINK)
    known[3] = mean
    known[4] = np.log1p(count)
    known[5] = np.sqrt((state.user_square[user] + _SHRINK) / (count + _SHRINK))
    total, num_genres = 0.0, 0
    for genre in range(events.genres.shape[1]):
        if events.genres[item, genre] > 0:
            seen = state.genre_count[user, genre]
            total += (state.genre_sum[user, genre] - mean * seen) / (seen + _SHRINK)
            num_genres += 1
    known[6] = total / max(num_genres, 1)
    total = 0.0
    for event in state.events[user, max(0, count - _RECENT) : count]:
        total += residual[event]
    known[7] = total / (min(count, _RECENT) + _SHRINK_RECENT)
    if count > 0:
        known[8] = np.log1p(events.time[row] - events.time[state.events[user, count - 1]])


@numba.njit(cache=True)
def _similarity(state, overlap, item, other):  # type: ignore[no-untyped-def]
    product = state.product[item, other] + _SIMILARITY_PRIOR * overlap[item, other]
    mine = state.square[item, other] + _SIMILARITY_SHRINK
    theirs = state.square[other, item] + _SIMILARITY_SHRINK
    return product / np.sqrt(mine * theirs)


@numba.njit(cache=True)
def _learn(events, state, row, residual, beyond):  # type: ignore[no-untyped-def]
    user, item, rating = events.user[row], events.item[row], events.rating[row]
    count = state.user_count[user]
    for event in state.events[user, :count]:
        other = events.item[event]
        state.product[item, other] += beyond[row] * beyond[event]
        state.product[other, item] += beyond[row] * beyond[event]
        state.square[item, other] += beyond[row] * beyond[row]
        state.square[other, item] += beyond[event] * beyond[event]
    state.events[user, count] = row
    state.user_count[user] += 1
    state.user_sum[user] += residual[row]
    state.user_square[user] += residual[row] * residual[row]
    state.item_count[item] += 1
    state.item_sum[item] += rating
    state.item_positive[item] += rating >= 4
    for genre in range(events.genres.shape[1]):
        if events.genres[item, genre] > 0:
            state.genre_count[user, genre] += 1
            state.genre_sum[user, genre] += residual[row]
    state.total[0] += 1
    state.total[1] += rating
    state.total[2] += rating >= 4
