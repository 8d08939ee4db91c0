"""What `cuesta plan` is asked: a model of the paper, or a recipe or schema, whose data is looked at; and a cluster."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

import torch
from torch import nn

from cuesta.data.ranking import open_ranking_data
from cuesta.data.schema import Feature, Schema, load_schema
from cuesta.engine.recipe import Recipe
from cuesta.errors import UserError
from cuesta.nn import EmbeddingBags
from cuesta.nn.embedding import unallocated_tables
from cuesta.ops import TableOptimizer
from cuesta.ops.embedding_update.optimizers import ADAGRAD_CODE, ROWWISE_ADAGRAD_CODE, SGD_CODE
from cuesta.rec.neo.cluster import Cluster
from cuesta.rec.neo.costs import SCHEMES, Scheme
from cuesta.rec.neo.popularity import Popularity
from cuesta.rec.neo.workload import PAPER, Dense, TableLoad, Workload, paper_model

_NUM_BATCHES = 16  # that are looked at for how many ids a row has
_STATE = 4  # bytes of a number of the optimiser's state


@final
@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """Settle what is planned: rows of a rank's batch, how weights are stored and sent, schemes, and the cluster.

    `storage` holds for models of the paper and schemas, `dim` for a schema's tables; a recipe has its own, and its
    own batch size where `batch_size` is 0. `zipf` is the exponent of the ids' law where none were counted; with 0 they
    do not repeat. `dense` replaces the model's own dense layers where its MFLOP are not 0.
    """

    name: str
    batch_size: int = 0
    dim: int = 16
    storage: Literal["float32", "bfloat16", "float16"] = "float32"
    zipf: float = 0.0
    forward_bytes: int = 4
    backward_bytes: int = 4
    schemes: tuple[Scheme, ...] = SCHEMES
    least_columns: int = 32
    dense: Dense = field(default_factory=Dense)
    cluster: Cluster = field(default_factory=Cluster)


def workload_of(request: PlanRequest, recipe_named: Callable[[str], Recipe]) -> Workload:
    """Return what is to be sharded. Raises `UserError` for a name that is neither a model's nor a recipe's."""
    size = torch.empty(0, dtype=getattr(torch, request.storage)).itemsize
    if request.name in PAPER:
        work = paper_model(request.name, batch_size=request.batch_size or 512, weight_bytes=size)
    elif request.name.endswith(".toml"):
        work = schema_workload(
            request.name, dim=request.dim, weight_bytes=size, batch_size=request.batch_size or 512
        )
    else:
        work = _recipe_workload(recipe_named(request.name), request.batch_size)
    return replace(
        work,
        tables=tuple(_by_law(table, work, request.zipf) for table in work.tables),
        forward_bytes=request.forward_bytes,
        backward_bytes=request.backward_bytes,
        dense=request.dense if request.dense.mflops else work.dense,
    )


def _by_law(table: TableLoad, work: Workload, exponent: float) -> TableLoad:
    """Return a table of which no repeated ids were counted with those that a law has."""
    if table.repeated or not exponent:
        return table
    law = Popularity(table.num_rows, exponent)
    return replace(table, repeated=law.repeated(table.ids * work.batch_size))


def schema_workload(path: str, *, dim: int, weight_bytes: int, batch_size: int) -> Workload:
    """Return a table of `dim` columns for each encoder of a schema, by the log beside it; row-wise Adagrad.

    Without a log, all features need sizes, and ragged ones their longest, which is then how many ids they have.
    """
    schema = load_schema(path)
    folder = Path(path).resolve().parent
    if any(folder.glob("*.parquet")):
        data = open_ranking_data(folder, schema)
        sizes = data.sizes
        batches = data.batches("train", batch_size=batch_size)
        counts = _counted(itertools.islice(batches, _NUM_BATCHES))
    else:
        sizes = {each.name: _known_size(each, schema, path) for each in schema.features}
        lengths = {each.name: _known_length(each, path) for each in schema.features}
        counts = {name: Count(length, 0.0) for name, length in lengths.items()}
    tables = []
    for encoder in dict.fromkeys(each.encoder for each in schema.features):
        own = [each.name for each in schema.features if each.encoder == encoder]
        tables.append(
            TableLoad(
                name=encoder,
                num_rows=sizes[encoder],
                dim=dim,
                ids=sum(counts[name].ids for name in own),
                bags=len(own),
                is_weighted=any(each.weights for each in schema.features if each.name in own),
                repeated=_repeated([counts[name] for name in own]),
            )
        )
    return Workload(
        name=path, tables=tuple(tables), batch_size=batch_size, weight_bytes=weight_bytes
    )


def _known_size(feature: Feature, schema: Schema, path: str) -> int:
    size = schema.feature(feature.encoder).size
    if size is None:
        raise UserError(
            f"{path}: feature {feature.name!r} has a vocabulary, whose size the log says; put the log's Parquet files "
            "beside the schema, or give the feature a kind with a size"
        )
    return size


def _known_length(feature: Feature, path: str) -> float:
    if feature.ragged and feature.longest is None:
        raise UserError(
            f"{path}: feature {feature.name!r} is ragged, and how many ids it has the log says; put the log's Parquet "
            "files beside the schema, or give its `longest`"
        )
    return float(feature.longest or 1)


def _recipe_workload(recipe: Recipe, batch_size: int) -> Workload:
    with unallocated_tables():
        task = recipe.task.build(seed=recipe.seed, device=torch.device("cpu"))
    tables = [module for module in task.model.modules() if isinstance(module, EmbeddingBags)]
    if len(tables) != 1:
        raise UserError(
            f"{recipe.name} has {len(tables)} sets of embedding tables; one can be planned"
        )
    found = observed_workload(recipe.name, tables[0], task.train_batches(0, 0), batch_size)
    return replace(found, dense=_dense_of(task.model))


def _dense_of(model: nn.Module) -> Dense:
    """Return the dense layers as far as they are matrix products that every row meets once."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return Dense(
        mflops=sum(2 * layer.in_features * layer.out_features for layer in layers) / 1e6,
        activations=float(sum(layer.out_features for layer in layers)),
        parameters=float(sum(each.numel() for each in model.parameters())),
    )


