"""Clusters that are not at hand: the optimisation ladder, weak scaling and memory of the paper's models. All simulated.

Neo (ISCA 2022, arXiv 2104.05158), whose settings are known from secondary sources and recollection. What is assumed:

* 128 A100s in nodes of eight. An exchange among all gets 7 GB/s a GPU (paper, 256 MB); a ring, as an all-reduce,
  the line rate of a 200 Gb/s link, 25 GB/s, and 250 GB/s inside a node, which together give the paper's 60 GB/s of
  all-reduce; lookups 1300 GB/s (paper). A collective waits 10 us a peer. Tables may take 27 of 32 GiB.
* Dense layers run at 48 TFLOP/s, 31 % of the A100's TF32 peak: what model A's speed on one node, half of a sixteenth of
  1.2 million rows a second (paper), leaves for 638 MFLOP a row. Their optimiser is Adagrad.
* What hides behind what, and how ranks wait for the slowest, 3 % apart: `cuesta.rec.neo.steps`.
* The first plan evens out lookups among ranks and has whole tables, cut into a node's rows where they have no room. The
  paper says no more of its own than that better sharding, by columns too, brought about a fifth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from cuesta.errors import UserError
from cuesta.rec.neo.cluster import GIB, Cluster
from cuesta.rec.neo.constants import Constants
from cuesta.rec.neo.planner import Balance, Planned, PlannerSettings, make_plan
from cuesta.rec.neo.steps import Conditions, Step, rows_per_second, step_of
from cuesta.rec.neo.workload import Workload, paper_model

_GB = 1e9 / GIB
PAPER_CLUSTER = Cluster(
    world_size=128,
    ranks_per_node=8,
    fast=1300 * _GB,
    inside=250 * _GB,
    across=7 * _GB,
    ring_inside=250 * _GB,
    ring_across=25 * _GB,
    constants=Constants(gflops=48_000.0, latency_us=10.0),
)
SIZES = (8, 16, 32, 64, 128)
_ROWS, _TIMES = 65_536, 4  # of the first global batch; that the last one is larger


class Simulated(NamedTuple):
    """Hold a step on a simulated cluster, its plan, and rows a second of all ranks."""

    name: str
    planned: Planned
    step: Step
    rows_per_second: float


def simulate(
    workload: Workload,
    cluster: Cluster = PAPER_CLUSTER,
    settings: PlannerSettings | None = None,
    conditions: Conditions | None = None,
    *,
    name: str = "",
) -> Simulated:
    """Return a step of a workload on a cluster, planned for it."""
    if not 1 <= cluster.world_size <= 4096:
        raise UserError(f"1 to 4096 ranks can be simulated, got {cluster.world_size}")
    planned = make_plan(workload, cluster, settings)
    step = step_of(planned, conditions)
    return Simulated(name or workload.name, planned, step, rows_per_second(planned, step))


def ladder(
    name: str = "model-a",
    cluster: Cluster = PAPER_CLUSTER,
    conditions: Conditions | None = None,
    *,
    first: Balance = "lookups",
) -> list[Simulated]:
    """Return the paper's optimisations one after another; the first plan evens out `first`."""
    return [
        simulate(workload, cluster, settings, conditions, name=words)
        for words, workload, settings in _rungs(name, cluster.world_size, first)
    ]


def weak_scaling(
    name: str = "model-a",
    sizes: Sequence[int] = SIZES,
    cluster: Cluster = PAPER_CLUSTER,
    conditions: Conditions | None = None,
) -> list[Simulated]:
    """Return a step on each number of ranks, each with the ladder's last batch, tables' rows growing with the ranks."""
    *_, (_, last, _) = _rungs(name, max(sizes), "time")
    found = []
    for size in sizes:
        tables = tuple(
            replace(table, num_rows=max(1, table.num_rows * size // max(sizes)))
            for table in last.tables
        )
        here = replace(cluster, world_size=size)
        found.append(
            simulate(
                replace(last, tables=tables), here, conditions=conditions, name=f"{size} ranks"
            )
        )
    return found


class Memory(NamedTuple):
    """Hold the bytes of a model's tables and of their optimiser's state."""

    name: str
    weights: float
    state: float


def memory(name: str) -> list[Memory]:
    """Return what the tables of a model take, from float32 with a state a weight to 16 bits with one a row."""
    found = []
    for words, weight, is_of_rows in (
        ("float32, Adagrad", 4, False),
        ("float32, row-wise Adagrad", 4, True),
        ("float16, row-wise Adagrad", 2, True),
    ):
        work = replace(
            paper_model(name, weight_bytes=weight),
            state_bytes_a_row=4 if is_of_rows else 0,
            state_bytes_a_weight=0 if is_of_rows else 4,
        )
        weights = float(work.num_parameters * weight)
        found.append(Memory(words, weights, work.num_bytes - weights))
    return found


def _rungs(
    name: str, world_size: int, first: Balance
) -> Iterator[tuple[str, Workload, PlannerSettings]]:
    """Yield what changes, each step keeping the ones before."""
    whole = PlannerSettings(schemes=("table", "table_row"), balance=first)
    free = PlannerSettings()
    work = paper_model(name, batch_size=max(_ROWS // world_size, 1))
    yield f"first plan, {first} even, float32", work, whole
    yield "planned by cost, columns too", work, free
    work = replace(work, weight_bytes=2)
    yield "tables of 16 bits", work, free
    work = replace(work, forward_bytes=2, backward_bytes=2)
    yield "16 bits on the wire", work, free
    work = replace(work, batch_size=_TIMES * work.batch_size)
    yield f"{_TIMES} times the batch", work, free
