"""Triton body of bucketize_ids: a bag of a block a thread, which walks its ids to count, and again to write them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BAGS = 128  # of a program


def bucketize_ids(
    ids: Tensor, offsets: Tensor, blocks: Tensor, num_features: int, wants_places: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_bags = (offsets.numel() - 1) // num_features
    lengths = offsets.new_zeros(blocks.shape[0], num_bags)
    grid = (triton.cdiv(lengths.numel(), BAGS),)
    if lengths.numel():
        _walk_kernel[grid](
            ids, offsets, blocks, lengths, None, None, None, lengths.numel(), num_bags, BAGS
        )
    starts = offsets.new_zeros(lengths.numel() + 1)
    torch.cumsum(lengths.view(-1), 0, out=starts[1:])
    count = int(starts[-1])
    found = ids.new_empty(count)
    places = offsets.new_empty(count if wants_places else 0)
    if lengths.numel():
        _walk_kernel[grid](
            ids, offsets, blocks, None, starts, found, places if wants_places else None,
            lengths.numel(), num_bags, BAGS,
        )  # fmt: skip
    return found, lengths, places


@triton.jit(do_not_specialize=["num_blocks_bags", "num_bags"])
def _walk_kernel(
    ids, offsets, blocks, lengths, starts, found, places, num_blocks_bags, num_bags,
    BAGS: tl.constexpr,
):  # fmt: skip
    bag = tl.program_id(0).to(tl.int64) * BAGS + tl.arange(0, BAGS)
    mask = bag < num_blocks_bags
    block, b = bag // num_bags, bag % num_bags
    feature = tl.load(blocks + 3 * block, mask=mask, other=0)
    first = tl.load(blocks + 3 * block + 1, mask=mask, other=0)
    end = tl.load(blocks + 3 * block + 2, mask=mask, other=0)
    place = feature * num_bags + b
    begin = tl.load(offsets + place, mask=mask, other=0)
    length = tl.load(offsets + place + 1, mask=mask, other=0) - begin
    count = tl.zeros([BAGS], tl.int64)
    target = count
    if starts is not None:
        target = tl.load(starts + bag, mask=mask, other=0)
    for i in range(tl.max(length, 0)):
        is_there = mask & (i < length)
        row = tl.load(ids + begin + i, mask=is_there, other=0)
        is_inside = is_there & (row >= first) & (row < end)
        if found is not None:
            tl.store(found + target + count, row - first, mask=is_inside)
        if places is not None:
            tl.store(places + target + count, begin + i, mask=is_inside)
        count += is_inside.to(tl.int64)
    if lengths is not None:
        tl.store(lengths + bag, count, mask=mask)
