"""The contenders of `cuesta bench embedding_bag`: tables looked up, pooled by sum, and trained.

All have the same three methods, start from the same weights and see the same batches. FBGEMM
applies its exact row-wise Adagrad inside backward; torch has no row-wise one, so nn.EmbeddingBag
goes with the element-wise Adagrad.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor, nn

from cuesta.cli.bench.harness import OURS
from cuesta.cli.bench.ids import IdBatch, IdConfig
from cuesta.cli.bench.peers import quietly
from cuesta.nn import EmbeddingBags, Storage, Table
from cuesta.ops import (
    Adagrad,
    Lookup,
    RowwiseAdagrad,
    TableLayout,
    TableOptimizer,
    TableState,
    embedding_bag,
    embedding_update,
)

LR, EPS = 0.01, 1e-8
STORAGES: dict[torch.dtype, Storage] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
ROWWISE = RowwiseAdagrad(lr=LR, eps=EPS, stochastic_rounding=False)
ELEMENTWISE = Adagrad(lr=LR, eps=EPS, stochastic_rounding=False)


@final
@dataclass(frozen=True, kw_only=True)
class BagCase:
    """Describe tables of `rows[t]` x `dims[t]`, one feature each, and batches of their ids."""

    name: str
    rows: tuple[int, ...]
    dims: tuple[int, ...]
    batch_size: int = 2048
    ids_per_bag: int = 20
    zipf: float | None = 1.2
    storage: torch.dtype = torch.float32
    device: str = "cpu"
    weighs_memory: bool = False

    @property
    def layout(self) -> TableLayout:
        """Return where our flat buffer holds each table."""
        tables = tuple(range(len(self.rows)))
        return TableLayout(self.rows, self.dims, tables, tuple("sum" for _ in tables))

    @property
    def ids(self) -> IdConfig:
        """Return what ids its batches have."""
        return IdConfig(
            rows=self.rows,
            batch_size=self.batch_size,
            ids_per_bag=self.ids_per_bag,
            zipf=self.zipf,
        )

    def small(self) -> BagCase:
        """Return the same case in a size that a float64 reference can follow."""
        rows = tuple(min(rows, 500) for rows in self.rows)
        return replace(self, rows=rows, batch_size=33, ids_per_bag=min(self.ids_per_bag, 4))

    def initial(self) -> Iterator[Tensor]:
        """Yield the initial weights [rows, dim] of each table in turn, uniform in [-1, 1)."""
        generator = torch.Generator(self.device).manual_seed(0)
        for rows, dim in zip(self.rows, self.dims, strict=True):
            weight = torch.empty(rows, dim, device=self.device)
            yield weight.uniform_(-1, 1, generator=generator).to(self.storage)


class Bags(Protocol):
    """Be a set of tables that learns."""

    def forward(self, batch: IdBatch) -> Tensor:
        """Return the pooled rows [B, width]."""
        ...

    def step(self, batch: IdBatch, grad: Tensor) -> Tensor:
        """Do a forward, a backward from `grad`, and the update; return the output."""
        ...

    def tables(self) -> list[Tensor]:
        """Return the weights [rows, dim] of every table."""
        ...


class BagProvider(NamedTuple):
    """Name who provides bags, how they are built, and the optimiser that they train with."""

    name: str
    build: Callable[[BagCase], Bags]
    optimizer: TableOptimizer


@final
class CuestaOps:
    """Our ops, called directly; under the reference bodies, with float64 `storage`, the oracle."""

    def __init__(
        self,
        case: BagCase,
        optimizer: TableOptimizer = ROWWISE,
        storage: torch.dtype | None = None,
    ) -> None:
        self.layout, self.optimizer = case.layout, optimizer
        weight = torch.empty(self.layout.storage, dtype=storage or case.storage, device=case.device)
        for start, table in zip(self.layout.starts, case.initial(), strict=False):
            weight[start : start + table.numel()] = table.flatten()
        self.state = TableState.fresh(weight, self.layout, optimizer)
        self.num_updates = 0

    def forward(self, batch: IdBatch) -> Tensor:
        """Return the pooled rows."""
        features = batch.features
        return embedding_bag(
            self.state.weight, features.values, features.offsets, layout=self.layout
        )

    def step(self, batch: IdBatch, grad: Tensor) -> Tensor:
        """Look up, then apply the fused backward and update."""
        output = self.forward(batch)
        self.num_updates += 1
        lookup = Lookup(self.layout, batch.features.values, batch.features.offsets, grad)
        embedding_update(self.state, [lookup], self.optimizer, step=self.num_updates)
        return output

    def tables(self) -> list[Tensor]:
        """Return views of the flat buffer."""
        starts, dims = self.layout.starts, self.layout.dims
        return [
            self.state.weight[starts[t] : starts[t + 1]].view(-1, dim) for t, dim in enumerate(dims)
        ]


@final
class CuestaModule:
    """Our module, as a model uses it: through autograd."""

    def __init__(self, case: BagCase) -> None:
        tables = [
            Table(name=str(t), num_rows=rows, dim=dim, pooled=(f"feature_{t}",))
            for t, (rows, dim) in enumerate(zip(case.rows, case.dims, strict=True))
        ]
        self.bags = EmbeddingBags(tables, ROWWISE, storage=STORAGES[case.storage])
        self.bags.to(case.device)
        for table, weight in zip(self.tables(), case.initial(), strict=True):
            table.copy_(weight)

    def forward(self, batch: IdBatch) -> Tensor:
        """Return the pooled rows."""
        return self.bags(batch.features)

    def step(self, batch: IdBatch, grad: Tensor) -> Tensor:
        """Train as a training loop does."""
        output = self.bags(batch.features)
        output.backward(grad)
        self.bags.step()
        return output.detach()

    def tables(self) -> list[Tensor]:
        """Return views of the tables."""
        return [self.bags.table(table.name) for table in self.bags.tables]


@final
class Torch:
    """One nn.EmbeddingBag a table, sparse gradients and torch.optim.Adagrad; outputs side by side."""

    def __init__(self, case: BagCase) -> None:
        self.bags = nn.ModuleList(sum_bag(weight) for weight in case.initial())
        self.optimizer = torch.optim.Adagrad(self.bags.parameters(), lr=LR, eps=EPS)

    def forward(self, batch: IdBatch) -> Tensor:
        """Return the pooled rows."""
        pooled = [bag(*own) for bag, own in zip(self.bags, batch.apart, strict=True)]
        return torch.cat(pooled, 1)

    def step(self, batch: IdBatch, grad: Tensor) -> Tensor:
        """Train as a training loop does."""
        self.optimizer.zero_grad()
        output = self.forward(batch)
        output.backward(grad)
        self.optimizer.step()
        return output.detach()

    def tables(self) -> list[Tensor]:
        """Return the parameters."""
        return [parameter.detach() for parameter in self.bags.parameters()]


@final
class FBGEMM:
    """FBGEMM's table-batched embeddings on the CPU; output float32, ids trusted, state float32."""

    def __init__(self, case: BagCase) -> None:
        with quietly():
            self.bags = _fbgemm_tables(case)
        for table, weight in zip(self.tables(), case.initial(), strict=True):
            table.copy_(weight)

    def forward(self, batch: IdBatch) -> Tensor:
        """Return the pooled rows."""
        return self.bags(batch.features.values, batch.features.offsets)

    def step(self, batch: IdBatch, grad: Tensor) -> Tensor:
        """Train: the update happens inside backward."""
        output = self.forward(batch)
        output.backward(grad)
        return output.detach()

    def tables(self) -> list[Tensor]:
        """Return views of the tables."""
        return [weight.detach() for weight in self.bags.split_embedding_weights()]  # type: ignore[operator]


