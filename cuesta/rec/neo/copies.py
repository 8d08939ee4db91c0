"""Tables of which every rank has a copy: what each rank's lookups learned is gathered, so that all copies step alike.

Neo (ISCA 2022), data parallelism, but for what travels: the gradients of lookups and their ids, not an all-reduced
dense gradient; so the update is the exact one of the unsharded module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from cuesta.ops import Lookup
from cuesta.ragged import offsets_from_lengths
from cuesta.rec.neo.ranks import Ranks

Gradient = Literal["mean", "sum"]


def gathered(lookup: Lookup, ranks: Ranks, gradient: Gradient) -> Lookup:
    """Return a lookup of copied tables on this rank together with those on all others, in the order of ranks.

    Every rank calls. With `mean` a rank's gradients count as its share of all rows.
    """
    num_features = len(lookup.layout.features)
    lengths = [each.view(num_features, -1) for each in ranks.gather(lookup.offsets.diff())]
    counts = [each.sum(1).tolist() for each in lengths]
    num_rows = [each.shape[1] for each in lengths]
    share = num_rows[ranks.rank] / max(sum(num_rows), 1)
    grad = lookup.grad.float() * (share if gradient == "mean" else 1.0)
    width = grad.shape[1]
    grads = [each.view(-1, width) for each in ranks.gather(grad.flatten())]
    weights = None
    if lookup.sample_weights is not None:
        weights = _by_feature(ranks.gather(lookup.sample_weights), counts)
    return lookup._replace(
        ids=_by_feature(ranks.gather(lookup.ids), counts),
        offsets=offsets_from_lengths(torch.cat(lengths, 1).flatten()),
        grad=torch.cat(grads) if lookup.is_pooled else _by_feature(grads, counts),
        sample_weights=weights,
    )


def _by_feature(parts: Sequence[Tensor], counts: Sequence[Sequence[int]]) -> Tensor:
    """Return what each rank has feature by feature, rank by rank in each feature."""
    split = [part.split(list(count)) for part, count in zip(parts, counts, strict=True)]
    return torch.cat([part for feature in zip(*split, strict=True) for part in feature])