class Count(NamedTuple):
    """Hold how many ids a row has, and which share of a batch's ids were in it before."""

    ids: float
    repeated: float


def _counted(batches: Iterable[Any]) -> dict[str, Count]:
    """Return what the features of batches look up."""
    ids: Counter[str] = Counter()
    distinct: Counter[str] = Counter()
    num_rows = 0
    for batch in batches:
        num_rows += batch.num_rows
        for key in batch.features.keys:
            values = batch.features[key].values
            ids[key] += values.numel()
            distinct[key] += values.unique().numel()
    return {
        key: Count(count / num_rows, 1 - distinct[key] / max(count, 1))
        for key, count in ids.items()
    }


def observed_workload(
    name: str, bags: EmbeddingBags, batches: Iterable[Any], batch_size: int = 0
) -> Workload:
    """Return tables with the ids that the first of these batches look up; 0 takes the batches' own size."""
    seen = list(itertools.islice(batches, _NUM_BATCHES))
    counts = _counted(seen)
    is_weighted = any(batch.features.weights is not None for batch in seen)
    weight = bags.weight.itemsize
    return Workload(
        name=name,
        tables=tuple(
            TableLoad(
                name=table.name,
                num_rows=table.num_rows,
                dim=table.dim,
                ids=sum(counts[key].ids for key in (*table.pooled, *table.unpooled)),
                bags=len(table.pooled),
                unpooled=sum(counts[key].ids for key in table.unpooled),
                is_weighted=is_weighted,
                repeated=_repeated([counts[key] for key in (*table.pooled, *table.unpooled)]),
            )
            for table in bags.tables
        ),
        batch_size=batch_size or max(batch.num_rows for batch in seen),
        weight_bytes=weight,
        state_bytes_a_row=_state_bytes(bags.optimizer, is_of_rows=True),
        state_bytes_a_weight=_state_bytes(bags.optimizer, is_of_rows=False),
    )


def _repeated(counts: Sequence[Count]) -> float:
    ids = sum(each.ids for each in counts)
    return sum(each.ids * each.repeated for each in counts) / ids if ids else 0.0


def _state_bytes(optimizer: TableOptimizer, *, is_of_rows: bool) -> int:
    """Return the bytes of the optimiser's state a row, or a weight."""
    without = (SGD_CODE, ADAGRAD_CODE) if is_of_rows else (SGD_CODE, ROWWISE_ADAGRAD_CODE)
    return 0 if optimizer.code in without else _STATE
