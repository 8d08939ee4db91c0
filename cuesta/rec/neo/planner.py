"""`make_plan`: cut tables and place the parts so that the busiest rank is done soonest, and say why.

Proposals cut tables in different ways: every table where it costs all ranks least; tables above a share of the mean
load into smaller parts, for several shares; every table by rows; whole tables alone, the naive plan, to compare with.
Each is placed: parts of all ranks first, those of nodes on the least loaded one, then those of ranks, by size and by
the largest-differencing method, within memory. A table that has no room is cut further. The best rating wins, the
time of the busiest rank. Where `balance` is not "time" there is one proposal, every table by the first scheme and cut
only where it has no room: a first plan, of someone who evens out "lookups" or "bytes" and has no model of exchanges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import numpy as np

from cuesta.errors import UserError
from cuesta.rec.neo.cluster import GIB, Cluster
from cuesta.rec.neo.costs import SCHEMES, Cost, Option, Scheme, options
from cuesta.rec.neo.partition import NoRoomError, Room, greedy, largest_differencing, repaired
from cuesta.rec.neo.plan import Plan, TablePlan
from cuesta.rec.neo.workload import Workload

_SHARES = (1.0, 0.5, 0.25, 0.125)  # of the mean load, above which a proposal cuts a table
_MOST_CUTS = 10_000  # times that a proposal may cut a table further for want of room
_WHOLE, _FIRST = "whole tables", "the first scheme, cut where there is no room"


Balance = Literal["time", "lookups", "bytes"]


@final
@dataclass(frozen=True, kw_only=True)
class PlannerSettings:
    """Say which schemes may be used, for all tables or for some by name, how narrow columns may become, and what is to
    be even among ranks.
    """

    schemes: tuple[Scheme, ...] = SCHEMES
    schemes_of: Mapping[str, tuple[Scheme, ...]] | None = None
    least_columns: int = 32
    balance: Balance = "time"


class RankLoad(NamedTuple):
    """Hold what a rank has to do in a step, and to hold."""

    cost: Cost
    num_bytes: float


class Proposal(NamedTuple):
    """Hold how a proposal fared: the milliseconds of its busiest rank, or why it cannot be placed."""

    name: str
    rating: float
    reason: str


class Rejected(NamedTuple):
    """Say what another way of cutting a table would have been: its largest part, and the work of all ranks."""

    scheme: Scheme
    num_parts: int
    largest: float
    work: float


@final
@dataclass(frozen=True, kw_only=True)
class Planned:
    """Hold a plan with all that explains it; `naive` is the rating of whole tables dealt out in turn, memory aside."""

    plan: Plan
    cluster: Cluster
    workload: Workload
    chosen: Mapping[str, Option]
    rejected: Mapping[str, tuple[Rejected, ...]]
    ranks: tuple[RankLoad, ...]
    proposals: tuple[Proposal, ...]
    naive: float

    @property
    def rating(self) -> float:
        """Return the milliseconds of the busiest rank."""
        return max(rank.cost.total for rank in self.ranks)

    def held(self) -> list[int]:
        """Return the bytes of weights and their optimiser's state on each rank: what lasts from step to step."""
        work, held = self.workload, [0] * self.cluster.world_size
        for table in self.plan.tables.values():
            for rank, (first, end), (left, right) in table.shards():
                weight = work.weight_bytes + work.state_bytes_a_weight
                held[rank] += (end - first) * ((right - left) * weight + work.state_bytes_a_row)
        return held

    @property
    def balance(self) -> float:
        """Return the busiest rank's load over the mean."""
        return self.rating / (sum(rank.cost.total for rank in self.ranks) / len(self.ranks))


class _Placed(NamedTuple):
    """Hold for each table the ranks of its parts, and what ranks have to do and hold."""

    ranks: list[list[int]]
    loads: np.ndarray  # [ranks, 4], the terms of `Cost`
    held: np.ndarray  # bytes


def make_plan(
    workload: Workload, cluster: Cluster, settings: PlannerSettings | None = None
) -> Planned:
    """Return the best plan found. Raises `UserError` naming a table that fits nowhere, and by how much."""
    settings = settings or PlannerSettings()
    ways = [_ways(workload, cluster, settings, place) for place in range(len(workload.tables))]
    best: tuple[float, _Placed, list[Option]] | None = None
    proposals, failure = [], None
    balance = settings.balance
    first = [(_FIRST, [found[0] for found in ways])]
    for name, choice in _proposals(ways, cluster) if balance == "time" else first:
        try:
            placed, used = _fitted(choice, ways, cluster, balance, may_cut=name != _WHOLE)
        except NoRoomError as error:
            failure = failure if failure and failure.missing <= error.missing else error
            table = workload.tables[error.item].name
            reason = f"{table} has no room: {error.missing / GIB:.2f} GiB too much"
            proposals.append(Proposal(name, float("inf"), reason))
            continue
        rating = float(placed.loads.sum(1).max())
        proposals.append(Proposal(name, rating, ""))
        if best is None or rating < best[0]:
            best = rating, placed, used
    if best is None:
        assert failure is not None
        raise UserError(_nowhere(workload, cluster, failure))
    return _planned(workload, cluster, ways, best[1:], proposals)


