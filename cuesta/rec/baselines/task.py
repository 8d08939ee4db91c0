"""`RankingTask`: a click log, a model that gives logits, binary cross-entropy, and a ranker's
metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cuesta.data.batch import RankingBatch
from cuesta.data.order import Order
from cuesta.data.ranking import RankingData, open_ranking_data
from cuesta.data.reader_service import BatchSource, ReaderService
from cuesta.data.registry import DATA_SETS, data_root, get_data_set
from cuesta.data.streams import StreamConfig, stream_folder, write_stream
from cuesta.engine.metrics import RankingMetrics
from cuesta.engine.ranking_report import buckets, ranking_evaluation
from cuesta.engine.task import Evaluation
from cuesta.errors import UserError
from cuesta.rec.baselines.model import DCNv2Config, DLRMConfig

EVALUATION_BATCH = 4096
STREAMS = {"mini": StreamConfig.mini, "small": StreamConfig.small, "large": StreamConfig.large}


@final
@dataclass(frozen=True, kw_only=True)
class RankingTaskConfig:
    """Say what is trained on what.

    `data` is a registered data set (`ml-100k`), a stream made on first use (`stream.mini`,
    `stream.small`, `stream.large`), or a folder of Parquet files with a schema.toml. `slices` names
    dense columns by whose value the report breaks the metrics down. `readers` is how many processes read the
    training batches, 0 for this one alone, and `readers_on` where they run; the batches are the same.
    """

    model: DLRMConfig | DCNv2Config
    data: str = "ml-100k"
    batch_size: int = 512
    slices: tuple[str, ...] = ()
    readers: int = field(default=0, compare=False)
    readers_on: Literal["here", "ray"] = field(default="here", compare=False)

    def __post_init__(self) -> None:
        if self.readers < 0:
            raise UserError(f"task.readers must not be negative, got {self.readers}")

    def build(self, *, seed: int, device: torch.device) -> RankingTask:
        """Return the task, after getting or making its data."""
        return RankingTask(self, open_data(self.data), seed=seed, device=device)


@final
class RankingTask:
    """Train and evaluate one model on one log."""

    def __init__(
        self, config: RankingTaskConfig, data: RankingData, *, seed: int, device: torch.device
    ) -> None:
        dense = data.schema.dense
        for name in config.slices:
            if name not in dense:
                raise UserError(
                    f"task.slices names {name!r}; the dense columns are {', '.join(dense)}"
                )
        self.config = config
        self.data = data
        self.seed = seed
        self.device = device
        self.model: nn.Module = config.model.build(data.schema, data.sizes, seed=seed).to(device)
        self.num_train_batches = data.num_batches("train", config.batch_size)
        self._source = _source(config, data)

    def train_batches(self, epoch: int, start: int) -> Iterator[RankingBatch]:
        """Yield the shuffled training batches of an epoch, from batch `start` on."""
        for batch, _ in self.train_shares(epoch, start, rank=0, num_ranks=1):
            yield batch

    def train_shares(
        self, epoch: int, start: int, *, rank: int, num_ranks: int
    ) -> Iterator[tuple[RankingBatch, int]]:
        """Yield a rank's rows of each of these batches, and how many rows that batch has."""
        order = Order(
            batch_size=self.config.batch_size, seed=self.seed, epoch=epoch, start=start,
            rank=rank, num_ranks=num_ranks,
        )  # fmt: skip
        for number, batch in enumerate(self._source.batches(order), start):
            begin, end = order.rows_of(number, self.data.num_rows("train"))
            yield batch.to(self.device), end - begin

    def losses(self, batch: RankingBatch) -> Mapping[str, Tensor]:
        """Return the mean binary cross-entropy of the batch."""
        logits = self.model(batch)
        return {"loss": F.binary_cross_entropy_with_logits(logits.float(), batch.label)}

    def evaluate(self, split: str) -> Evaluation:
        """Return log-loss, NE, AUC, gAUC and calibration of a split, with slices by history and by
        `slices`.
        """
        metrics = RankingMetrics()
        sliced: dict[str, list[np.ndarray]] = {name: [] for name in self.config.slices}
        lengths: dict[str, list[np.ndarray]] = {name: [] for name in self.data.schema.groups()}
        for batch in self.data.batches(split, batch_size=EVALUATION_BATCH):
            logits = self.model(batch.to(self.device)).float().cpu().numpy()
            metrics.update(batch.label.numpy(), logits, batch.user.numpy())
            for name, parts in sliced.items():
                parts.append(batch.dense[:, self.data.schema.dense.index(name)].numpy())
            for name, parts in lengths.items():
                first = self.data.schema.groups()[name][0].name
                parts.append(batch.features[first].lengths().numpy())
        slices = {
            **{f"length of {name}": buckets(np.concatenate(p)) for name, p in lengths.items() if p},
            **{name: buckets(np.concatenate(parts)) for name, parts in sliced.items() if parts},
        }
        return ranking_evaluation(metrics, slices)


def _source(config: RankingTaskConfig, data: RankingData) -> BatchSource:
    """Return what makes the training batches."""
    if not config.readers:
        return data.reader("train")
    if config.readers_on == "here":
        return ReaderService(data.reader("train"), config.readers)
    from cuesta.data.reader_ray import RayReader

    return ReaderService(data.reader("train"), config.readers, RayReader)


def open_data(source: str) -> RankingData:
    """Return the opened log that `source` names; see `RankingTaskConfig.data`."""
    cache = data_root() / "encoders"
    if source in DATA_SETS:
        return open_ranking_data(get_data_set(source), cache_folder=cache)
    if source.startswith("stream."):
        size = source.removeprefix("stream.")
        if size not in STREAMS:
            raise UserError(
                f"no stream {source!r}; choose one of {', '.join(f'stream.{s}' for s in STREAMS)}"
            )
        folder = stream_folder(source)
        try:
            if not folder.exists():
                write_stream(STREAMS[size](), folder)
        except UserError:
            if not folder.exists():  # else another rank was faster
                raise
        return open_ranking_data(folder, cache_folder=cache)
    if not Path(source).exists():
        known = [*DATA_SETS, *(f"stream.{size}" for size in STREAMS)]
        raise UserError(f"no data {source!r}: neither a folder nor one of {', '.join(known)}")
    return open_ranking_data(source, cache_folder=cache)
