"""Whole training steps from a plan: the planner's costs run forward, with dense layers, latencies and waiting.

Neo (ISCA 2022) as far as it is known. `step_of` adds all up, as a step without pipelining does; with `overlaps` it
hides what the paper hides: ids of the next batch travel behind the top layers' forward of this one; answers behind the
bottom layers' forward and their gradients behind the same layers' backward; the sum of dense gradients behind the
backward of all layers. What is done by every rank takes as long as on the slowest of them: for times that
deviate by a share `spread`, normally, the mean of the largest of W is near 1 + spread sqrt(2 ln W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, final

from cuesta.errors import UserError
from cuesta.rec.neo.cluster import Cluster, milliseconds
from cuesta.rec.neo.costs import Cost
from cuesta.rec.neo.planner import Planned
from cuesta.rec.neo.workload import INDEX_BYTES, Workload

_GRADIENT_BYTES = 4  # of a dense gradient's number
_ID_EXCHANGES = 3  # sizes, lengths and ids
NUM_EXCHANGES = _ID_EXCHANGES + 3  # answers, their gradients, and those of dense layers


@final
@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Say what hides behind what, and by which share ranks' times deviate."""

    overlaps: bool = True
    spread: float = 0.03

    def __post_init__(self) -> None:
        if not self.spread >= 0:
            raise UserError(f"spread must not be negative, got {self.spread}")


class Step(NamedTuple):
    """Hold the milliseconds of a step on its slowest rank; of exchanges and of the all-reduce, what nothing hides.

    `waiting` is what dense layers and lookups of the slowest rank take more than those of one alone; `tiers` what rows
    that move between tiers, in a thread beside it all, take longer.
    """

    dense: float
    lookups: float
    waiting: float
    ids: float
    answers: float
    gradients: float
    all_reduce: float
    fixed: float
    tiers: float = 0.0

    @property
    def total(self) -> float:
        """Return their sum."""
        return sum(self)


def step_of(planned: Planned, conditions: Conditions | None = None) -> Step:
    """Return what a step of a plan takes on its cluster."""
    conditions = conditions or Conditions()
    workload, cluster = planned.workload, planned.cluster
    busiest = _busiest(planned)
    forward, update = dense_milliseconds(workload, cluster)
    lookups = busiest.forward + busiest.backward
    work = 3 * forward + update + lookups
    top, bottom = (
        (1 - workload.dense.bottom, workload.dense.bottom) if conditions.overlaps else (0.0, 0.0)
    )
    reduced = cluster.all_reduce(workload.dense.parameters * _GRADIENT_BYTES)
    if workload.dense.parameters == 0:
        reduced = 0.0

    def shown(exchange: float, hidden: float) -> float:
        return 0.0 if cluster.world_size == 1 else max(exchange - hidden, 0.0)

    ids = 0.0
    if not cluster.constants.asked_ns:  # else they are in the plan's costs
        ids = all_to_all(_id_bytes(workload), cluster)
    latency = cluster.latency
    step = Step(
        dense=3 * forward + update,
        lookups=lookups,
        waiting=work * conditions.spread * math.sqrt(2 * math.log(cluster.world_size)),
        ids=shown(ids + _ID_EXCHANGES * latency, top * forward),
        answers=shown(_shared(busiest.forward_exchange, cluster) + latency, bottom * forward),
        gradients=shown(
            _shared(busiest.backward_exchange, cluster) + latency, 2 * bottom * forward
        ),
        all_reduce=shown(reduced, 2 * (top + bottom) * forward),
        fixed=cluster.constants.step_ms,
    )
    return step._replace(tiers=max(busiest.moved - step.total, 0.0))


def rows_per_second(planned: Planned, step: Step) -> float:
    """Return the rows that all ranks train in a second."""
    return planned.cluster.world_size * planned.workload.batch_size / step.total * 1e3


def dense_milliseconds(workload: Workload, cluster: Cluster) -> tuple[float, float]:
    """Return what dense layers take forward, backward taking twice that, and what their weights and optimiser do."""
    dense, constants, batch = workload.dense, cluster.constants, workload.batch_size
    products = dense.mflops * batch / constants.gflops
    moved = dense.activations * batch * constants.activation_bytes / 3
    update = milliseconds(dense.parameters * constants.parameter_bytes, cluster.fast)
    return products + milliseconds(moved, cluster.fast), update


def all_to_all(num_bytes: float, cluster: Cluster) -> float:
    """Return the milliseconds of an exchange in which every rank sends bytes, an equal part to each, in two levels."""
    inside, across = _shares(cluster)
    return milliseconds(num_bytes * inside, cluster.inside) + milliseconds(
        num_bytes * across, cluster.across
    )


def _shared(exchange: float, cluster: Cluster) -> float:
    """Return the time of an exchange that the planner, as TorchRec's model, takes to run at the slowest link alone."""
    if cluster.num_nodes == 1:
        return exchange
    inside, across = _shares(cluster)
    return exchange * (across + inside * cluster.across / cluster.inside)


def _shares(cluster: Cluster) -> tuple[float, float]:
    """Return which shares of what a rank sends stay in its node and leave it; a single node's links carry all."""
    if cluster.num_nodes == 1:
        return 1.0, 0.0
    across = (cluster.world_size - cluster.local_size) / cluster.world_size
    return (cluster.local_size - 1) / cluster.world_size, across


def _busiest(planned: Planned) -> Cost:
    return max(planned.ranks, key=lambda rank: rank.cost.total).cost


def _id_bytes(workload: Workload) -> float:
    return sum(table.ids for table in workload.tables) * workload.batch_size * INDEX_BYTES
