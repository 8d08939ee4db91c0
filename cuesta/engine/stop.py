"""Ending a run early without losing anything: SIGTERM and Ctrl-C ask the loop to save and stop.

The handlers only note the signal; the loop looks after each step. A second signal of the same kind
does what it would have done without us. Outside the main thread, where Python allows no handlers,
nothing is caught.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType


@dataclass
class StopRequest:
    """Hold the signal that asked for the end, None while there was none."""

    signal_number: int | None = None


class TrainingStopped(Exception):  # noqa: N818 (an outcome, not an error)
    """Say that a signal ended the run after it saved; `exit_status` is the shell's 128 + signal."""

    def __init__(self, folder: Path, *, step: int, signal_number: int) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"{name}: saved {folder} at step {step}; resume it to continue")
        self.step = step
        self.exit_status = 128 + signal_number


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yield a request that SIGTERM or SIGINT fills in; restore the handlers afterwards."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(signal_number: int, _frame: FrameType | None) -> None:
        request.signal_number = signal_number
        signal.signal(signal_number, before[signal_number])

    numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
