"""Train the small recipe again and again, each time in a child that ends itself at a given moment.

Reads lines of `FOLDER MOMENT [--resume]` and answers each with the child's exit status. A moment is
`never`, `step:N` (killed after step N), `term:N` (SIGTERM after step N) or `rename:N` (killed just
before the checkpoint of step N gets its name). Children are forked, so that torch is imported once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import matplotlib.figure
import tensorboard
import torch
import torch._dynamo
from small_task import small_recipe

from cuesta.engine.loop import train
from cuesta.engine.progress import Progress
from cuesta.engine.stop import TrainingStopped

IMPORTED_ONCE = (matplotlib.figure, tensorboard, torch._dynamo)


def train_until(folder: str, moment: str, *flags: str) -> int:
    """Train; return the exit status of a stopped run."""
    kind, _, number = moment.partition(":")

    def end_at_step(progress: Progress) -> None:
        if kind in ("step", "term") and progress.step == int(number) and progress.metrics is None:
            os.kill(os.getpid(), signal.SIGKILL if kind == "step" else signal.SIGTERM)

    if kind == "rename":
        kill_before_rename(f"step-{int(number):09d}")
    try:
        train(small_recipe(), folder, resume="--resume" in flags, on_progress=end_at_step)
    except TrainingStopped as stopped:
        return stopped.exit_status
    return 0


def kill_before_rename(name: str) -> None:
    """Kill this process when a folder is about to get this name."""
    rename = os.rename

    def kill_or_rename(source: Path, target: Path) -> None:
        if Path(target).name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.rename = kill_or_rename


def main() -> None:
    """Fork a child for every line and print what became of it."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = train_until(*line.split())
            finally:
                os._exit(status)
        _, wait_status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(wait_status), flush=True)


if __name__ == "__main__":
    main()
