"""`cuesta bench dlrm_sharded`: training steps of one DLRM on 2 and 4 gloo ranks, against TorchRec with FBGEMM.

Every rank is a process of its own, with its share of the cores; all build both models from the same weights, plan
and batches, and take turns on them in an order drawn anew each time. A step is timed from a barrier to the last
rank's end. The proof, before every case: the logits of four steps of all ranks and the tables after them against an
unsharded float64 reference on their batches one below the other, with SGD on the dense part. Last, what sending ids
ahead saves: steps with every exchange 20 ms late, and the same with ids sent while the batch before trains, whose
logits must be equal to the bit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from cuesta.cli.bench.dlrm import LEEWAY, PROOF_STEPS
from cuesta.cli.bench.harness import (
    OURS,
    WARM_UP,
    Answer,
    Bar,
    Findings,
    Settings,
    check_bars,
    progress,
    rate_rows,
    refuse,
    time_rows,
    wrong_answer,
)
from cuesta.cli.bench.ids import IdBatch
from cuesta.cli.bench.models import ROWWISE, CuestaModel, ModelBatch, ModelCase
from cuesta.cli.bench.peers import FBGEMM, TORCHREC, importable, quietly
from cuesta.cli.bench.sharded_models import (
    PROVIDERS,
    LateRanks,
    Way,
    sharded_cuesta,
    whole_tables,
)
from cuesta.ops import force_body
from cuesta.ragged import RaggedFeatures
from cuesta.rec.neo.calibration import on_ranks
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.sharded import ShardedEmbeddingBags

BENCH = "dlrm_sharded"
WORLDS = (2, 4)
_BATCH = 1024  # rows a rank
LEAST = 2.0  # times TorchRec's examples a second
_LATE_S = 0.02
_ONE_AT_A_TIME = "cuesta, ids not ahead"
_LEAST_AHEAD = 1 / (1 - 0.35)  # times: 35 % less


class _Found(NamedTuple):
    """Hold the cases by name, seconds by provider and what is wrong with some; and steps with late exchanges."""

    cases: list[tuple[str, dict[str, list[float]], dict[str, str]]]
    late: dict[str, list[float]]


def measure(settings: Settings) -> Findings:
    """Prove and time all cases on each number of ranks."""
    findings = Findings()
    providers = [OURS]
    if len(importable([FBGEMM, TORCHREC], findings, bench=BENCH)) == 2:
        providers.append("TorchRec + FBGEMM")
    bars = []
    for world in WORLDS[:1] if settings.quick else WORLDS:
        progress(f"{BENCH}: {world} ranks")
        found = on_ranks(world, partial(_found, providers, settings))
        for name, seconds, wrong in found.cases:
            case = f"{world} ranks, {name}"
            for provider, reason in wrong.items():
                if provider == OURS:
                    refuse(BENCH, f"{case}: {reason}")
                findings.note(f"not timed: {provider}, {case}: {reason}")
            batch = world * _cases(settings)[0][1].batch_size
            findings.rows += rate_rows(case, seconds, batch, "examples/s")
            bars.append(Bar(case, ("TorchRec + FBGEMM",), LEAST))
        late = f"{world} ranks, {_late_case(settings).name}, every exchange 20 ms late"
        findings.rows += time_rows(late, found.late)
        bars.append(Bar(late, (_ONE_AT_A_TIME,), _LEAST_AHEAD))
    findings.note(
        "equality proved before every case: logits of all ranks over "
        f"{PROOF_STEPS} steps and all tables after them against an unsharded float64 reference"
    )
    if not settings.quick:
        check_bars(findings, bars)
    return findings


def _found(providers: Sequence[str], settings: Settings, _: Ranks) -> _Found:
    """Prove and time all cases, as one of the ranks of the default group."""
    found = []
    for way, case in _cases(settings):
        wrong = {}
        for provider in providers:
            reason = _proved(provider, case.small(), way)
            if reason is not None:
                wrong[provider] = reason
        right = [provider for provider in providers if provider not in wrong]
        found.append((case.name, _time(right, case, way, settings), wrong))
    return _Found(found, _time_late(_late_case(settings), settings))


def _proved(provider: str, case: ModelCase, way: Way) -> str | None:
    """Return what is wrong with a provider's training, the same answer on every rank."""
    ranks = Ranks(dist.group.WORLD)
    all_ids = [
        replace(case.ids, seed=rank).ragged_batches(PROOF_STEPS) for rank in range(ranks.size)
    ]
    batches = [ModelBatch.draw(case, ids) for ids in all_ids]
    with quietly():
        trainer = PROVIDERS[provider](case, "sgd", way)
        logits = [trainer.prepare(batch)() for batch in batches[ranks.rank]]
        gathered = [torch.cat(ranks.gather(each)) for each in logits]
        tables = whole_tables(trainer, case, way)
    actual = _answers(gathered, tables)
    joined = [
        ModelBatch(
            torch.cat([part.dense for part in parts]),
            torch.cat([part.label for part in parts]),
            IdBatch.of(RaggedFeatures.cat([part.ids.features for part in parts])),
        )
        for parts in zip(*batches, strict=True)
    ]
    with force_body("reference"):
        exact, reference = (
            _unsharded(CuestaModel(case, "sgd", ROWWISE, dtype), joined)
            for dtype in (torch.float64, torch.float32)
        )
    return wrong_answer(actual, reference, exact, leeway=LEEWAY)


