"""TensorBoard events of a run: losses, rate and validation metrics by step."""

from __future__ import annotations

from pathlib import Path
from typing import final

from cuesta.engine.progress import Progress


@final
class Events:
    """Write scalars for TensorBoard; on resume, points after `from_step` are hidden as never having
    happened.
    """

    def __init__(self, folder: Path, *, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=from_step + 1)

    def add(self, progress: Progress) -> None:
        """Write one point of everything that `progress` holds."""
        for name, value in progress.losses.items():
            self._writer.add_scalar(f"train/{name}", value, progress.step)
        if progress.metrics is None:
            rate = progress.examples_per_second
            self._writer.add_scalar("train/examples_per_second", rate, progress.step)
        for name, value in (progress.metrics or {}).items():
            self._writer.add_scalar(f"validation/{name}", value, progress.step)

    def close(self) -> None:
        """Write what is buffered and close the file."""
        self._writer.close()
