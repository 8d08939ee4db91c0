"""`make_plan`: cut tables and place the parts so that the busiest rank is done soonest, and say why.

Proposals cut tables in different ways: every table where it costs all ranks least; tables above a share of the mean
load into smaller parts, for several shares; every table by rows; whole tables alone, the naive plan, to compare with.
Each is placed: parts of all ranks first, those of nodes on the least loaded one, then those of ranks, by size and by
the largest-differencing method, within memory. A table that has no room is cut further. The best rating wins, the
time of the busiest rank. Where `balance` is not "time" there is one proposal, every table by the first scheme and cut
only where it has no room: a first plan, of someone who evens out "lookups" or "bytes" and has no model of exchanges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import numpy as np

from cuesta.errors import UserError
from cuesta.rec.neo.cluster import GIB, Cluster
from cuesta.rec.neo.costs import SCHEMES, Cost, Option, Place, Scheme, held_bytes, options
from cuesta.rec.neo.partition import NoRoomError, Room, greedy, largest_differencing, repaired
from cuesta.rec.neo.plan import Plan, Shard, TablePlan
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

    def held(self) -> list[float]:
        """Return the bytes of weights and their optimiser's state that stay in each rank's fast memory."""
        held = [0.0] * self.cluster.world_size
        for table, (rank, (first, end), (left, right)) in self._shards():
            held[rank] += held_bytes(
                self.workload, self.cluster, end - first, right - left,
                in_tiers=table.scheme != "data",
            )  # fmt: skip
        return held

    def held_below(self) -> list[tuple[float, float]]:
        """Return the bytes of each rank in host memory and in files, below fast memory."""
        work, host, files = self.workload, *np.zeros((2, self.cluster.world_size))
        for table, (rank, (first, end), (left, right)) in self._shards():
            if self.cluster.below.is_used and table.scheme != "data":
                dim = right - left
                both = self.cluster.below.slow_bytes(
                    end - first, dim, work.weight_bytes, work.state_bytes(dim)
                )
                host[rank] += both[0]
                files[rank] += both[1]
        return list(zip(host.tolist(), files.tolist(), strict=True))

    def _shards(self) -> Iterator[tuple[TablePlan, Shard]]:
        for table in self.plan.tables.values():
            for shard in table.shards():
                yield table, shard

    @property
    def balance(self) -> float:
        """Return the busiest rank's load over the mean."""
        return self.rating / (sum(rank.cost.total for rank in self.ranks) / len(self.ranks))


class _Choice:
    """Hold how each table is cut, as arrays over tables too."""

    def __init__(self, options: Sequence[Option]) -> None:
        self.options = list(options)
        self.terms = np.array([option.cost for option in options])  # [tables, 5]
        self.sizes = np.array([option.num_bytes for option in options])
        self.counts = np.array([option.num_parts for option in options])
        self.places = np.array([option.place for option in options], "U10")

    def cut(self, table: int, option: Option) -> None:
        """Cut a table in another way."""
        self.options[table] = option
        self.terms[table], self.sizes[table] = option.cost, option.num_bytes
        self.counts[table], self.places[table] = option.num_parts, option.place

    def parts(self, place: Place) -> np.ndarray:
        """Return the table of each part that goes to such a place."""
        tables = np.flatnonzero(self.places == place)
        return tables.repeat(self.counts[tables])


class _Placed(NamedTuple):
    """Hold for each table the ranks of its parts, and what ranks have to do and hold."""

    ranks: list[list[int]]
    loads: np.ndarray  # [ranks, 5], the terms of `Cost`
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
        rating = float(_so_far(placed.loads, placed.held, "time").max())
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
    cheapest_first = [sorted(found, key=lambda option: option.work(cluster)) for found in ways]
    cheapest = [found[0] for found in cheapest_first]
    mean = sum(option.work(cluster) for option in cheapest) / cluster.world_size
    proposals = [("cheapest", cheapest)]
    totals = [[option.cost.total for option in found] for found in cheapest_first]
    for share in _SHARES:
        choice = []
        for found, own in zip(cheapest_first, totals, strict=True):
            small = (place for place, total in enumerate(own) if total <= share * mean)
            choice.append(found[next(small, own.index(min(own)))])
        proposals.append((f"parts up to {share:g} of the mean", choice))
    for name, scheme in ((_WHOLE, "table"), ("rows", "row")):
        chosen = [[option for option in found if option.scheme == scheme] for found in ways]
        if all(chosen):
            proposals.append((name, [each[0] for each in chosen]))
    return proposals


def _fitted(
    options: Sequence[Option],
    ways: Sequence[Sequence[Option]],
    cluster: Cluster,
    balance: Balance,
    *,
    may_cut: bool,
) -> tuple[_Placed, list[Option]]:
    """Return where parts go, and the choice after tables without room were cut further."""
    choice = _Choice(options)
    for _ in range(_MOST_CUTS):
        try:
            return _place(choice, cluster, balance), choice.options
        except NoRoomError as error:
            smaller = _next_smaller(choice.options[error.item], ways[error.item])
            if not may_cut or not (_cut_copies(choice, ways, error.missing) or smaller):
                raise
            if smaller:
                choice.cut(error.item, smaller)
    raise NoRoomError(0, cluster.room)


