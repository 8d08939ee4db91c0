"""The contenders of `cuesta bench dlrm_sharded`: one DLRM whose tables are spread over gloo ranks, in two libraries.

Both take the plan from here, the same for both: whole tables in turn, or every table cut by rows. The dense part is
data-parallel: ours averages gradients in one exchange, TorchRec wraps it in DistributedDataParallel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn

from cuesta.cli.bench.models import (
    ROWWISE,
    CuestaModel,
    DenseOptimizer,
    ModelCase,
    Trainer,
    case_tables,
)
from cuesta.cli.bench.torchrec_model import TorchRecModel, over_ranks
from cuesta.rec.neo.dense import add_gradients
from cuesta.rec.neo.plan import Plan, TablePlan
from cuesta.rec.neo.ranks import Arriving, Ranks
from cuesta.rec.neo.sharded import ShardedEmbeddingBags

Way = Literal["table", "row"]


class LateRanks(Ranks):
    """Let every exchange arrive a time after it was started, as over a slow network, and use no processor for it."""

    def __init__(self, group: dist.ProcessGroup | None, seconds: float) -> None:
        super().__init__(group)
        self._seconds = seconds

    def exchange(
        self, values: torch.Tensor, sizes: Sequence[int], their_sizes: Sequence[int]
    ) -> Arriving:
        """Send and get as `Ranks` does, later."""
        due = time.monotonic() + self._seconds
        return _Late(super().exchange(values, sizes, their_sizes), due)


class _Late:
    def __init__(self, arriving: Arriving, due: float) -> None:
        self._arriving, self._due = arriving, due

    def wait(self) -> torch.Tensor:
        time.sleep(max(self._due - time.monotonic(), 0.0))
        return self._arriving.wait()


def sharded_cuesta(
    case: ModelCase, dense: DenseOptimizer, way: Way, ranks: Ranks | None = None
) -> CuestaModel:
    """Return our model on this rank of the default process group; `case.batch_size` is that of a rank."""
    ranks = ranks or Ranks(dist.group.WORLD)

    bags = ShardedEmbeddingBags(case_tables(case), ROWWISE, plan_of(case, way, ranks.size), ranks)
    weights = list(case.tables())
    for (name, shard), part in bags.shards().items():
        part.copy_(weights[int(name)][slice(*shard.rows), slice(*shard.columns)])

    def average(modules: nn.Module) -> None:
        add_gradients(modules.parameters(), ranks, share=1 / ranks.size)

    return CuestaModel(case, dense, embeddings=bags, after_backward=average)


def sharded_torchrec(case: ModelCase, dense: DenseOptimizer, way: Way) -> Trainer:
    """Return TorchRec's model on this rank."""
    plan, rank = plan_of(case, way, dist.get_world_size()), dist.get_rank()

    def parts() -> Iterator[torch.Tensor]:
        for table, weight in zip(plan.tables.values(), case.tables(), strict=True):
            for shard in table.shards():
                if shard.rank == rank and shard.rows[0] < shard.rows[1]:
                    yield weight[slice(*shard.rows)]

    return TorchRecModel(case, dense, partial(over_ranks, way=way), parts)


PROVIDERS: dict[str, Callable[[ModelCase, DenseOptimizer, Way], Trainer]] = {
    "cuesta": sharded_cuesta,
    "TorchRec + FBGEMM": sharded_torchrec,
}


def plan_of(case: ModelCase, way: Way, world: int) -> Plan:
    """Return the plan that both libraries follow."""
    tables = {
        str(t): TablePlan(
            name=str(t),
            num_rows=case.rows,
            dim=case.dim,
            scheme=way,
            columns=1,
            ranks=(t % world,) if way == "table" else tuple(range(world)),
        )
        for t in range(case.num_tables)
    }
    return Plan(world_size=world, ranks_per_node=world, tables=tables)


def whole_tables(trainer: Trainer, case: ModelCase, way: Way) -> list[torch.Tensor]:
    """Return the tables of a model put together from all ranks' parts; every rank calls."""
    ranks = Ranks(dist.group.WORLD)
    if isinstance(trainer, CuestaModel):
        assert isinstance(trainer.embeddings, ShardedEmbeddingBags)
        parts = list(trainer.embeddings.shards().values())
    else:
        parts = trainer.tables()
    flat = torch.cat([part.flatten() for part in parts] or [torch.zeros(0)])
    gathered = ranks.gather(flat)
    tables: list[torch.Tensor] = []
    if way == "table":
        size = case.rows * case.dim
        for t in range(case.num_tables):
            start = t // ranks.size * size
            tables.append(gathered[t % ranks.size][start : start + size].view(case.rows, case.dim))
        return tables
    block = -(-case.rows // ranks.size)
    heights = [
        max(min((rank + 1) * block, case.rows) - rank * block, 0) for rank in range(ranks.size)
    ]
    for t in range(case.num_tables):
        tables.append(
            torch.cat(
                [
                    values.view(case.num_tables, height, case.dim)[t]
                    for values, height in zip(gathered, heights, strict=True)
                ]
            )
        )
    return tables
