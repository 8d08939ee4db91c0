"""What `cuesta plan` is asked: a model of the paper or a recipe, whose tables and data are looked at, and a cluster."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

import torch

from cuesta.engine.recipe import Recipe
from cuesta.errors import UserError
from cuesta.nn import EmbeddingBags
from cuesta.nn.embedding import unallocated_tables
from cuesta.ops import TableOptimizer
from cuesta.ops.embedding_update.optimizers import ADAGRAD_CODE, ROWWISE_ADAGRAD_CODE, SGD_CODE
from cuesta.rec.neo.cluster import Cluster
from cuesta.rec.neo.costs import SCHEMES, Scheme
from cuesta.rec.neo.workload import PAPER, TableLoad, Workload, paper_model

_NUM_BATCHES = 16  # that are looked at for how many ids a row has
_STATE = 4  # bytes of a number of the optimiser's state


@final
@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """Settle what is planned: rows of a rank's batch, how weights are stored and sent, schemes, and the cluster.

    `storage` holds for models of the paper; a recipe has its own, and its own batch size where `batch_size` is 0.
    """

    name: str
    batch_size: int = 0
    storage: Literal["float32", "bfloat16", "float16"] = "float32"
    forward_bytes: int = 4
    backward_bytes: int = 4
    schemes: tuple[Scheme, ...] = SCHEMES
    least_columns: int = 32
    cluster: Cluster = field(default_factory=Cluster)


def workload_of(request: PlanRequest, recipe_named: Callable[[str], Recipe]) -> Workload:
    """Return what is to be sharded. Raises `UserError` for a name that is neither a model's nor a recipe's."""
    if request.name in PAPER:
        size = torch.empty(0, dtype=getattr(torch, request.storage)).itemsize
        model = paper_model(request.name, batch_size=request.batch_size or 512, weight_bytes=size)
        return _sent_as(model, request)
    return _sent_as(_recipe_workload(recipe_named(request.name), request.batch_size), request)


def _sent_as(workload: Workload, request: PlanRequest) -> Workload:
    return replace(
        workload, forward_bytes=request.forward_bytes, backward_bytes=request.backward_bytes
    )


def _recipe_workload(recipe: Recipe, batch_size: int) -> Workload:
    with unallocated_tables():
        task = recipe.task.build(seed=recipe.seed, device=torch.device("cpu"))
    tables = [module for module in task.model.modules() if isinstance(module, EmbeddingBags)]
    if len(tables) != 1:
        raise UserError(
            f"{recipe.name} has {len(tables)} sets of embedding tables; one can be planned"
        )
    return observed_workload(recipe.name, tables[0], task.train_batches(0, 0), batch_size)


def observed_workload(
    name: str, bags: EmbeddingBags, batches: Iterable[Any], batch_size: int = 0
) -> Workload:
    """Return tables with the ids that the first of these batches look up; 0 takes the batches' own size."""
    counts: Counter[str] = Counter()
    num_rows, largest, is_weighted = 0, 0, False
    for batch in itertools.islice(batches, _NUM_BATCHES):
        features = batch.features
        lengths = features.lengths().sum(1).tolist()
        counts.update(dict(zip(features.keys, lengths, strict=True)))
        num_rows += batch.num_rows
        largest = max(largest, batch.num_rows)
        is_weighted = is_weighted or features.weights is not None
    weight = bags.weight.itemsize
    return Workload(
        name=name,
        tables=tuple(
            TableLoad(
                name=table.name,
                num_rows=table.num_rows,
                dim=table.dim,
                ids=sum(counts[key] for key in (*table.pooled, *table.unpooled)) / num_rows,
                bags=len(table.pooled),
                unpooled=sum(counts[key] for key in table.unpooled) / num_rows,
                is_weighted=is_weighted,
            )
            for table in bags.tables
        ),
        batch_size=batch_size or largest,
        weight_bytes=weight,
        state_bytes_a_row=_state_bytes(bags.optimizer, is_of_rows=True),
        state_bytes_a_weight=_state_bytes(bags.optimizer, is_of_rows=False),
    )


def _state_bytes(optimizer: TableOptimizer, *, is_of_rows: bool) -> int:
    """Return the bytes of the optimiser's state a row, or a weight."""
    without = (SGD_CODE, ADAGRAD_CODE) if is_of_rows else (SGD_CODE, ROWWISE_ADAGRAD_CODE)
    return 0 if optimizer.code in without else _STATE