def _cut_copies(choice: _Choice, ways: Sequence[Sequence[Option]], missing: float) -> bool:
    """Cut the largest copies, until each rank is so many bytes lighter or by an eighth of them; return if any were."""
    is_copy = np.array([option.scheme == "data" for option in choice.options])
    goal, freed = max(missing, (choice.sizes * is_copy).sum() / 8), 0.0
    for table in np.argsort(-choice.sizes * is_copy, kind="stable")[: is_copy.sum()].tolist():
        smaller = _next_smaller(choice.options[table], ways[table])
        if smaller and freed < goal:
            freed += choice.sizes[table]
            choice.cut(table, smaller)
    return freed > 0


def _next_smaller(option: Option, ways: Sequence[Option]) -> Option | None:
    smaller = [each for each in ways if each.num_bytes < option.num_bytes]
    return max(smaller, key=lambda each: each.num_bytes, default=None)


def _place(choice: _Choice, cluster: Cluster, balance: Balance) -> _Placed:
    """Return where parts go. Raises `NoRoomError` with the number of a table."""
    world, local = cluster.world_size, cluster.local_size
    everywhere, by_node = choice.parts("everywhere"), choice.parts("node")
    loads = np.tile(choice.terms[everywhere].sum(0), (world, 1))
    held = np.full(world, choice.sizes[everywhere].sum())
    if held[0] > cluster.room:
        largest = everywhere[choice.sizes[everywhere].argmax()]
        raise NoRoomError(int(largest), float(held[0] - cluster.room))
    terms, sizes = choice.terms[by_node], choice.sizes[by_node]
    before = _so_far(loads[::local], held[::local], balance)
    room = Room(sizes, cluster.room - held[::local])
    try:
        nodes = greedy(_so_far(terms, sizes, balance), before, room, by=sizes)
    except NoRoomError as error:
        raise NoRoomError(int(by_node[error.item]), error.missing) from None
    node_loads = np.zeros((cluster.num_nodes, 5))
    np.add.at(node_loads, nodes, terms)
    loads += np.repeat(node_loads, local, 0)
    held += np.bincount(nodes, sizes, cluster.num_nodes).repeat(local)
    by_rank = choice.parts("rank")
    chosen = _ranks_of(choice, by_rank, cluster, loads, held, balance)
    np.add.at(loads, chosen, choice.terms[by_rank])
    np.add.at(held, chosen, choice.sizes[by_rank])
    ranks: list[list[int]] = [[] for _ in choice.options]
    for table in everywhere.tolist():
        ranks[table] = list(range(world))
    for table, node in zip(by_node.tolist(), nodes.tolist(), strict=True):
        ranks[table] += range(node * local, (node + 1) * local)
    for table, rank in zip(by_rank.tolist(), chosen.tolist(), strict=True):
        ranks[table].append(rank)
    return _Placed(ranks, loads, held)


def _ranks_of(
    choice: _Choice,
    parts: np.ndarray,
    cluster: Cluster,
    loads: np.ndarray,
    held: np.ndarray,
    balance: Balance,
) -> np.ndarray:
    """Return ranks for parts that go to single ones, by the better of two ways."""
    sizes = choice.sizes[parts]
    costs = _so_far(choice.terms[parts], sizes, balance)
    room = Room(sizes, cluster.room - held)
    before = _so_far(loads, held, balance)
    found = []
    try:
        found.append(greedy(costs, before, room))
        if np.ptp(before) == 0:
            spread = largest_differencing(costs, cluster.world_size)
            found.append(repaired(spread, costs, before, room))
    except NoRoomError as error:
        if not found:
            raise NoRoomError(int(parts[error.item]), error.missing) from None
    return min(
        found, key=lambda each: (before + np.bincount(each, costs, cluster.world_size)).max()
    )


def _so_far(loads: np.ndarray, held: np.ndarray, balance: Balance) -> np.ndarray:
    """Return what is to be even, of loads [N, 5] and bytes [N]."""
    if balance == "bytes":
        return held.copy()
    if balance == "lookups":
        return np.asarray(loads[:, :2].sum(1))
    return np.maximum(loads[:, :-1].sum(1), loads[:, -1])


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
    loads = [Cost()] * cluster.world_size
    for place, table in enumerate(workload.tables):
        (whole,) = options(table, workload, cluster, schemes=("table",))
        rank = place % cluster.world_size
        loads[rank] = loads[rank].plus(whole.cost)
    return max(load.total for load in loads)


def _nowhere(workload: Workload, cluster: Cluster, failure: NoRoomError) -> str:
    table = workload.tables[failure.item]
    return (
        f"table {table.name!r} ({table.num_rows} x {table.dim}, {workload.table_bytes(table) / GIB:.2f} GiB) fits "
        f"nowhere: {failure.missing / GIB:.2f} GiB too much for the {cluster.room / GIB:.2f} GiB that a rank has for "
        f"tables, {workload.num_bytes / GIB:.1f} GiB for {cluster.world_size} ranks; take more ranks, 16-bit tables, "
        "fewer rows, or tiers (--cluster.below.fast-share)"
    )
