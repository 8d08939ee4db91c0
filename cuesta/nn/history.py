"""Pooling of ragged histories by attention to a target: no padding, softmax along each ragged row.

Target attention after DIN (Zhou et al., KDD 2018), with dot-product heads, a learned forgetting of
old events and a learned null event, so that a row may attend to nothing; an empty history gives
zeros.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cuesta.ops import segment_reduce, segment_spread
from cuesta.ragged import Ragged


def ragged_softmax(scores: Ragged, null: Float[Tensor, " H"] | None = None) -> Float[Tensor, "T H"]:
    """Return the softmax of scores [T, H] along each row, in float32; `null` is one more score in
    every row.

    Without `null` the weights of a non-empty row sum to 1, with it to less than 1.

    >>> ragged_softmax(Ragged.from_lengths(torch.zeros(3, 1), [2, 0, 1])).flatten().tolist()
    [0.5, 0.5, 1.0]
    """
    values = scores.values.float()
    largest = segment_reduce(scores.with_values(values.detach()), "max")  # [B, H]
    if null is not None:
        largest = torch.maximum(largest, null.detach().float())
    weights = torch.exp(values - segment_spread(largest, scores.offsets).values)
    total = segment_reduce(scores.with_values(weights))
    if null is not None:
        total = total + torch.exp(null.float() - largest)
    return weights / segment_spread(total, scores.offsets).values


@final
class TargetAttention(nn.Module):
    """Pool the values of a history by its events' likeness to a target, in `num_heads` heads.

    out[b, h] = sum over row b of softmax(q_h(target) . k_h(event) / sqrt(d) - f_h(age)) * value,
    with the null event of score n_h in the softmax's sum and f_h >= 0 a learned rate per unit of
    `age`. Target [B, C], events [T, C], values [T, D] and age [T] (any monotone measure, such as
    log1p of days); out is [B, H * D].
    """

    def __init__(self, width: int, *, num_heads: int = 4, head_dim: int = 8) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.query = nn.Linear(width, num_heads * head_dim)
        self.key = nn.Linear(width, num_heads * head_dim)
        self.forgetting = nn.Parameter(torch.zeros(num_heads))
        self.null = nn.Parameter(torch.zeros(num_heads))

    def forward(
        self,
        target: Float[Tensor, "B C"],
        events: Ragged,
        values: Float[Tensor, "T D"],
        age: Float[Tensor, " T"] | None = None,
    ) -> Float[Tensor, "B H*D"]:
        """Return the pooled values, head after head."""
        query = segment_spread(self.query(target), events.offsets).values
        key = self.key(events.values)
        heads = (-1, self.num_heads, self.head_dim)
        scores = (query.view(heads) * key.view(heads)).sum(2) * self.head_dim**-0.5  # [T, H]
        if age is not None:
            scores = scores - age[:, None] * F.softplus(self.forgetting)
        weights = ragged_softmax(events.with_values(scores), self.null)
        weighted = weights[:, :, None] * values[:, None, :]  # [T, H, D]
        return segment_reduce(events.with_values(weighted.flatten(1)))
