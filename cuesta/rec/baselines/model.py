"""DLRM and DCNv2, the two rankers that everything else is measured against.

DLRM: Naumov et al., 2019, arXiv 1906.00091, figure 1. DCNv2: Wang et al., WWW 2021, arXiv
2008.13535, parallel structure (figure 1b). Both take ragged histories as one more feature (see
`inputs`), which neither paper has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cuesta.data.batch import RankingBatch
from cuesta.data.schema import Schema
from cuesta.nn import MLP, CrossNetwork
from cuesta.ops import dot_interaction
from cuesta.rec.baselines.inputs import InputConfig, Inputs


@final
@dataclass(frozen=True, kw_only=True)
class DLRMConfig:
    """Hold DLRM's sizes: hidden widths of the bottom MLP, which ends at `inputs.dim`, and of the
    top MLP.
    """

    inputs: InputConfig = field(default_factory=InputConfig)
    bottom: tuple[int, ...] = (64,)
    top: tuple[int, ...] = (64, 32)
    dropout: float = 0.0

    def build(self, schema: Schema, sizes: Mapping[str, int], *, seed: int) -> DLRM:
        """Return the model for data of this schema."""
        return DLRM(self, schema, sizes, seed=seed)


@final
class DLRM(nn.Module):
    """Score a batch: bottom MLP over dense columns, dot products of all vectors, top MLP; logits
    [B].
    """

    def __init__(
        self, config: DLRMConfig, schema: Schema, sizes: Mapping[str, int], *, seed: int
    ) -> None:
        super().__init__()
        self.inputs = Inputs(config.inputs, schema, sizes, seed=seed)
        dim = config.inputs.dim
        dense_width = len(schema.dense) + self.inputs.history_width
        self.bottom = MLP([dense_width, *config.bottom, dim], dropout=config.dropout)
        pairs = self.inputs.num_vectors * (self.inputs.num_vectors + 1) // 2
        self.top = MLP([dim + pairs, *config.top, 1], dropout=config.dropout)

    def forward(self, batch: RankingBatch) -> Float[Tensor, " B"]:
        """Return one logit a row."""
        dense, vectors, history = self.inputs(batch)
        bottom = self.bottom(torch.cat([dense, history], 1)).relu()
        return self.top(dot_interaction(bottom.to(vectors.dtype), vectors)).squeeze(1)


@final
@dataclass(frozen=True, kw_only=True)
class DCNv2Config:
    """Hold DCNv2's sizes: cross layers, their rank (None: full), and the widths of the deep MLP."""

    inputs: InputConfig = field(default_factory=InputConfig)
    num_cross: int = 1
    rank: int | None = None
    deep: tuple[int, ...] = (64, 32)
    dropout: float = 0.1

    def build(self, schema: Schema, sizes: Mapping[str, int], *, seed: int) -> DCNv2:
        """Return the model for data of this schema."""
        return DCNv2(self, schema, sizes, seed=seed)


@final
class DCNv2(nn.Module):
    """Score a batch: cross network and deep MLP side by side over all features, one linear head;
    logits [B].
    """

    def __init__(
        self, config: DCNv2Config, schema: Schema, sizes: Mapping[str, int], *, seed: int
    ) -> None:
        super().__init__()
        self.inputs = Inputs(config.inputs, schema, sizes, seed=seed)
        width = len(schema.dense) + self.inputs.history_width
        width += self.inputs.num_vectors * config.inputs.dim
        self.cross = CrossNetwork(width, config.num_cross, rank=config.rank)
        self.deep = MLP([width, *config.deep], dropout=config.dropout)
        self.head = nn.Linear(width + config.deep[-1], 1)

    def forward(self, batch: RankingBatch) -> Float[Tensor, " B"]:
        """Return one logit a row."""
        dense, vectors, history = self.inputs(batch)
        features = torch.cat([dense, history, vectors.flatten(1)], 1)
        deep = self.deep(features).relu()
        return self.head(torch.cat([self.cross(features), deep], 1)).squeeze(1)