def _ways(
    workload: Workload, cluster: Cluster, settings: PlannerSettings, place: int
) -> list[Option]:
    table = workload.tables[place]
    schemes = (settings.schemes_of or {}).get(table.name, settings.schemes)
    found = list(
        options(table, workload, cluster, schemes=schemes, least_columns=settings.least_columns)
    )
    if not found:
        raise UserError(
            f"table {table.name!r} ({table.num_rows} x {table.dim}) cannot be cut by {', '.join(schemes)} "
            f"over {cluster.world_size} ranks, {cluster.local_size} a node; allow another scheme"
        )
    return found


def _proposals(
    ways: Sequence[Sequence[Option]], cluster: Cluster
) -> list[tuple[str, list[Option]]]:
    def least_work(found: Sequence[Option]) -> Option:
        return min(found, key=lambda option: option.work(cluster))

    cheapest = [least_work(found) for found in ways]
    mean = sum(option.work(cluster) for option in cheapest) / cluster.world_size
    proposals = [("cheapest", cheapest)]
    for share in _SHARES:
        choice = []
        for found in ways:
            small = [option for option in found if option.cost.total <= share * mean]
            smallest = min(found, key=lambda option: option.cost.total)
            choice.append(least_work(small) if small else smallest)
        proposals.append((f"parts up to {share:g} of the mean", choice))
    for name, scheme in ((_WHOLE, "table"), ("rows", "row")):
        chosen = [[option for option in found if option.scheme == scheme] for found in ways]
        if all(chosen):
            proposals.append((name, [each[0] for each in chosen]))
    return proposals


def _fitted(
    choice: Sequence[Option],
    ways: Sequence[Sequence[Option]],
    cluster: Cluster,
    balance: Balance,
    *,
    may_cut: bool,
) -> tuple[_Placed, list[Option]]:
    """Return where parts go, and the choice after tables without room were cut further."""
    choice = list(choice)
    for _ in range(_MOST_CUTS):
        try:
            return _place(choice, cluster, balance), choice
        except NoRoomError as error:
            now = choice[error.item].num_bytes
            smaller = [option for option in ways[error.item] if option.num_bytes < now]
            if not smaller or not may_cut:
                raise
            choice[error.item] = max(smaller, key=lambda option: option.num_bytes)
    raise NoRoomError(0, cluster.room)


def _place(choice: Sequence[Option], cluster: Cluster, balance: Balance) -> _Placed:
    """Return where parts go. Raises `NoRoomError` with the number of a table."""
    world, local = cluster.world_size, cluster.local_size
    ranks: list[list[int]] = [[] for _ in choice]
    everywhere = [option for option in choice if option.place == "everywhere"]
    of_all = np.array([option.cost for option in everywhere]).reshape(-1, 4).sum(0)
    loads = np.tile(of_all, (world, 1))
    held = np.full(world, float(sum(option.num_bytes for option in everywhere)))
    if held[0] > cluster.room:
        raise NoRoomError(_largest(choice, "everywhere"), float(held[0] - cluster.room))
    by_node: list[int] = []
    by_rank: list[int] = []
    for place, option in enumerate(choice):
        if option.place == "everywhere":
            ranks[place] = list(range(world))
        else:
            (by_node if option.place == "node" else by_rank).extend([place] * option.num_parts)
    by_node.sort(key=lambda place: -choice[place].num_bytes)
    terms = np.array([choice[place].cost for place in by_node]).reshape(-1, 4)
    sizes = np.array([choice[place].num_bytes for place in by_node])
    before, node_held = _so_far(loads[::local], held[::local], balance), held[::local].copy()
    nodes = np.zeros(len(by_node), np.int64)
    for part, (place, cost) in enumerate(
        zip(by_node, _so_far(terms, sizes, balance).tolist(), strict=True)
    ):
        fits = np.where(node_held + sizes[part] <= cluster.room, before, np.inf)
        nodes[part] = node = int(fits.argmin())
        if not np.isfinite(fits[node]):
            raise NoRoomError(place, float(node_held.min() + sizes[part] - cluster.room))
        before[node] += cost
        node_held[node] += sizes[part]
        ranks[place] += range(node * local, (node + 1) * local)
    node_loads = np.zeros((cluster.num_nodes, 4))
    np.add.at(node_loads, nodes, terms)
    loads += np.repeat(node_loads, local, 0)
    held = np.repeat(node_held, local)
    if by_rank:
        _place_parts(choice, by_rank, cluster, _Placed(ranks, loads, held), balance)
    return _Placed(ranks, loads, held)


