"""The reader service: for any number of readers the batches of one process, bit for bit; and its ends."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cuesta.data import RankingBatch, RankingData, open_ranking_data
from cuesta.data.order import Order
from cuesta.data.parts import Allocate, Layout, Part, Placed, merge
from cuesta.data.reader import Reader
from cuesta.data.reader_service import SLOTS, PartSource, ReaderProcess, ReaderService
from cuesta.engine.loop import train
from cuesta.engine.progress import Progress
from cuesta.errors import UserError
from cuesta.rec.baselines.recipes import dlrm_debug
from tests.data.logs import log_frame, log_schema, write_log
from tests.data.test_reader import equal

NUM_ROWS = 500
NUM_TRAINING = 300
orders = st.builds(
    Order,
    batch_size=st.sampled_from([3, 31, 64, 130]),
    seed=st.one_of(st.none(), st.integers(0, 3)),
    epoch=st.integers(0, 2),
    start=st.sampled_from([0, 0, 1, 3]),
    drop_last=st.booleans(),
    window_bytes=st.sampled_from([1, 5_000, 10**9]),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RankingData:
    """A log with histories, hashes, weights, strings and empty lists, in 15 row groups."""
    return open_ranking_data(
        write_log(log_frame(NUM_ROWS), tmp_path_factory.mktemp("log"), files=3), log_schema()
    )


@pytest.fixture(scope="module")
def service(data: RankingData) -> Iterator[ReaderService]:
    """Two processes for all tests that do not end them."""
    service = ReaderService(data.reader("train"), 2)
    yield service
    service.close()


class InThisProcess:
    """Be a reader without a process."""

    def __init__(self, reader: Reader, number: int, of: int) -> None:
        self.reader, self.number, self.of = reader, number, of
        self.parts: Iterator[Part] = iter(())

    def begin(self, order: Order) -> None:
        def memory() -> Allocate:
            return np.empty

        self.parts = self.reader.parts(order, self.number, self.of, memory)

    def next_part(self, batch: str) -> Part:
        del batch
        return next(self.parts)

    def stop(self) -> None:
        self.parts = iter(())


def service_here(reader: Reader, num_readers: int) -> ReaderService:
    return ReaderService(reader, num_readers, InThisProcess)


def same(ours: Iterator[RankingBatch], theirs: Iterator[RankingBatch]) -> bool:
    return all(equal(left, right) for left, right in zip(ours, theirs, strict=True))


def readers_alive() -> set[int]:
    """Return the reader processes that this process has started and not seen end."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"cuesta reader" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def shared_memory() -> set[str]:
    """Return the slots that this process holds open or has mapped."""
    gc.collect()  # an error holds the frames it came through
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = {line.split()[4] for line in maps if "cuesta-reader" in line}
    files = {name for name in os.listdir("/proc/self/fd") if "cuesta-reader" in _target(name)}
    return mapped | files


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""


@example(Order(batch_size=64, seed=1), 3)  # one window, shuffled over all readers
@given(orders, st.integers(1, 4))
def test_any_number_of_readers_makes_the_batches_of_one(
    data: RankingData, order: Order, num_readers: int
) -> None:
    reader = data.reader("train")
    service = service_here(reader, num_readers)
    assert same(service.batches(order), reader.batches(order))
    service.close()


