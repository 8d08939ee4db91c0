"""`cuesta bench planner`: what the calibrated planner says of a training step, against the step, on 2 and 4 gloo ranks.

The ranks first measure the machine as `cuesta plan --calibrate` does, then plan DLRMs, every table cut the same way:
whole, by rows, by columns, copied. The plan's step, dense layers and all else added up, is compared with the median of
steps that are timed from a barrier to the last rank's end. That such steps train right is proved by `cuesta bench
dlrm_sharded`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch.distributed as dist
from torch import nn

from cuesta.cli.bench.harness import OURS, WARM_UP, Findings, Settings, progress, time_rows
from cuesta.cli.bench.ids import IdBatch, num_distinct
from cuesta.cli.bench.models import ROWWISE, CuestaModel, ModelBatch, ModelCase, case_tables
from cuesta.rec.neo.calibrate import measure as measure_machine
from cuesta.rec.neo.calibration import on_ranks
from cuesta.rec.neo.cluster import Cluster
from cuesta.rec.neo.costs import Scheme
from cuesta.rec.neo.dense import add_gradients
from cuesta.rec.neo.planner import Planned, PlannerSettings, make_plan
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.sharded import ShardedEmbeddingBags, ShardedOptions
from cuesta.rec.neo.steps import Conditions, step_of
from cuesta.rec.neo.timing import QUICK, Sizes
from cuesta.rec.neo.workload import Dense, TableLoad, Workload

BENCH = "planner"
PREDICTED = "the planner's prediction"
_WORLDS = (2, 4)
_WITHIN = 0.25
_BATCH = 1024  # rows a rank
_SCHEMES: dict[Scheme, str] = {
    "table": "whole tables",
    "row": "rows",
    "column": "columns",
    "data": "copies",
}


class _Found(NamedTuple):
    """Hold a model, how its tables are cut, the milliseconds predicted, and the seconds measured."""

    model: str
    scheme: Scheme
    predicted: float
    parts: str
    seconds: list[float]


def measure(settings: Settings) -> Findings:
    """Calibrate, predict and time on each number of ranks."""
    findings = Findings()
    for world in _WORLDS[:1] if settings.quick else _WORLDS:
        progress(f"{BENCH}: {world} ranks")
        found = on_ranks(world, partial(_on_rank, settings=settings))
        for each in found:
            case = f"{world} ranks, {each.model}, {_SCHEMES[each.scheme]}"
            rows = time_rows(case, {OURS: each.seconds, PREDICTED: [each.predicted / 1e3]})
            findings.rows += rows
            ratio = each.predicted / rows[0].median
            if not settings.quick:
                verdict = "met" if abs(ratio - 1) <= _WITHIN else "MISSED"
                findings.note(
                    f"bar {verdict}: {case}: predicted / measured {ratio:.2f}, asked within {_WITHIN:.0%}; {each.parts}"
                )
        for model in dict.fromkeys(each.model for each in found):
            own = [each for each in found if each.model == model]
            findings.note(f"{world} ranks, {model}, fastest first: {_orders(own)}")
    return findings


def _orders(found: Sequence[_Found]) -> str:
    measured = sorted(found, key=lambda each: sorted(each.seconds)[len(each.seconds) // 2])
    predicted = sorted(found, key=lambda each: each.predicted)
    return (
        f"measured {', '.join(_SCHEMES[each.scheme] for each in measured)}; "
        f"predicted {', '.join(_SCHEMES[each.scheme] for each in predicted)}"
    )


def _on_rank(ranks: Ranks, settings: Settings) -> list[_Found]:
    cluster = measure_machine(ranks, QUICK if settings.quick else Sizes())
    cluster = replace(cluster, fast_capacity=1e6)  # all ways are compared, whatever fits
    return [
        _compared(ranks, cluster, case, scheme, settings)
        for case in _cases(settings)
        for scheme in _SCHEMES
    ]


def _compared(
    ranks: Ranks, cluster: Cluster, case: ModelCase, scheme: Scheme, settings: Settings
) -> _Found:
    ids = replace(case.ids, seed=ranks.rank).batches(WARM_UP + _repetitions(settings))
    batches = ModelBatch.draw(case, ids)
    planned = _planned(replace(case.ids, seed=0).batches(1)[0], case, cluster, scheme)
    step = step_of(planned, Conditions(overlaps=False, spread=0.0))
    parts = ", ".join(f"{name} {value:.1f}" for name, value in step._asdict().items() if value)
    bags = ShardedEmbeddingBags(
        case_tables(case), ROWWISE, planned.plan, ranks, options=ShardedOptions(row_state="apart")
    )

    def average(modules: nn.Module) -> None:
        add_gradients(modules.parameters(), ranks, share=1 / ranks.size)

    model = CuestaModel(case, "adamw", embeddings=bags, after_backward=average)
    if ranks.rank == 0:
        progress(f"{BENCH}: {case.name}, {_SCHEMES[scheme]}")
    seconds = []
    for work in [model.prepare(batch) for batch in batches]:
        dist.barrier()
        began = time.perf_counter()
        work()
        dist.barrier()
        seconds.append(time.perf_counter() - began)
    return _Found(case.name, scheme, step.total, f"ms: {parts}", seconds[WARM_UP:])


def _repetitions(settings: Settings) -> int:
    """Return half of what other benches do: steps of copies take long, and one number is compared."""
    return max(settings.repetitions // 2, 1)


def _planned(batch: IdBatch, case: ModelCase, cluster: Cluster, scheme: Scheme) -> Planned:
    count = case.batch_size * case.ids_per_bag
    tables = tuple(
        TableLoad(
            name=str(t),
            num_rows=case.rows,
            dim=case.dim,
            ids=case.ids_per_bag,
            repeated=1 - distinct / count,
        )
        for t, distinct in enumerate(num_distinct(batch))
    )
    work = Workload(
        name=case.name, tables=tables, batch_size=case.batch_size, dense=_dense_of(case)
    )
    settings = PlannerSettings(schemes=(scheme,), least_columns=case.dim // 2)
    return make_plan(work, cluster, settings)


def _dense_of(case: ModelCase) -> Dense:
    """Return both MLPs, and the dot products of all pairs of vectors."""
    bottom = (case.num_dense, *case.bottom, case.dim)
    top = (case.dim + case.num_pairs, *case.top, 1)
    layers = [*pairwise(bottom), *pairwise(top)]
    products = sum(2 * wide * narrow for wide, narrow in layers) + 2 * case.num_pairs * case.dim
    between = sum(out for _, out in layers) + case.num_pairs + (case.num_tables + 1) * case.dim
    return Dense(
        mflops=products / 1e6,
        activations=float(between),
        parameters=float(sum((wide + 1) * narrow for wide, narrow in layers)),
    )


def _cases(settings: Settings) -> list[ModelCase]:
    if settings.quick:
        return [
            ModelCase(
                name="4 x 1k x 8, 3 ids, MLP 16 / 16", num_tables=4, rows=1000, dim=8,
                ids_per_bag=3, bottom=(16,), top=(16,), num_dense=3, batch_size=64,
            )
        ]  # fmt: skip
    return [
        ModelCase(
            name="26 x 100k x 64, 10 ids, MLP 512-256 / 512-256", ids_per_bag=10, batch_size=_BATCH,
        ),
        ModelCase(
            name="26 x 300k x 32, 10 even ids, MLP 64 / 64", zipf=0.0,
            rows=300_000, dim=32, ids_per_bag=10, bottom=(64,), top=(64,), batch_size=_BATCH,
        ),
    ]  # fmt: skip
