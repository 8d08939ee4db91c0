"""The specification of bucketize_ids: block after block, the ids of its feature that lie in its rows."""

from __future__ import annotations

import torch
from torch import Tensor


def bucketize_ids(
    ids: Tensor, offsets: Tensor, blocks: Tensor, num_features: int, wants_places: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_bags = (offsets.numel() - 1) // num_features
    found, lengths, places = [ids[:0]], [offsets.new_empty(0, num_bags)], [offsets[:0]]
    for feature, first, end in blocks.tolist():
        bags = offsets[feature * num_bags : (feature + 1) * num_bags + 1]
        own = ids[bags[0] : bags[-1]]
        is_inside = (own >= first) & (own < end)
        before = torch.cat([offsets.new_zeros(1), is_inside.cumsum(0)])
        found.append(own[is_inside] - first)
        lengths.append(before[bags - bags[0]].diff()[None])
        places.append(is_inside.nonzero()[:, 0] + bags[0])
    return torch.cat(found), torch.cat(lengths), torch.cat(places if wants_places else places[:1])
