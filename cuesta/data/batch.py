"""`RankingBatch`: what a ranking model is fed, one row an impression.

Ids are int64: a hashed table may exceed 2^31 rows once it is sharded, kernels compute addresses in
int64 anyway, and one dtype is one specialisation of each kernel. Holding ids as int32 in the reader
was measured no faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cuesta.data.parts import Layout, Part
from cuesta.ragged import RaggedFeatures


@final
@dataclass(frozen=True, eq=False)
class RankingBatch:
    """Hold B labelled impressions.

    `label` is 0 or 1; `dense` holds the D dense columns as they are in the file, float32, in the
    schema's order; `features` the id features, one id a row or ragged; `user` the group for gAUC
    (an integer as it is, a string's 64-bit hash); `time` the schema's time column in seconds.
    """

    label: Float[Tensor, " B"]
    dense: Float[Tensor, "B D"]
    features: RaggedFeatures
    user: Int64[Tensor, " B"]
    time: Int64[Tensor, " B"]

    def __post_init__(self) -> None:
        rows = {
            "label": self.label.shape[0],
            "dense": self.dense.shape[0],
            "features": self.features.num_rows,
            "user": self.user.shape[0],
            "time": self.time.shape[0],
        }
        if len(set(rows.values())) > 1:
            raise ValueError(f"all parts of a batch must have the same number of rows, got {rows}")

    @property
    def num_rows(self) -> int:
        """Return B."""
        return self.label.shape[0]

    def select_rows(self, rows: Int64[Tensor, " chosen"]) -> RankingBatch:
        """Return these rows, in the given order."""
        return RankingBatch(
            self.label[rows],
            self.dense[rows],
            self.features.select_rows(rows),
            self.user[rows],
            self.time[rows],
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> RankingBatch:
        """Return this batch on `device`."""
        return RankingBatch(
            self.label.to(device, non_blocking=non_blocking),
            self.dense.to(device, non_blocking=non_blocking),
            self.features.to(device, non_blocking=non_blocking),
            self.user.to(device, non_blocking=non_blocking),
            self.time.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> RankingBatch:
        """Return a copy in page-locked host memory."""
        return RankingBatch(
            self.label.pin_memory(),
            self.dense.pin_memory(),
            self.features.pin_memory(),
            self.user.pin_memory(),
            self.time.pin_memory(),
        )


def batch_of(layout: Layout, part: Part) -> RankingBatch:
    """Return the batch that shares the memory of a part."""
    views = layout.views(part)
    weights = None if views.weights is None else torch.from_numpy(views.weights)
    return RankingBatch(
        label=torch.from_numpy(views.label),
        dense=torch.from_numpy(views.dense),
        features=RaggedFeatures(
            layout.keys, torch.from_numpy(views.values), torch.from_numpy(part.offsets), weights
        ),
        user=torch.from_numpy(views.user),
        time=torch.from_numpy(views.time),
    )
