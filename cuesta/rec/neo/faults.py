"""What ranks say when one of them fails: that one its own error, the others in one line whose it was.

A rank that is killed says nothing: the others see an exchange break off. Each leaves a word in the store where the
ranks met, waits a moment, and reads which said why they failed, and which said nothing. In that moment whoever started
the ranks (`torchrun`, or `cuesta train --ranks`) sees the one that failed end first, and so names it as the cause.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from cuesta.engine.stop import TrainingStopped
from cuesta.errors import UserError
from cuesta.rec.neo.ranks import RankLostError

_MOMENT_S = 1.5


@contextmanager
def telling_others(store: dist.Store, rank: int, size: int) -> Iterator[None]:
    """Tell the other ranks of an error in the block, and `torchrun` too; turn the loss of a rank into a `UserError`."""
    try:
        yield
    except RankLostError as lost:
        raise UserError(_whose_fault(store, rank, size)) from lost
    except TrainingStopped:
        raise
    except Exception as error:
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        _say(store, rank, words)
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            ErrorHandler().record_exception(error)
        raise


def _whose_fault(store: dist.Store, rank: int, size: int) -> str:
    """Return which ranks failed, and why, as far as they said."""
    _say(store, rank, "")  # so that nobody takes this one for dead
    time.sleep(_MOMENT_S)
    failed, silent = [], []
    for other in range(size):
        try:
            words = store.get(_key(other)).decode() if store.check([_key(other)]) else None
        except RuntimeError:  # the store was that rank's
            words = None
        if words is None:
            silent.append(str(other))
        elif words:
            failed.append(f"rank {other} failed: {words.splitlines()[0]}")
    if failed:
        return "; ".join(failed)
    if silent:
        return (
            f"rank {', '.join(silent)} ended without a word (killed, or out of memory?); resume the run, or let "
            "--max-restarts do so"
        )
    return "the ranks lost their connection; resume the run, or let --max-restarts do so"


def _say(store: dist.Store, rank: int, words: str) -> None:
    try:
        store.set(_key(rank), words)
    except RuntimeError:  # whose process kept the store has ended: then nobody is there to read
        return


def _key(rank: int) -> str:
    return f"cuesta/failed/{rank}"