def _place_parts(
    choice: Sequence[Option],
    parts: Sequence[int],
    cluster: Cluster,
    placed: _Placed,
    balance: Balance,
) -> None:
    """Place parts on single ranks, in the better of two ways."""
    sizes = np.array([choice[place].num_bytes for place in parts])
    terms = np.array([choice[place].cost for place in parts])
    costs = _so_far(terms, sizes, balance)
    room = Room(sizes, cluster.room - placed.held)
    before = _so_far(placed.loads, placed.held, balance)
    found = []
    try:
        found.append(greedy(costs, before, room))
        if np.ptp(before) == 0:
            spread = largest_differencing(costs, cluster.world_size)
            found.append(repaired(spread, costs, before, room))
    except NoRoomError as error:
        if not found:
            raise NoRoomError(parts[error.item], error.missing) from None
    chosen = min(
        found, key=lambda each: (before + np.bincount(each, costs, cluster.world_size)).max()
    )
    for place, rank in zip(parts, chosen.tolist(), strict=True):
        placed.ranks[place].append(rank)
    np.add.at(placed.loads, chosen, terms)
    np.add.at(placed.held, chosen, sizes)


def _so_far(loads: np.ndarray, held: np.ndarray, balance: Balance) -> np.ndarray:
    """Return what is to be even, of loads [N, 4] and bytes [N]."""
    if balance == "bytes":
        return held.copy()
    return np.asarray(loads.sum(1) if balance == "time" else loads[:, :2].sum(1))


def _largest(choice: Sequence[Option], place: str) -> int:
    sizes = [option.num_bytes if option.place == place else -1.0 for option in choice]
    return int(np.argmax(sizes))


def _planned(
    workload: Workload,
    cluster: Cluster,
    ways: Sequence[Sequence[Option]],
    best: tuple[_Placed, list[Option]],
    proposals: Sequence[Proposal],
) -> Planned:
    placed, choice = best
    tables, rejected = {}, {}
    for table, option, ranks, found in zip(
        workload.tables, choice, placed.ranks, ways, strict=True
    ):
        columns = table.dim // option.dim
        tables[table.name] = TablePlan(
            name=table.name,
            num_rows=table.num_rows,
            dim=table.dim,
            scheme=option.scheme,
            columns=columns,
            ranks=tuple(ranks),
        )
        rejected[table.name] = tuple(
            Rejected(other.scheme, other.num_parts, other.cost.total, other.work(cluster))
            for other in found
            if other != option
        )
    loads = tuple(
        RankLoad(Cost(*row), float(held))
        for row, held in zip(placed.loads.tolist(), placed.held.tolist(), strict=True)
    )
    return Planned(
        plan=Plan(world_size=cluster.world_size, ranks_per_node=cluster.local_size, tables=tables),
        cluster=cluster,
        workload=workload,
        chosen={table.name: option for table, option in zip(workload.tables, choice, strict=True)},
        rejected=rejected,
        ranks=loads,
        proposals=tuple(proposals),
        naive=_naive(workload, cluster),
    )


def _naive(workload: Workload, cluster: Cluster) -> float:
    loads = np.zeros(cluster.world_size)
    for place, table in enumerate(workload.tables):
        (whole,) = options(table, workload, cluster, schemes=("table",))
        loads[place % cluster.world_size] += whole.cost.total
    return float(loads.max())


def _nowhere(workload: Workload, cluster: Cluster, failure: NoRoomError) -> str:
    table = workload.tables[failure.item]
    return (
        f"table {table.name!r} ({table.num_rows} x {table.dim}, {workload.table_bytes(table) / GIB:.2f} GiB) fits "
        f"nowhere: {failure.missing / GIB:.2f} GiB too much for the {cluster.room / GIB:.2f} GiB that a rank has for "
        f"tables, {workload.num_bytes / GIB:.1f} GiB for {cluster.world_size} ranks; take more ranks, 16-bit tables or "
        "fewer rows"
    )
