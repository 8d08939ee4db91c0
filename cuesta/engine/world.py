"""`World`: the processes that train one model together. This one is the process alone; Neo's has many ranks.

The loop is the same on every rank: each has its own rows of every batch and gives its part of sums that all then
hold: losses, gradients, a request to stop. Only the first rank writes the run folder, but for what is spread
over ranks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cuesta.data.files import atomic_folder
from cuesta.engine.run_folder import RunFolder
from cuesta.engine.task import BatchType, Task, TaskConfig
from cuesta.engine.tensor_files import kept, load_weights, save_tensors
from cuesta.engine.waits import Waits


class World:
    """Be the only process. Methods are called by all ranks of a world, in the same order.

    `folder` alone may be called from a thread of its own, where `saves_apart` says so. `waits` are this rank's.
    """

    rank = 0
    size = 1
    saves_apart = True

    def __init__(self) -> None:
        self.waits = Waits()

    def alone(self) -> World:
        """Return the world of this process by itself, which reads what all ranks wrote."""
        return self

    def build(self, config: TaskConfig, *, seed: int, device: torch.device) -> Task[Any]:
        """Return the task, whose batches have the rows of this rank."""
        return config.build(seed=seed, device=device)

    def batches(self, task: Task[BatchType], epoch: int, start: int) -> Iterator[BatchType]:
        """Yield the batches of an epoch, and count the waits for them."""
        return self.waits.each("reader", task.train_batches(epoch, start))

    def first(self, work: Callable[[], None]) -> None:
        """Let the first rank do this; its error is raised on all."""
        work()

    def add(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum of each number over all ranks."""
        return list(numbers)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over all ranks."""

    @contextmanager
    def folder(self, path: Path) -> Iterator[Path]:
        """Yield a temporary folder that all ranks write to; it becomes `path`, replaced, when all are done."""
        with atomic_folder(path, overwrite=True) as temporary:
            yield temporary

    @contextmanager
    def journals(self, run: RunFolder) -> Iterator[RunFolder]:
        """Yield where this rank keeps its journals: the run folder for the first."""
        if self.rank == 0:
            yield run
            return
        with tempfile.TemporaryDirectory(prefix="cuesta-rank-") as scratch:
            yield RunFolder(Path(scratch))

    def snapshot(self, model: nn.Module, *, copies: bool) -> Callable[[Path], None]:
        """Return what writes the model's weights, and tables with their moments, into a `folder`.

        They are as now if they are `copies`, and else as they are when they are written.
        """
        tensors = kept(model.state_dict(), copies=copies)
        return lambda folder: save_tensors(folder / "model.safetensors", tensors)

    def load_model(self, folder: Path, model: nn.Module) -> None:
        """Read what `snapshot` wrote. Raises `UserError` naming a tensor that does not fit."""
        load_weights(folder / "model.safetensors", model)
