"""Layers on ragged rows of events, nothing padded: self-attention, an encoder of histories, pooling
by seeds and by a target, and the interaction of events with a row's features.

Built on the ops of Jagged Flash Attention (Xu et al., RecSys 2024, arXiv 2409.15373). All take and
give `Ragged` values [T, D], rows from the oldest event to the newest.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cuesta.nn.dense import MLP
from cuesta.ops import (
    Mask,
    jagged_attention,
    jagged_dense_attention,
    jagged_dense_bmm,
    jagged_jagged_bmm,
    jagged_softmax,
    seed_attention,
)
from cuesta.ragged import Ragged

_EVERY_EVENT = Mask()


@final
class JaggedAttention(nn.Module):
    """Let each event attend to the events of its row: multi-head attention of [T, D], [T, D] out.

    `mask` says which events it sees. Raises `ValueError` where `num_heads` does not divide `width`.
    """

    def __init__(self, width: int, *, num_heads: int = 4, mask: Mask = _EVERY_EVENT) -> None:
        super().__init__()
        _check_heads(width, num_heads)
        self.num_heads, self.mask = num_heads, mask
        self.joint = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, events: Ragged) -> Ragged:
        """Return the attended events."""
        joint = self.joint(events.values).unflatten(1, (3, self.num_heads, -1))
        q, k, v = (events.with_values(part) for part in joint.unbind(1))
        attended = jagged_attention(q, k, v, mask=self.mask)
        return events.with_values(self.out(attended.values.flatten(1)))


@final
class JaggedEncoder(nn.Module):
    """Put each event into the context of its row: layers of x <- x + attention(norm(x)), x <- x +
    MLP(norm(x)), then a norm; [T, D] in and out.
    """

    def __init__(
        self, width: int, *, num_layers: int = 1, num_heads: int = 4, mask: Mask = _EVERY_EVENT
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            JaggedAttention(width, num_heads=num_heads, mask=mask) for _ in range(num_layers)
        )
        self.networks = nn.ModuleList(MLP([width, 2 * width, width]) for _ in range(num_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * num_layers + 1))

    def forward(self, events: Ragged) -> Ragged:
        """Return the events in context."""
        values, norms = events.values, iter(self.norms)
        for attention, network in zip(self.attentions, self.networks, strict=True):
            values = values + attention(events.with_values(next(norms)(values))).values
            values = values + network(next(norms)(values))
        return events.with_values(next(norms)(values))


@final
class SeedPooling(nn.Module):
    """Pool each row by `num_seeds` learned queries: events [T, D] to [B, K, D], zeros of an empty row.

    Source: pooling by multi-head attention of Lee et al., 2019, arXiv 1810.00825, equation 11.
    """

    def __init__(self, width: int, num_seeds: int, *, num_heads: int = 4) -> None:
        super().__init__()
        _check_heads(width, num_heads)
        self.num_heads = num_heads
        self.seeds = nn.Parameter(torch.randn(num_seeds, num_heads, width // num_heads))
        self.joint = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, events: Ragged) -> Float[Tensor, "B K D"]:
        """Return the pooled rows."""
        joint = self.joint(events.values).unflatten(1, (2, self.num_heads, -1))
        k, v = (events.with_values(part) for part in joint.unbind(1))
        return self.out(seed_attention(self.seeds.to(k.values.dtype), k, v).flatten(2))


@final
class TargetPooling(nn.Module):
    """Pool each row by its likeness to a target: target [B, C] and events [T, D] to [B, D].

    A learned null score a head lets a row attend to nothing; an empty row gives zeros.
    """

    def __init__(self, target_width: int, width: int, *, num_heads: int = 4) -> None:
        super().__init__()
        _check_heads(width, num_heads)
        self.num_heads = num_heads
        self.query = nn.Linear(target_width, width)
        self.joint = nn.Linear(width, 2 * width)
        self.null = nn.Parameter(torch.zeros(num_heads))

    def forward(self, target: Float[Tensor, "B C"], events: Ragged) -> Float[Tensor, "B D"]:
        """Return the pooled rows, head after head."""
        query = self.query(target).unflatten(1, (1, self.num_heads, -1))
        joint = self.joint(events.values).unflatten(1, (2, self.num_heads, -1))
        k, v = (events.with_values(part) for part in joint.unbind(1))
        return jagged_dense_attention(query, k, v, null=self.null).flatten(1)


@final
class JaggedInteraction(nn.Module):
    """Let a row's features interact with its events: features [B, K, D] and events [T, D] to [B, K,
    D].

    Products of every event with every feature, a softmax along the row for each feature, and the
    products of these weights with the events: three of the published jagged kernels, one after the
    other. An empty row gives zeros.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.feature = nn.Linear(width, width, bias=False)
        self.event = nn.Linear(width, width, bias=False)
        self.scale = width**-0.5

    def forward(self, features: Float[Tensor, "B K D"], events: Ragged) -> Float[Tensor, "B K D"]:
        """Return what each feature finds in the events."""
        wanted = (self.feature(features) * self.scale).transpose(1, 2)  # [B, D, K]
        found, dtype = self.event(events.values), events.values.dtype  # autocast changes both
        weights = jagged_softmax(jagged_dense_bmm(events, wanted.to(dtype)))  # [T, K]
        return jagged_jagged_bmm(weights, events.with_values(found.to(dtype)))


def _check_heads(width: int, num_heads: int) -> None:
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"num_heads must divide the width {width}, got {num_heads}")
