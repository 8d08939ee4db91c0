"""Two ranks under torchrun's agent that are killed at given moments, and start anew; then two that are not.

`victim.py MOMENTS KILLED UNBROKEN` trains into these two folders. Moments are words with commas, one for each time that
the ranks are started: `RANK@step:N` is killed after step N, `RANK@rename:N` just before the checkpoint of step N gets
its name. Ranks are forked, so that torch is imported once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import tensorboard
import torch
import torch._dynamo
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import cuesta.rec.baselines.recipes
from cuesta.cli.main import main
from cuesta.engine import finish, loop

IMPORTED_ONCE = (tensorboard, torch._dynamo, cuesta.rec.baselines.recipes)
SETTINGS = ("--loop.max-steps", "8", "--loop.evaluate-every", "4", "--loop.checkpoint-every", "3")


def launch(moments: str, folder: str) -> None:
    """Train on two ranks, which start anew once for each moment."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=Path(folder).name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=len(moments.split(",")),
        monitor_interval=0.1,
        start_method="fork",
    )
    elastic_launch(config, train)(moments, folder)


def train(moments: str, folder: str) -> None:
    """Be a rank."""
    torch.set_num_threads(1)
    finish.write_report = lambda *_: None
    planned = dict(enumerate(moments.split(",")))
    rank, _, moment = planned.get(int(os.environ["TORCHELASTIC_RESTART_COUNT"]), "").partition("@")
    if rank == os.environ["RANK"]:
        arm(moment)
    main(["train", "dlrm.debug", "--out", folder, *SETTINGS])


def arm(moment: str) -> None:
    """Prepare this process's end."""
    kind, _, number = moment.partition(":")
    step = int(number)
    rename, count = os.rename, loop._Training._count

    def kill_or_rename(source: Path, target: Path) -> None:
        if Path(target).name == f"step-{step:09d}":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    def kill_or_count(training: Any, *args: Any) -> None:
        if training.state.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        count(training, *args)

    if kind == "rename":
        os.rename = kill_or_rename
    else:
        loop._Training._count = kill_or_count


if __name__ == "__main__":
    launch(sys.argv[1], sys.argv[2])
    launch("", sys.argv[3])
