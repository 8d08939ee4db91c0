"""What the loop asks of the thing it trains: `Task`, the `TaskConfig` that builds it, and its
`Evaluation`.

A task owns its model, its data and its metrics; the loop owns everything else. The three methods
below are the whole contract, for a ranker and for a depth network alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from cuesta.engine.section import Section


@runtime_checkable
class Batch(Protocol):
    """Say how many examples a batch holds; all that the loop needs to know of it."""

    @property
    def num_rows(self) -> int:
        """Return the number of examples, at least one."""
        ...


BatchType = TypeVar("BatchType", bound=Batch)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Hold the metrics of one split, most important first, and what its report shows beside them.

    A metric that does not exist (an AUC of one class) is NaN. `meanings` explains metrics by name,
    in one line.
    """

    metrics: Mapping[str, float]
    meanings: Mapping[str, str] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()


@runtime_checkable
class Task(Protocol[BatchType]):
    """Turn batches into losses, and a split into an evaluation.

    `num_train_batches` is the number of batches of one epoch.
    """

    model: nn.Module
    num_train_batches: int

    def train_batches(self, epoch: int, start: int) -> Iterator[BatchType]:
        """Yield the batches of epoch `epoch` from number `start` on, equal at every call."""
        ...

    def losses(self, batch: BatchType) -> Mapping[str, Tensor]:
        """Return scalar losses, each a mean over the batch's rows; `loss` is trained on."""
        ...

    def evaluate(self, split: str) -> Evaluation:
        """Return the evaluation of `validation` or `test`; evaluation mode is set."""
        ...


@runtime_checkable
class TaskConfig(Protocol):
    """Be a frozen dataclass that builds its task; its fields are the flags `--task.…`."""

    def build(self, *, seed: int, device: torch.device) -> Task[Any]:
        """Return the task on `device`; equal seeds give equal weights and equal batches.

        `Any`, because the loop only hands a task its own batches back.
        """
        ...
