"""`cuesta bench tiers`: training steps of a DLRM whose tables are four times larger than the memory that they may take.

Each contender is a process of its own, and they take turns on the same batches. Those that must not hold all tables
build them, and train, in a control group that may take a quarter of the tables' bytes and what a step works with; so
the system's own cache of the file is limited too. Where no control group can be made the result says so. Caches are
filled before: rows are moved until half as many again have missed as there are lines. Before anything is timed the
logits of the tiered model are compared with those of the one in memory: the same bits.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cuesta.cli.bench.harness import (
    OURS,
    WARM_UP,
    Bar,
    Contender,
    Findings,
    Settings,
    check_bars,
    progress,
    rate_rows,
    refuse,
    time_in_turns,
)
from cuesta.cli.bench.ids import IdBatch
from cuesta.cli.bench.models import ROWWISE, CuestaModel, ModelBatch, ModelCase, case_tables
from cuesta.nn import EmbeddingBags
from cuesta.nn.embedding import draw_into, unallocated_tables
from cuesta.rec.neo.row_cache import Policy
from cuesta.rec.neo.tiers import TieredEmbeddingBags, Tiers

BENCH = "tiers"
IN_MEMORY, NOT_AHEAD, BY_USE = (
    "all in memory",
    "cuesta, rows not ahead",
    "cuesta, least often used leaves",
)
MAPPED = "tables mapped from a file, no cache"
LEAST = 0.6  # of the rate in memory
_BUDGET = 1 / 4  # of the tables
_FAST = {
    "lru": 0.18,
    "lfu": 0.15,
}  # of the rows: the map of all rows, counts and the system's cache take the rest
_FILLED = 1.5  # rows moved before, of the lines
_DRAWN = 2  # ids for that, of the rows
_WORKING_BYTES = 160 << 20  # what a step takes beside tables
_GROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)


class _Ready(NamedTuple):
    """Say that a contender is built, and whether its memory is limited."""

    is_limited: bool


def measure(settings: Settings) -> Findings:
    """Prove and time every case."""
    findings, bars = Findings(), []
    for case in _cases(settings):
        progress(f"{BENCH}: {case.name}")
        if (wrong := _difference(case.small())) is not None:
            refuse(BENCH, f"{case.name}: {wrong}")
        seconds, counts, is_limited = _time(case, settings)
        findings.rows += rate_rows(case.name, seconds, case.batch_size, "examples/s")
        findings.note(
            f"{case.name}: of each batch's rows these missed the cache, in the mean: "
            + ", ".join(f"{name} {share:.0f}" for name, share in counts.items())
        )
        if not is_limited:
            findings.note("no control group could be made here: the system's cache was not limited")
        bars.append(Bar(case.name, (IN_MEMORY,), LEAST))
    findings.note(
        "before: logits of the tiered model equal to the bit to those of the one in memory"
    )
    if not settings.quick:
        check_bars(findings, bars)
    return findings


def _difference(case: ModelCase) -> str | None:
    """Return how training with tiers differs from training without."""
    batches = ModelBatch.draw(case, case.ids.ragged_batches(4))
    with tempfile.TemporaryDirectory(prefix="cuesta-bench-") as folder:
        logits = [
            torch.stack([model.prepare(batch)() for batch in batches])
            for model in (_model(OURS, case, Path(folder)), _model(IN_MEMORY, case, Path(folder)))
        ]
    return None if torch.equal(*logits) else "logits differ from those of the model in memory"


def _time(
    case: ModelCase, settings: Settings
) -> tuple[dict[str, list[float]], dict[str, float], bool]:
    """Return seconds by contender, the rows that each misses a batch, and whether memory was limited."""
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="cuesta-bench-", dir=Path.cwd()) as folder:
        pipes, workers, limited = {}, [], []
        names = (
            (OURS, IN_MEMORY) if settings.quick else (OURS, BY_USE, NOT_AHEAD, MAPPED, IN_MEMORY)
        )
        for name in names:
            ours, theirs = context.Pipe()
            worker = context.Process(
                target=_train, args=(name, case, settings, Path(folder), theirs), daemon=True
            )  # a daemon ends with this process, also where another contender failed
            worker.start()
            theirs.close()
            workers.append(worker)
            pipes[name] = ours
            ready = _answer(name, ours)
            assert isinstance(ready, _Ready)
            limited += [ready.is_limited] if name != IN_MEMORY else []

        def contender(name: str) -> Contender:
            def run(repetition: int) -> None:
                pipes[name].send(repetition)
                _answer(name, pipes[name])

            return Contender(name, run)

        seconds = time_in_turns([contender(name) for name in pipes], settings.repetitions)
        counts = {}
        for name, pipe in pipes.items():
            pipe.send(None)
            misses = _answer(name, pipe)
            if isinstance(misses, float):
                counts[name] = misses
        for worker in workers:
            worker.join()
    return seconds, counts, all(limited)


def _answer(name: str, pipe: Connection) -> object:
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError(f"{BENCH}: {name!r} ended early; its error is above") from None


def _train(name: str, case: ModelCase, settings: Settings, folder: Path, pipe: Connection) -> None:
    """Be a contender: do the step of each number that comes, then say how many rows missed."""
    timed = WARM_UP + settings.repetitions
    ids_a_batch = case.num_tables * case.batch_size * case.ids_per_bag
    ids = case.ids.batches(timed + _DRAWN * case.num_tables * case.rows // ids_a_batch)
    batches, filling = ModelBatch.draw(case, ids[:timed]), ids[timed:]
    num_bytes = 4 * case.num_tables * case.rows * case.dim
    limit = None if name == IN_MEMORY else int(_BUDGET * num_bytes) + _WORKING_BYTES
    small = case.small()
    first = ModelBatch.draw(small, small.ids.batches(1))[0]
    _model(name, small, folder).prepare(first)()  # what is imported and compiled is no table
    with _limited(limit) as is_limited:
        model = _model(name, case, folder)
        bags = model.embeddings
        if isinstance(bags, TieredEmbeddingBags):
            _fill(bags, filling, int(bags.tiers.fast * case.num_tables * case.rows))
        pipe.send(_Ready(is_limited))
        before = 0
        while (number := pipe.recv()) is not None:
            if number == WARM_UP and isinstance(bags, TieredEmbeddingBags):
                before = bags.counts().misses
            step = model.prepare(batches[number])
            if isinstance(bags, TieredEmbeddingBags) and name != NOT_AHEAD:
                bags.prefetch(batches[number].ids.features)  # where none did, and before the next
                if number + 1 < len(batches):
                    bags.prefetch(batches[number + 1].ids.features)
            step()
            if isinstance(bags, TieredEmbeddingBags):
                bags.wait()  # for the next batch's rows, which would else move in another contender's turn
            pipe.send(time.time())
        if isinstance(bags, TieredEmbeddingBags):
            pipe.send((bags.counts().misses - before) / settings.repetitions)
        else:
            pipe.send(None)


def _fill(bags: TieredEmbeddingBags, batches: Iterable[IdBatch], num_lines: int) -> None:
    """Move the rows of batches until half as many again have missed as there are lines: as in a long training."""
    for batch in batches:
        bags.prefetch(batch.features)
        bags.forget()
        if bags.counts().misses >= _FILLED * num_lines:
            return


@contextmanager
def _limited(num_bytes: int | None) -> Iterator[bool]:
    """Let this process take that much more memory, the system's cache of its files included, if that can be said."""
    if num_bytes is None:
        yield False
        return
    for root, name in _GROUPS:
        group = root / f"cuesta-{os.getpid()}"
        try:
            if not (root / "cgroup.procs").exists():
                continue
            group.mkdir()
            (group / name).write_text(str(num_bytes), encoding="ascii")
            (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        except OSError:
            continue
        try:
            yield True
        finally:
            (root / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
            group.rmdir()
        return
    yield False


def _model(name: str, case: ModelCase, folder: Path) -> CuestaModel:
    """Return the model of a contender; all start from the same weights."""
    if name == IN_MEMORY:
        return CuestaModel(case, "adamw", embeddings=EmbeddingBags(case_tables(case), ROWWISE))
    if name == MAPPED:
        return _mapped(case, folder)
    policy: Policy = "lfu" if name == BY_USE else "lru"
    tiers = Tiers(fast=_FAST[policy], folder=folder, policy=policy)
    bags = TieredEmbeddingBags(case_tables(case), ROWWISE, tiers)
    return CuestaModel(case, "adamw", embeddings=bags)


def _mapped(case: ModelCase, folder: Path) -> CuestaModel:
    """Return the model whose tables and moments are a file that the system pages in and out."""
    with unallocated_tables():
        bags = EmbeddingBags(case_tables(case), ROWWISE)
    rows = case.num_tables * case.rows
    with tempfile.TemporaryFile(dir=folder) as file:
        flat = torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(rows * (case.dim + 1),)))
    bags.weight, bags.first = flat.split([rows * case.dim, rows])
    bags.second = torch.zeros(0)
    draw_into(bags.tables, [bags.table(table.name) for table in bags.tables], bags.seed)
    return CuestaModel(case, "adamw", embeddings=bags)


def _cases(settings: Settings) -> list[ModelCase]:
    if settings.quick:
        return [
            ModelCase(
                name="2 x 2k x 8, 3 ids, MLP 16 / 16", num_tables=2, rows=2000, dim=8, ids_per_bag=3,
                bottom=(16,), top=(16,), num_dense=3, batch_size=64,
            )
        ]  # fmt: skip
    return [
        ModelCase(
            name=f"8 x 1M x 32, {ids} ids, Zipf 1.05, MLP 512-256 / 512-256",
            num_tables=8, rows=1_000_000, dim=32, ids_per_bag=ids, zipf=1.05,
        )
        for ids in (1, 10)
    ]  # fmt: skip