@settings(max_examples=10)
@given(orders, st.integers(1, 4), st.integers(1, 3))
def test_ranks_get_the_rows_that_select_rows_would_give(
    data: RankingData, order: Order, num_ranks: int, num_readers: int
) -> None:
    reader = data.reader("train")
    whole = list(reader.batches(order))
    for rank in range(num_ranks):
        own = dataclasses.replace(order, rank=rank, num_ranks=num_ranks)
        bounds = [[b.num_rows * r // num_ranks for r in (rank, rank + 1)] for b in whole]
        rows = [torch.arange(*each) for each in bounds]
        expected = [batch.select_rows(each) for batch, each in zip(whole, rows, strict=True)]
        assert same(iter(expected), reader.batches(own))
        service = service_here(reader, num_readers)
        assert same(iter(expected), service.batches(own))
        service.close()


def test_every_row_group_is_decoded_once(
    data: RankingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = type(data.log).read
    monkeypatch.setattr(
        type(data.log), "read", lambda log, *given: read.append(given[0]) or original(log, *given)
    )
    for _ in service_here(data.reader("train"), 3).batches(Order(batch_size=32, seed=0)):
        pass
    assert sorted(read) == [n for n, g in enumerate(data.log.groups) if g.first < NUM_TRAINING]


def test_a_part_is_three_arrays_however_many_features(data: RankingData) -> None:
    layout = Layout.of(data.schema)
    reader = data.reader("train")
    parts = list(reader.parts(Order(batch_size=100), 0, 1, lambda: np.empty))
    assert {len(part) for part in parts} == {3}
    places = [np.arange(100), np.arange(100, 200), np.arange(200, 300)]
    whole = merge(layout, [Placed(*each) for each in zip(parts, places, strict=True)], 300)
    (expected,) = reader.parts(Order(batch_size=300), 0, 1, lambda: np.empty)
    assert all(map(np.array_equal, whole, expected))


def test_processes_make_the_same_batches_epoch_after_epoch(
    data: RankingData, service: ReaderService
) -> None:
    reader = data.reader("train")
    for order in (
        Order(batch_size=64),
        Order(batch_size=50, seed=1, window_bytes=5_000, start=2),
        Order(batch_size=7, seed=1, epoch=3, window_bytes=1),
        Order(batch_size=300, seed=2),  # larger than the slots were before
        Order(batch_size=32, seed=1, rank=1, num_ranks=2),
    ):
        assert same(service.batches(order), reader.batches(order))
        assert len(readers_alive()) == 2
    assert list(service.batches(Order(batch_size=64, start=9))) == []


def test_a_reader_ahead_waits(data: RankingData) -> None:
    """It fills its slots and no more, until one is given back."""
    process = ReaderProcess(dataclasses.replace(data.reader("train"), spare=[]), 0, 1)
    process.begin(Order(batch_size=10))
    process.next_part("batch 0")
    while process._channel.poll(0.5):
        process._channel.recv()
    held = [slot for slot in process._slots if os.fstat(slot.file).st_size]
    assert len(held) == SLOTS
    process._channel.close()  # as the end of the consumer does
    assert process._process.wait(20) == 0
    process.stop()


def test_a_reader_that_is_killed_ends_in_one_line_and_nothing_is_left(data: RankingData) -> None:
    before = readers_alive(), shared_memory()
    service = ReaderService(data.reader("train"), 2)
    batches = service.batches(Order(batch_size=1))
    next(batches)
    victim = min(readers_alive() - before[0])
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(
        UserError,
        match=rf"^reader \d of 2 \(process {victim}\) was killed by SIGKILL.* at .*/part_\d.parquet: "
        r"row group \d+, while batch \d+ of epoch 0 waited for it; train on with --resume.*$",
    ):
        list(batches)
    assert (readers_alive(), shared_memory()) == before
    assert same(service.batches(Order(batch_size=99)), data.batches("train", batch_size=99))
    batches = service.batches(Order(batch_size=1))  # closed early
    next(batches)
    batches.close()
    assert (readers_alive(), shared_memory()) == before


def test_a_bad_row_is_named_with_the_reader(tmp_path: Path) -> None:
    bad = log_frame(200).with_columns(
        clicked=pl.when(pl.col("row") == 100).then(2).otherwise("clicked")
    )
    data = open_ranking_data(write_log(bad, tmp_path), log_schema())
    with pytest.raises(
        UserError,
        match=r"^reader 1 of 1, at batch 2 of epoch 0: .*part_0.parquet: row group 2, row 26: clicked is 2",
    ):
        list(ReaderService(data.reader("train"), 1).batches(Order(batch_size=37)))
    with pytest.raises(UserError, match="at least 1 reader, got 0"):
        ReaderService(data.reader("train"), 0)


def test_training_goes_on_after_a_reader_was_killed(tmp_path: Path) -> None:
    """Losses are those of the run that read alone, and `readers` may change at resumption."""
    recipe = dlrm_debug()
    loop = dataclasses.replace(recipe.loop, max_steps=24, evaluate_every=24, checkpoint_every=4)
    recipe = dataclasses.replace(recipe, loop=loop)
    task = dataclasses.replace(recipe.task, readers=1)
    before = readers_alive()

    def kill_at_6(progress: Progress) -> None:
        if progress.step == 6:
            os.kill(min(readers_alive() - before), signal.SIGKILL)

    train(recipe, tmp_path / "alone")
    served = dataclasses.replace(recipe, task=task)
    with pytest.raises(UserError, match="killed by SIGKILL"):
        train(served, tmp_path / "served", on_progress=kill_at_6)
    train(recipe, tmp_path / "served", resume=True)
    losses = [(tmp_path / run / "losses.jsonl").read_bytes() for run in ("alone", "served")]
    assert losses[0] == losses[1]
    assert "readers" not in json.loads((tmp_path / "served" / "recipe.json").read_text())["task"]


def test_readers_import_no_torch() -> None:
    script = "import sys, cuesta.data.reader_process; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_actors_of_ray_make_the_same_batches(data: RankingData) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    from cuesta.data.reader_ray import RayReader

    reader = data.reader("train")
    kind: Callable[[Reader, int, int], PartSource] = RayReader
    service = ReaderService(reader, 2, kind)
    for order in (Order(batch_size=50, seed=1, start=2), Order(batch_size=64, rank=1, num_ranks=2)):
        assert same(service.batches(order), reader.batches(order))
    batches = service.batches(Order(batch_size=1))
    next(batches)
    batches.close()
    service.close()