def sum_bag(weight: Tensor) -> nn.EmbeddingBag:
    """Return torch's table of these weights, with sparse gradients."""
    rows, dim = weight.shape
    return nn.EmbeddingBag(
        rows, dim, mode="sum", sparse=True, include_last_offset=True, _weight=weight
    )


def _fbgemm_tables(case: BagCase) -> nn.Module:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
        BoundsCheckMode,
        EmbeddingLocation,
        PoolingMode,
    )
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    kinds = {
        torch.float32: SparseType.FP32,
        torch.float16: SparseType.FP16,
        torch.bfloat16: SparseType.BF16,
    }
    return SplitTableBatchedEmbeddingBagsCodegen(
        [
            (rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)
            for rows, dim in zip(case.rows, case.dims, strict=True)
        ],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=LR,
        eps=EPS,
        weights_precision=kinds[case.storage],
        output_dtype=SparseType.FP32,
        stochastic_rounding=False,
        pooling_mode=PoolingMode.SUM,
        bounds_check_mode=BoundsCheckMode.NONE,
        device=torch.device("cpu"),
    )


CUESTA = BagProvider(OURS, CuestaOps, ROWWISE)
MODULE = BagProvider(f"{OURS}.nn.EmbeddingBags", CuestaModule, ROWWISE)
TORCH = BagProvider("nn.EmbeddingBag + Adagrad", Torch, ELEMENTWISE)
FBGEMM_TABLES = BagProvider("FBGEMM-CPU", FBGEMM, ROWWISE)
