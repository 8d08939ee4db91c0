"""The contenders of `cuesta bench dlrm`: one DLRM, three libraries.

Naumov et al., 2019, arXiv 1906.00091, figure 1: a bottom MLP over dense columns, one table a sparse
feature, dot products of all pairs of vectors, a top MLP, binary cross-entropy. All start from the
same weights, and use the same torch optimiser on the dense part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cuesta.cli.bench.bags import sum_bag
from cuesta.cli.bench.harness import OURS
from cuesta.cli.bench.ids import IdBatch, IdConfig
from cuesta.nn import MLP, EmbeddingBags, Table
from cuesta.ops import Adagrad, RowwiseAdagrad, TableOptimizer, dot_interaction
from cuesta.rec.neo.sharded import ShardedEmbeddingBags
from cuesta.rec.neo.tiers import TieredEmbeddingBags

TABLE_LR = 0.01
EPS = 1e-4  # so large that the rounding of a gradient near 0 does not become a whole step
ROWWISE = RowwiseAdagrad(lr=TABLE_LR, eps=EPS)
ELEMENTWISE = Adagrad(lr=TABLE_LR, eps=EPS)
DenseOptimizer = Literal["sgd", "adamw"]


@final
@dataclass(frozen=True, kw_only=True)
class ModelCase:
    """Describe a DLRM and its batches; the bottom MLP ends at `dim`, the top MLP at one logit."""

    name: str
    num_tables: int = 26
    rows: int = 100_000
    dim: int = 64
    ids_per_bag: int = 1
    bottom: tuple[int, ...] = (512, 256)
    top: tuple[int, ...] = (512, 256)
    num_dense: int = 13
    batch_size: int = 2048
    zipf: float = 1.2

    @property
    def num_pairs(self) -> int:
        """Return how many dot products there are."""
        return self.num_tables * (self.num_tables + 1) // 2

    @property
    def ids(self) -> IdConfig:
        """Return what ids the batches have."""
        return IdConfig(
            rows=(self.rows,) * self.num_tables,
            batch_size=self.batch_size,
            ids_per_bag=self.ids_per_bag,
            zipf=self.zipf,
        )

    def small(self) -> ModelCase:
        """Return the same model on small tables and batches, for the proof."""
        return replace(self, rows=min(self.rows, 500), batch_size=64)

    def tables(self) -> Iterator[Tensor]:
        """Yield the initial weights of one table after the other, uniform in ±rows^-0.5."""
        generator, bound = torch.Generator().manual_seed(0), self.rows**-0.5
        for _ in range(self.num_tables):
            shape = (self.rows, self.dim)
            yield torch.empty(shape).uniform_(-bound, bound, generator=generator)

    def dense_weights(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return weights and biases of bottom and top; the top's pairs are (i, j), i < j, in order
        of i.
        """
        generator = torch.Generator().manual_seed(1)

        def draw(widths: Sequence[int]) -> list[Tensor]:
            weights = []
            for fan_in, fan_out in pairwise(widths):
                bound = fan_in**-0.5
                for shape in ((fan_out, fan_in), (fan_out,)):
                    weights.append(torch.empty(shape).uniform_(-bound, bound, generator=generator))
            return weights

        bottom = draw((self.num_dense, *self.bottom, self.dim))
        return bottom, draw((self.dim + self.num_pairs, *self.top, 1))


@final
@dataclass(frozen=True, eq=False)
class ModelBatch:
    """Hold dense columns [B, D], labels [B] and ids of one batch."""

    dense: Tensor
    label: Tensor
    ids: IdBatch

    @staticmethod
    def draw(case: ModelCase, ids: Sequence[IdBatch]) -> list[ModelBatch]:
        """Return a batch for each of `ids`."""
        generator = torch.Generator().manual_seed(2)
        size = case.batch_size
        return [
            ModelBatch(
                torch.rand(size, case.num_dense, generator=generator),
                (torch.rand(size, generator=generator) < 0.3).float(),
                each,
            )
            for each in ids
        ]


TrainingStep = Callable[[], Tensor]


class Trainer(Protocol):
    """Be a model that trains."""

    def prepare(self, batch: ModelBatch) -> TrainingStep:
        """Return the training step on this batch, which is put into the library's own form before.

        A step is forward, backward and both optimisers; it returns the logits [B].
        """
        ...

    def tables(self) -> list[Tensor]:
        """Return the weights [rows, dim] of every table."""
        ...


class ModelProvider(NamedTuple):
    """Name who provides a model, how it is built, and how its tables learn."""

    name: str
    build: Callable[[ModelCase, DenseOptimizer], Trainer]
    optimizer: TableOptimizer


