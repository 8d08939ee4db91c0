"""DLRM in TorchRec with FBGEMM's tables: on one CPU process, in the two ways that it offers, and over gloo ranks.

`fused` is FusedEmbeddingBagCollection: no process group. `dmp` is DistributedModelParallel in a
group of one, with one table-batched lookup for all tables and the optimiser inside backward; its
dense part is not wrapped in DistributedDataParallel, which a single process does not need. Over ranks it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cuesta.cli.bench.models import (
    EPS,
    ROWWISE,
    TABLE_LR,
    DenseOptimizer,
    ModelBatch,
    ModelCase,
    ModelProvider,
    TrainingStep,
    dense_optimizer,
    load_dense,
)
from cuesta.cli.bench.peers import quietly

CPU = torch.device("cpu")
Build = Callable[[ModelCase], nn.Module]


@final
class TorchRecModel:
    """TorchRec's own DLRM."""

    def __init__(
        self,
        case: ModelCase,
        dense: DenseOptimizer,
        build: Build,
        parts: Callable[[], Iterable[Tensor]] | None = None,
    ) -> None:
        """Build a model whose tables, or the `parts` of them that this rank holds, start as the case says."""
        with quietly():
            self.model = build(case)
        self.table_modules = _table_modules(self.model)
        weights = case.tables() if parts is None else parts()
        for table, weight in zip(self.tables(), weights, strict=True):
            table.copy_(weight)
        for name, weights in zip(("dense_arch", "over_arch"), case.dense_weights(), strict=True):
            load_dense(_part(self.model, name), weights)
        parameters = [
            parameter
            for name, parameter in self.model.named_parameters()
            if "embedding_bag_collection" not in name
        ]
        self.optimizer = dense_optimizer(parameters, dense)

    def prepare(self, batch: ModelBatch) -> TrainingStep:
        """Return the step on the batch with a KeyedJaggedTensor made of values and lengths."""
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        features = batch.ids.features
        lengths = features.offsets.diff()
        ids = KeyedJaggedTensor(list(features.keys), features.values, lengths=lengths)
        return partial(self._step, batch.dense, batch.label, ids)

    def _step(self, dense: Tensor, label: Tensor, ids: object) -> Tensor:
        self.optimizer.zero_grad()
        logits = self.model(dense, ids).squeeze(1)
        F.binary_cross_entropy_with_logits(logits, label).backward()  # and the tables' update
        self.optimizer.step()
        return logits.detach()

    def tables(self) -> list[Tensor]:
        """Return views of the tables."""
        return [
            weight.detach()
            for module in self.table_modules
            for weight in module.split_embedding_weights()  # type: ignore[operator]
        ]


def torchrec_providers() -> list[ModelProvider]:
    """Return both ways as providers."""
    return [
        ModelProvider(f"TorchRec + FBGEMM ({way})", partial(TorchRecModel, build=build), ROWWISE)
        for way, build in (("fused", _fused), ("dmp", _alone))
    ]


def leave_process_group() -> None:
    """Close the process group that `dmp` opened."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _configs(case: ModelCase) -> list[object]:
    from torchrec.modules.embedding_configs import EmbeddingBagConfig

    return [
        EmbeddingBagConfig(
            name=f"table_{t}",
            embedding_dim=case.dim,
            num_embeddings=case.rows,
            feature_names=[f"feature_{t}"],
        )
        for t in range(case.num_tables)
    ]


def _dlrm(case: ModelCase, collection: nn.Module) -> nn.Module:
    from torchrec.models.dlrm import DLRM

    return DLRM(
        collection,
        case.num_dense,
        [*case.bottom, case.dim],
        [*case.top, 1],
        dense_device=CPU,
    )


def _fused(case: ModelCase) -> nn.Module:
    from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
    from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

    collection = FusedEmbeddingBagCollection(
        tables=_configs(case),
        optimizer_type=RowWiseAdagrad,
        optimizer_kwargs={"lr": TABLE_LR, "eps": EPS},
        device=CPU,
    )
    return _dlrm(case, collection)


def _alone(case: ModelCase) -> nn.Module:
    _join_process_group()
    return over_ranks(case, "table")


def over_ranks(case: ModelCase, way: Literal["table", "row"]) -> nn.Module:
    """Return the model over the default process group: whole tables in turn, or all cut by rows."""
    from torch.distributed.optim import _apply_optimizer_in_backward
    from torchrec.distributed.embedding_types import EmbeddingComputeKernel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.sharding_plan import (
        construct_module_sharding_plan,
        row_wise,
        table_wise,
    )
    from torchrec.distributed.types import ShardingEnv, ShardingPlan
    from torchrec.modules.embedding_modules import EmbeddingBagCollection
    from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

    world = torch.distributed.get_world_size()
    collection = EmbeddingBagCollection(tables=_configs(case), device=torch.device("meta"))
    settings = {"lr": TABLE_LR, "eps": EPS}
    _apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), settings)
    model = _dlrm(case, collection)
    kernel = EmbeddingComputeKernel.FUSED.value
    sharder = EmbeddingBagCollectionSharder()
    plan = construct_module_sharding_plan(
        collection,
        {
            f"table_{t}": row_wise(compute_kernel=kernel)
            if way == "row"
            else table_wise(rank=t % world, compute_kernel=kernel)
            for t in range(case.num_tables)
        },
        sharder=sharder,
        local_size=world,
        world_size=world,
        device_type="cpu",
    )
    return DistributedModelParallel(
        model,
        env=ShardingEnv.from_process_group(torch.distributed.group.WORLD),
        device=CPU,
        plan=ShardingPlan({"sparse_arch.embedding_bag_collection": plan}),
        sharders=[sharder],
        init_data_parallel=world > 1,
    )


def _join_process_group() -> None:
    if not torch.distributed.is_initialized():
        meeting_point = Path(tempfile.mkdtemp()) / "group"
        torch.distributed.init_process_group(
            "gloo", init_method=meeting_point.as_uri(), rank=0, world_size=1
        )


def _part(model: nn.Module, name: str) -> nn.Module:
    """Return the submodule called `name`, however it is wrapped."""
    return next(part for path, part in model.named_modules() if path.split(".")[-1] == name)


def _table_modules(model: nn.Module) -> list[nn.Module]:
    """Return FBGEMM's modules; a sharded collection keeps them in plain lists."""
    found: list[nn.Module] = []
    for module in model.modules():
        found += [each._emb_module for each in getattr(module, "_emb_modules", [])]
        for lookup in getattr(module, "_lookups", []):
            found += [each.emb_module for each in lookup._emb_modules]
    return list(dict.fromkeys(found))
