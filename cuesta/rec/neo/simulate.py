"""Clusters that are not at hand: the optimisation ladder, weak scaling and memory of the paper's models. All simulated.

Neo (ISCA 2022, arXiv 2104.05158), whose settings are known from secondary sources and recollection. What is assumed:

* 128 A100s in nodes of eight. An exchange among all gets 7 GB/s a GPU (paper, 256 MB); a ring, as an all-reduce,
  the line rate of a 200 Gb/s link, 25 GB/s, and 250 GB/s inside a node, which together give the paper's 60 GB/s of
  all-reduce; lookups 1300 GB/s (paper). A collective waits 10 us a peer. Tables may take 27 of 32 GiB.
* Dense layers run at 48 TFLOP/s, 31 % of the A100's TF32 peak: what model A's speed on one node, half of a sixteenth of
  1.2 million rows a second (paper), leaves for 638 MFLOP a row. Their optimiser is Adagrad.
* What hides behind what, and how ranks wait for the slowest, 3 % apart: `cuesta.rec.neo.steps`.
* The first plan has whole tables, cut into a node's rows where they have no room, even in time; so it comes near the
  paper's first speed, below 700 thousand rows a second. The paper says of its own that better sharding, by columns
  too, brought a fifth; plans that are even in lookups or bytes alone are far slower (`first`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, final

from cuesta.errors import UserError
from cuesta.rec.neo.cluster import GIB, Cluster
from cuesta.rec.neo.constants import Constants
from cuesta.rec.neo.planner import Balance, Planned, PlannerSettings, make_plan
from cuesta.rec.neo.steps import Conditions, Step, rows_per_second, step_of
from cuesta.rec.neo.workload import Dense, Workload, paper_model

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
_MOST_RANKS = 4096


@final
@dataclass(frozen=True, kw_only=True)
class SimulateRequest:
    """Settle what is simulated: the cluster, what hides and waits, numbers of ranks, and what the first plan evens out.

    `rows` are the first global batch of the ladder, `times` by how much the last is larger. `batch_size`, `dim` and
    `dense` are for recipes and schemas, as in `cuesta plan`.
    """

    name: str
    sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    first: Balance = "time"
    rows: int = 65_536
    times: int = 4
    batch_size: int = 0
    dim: int = 16
    dense: Dense = field(default_factory=Dense)
    cluster: Cluster = PAPER_CLUSTER
    conditions: Conditions = field(default_factory=Conditions)


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
    if cluster.world_size > _MOST_RANKS:
        raise UserError(f"1 to {_MOST_RANKS} ranks can be simulated, got {cluster.world_size}")
    planned = make_plan(workload, cluster, settings)
    step = step_of(planned, conditions)
    return Simulated(name or workload.name, planned, step, rows_per_second(planned, step))


def ladder(request: SimulateRequest) -> list[Simulated]:
    """Return the paper's optimisations one after another."""
    return [
        simulate(workload, request.cluster, settings, request.conditions, name=words)
        for words, workload, settings in _rungs(request, request.cluster.world_size)
    ]


def weak_scaling(request: SimulateRequest) -> list[Simulated]:
    """Return a step on each number of ranks, the ladder's last batch on each, tables' rows growing with the ranks."""
    most = max(request.sizes)
    *_, (_, last, _) = _rungs(request, most)
    found = []
    for size in request.sizes:
        tables = tuple(
            replace(table, num_rows=max(1, table.num_rows * size // most)) for table in last.tables
        )
        found.append(_sized(request, replace(last, tables=tables), size))
    return found


def scaling(request: SimulateRequest, workload: Workload) -> list[Simulated]:
    """Return a step of a workload as it is on each number of ranks, each with its own batch."""
    return [_sized(request, workload, size) for size in request.sizes]


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


def fits_in(request: SimulateRequest, least: Memory) -> bool:
    """Return whether tables of this size fit in the fast memory of all ranks."""
    return least.weights + least.state <= request.cluster.world_size * request.cluster.room


def _sized(request: SimulateRequest, workload: Workload, size: int) -> Simulated:
    cluster = replace(request.cluster, world_size=size)
    return simulate(workload, cluster, conditions=request.conditions, name=f"{size} ranks")


def _rungs(
    request: SimulateRequest, world_size: int
) -> Iterator[tuple[str, Workload, PlannerSettings]]:
    """Yield what changes, each step keeping the ones before."""
    whole = PlannerSettings(schemes=("table", "table_row"), balance=request.first)
    free = PlannerSettings()
    work = paper_model(request.name, batch_size=max(request.rows // world_size, 1))
    yield f"whole tables, even in {request.first}", work, whole
    yield "planned, columns too", work, free
    work = replace(work, weight_bytes=2)
    yield "tables of 16 bits", work, free
    work = replace(work, forward_bytes=2, backward_bytes=2)
    yield "16 bits on the wire", work, free
    work = replace(work, batch_size=request.times * work.batch_size)
    yield f"{request.times} times the batch", work, free
