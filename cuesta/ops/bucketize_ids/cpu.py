"""Numba body of bucketize_ids: count, and then write where the counts say, a bag of a block at a time."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from cuesta.ops.numba_support import kernel, num_threads, view


def bucketize_ids(
    ids: Tensor, offsets: Tensor, blocks: Tensor, num_features: int, wants_places: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_bags = (offsets.numel() - 1) // num_features
    lengths = offsets.new_empty(blocks.shape[0], num_bags)
    num_threads()
    _count(view(ids), view(offsets), view(blocks), view(lengths))
    starts = torch.zeros(lengths.numel() + 1, dtype=torch.int64)
    torch.cumsum(lengths.view(-1), 0, out=starts[1:])
    count = int(starts[-1])
    found = ids.new_empty(count)
    places = offsets.new_empty(count if wants_places else 0)
    _write(
        view(ids), view(offsets), view(blocks), view(starts), num_bags, view(found), view(places)
    )
    return found, lengths, places


@kernel
def _count(ids, offsets, blocks, lengths):
    num_bags = lengths.shape[1]
    for bag in numba.prange(lengths.size):
        block, b = divmod(np.int64(bag), num_bags)
        place = blocks[block, 0] * num_bags + b
        first, end = blocks[block, 1], blocks[block, 2]
        count = 0
        for i in range(offsets[place], offsets[place + 1]):
            count += (ids[i] >= first) & (ids[i] < end)
        lengths[block, b] = count


@kernel
def _write(ids, offsets, blocks, starts, num_bags, found, places):
    for bag in numba.prange(starts.size - 1):
        block, b = divmod(np.int64(bag), num_bags)
        place = blocks[block, 0] * num_bags + b
        first, end = blocks[block, 1], blocks[block, 2]
        target = starts[bag]
        for i in range(offsets[place], offsets[place + 1]):
            if (ids[i] >= first) & (ids[i] < end):
                found[target] = ids[i] - first
                if places.size > 0:
                    places[target] = i
                target += 1