def _unsharded(model: CuestaModel, batches: Sequence[ModelBatch]) -> list[Answer]:
    return _answers([model.prepare(batch)() for batch in batches], model.tables())


def _answers(logits: Sequence[Tensor], tables: Sequence[Tensor]) -> list[Answer]:
    return [
        Answer("logits", torch.stack(list(logits))),
        Answer("tables after training", torch.stack(list(tables))),
    ]


def _time(
    providers: Sequence[str], case: ModelCase, way: Way, settings: Settings
) -> dict[str, list[float]]:
    """Return the seconds of each provider's steps, each until the last rank was done."""
    ids = replace(case.ids, seed=dist.get_rank()).batches(WARM_UP + settings.repetitions)
    batches = ModelBatch.draw(case, ids)
    steps = {}
    for provider in providers:
        with quietly():
            trainer = PROVIDERS[provider](case, "adamw", way)
            steps[provider] = [trainer.prepare(batch) for batch in batches]
    seconds: dict[str, list[float]] = {provider: [] for provider in providers}
    draw = random.Random(0)
    for repetition in range(len(batches)):
        for provider in draw.sample(list(providers), len(providers)):
            dist.barrier()
            began = time.perf_counter()
            steps[provider][repetition]()
            dist.barrier()
            if repetition >= WARM_UP:
                seconds[provider].append(time.perf_counter() - began)
    return seconds


def _time_late(case: ModelCase, settings: Settings) -> dict[str, list[float]]:
    """Return the seconds of steps whose exchanges are late, ids ahead and not; raise if their logits differ."""
    ids = replace(case.ids, seed=dist.get_rank()).batches(WARM_UP + settings.repetitions)
    batches = ModelBatch.draw(case, ids)
    seconds, logits = {}, {}
    for provider, ahead in ((OURS, 2), (_ONE_AT_A_TIME, 0)):
        model = sharded_cuesta(case, "sgd", "table", LateRanks(dist.group.WORLD, _LATE_S))
        steps = [model.prepare(batch) for batch in batches]
        times, found = [], []
        for number, step in enumerate(steps):
            began = time.perf_counter()
            if ahead:
                _send_ahead(model, batches, number, ahead)
            found.append(step())
            times.append(time.perf_counter() - began)
        seconds[provider], logits[provider] = times[WARM_UP:], torch.stack(found)
    if not torch.equal(logits[OURS], logits[_ONE_AT_A_TIME]):
        refuse(BENCH, f"{case.name}: ids sent ahead change the logits")
    return seconds


def _send_ahead(model: CuestaModel, batches: Sequence[ModelBatch], number: int, ahead: int) -> None:
    """Announce the batch two steps on, and send the ids of the next; before the first, those of all between."""
    bags = model.embeddings
    assert isinstance(bags, ShardedEmbeddingBags)
    for later in range(number + ahead if number else 0, number + ahead + 1):
        if later < len(batches):
            bags.announce(batches[later].ids.features)
    for later in range(number + 1 if number else 0, number + 2):
        if later < len(batches):
            bags.fetch(batches[later].ids.features)


def _late_case(settings: Settings) -> ModelCase:
    """Return a case whose own work is some 20 ms."""
    if settings.quick:
        return _cases(settings)[0][1]
    return ModelCase(
        name="26 x 100k x 16, 10 ids, MLP 64 / 64, 256 rows a rank",
        dim=16, ids_per_bag=10, bottom=(64,), top=(64,), batch_size=256,
    )  # fmt: skip


def _cases(settings: Settings) -> list[tuple[Way, ModelCase]]:
    if settings.quick:
        small = ModelCase(
            name="4 tables of 1k x 8, 3 ids, MLP 16 / 16", num_tables=4, rows=1000, dim=8,
            ids_per_bag=3, bottom=(16,), top=(16,), num_dense=3, batch_size=64,
        )  # fmt: skip
        return [("table", small)]
    cases: list[tuple[Way, ModelCase]] = []
    ways: tuple[tuple[Way, str], ...] = (("table", "whole tables"), ("row", "cut by rows"))
    for way, words in ways:
        cases += [
            (way, ModelCase(
                name=f"26 x 100k x 64, {words}, 10 ids, MLP 512-256 / 512-256",
                ids_per_bag=10, batch_size=_BATCH,
            )),
            (way, ModelCase(
                name=f"100 x 100k x 32, {words}, 10 ids, MLP 64 / 64",
                num_tables=100, dim=32, ids_per_bag=10, bottom=(64,), top=(64,), batch_size=_BATCH,
            )),
            (way, ModelCase(
                name=f"26 x 1M x 16, {words}, 20 ids, MLP 64 / 64",
                rows=1_000_000, dim=16, ids_per_bag=20, bottom=(64,), top=(64,), batch_size=_BATCH,
            )),
        ]  # fmt: skip
    return cases