@final
class CuestaModel:
    """Our model; with float64 as `dtype` and under the reference bodies, the oracle."""

    def __init__(
        self,
        case: ModelCase,
        dense: DenseOptimizer,
        optimizer: TableOptimizer = ROWWISE,
        dtype: torch.dtype = torch.float32,
        *,
        embeddings: EmbeddingBags | ShardedEmbeddingBags | TieredEmbeddingBags | None = None,
        after_backward: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self.case, self.dtype = case, dtype
        self._after_backward = after_backward
        self.embeddings = embeddings or EmbeddingBags(case_tables(case), optimizer)
        if embeddings is None:
            for table, weight in zip(self.tables(), case.tables(), strict=True):
                table.copy_(weight)
        self.bottom = MLP((case.num_dense, *case.bottom, case.dim))
        self.top = MLP((case.dim + case.num_pairs, *case.top, 1))
        bottom, top = case.dense_weights()
        top[0] = torch.cat([top[0][:, : case.dim], top[0][:, case.dim :][:, _our_pairs(case)]], 1)
        load_dense(self.bottom, bottom)
        load_dense(self.top, top)
        self.modules = nn.ModuleList((self.embeddings, self.bottom, self.top)).to(dtype)
        self.optimizer = dense_optimizer(self.modules.parameters(), dense)

    def prepare(self, batch: ModelBatch) -> TrainingStep:
        """Return the step on the batch in the model's dtype."""
        dense, label = batch.dense.to(self.dtype), batch.label.to(self.dtype)
        return partial(self._step, ModelBatch(dense, label, batch.ids))

    def _step(self, batch: ModelBatch) -> Tensor:
        bottom = self.bottom(batch.dense).relu()  # [B, D]
        rows = self.embeddings(batch.ids.features)
        vectors = rows.view(-1, self.case.num_tables, self.case.dim)
        logits = self.top(dot_interaction(bottom, vectors)).squeeze(1)
        F.binary_cross_entropy_with_logits(logits, batch.label).backward()
        if self._after_backward is not None:
            self._after_backward(self.modules)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.embeddings.step()
        return logits.detach()

    def tables(self) -> list[Tensor]:
        """Return views of the tables of an unsharded model."""
        assert isinstance(self.embeddings, EmbeddingBags)
        return [self.embeddings.table(table.name) for table in self.embeddings.tables]


@final
class TorchModel:
    """Plain PyTorch: nn.EmbeddingBag with sparse gradients, and torch.optim.Adagrad on them."""

    def __init__(self, case: ModelCase, dense: DenseOptimizer) -> None:
        self.bags = nn.ModuleList(sum_bag(weight) for weight in case.tables())
        self.bottom = MLP((case.num_dense, *case.bottom, case.dim))
        self.top = MLP((case.dim + case.num_pairs, *case.top, 1))
        bottom, top = case.dense_weights()
        load_dense(self.bottom, bottom)
        load_dense(self.top, top)
        first, second = torch.triu_indices(case.num_tables + 1, case.num_tables + 1, offset=1)
        self.pairs = first * (case.num_tables + 1) + second
        parameters = [*self.bottom.parameters(), *self.top.parameters()]
        self.optimizer = dense_optimizer(parameters, dense)
        self.table_optimizer = torch.optim.Adagrad(self.bags.parameters(), lr=TABLE_LR, eps=EPS)

    def prepare(self, batch: ModelBatch) -> TrainingStep:
        """Return the step on the batch: ids and offsets of each feature are apart already."""
        return partial(self._step, batch)

    def _step(self, batch: ModelBatch) -> Tensor:
        self.optimizer.zero_grad()
        self.table_optimizer.zero_grad()
        bottom = self.bottom(batch.dense).relu()
        pooled = [bag(*own) for bag, own in zip(self.bags, batch.ids.apart, strict=True)]
        vectors = torch.stack([bottom, *pooled], 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        pairs = products.index_select(1, self.pairs)
        logits = self.top(torch.cat([bottom, pairs], 1)).squeeze(1)
        F.binary_cross_entropy_with_logits(logits, batch.label).backward()
        self.optimizer.step()
        self.table_optimizer.step()
        return logits.detach()

    def tables(self) -> list[Tensor]:
        """Return the parameters."""
        return [parameter.detach() for parameter in self.bags.parameters()]


def case_tables(case: ModelCase) -> list[Table]:
    """Return the tables of our model."""
    return [
        Table(name=str(t), num_rows=case.rows, dim=case.dim, pooled=(f"feature_{t}",))
        for t in range(case.num_tables)
    ]


def dense_optimizer(
    parameters: Iterable[nn.Parameter], kind: DenseOptimizer
) -> torch.optim.Optimizer:
    """Return the optimiser that every contender uses on its dense parameters."""
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=0.05)
    return torch.optim.AdamW(parameters, lr=1e-3, fused=True)


def load_dense(module: nn.Module, weights: Sequence[Tensor]) -> None:
    """Copy weights and biases into an MLP's parameters, in their order."""
    with torch.no_grad():
        for parameter, weight in zip(module.parameters(), weights, strict=True):
            parameter.copy_(weight)


def _our_pairs(case: ModelCase) -> Tensor:
    """Return where dot_interaction's pairs (i, j), i > j, in order of i, are among (j, i)."""
    size = case.num_tables + 1
    rank = torch.zeros(size, size, dtype=torch.int64)
    upper, lower = torch.triu_indices(size, size, 1), torch.tril_indices(size, size, -1)
    rank[upper[0], upper[1]] = torch.arange(upper.shape[1])
    return rank[lower[1], lower[0]]


CUESTA_MODEL = ModelProvider(OURS, CuestaModel, ROWWISE)
TORCH_MODEL = ModelProvider("plain PyTorch", TorchModel, ELEMENTWISE)
