"""`cuesta` as a rank that is killed at given moments: what `torchrun` and `cuesta train --ranks` start in tests.

`victim.py MOMENTS ARGUMENTS...` runs `cuesta ARGUMENTS`. Moments are words with commas, one for each time that the
ranks are started: `RANK@step:N` is killed after step N, `RANK@rename:N` just before the checkpoint of step N gets its
name, `RANK@error:N` raises after step N; a moment beyond the last is none.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from cuesta.cli.main import main
from cuesta.engine import loop


def arm(moment: str) -> None:
    """Prepare this process's end."""
    kind, _, number = moment.partition(":")
    step = int(number)
    if kind == "rename":
        rename = os.rename

        def kill_or_rename(source: Path, target: Path) -> None:
            if Path(target).name == f"step-{step:09d}":
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)

        os.rename = kill_or_rename  # type: ignore[assignment]
        return
    count = loop._Training._count

    def count_and_end(training: Any, *args: Any) -> None:
        count(training, *args)
        if training.state.step == step:
            if kind == "error":
                raise ZeroDivisionError("nothing to divide by")
            os.kill(os.getpid(), signal.SIGKILL)

    loop._Training._count = count_and_end  # type: ignore[method-assign]


if __name__ == "__main__":
    moments = dict(enumerate(sys.argv[1].split(",")))
    rank, _, moment = moments.get(int(os.environ["TORCHELASTIC_RESTART_COUNT"]), "").partition("@")
    if rank == os.environ["RANK"]:
        arm(moment)
    main(sys.argv[2:])
