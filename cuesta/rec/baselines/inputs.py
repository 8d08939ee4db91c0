"""What every baseline does with a batch before its own idea begins: dense columns, tables,
histories.

One `EmbeddingBags` holds all tables, so a batch costs one pooled lookup and, with an attended
history, one unpooled one. Dense columns are standardised by running statistics of the training rows
and clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cuesta.data.batch import RankingBatch
from cuesta.data.schema import Schema
from cuesta.errors import UserError
from cuesta.nn import EmbeddingBags, JaggedEncoder, Storage, Table, TargetAttention, TargetPooling
from cuesta.ops import Mask, RowwiseAdagrad, TableOptimizer

CLIP = 4.0  # standard deviations beyond which a dense value says no more
_NUM_MEASURES = 2  # of an event beside its vectors: its value and its age


@final
@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """Say how features become vectors of `dim` columns.

    `history` names the ragged features that describe past events side by side, and `target` the
    features of the candidate that a past event is likened to. `pooling` is how a history becomes
    one vector: `mean` of its embeddings, weighted by its weights; `attention` to the target, which
    pools the weights of the history feature `values_of`, older events counting less by the weights
    of `ages_of`; `jagged`, which adds to that the events themselves, each put into the context of
    those before it by `num_layers` of self-attention (within `window` events) and pooled by the
    target; or `none` to leave it out. `left_out` names features not to use.
    """

    dim: int = 16
    target: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    pooling: Literal["mean", "attention", "jagged", "none"] = "attention"
    values_of: str | None = None
    ages_of: str | None = None
    num_heads: int = 4
    head_dim: int = 8
    num_layers: int = 1
    window: int | None = None
    left_out: tuple[str, ...] = ()
    init_scale: float = 1.0
    storage: Storage = "float32"
    tables: TableOptimizer = RowwiseAdagrad(lr=0.03)  # noqa: RUF009 - frozen


class Encoded(NamedTuple):
    """One batch as vectors: standardised dense columns, one vector a feature, and the pooled
    history.
    """

    dense: Float[Tensor, "B D"]
    vectors: Float[Tensor, "B F D"]
    history: Float[Tensor, "B C"]


@final
class Standardise(nn.Module):
    """Subtract the mean and divide by the deviation of all training rows seen so far, then clip.

    Unlike a batch norm it depends on no other row of the batch, so a batch may be of one row. Where several
    processes have the rows of a batch, `add` sums numbers over them in place.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add: Callable[[Tensor], None] | None = None
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(width, dtype=torch.float64))
        self.count: Tensor
        self.mean: Tensor
        self.variance: Tensor

    def forward(self, dense: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Return the standardised columns; in training, take the rows into the statistics first."""
        if self.training and (dense.shape[0] or self.add is not None):
            self._take_in(dense.detach().double())
        scale = (self.variance + 1e-12).rsqrt()
        return ((dense - self.mean) * scale).clamp(-CLIP, CLIP).to(dense.dtype)

    def _take_in(self, dense: Tensor) -> None:
        """Merge a batch's moments into the running ones (Chan et al., 1979)."""
        num_rows, mean, variance = self._moments(dense)
        total = self.count + num_rows
        share = num_rows / total
        shift = mean - self.mean
        self.variance.lerp_(variance, share)
        self.variance += shift.square() * share * (1 - share)
        self.mean += shift * share
        self.count.copy_(total)

    def _moments(self, dense: Tensor) -> tuple[float, Tensor, Tensor]:
        """Return the number of rows of the batch, their mean and their variance."""
        if self.add is None:
            return dense.shape[0], dense.mean(0), dense.var(0, correction=0)
        sums = torch.cat([dense.new_tensor([dense.shape[0]]), dense.sum(0)])
        self.add(sums)
        num_rows, mean = float(sums[0]), sums[1:] / sums[0]
        squares = (dense - mean).square().sum(0)
        self.add(squares)
        return num_rows, mean, squares / num_rows


@final
class Inputs(nn.Module):
    """Turn a `RankingBatch` into `Encoded` vectors."""

    def __init__(
        self, config: InputConfig, schema: Schema, sizes: Mapping[str, int], *, seed: int
    ) -> None:
        super().__init__()
        self.config = config
        names = [feature.name for feature in schema.features]
        chosen = (config.values_of, config.ages_of)
        for name in (*config.target, *config.history, *config.left_out, *filter(None, chosen)):
            if name not in names:
                raise UserError(
                    f"model.inputs names feature {name!r}; the schema has {', '.join(names)}"
                )
        if config.pooling != "jagged" and (config.num_layers, config.window) != (1, None):
            raise UserError(
                f"model.inputs has num_layers {config.num_layers} and window {config.window}, "
                f"which only pooling 'jagged' reads; pooling is {config.pooling!r}"
            )
        skipped = {*config.left_out, *(config.history if config.pooling == "none" else ())}
        self.attended = config.history if config.pooling in ("attention", "jagged") else ()
        used = [feature for feature in schema.features if feature.name not in skipped]
        self.tables = EmbeddingBags(
            [
                Table(
                    name=owner,
                    num_rows=sizes[owner],
                    dim=config.dim,
                    pooled=tuple(
                        f.name for f in used if f.encoder == owner and f.name not in self.attended
                    ),
                    unpooled=tuple(
                        f.name for f in used if f.encoder == owner and f.name in self.attended
                    ),
                    pooling="mean",
                    init_scale=config.init_scale,
                )
                for owner in dict.fromkeys(feature.encoder for feature in used)
            ],
            config.tables,
            storage=config.storage,
            seed=seed,
        )
        self.standardise = Standardise(len(schema.dense))
        self.target_places = [self.tables.pooled_keys.index(name) for name in config.target]
        self.history_width = 0
        if self.attended:
            width = config.dim * len(config.target)
            self.key = nn.Linear(config.dim * len(config.history), width)
            self.attention = TargetAttention(
                width, num_heads=config.num_heads, head_dim=config.head_dim
            )
            self.history_width = 3 * config.num_heads
            if config.pooling == "jagged":
                self._add_encoder(width)

    def _add_encoder(self, target_width: int) -> None:
        config = self.config
        width = config.num_heads * config.head_dim
        mask = Mask(causal=True, window=config.window)
        self.event = nn.Linear(config.dim * len(config.history) + _NUM_MEASURES, width)
        self.encoder = JaggedEncoder(
            width, num_layers=config.num_layers, num_heads=config.num_heads, mask=mask
        )
        self.pool = TargetPooling(target_width, width, num_heads=config.num_heads)
        self.history_width += width

    @property
    def num_vectors(self) -> int:
        """Return F, the number of feature vectors of `forward`."""
        return len(self.tables.pooled_keys)

    def forward(self, batch: RankingBatch) -> Encoded:
        """Return the batch's vectors."""
        dense = batch.dense
        if dense.shape[1]:
            dense = self.standardise(dense)
        vectors = self.tables(batch.features).view(-1, self.num_vectors, self.config.dim)
        history = vectors.new_zeros(vectors.shape[0], 0)
        if self.attended:
            history = self._attend(batch, vectors[:, self.target_places].flatten(1))
        return Encoded(dense, vectors, history)

    def _attend(self, batch: RankingBatch, target: Float[Tensor, "B C"]) -> Float[Tensor, "B K"]:
        """Pool, by attention, the value of each past event, its size, and how much was attended at
        all; and, jagged, the encoded events.
        """
        events = self.tables.rows(batch.features, self.attended)
        vectors = torch.cat([event.values for event in events], 1)
        key = events[0].with_values(self.key(vectors))  # [T, C]
        names = self.config
        value = torch.ones_like(key.values[:, 0])
        if names.values_of is not None:
            value = batch.features.weights_of(names.values_of)
        age = None if names.ages_of is None else batch.features.weights_of(names.ages_of)
        values = torch.stack([value, value.abs(), torch.ones_like(value)], 1)  # [T, 3]
        pooled = self.attention(target, key, values, age)
        if names.pooling != "jagged":
            return pooled
        measures = torch.stack([value, torch.zeros_like(value) if age is None else age], 1)
        seen = events[0].with_values(self.event(torch.cat([vectors, measures], 1)))
        return torch.cat([pooled, self.pool(target, self.encoder(seen))], 1)
