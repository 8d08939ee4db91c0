"""What ranks say when one fails: its own error, and on the others one line that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cuesta.engine.stop import TrainingStopped
from cuesta.errors import UserError
from cuesta.rec.neo import faults
from cuesta.rec.neo.faults import telling_others
from cuesta.rec.neo.ranks import RankLostError, Ranks
from tests.rec.neo.groups import run_ranks


@pytest.fixture(autouse=True)
def short_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_MOMENT_S", 0.3)


def said(ending: Callable[[], Exception] | None) -> str:
    """Return what rank 0 of three says when rank 1 ends so (None: without a word) in mid-exchange."""
    store, words = dist.HashStore(), []

    def work(ranks: Ranks) -> None:
        if ranks.rank == 1 and ending is None:
            return
        try:
            with telling_others(store, ranks.rank, 3):
                if ranks.rank == 1 and ending is not None:
                    raise ending()
                ranks.exchange(torch.ones(3), [1, 1, 1], [1, 1, 1]).wait()
        except (UserError, ZeroDivisionError, TrainingStopped) as error:
            if ranks.rank == 0:
                words.append(str(error))

    run_ranks(3, work)
    (first,) = words
    return first


def test_others_say_whose_error_it_was() -> None:
    assert said(lambda: ZeroDivisionError("nothing")) == "rank 1 failed: ZeroDivisionError: nothing"
    assert said(lambda: UserError("a full disk\nin two lines")) == "rank 1 failed: a full disk"


def test_a_rank_that_said_nothing_is_named() -> None:
    assert said(None).startswith("rank 1 ended without a word (killed, or out of memory?); resume")


def test_torchrun_is_told_of_the_error_and_not_of_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = dist.HashStore()
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(UserError), telling_others(store, 0, 2):
        raise RankLostError("Connection closed by peer")
    with pytest.raises(TrainingStopped), telling_others(store, 0, 2):
        raise TrainingStopped(tmp_path, step=3, signal_number=15)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError), telling_others(store, 0, 2):
        raise UserError("loss is nan")
    told = json.loads((tmp_path / "error.json").read_text())
    assert told["message"]["message"] == "UserError: loss is nan"


def test_a_store_that_ended_with_its_rank_is_no_second_error() -> None:
    class Gone(dist.Store):
        def set(self, *_: object) -> None:
            raise RuntimeError("Connection reset by peer")

        def check(self, *_: object) -> bool:
            raise RuntimeError("Connection reset by peer")

    with pytest.raises(UserError, match="rank 0, 1 ended"), telling_others(Gone(), 1, 2):
        raise RankLostError("Connection closed by peer")
