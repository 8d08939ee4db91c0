"""TensorBoard events of a run: losses, rate and validation metrics by step.

Written record by record in this thread: tensorboard's own writer has a thread of its own, which
prints a traceback when the disk is full.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, final

from cuesta.engine.progress import Progress

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event


@final
class Events:
    """Write scalars; on resume, TensorBoard is told to forget the points after `from_step`."""

    def __init__(self, folder: Path, *, from_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        begun = SessionLog(status=SessionLog.START)
        self._write(Event(step=from_step + 1, session_log=begun))

    def add(self, progress: Progress) -> None:
        """Write one point of everything that `progress` holds."""
        if progress.metrics is None:
            losses = {**progress.losses, "examples_per_second": progress.examples_per_second}
            self._add_scalars("train", losses, progress.step)
        else:
            self._add_scalars("validation", progress.metrics, progress.step)

    def close(self) -> None:
        """Write what is buffered and close the file."""
        self._file.close()

    def _add_scalars(self, group: str, scalars: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=f"{group}/{name}", simple_value=value)
            for name, value in scalars.items()
        ]
        self._write(Event(step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
