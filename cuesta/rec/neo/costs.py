"""What it costs a rank, in milliseconds a step and in bytes, to hold a part of a table: the planner's model.

Bytes over bandwidths, with the terms of TorchRec's public performance model and its constants, unless others are given
(`Constants`). A part with d columns that is asked for `ids` and gives `vectors` moves 8 ids + ids max(d, 32) s +
vectors d f bytes in forward, s and f being the bytes of a weight and of a number on the wire; times 1.15 or 1.75 where
its rows are narrower than 128 or 64. Backward takes twice that, and with weights of the ids 1.1 times more. What is
exchanged depends on the scheme:

```
table, column        all-to-all of all pooled vectors, back of their gradients
row                  reduce-scatter, back an all-gather and a copy of what it brings
table_row, grid      reduce-scatter inside a node, then all-to-all of 1 / ranks of a node across
table_column         as column, its parts on the ranks of one node
data                 nothing; back an all-reduce of the whole table's gradient, or all ranks' ids and gradients
```

Rows that repeat in a batch are in the cache of the processor when they come again; those that all ranks ask for repeat
more than those of one, by the law that has as many repeated ids in one batch as were counted (`popularity.py`). Parts
in tiers move the rows that their cache misses beside all this (`below.py`); copies lie in fast memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from cuesta.rec.neo.below import Below
from cuesta.rec.neo.cluster import MIB, Cluster, milliseconds
from cuesta.rec.neo.popularity import fitted
from cuesta.rec.neo.workload import INDEX_BYTES, TableLoad, Workload

Scheme = Literal["table", "column", "row", "data", "table_row", "table_column", "grid"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
Place = Literal["rank", "node", "everywhere"]

_GRADIENT_BYTES = 4  # of a number that is gathered for copies


class Cost(NamedTuple):
    """Hold the milliseconds of a step; `moved` are those of rows between tiers, beside all else."""

    forward: float = 0.0
    backward: float = 0.0
    forward_exchange: float = 0.0
    backward_exchange: float = 0.0
    moved: float = 0.0

    @property
    def total(self) -> float:
        """Return the sum of all but `moved`, which do not overlap in the model; or that, if it takes longer."""
        return max(sum(self[:-1]), self.moved)

    def plus(self, other: Cost) -> Cost:
        """Return the sum of both, term by term."""
        return Cost(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Option(NamedTuple):
    """Say how a table may be cut: into `num_parts` parts alike, each on a rank, on every rank of a node, or everywhere.

    `dim`, `cost` and `num_bytes` are what a rank gets of one part.
    """

    scheme: Scheme
    num_parts: int
    place: Place
    dim: int
    cost: Cost
    num_bytes: float

    def work(self, cluster: Cluster) -> float:
        """Return the milliseconds of all ranks together."""
        ranks = {"rank": 1, "node": cluster.local_size, "everywhere": cluster.world_size}
        return self.cost.total * self.num_parts * ranks[self.place]


def options(
    table: TableLoad,
    workload: Workload,
    cluster: Cluster,
    *,
    schemes: Sequence[Scheme] = SCHEMES,
    least_columns: int = 32,
) -> Iterator[Option]:
    """Yield the ways to cut a table, columns into parts of `least_columns` and more; by node if there are several."""
    model = _Model(table, workload, cluster)
    world, local, nodes = cluster.world_size, cluster.local_size, cluster.num_nodes
    for scheme in schemes:
        if scheme == "table":
            yield model.of_ranks(scheme, 1)
        elif scheme == "column":
            for count in _divisors(table.dim, least_columns, world):
                yield model.of_ranks(scheme, count)
        elif scheme == "row" and world > 1:
            yield model.of_rows()
        elif scheme == "data":
            yield model.of_copies()
        elif scheme == "table_row" and nodes > 1:
            yield model.of_node_rows(scheme, 1)
        elif scheme == "grid" and nodes > 1:
            for count in _divisors(table.dim, least_columns, nodes):
                yield model.of_node_rows(scheme, count)
        elif (
            scheme == "table_column"
            and nodes > 1
            and local in _divisors(table.dim, least_columns, local)
        ):
            yield model.of_ranks(scheme, local)._replace(num_parts=1, place="node")


def _divisors(dim: int, least: int, most: int) -> list[int]:
    return [n for n in range(2, min(dim // least, most) + 1) if not dim % n]


class _Model:
    """Hold what the formulas of one table share."""

    def __init__(self, table: TableLoad, workload: Workload, cluster: Cluster) -> None:
        self._table, self._workload, self._cluster = table, workload, cluster
        self._constants = cluster.constants
        self._ids = workload.batch_size * table.ids  # of one rank's batch
        self._bags = workload.batch_size * table.bags
        self._unpooled = workload.batch_size * table.unpooled
        self._vectors = self._bags + self._unpooled
        weights = workload.num_parameters * workload.weight_bytes / cluster.world_size
        resident = min(self._constants.cache_mib * MIB / weights, 1.0)
        # shares of the ids whose rows are in the cache: of one rank's batch, and of those of all ranks
        self._own_hot = self._hot = max(table.repeated, resident)
        if table.repeated and cluster.world_size > 1:
            law = fitted(table.num_rows, self._ids, table.repeated)
            self._hot = max(law.repeated(self._ids * cluster.world_size), self._hot)
        self._missed = missed_rows(table, workload, cluster)

    def of_ranks(self, scheme: Scheme, count: int) -> Option:
        """Cut into `count` parts of columns, each asked by all ranks."""
        world, dim = self._cluster.world_size, self._table.dim // count
        ids, vectors = self._ids * world, self._vectors * world
        penalty = self._penalty(dim)
        sent = returned = 0.0
        if world > 1:
            sent, returned = self._wire(vectors * dim, self._cluster.exchange)
            sent += self._asked(ids, vectors)
        cost = Cost(
            self._lookup(ids, vectors, dim, penalty) + self._constants.part_us / 1e3,
            self._update(ids, vectors, dim, penalty),
            sent,
            returned,
            self._between_tiers(1.0, dim),
        )
        return Option(scheme, count, "rank", dim, cost, self._size(1.0, dim, ids, vectors))

    def of_rows(self) -> Option:
        """Cut into a block of rows a rank."""
        world, dim = self._cluster.world_size, self._table.dim
        vectors = self._bags * world + self._unpooled
        sent, returned = self._wire(vectors * dim, self._cluster.exchange, is_sum=True)
        cost = self._of_sums(vectors, sent, returned, self._ids, dim)
        cost = cost._replace(moved=self._between_tiers(1 / world, dim))
        size = self._size(1 / world, dim, self._ids, vectors)
        return Option("row", 1, "everywhere", dim, cost, size)

    def of_node_rows(self, scheme: Scheme, count: int) -> Option:
        """Cut into `count` parts of columns, each into a block of rows a rank of a node."""
        world, local = self._cluster.world_size, self._cluster.local_size
        dim, ids = self._table.dim // count, self._ids * world / local
        vectors = self._bags * world + self._unpooled * world / local
        sent, returned = self._wire(vectors * dim, self._cluster.inside, is_sum=True)
        far_sent, far_returned = self._wire(vectors * dim / local, self._cluster.across)
        cost = self._of_sums(vectors, sent + far_sent, returned + far_returned, ids, dim)
        cost = cost._replace(moved=self._between_tiers(1 / local, dim))
        return Option(scheme, count, "node", dim, cost, self._size(1 / local, dim, ids, vectors))

    def of_copies(self) -> Option:
        """Give every rank the whole table."""
        dim = self._table.dim
        forward = self._lookup(self._ids, self._vectors, dim, hot=self._own_hot)
        held = self._size(1.0, dim, self._ids, self._vectors, in_tiers=False)
        if self._constants.copies == "gathered":
            back, returned, buffer = self._gathered_update()
        else:
            back, returned, buffer = self._reduced_update()
        cost = Cost(forward + self._constants.part_us / 1e3, back, 0.0, returned)
        return Option("data", 1, "everywhere", dim, cost, held + buffer)

    def _of_sums(self, vectors: float, sent: float, returned: float, ids: float, dim: int) -> Cost:
        """Return the cost of a part of the rows, which gives sums for all vectors."""
        return Cost(
            self._lookup(ids, vectors, dim) + self._constants.part_us / 1e3,
            self._update(ids, vectors, dim),
            sent + self._asked(ids, vectors),
            returned,
        )

    def _reduced_update(self) -> tuple[float, float, float]:
        """Return the milliseconds of backward and of its exchange, and the bytes of a dense gradient."""
        cluster, dim = self._cluster, self._table.dim
        size = float(self._table.num_rows * dim * self._workload.weight_bytes)
        update = milliseconds(self._constants.table_update * size, cluster.fast)
        returned = 0.0
        if cluster.world_size > 1:
            nodes = min(cluster.num_nodes, 2)
            passes = (2 * nodes - 1) / nodes * (2 if cluster.num_nodes > 2 else 1)
            returned = milliseconds(passes * size, cluster.exchange * cluster.local_size)
        back = self._update(self._ids, self._vectors, dim, hot=self._own_hot)
        return back + update, returned, size

    def _gathered_update(self) -> tuple[float, float, float]:
        """Return the same where every rank gets the ids and float32 gradients of all and applies them."""
        cluster, dim = self._cluster, self._table.dim
        ids, vectors = self._ids * cluster.world_size, self._vectors * cluster.world_size
        back = self._update(ids, vectors, dim)
        if cluster.world_size == 1:
            return back, 0.0, 0.0
        gathered = ids * INDEX_BYTES + vectors * dim * _GRADIENT_BYTES
        copied = milliseconds(gathered * self._constants.copy_gathered, cluster.fast)
        return back, milliseconds(gathered, cluster.exchange) + copied, gathered

    def _lookup(
        self, ids: float, vectors: float, dim: int, penalty: float = 1.0, hot: float | None = None
    ) -> float:
        """Return the milliseconds of forward."""
        apart, rows = self._bytes(ids, vectors, dim, penalty)
        return apart + self._share(self._constants.cached, hot) * (
            rows + ids * self._constants.id_ns / 1e6
        )

    def _update(
        self, ids: float, vectors: float, dim: int, penalty: float = 1.0, hot: float | None = None
    ) -> float:
        """Return the milliseconds of backward with the optimiser."""
        constants = self._constants
        times = constants.backward + (constants.weighted if self._table.is_weighted else 0.0)
        apart, rows = self._bytes(ids, vectors, dim, penalty)
        return times * apart + self._share(constants.cached_update, hot) * (
            times * rows + ids * constants.update_ns / 1e6
        )

    def _bytes(self, ids: float, vectors: float, dim: int, penalty: float) -> tuple[float, float]:
        """Return the milliseconds of the bytes of ids and vectors, and of those of rows."""
        read = ids * INDEX_BYTES * (2 if self._table.is_weighted else 1)
        written = vectors * dim * self._workload.forward_bytes
        rows = ids * max(dim, self._constants.least_width) * self._workload.weight_bytes
        fast = self._cluster.fast
        return milliseconds((read + written) * penalty, fast), milliseconds(rows * penalty, fast)

    def _share(self, cached: float, hot: float | None) -> float:
        """Return what ids take, some of their rows being in the cache, by default those of all ranks' ids."""
        hot = self._hot if hot is None else hot
        return 1 - hot + hot * cached

    def _penalty(self, dim: int) -> float:
        constants = self._constants
        return 1.0 if dim >= 128 else constants.medium if dim >= 64 else constants.narrow

    def _asked(self, ids: float, vectors: float) -> float:
        """Return how long it takes to ask for ids and to be asked."""
        return (ids * self._constants.asked_ns + vectors * self._constants.bag_ns) / 1e6

    def _wire(
        self, numbers: float, bandwidth: float, *, is_sum: bool = False
    ) -> tuple[float, float]:
        """Return how long numbers take forward, and their gradients back, with what is copied around that."""
        constants, fast = self._constants, self._cluster.fast
        there = numbers * self._workload.forward_bytes
        back = numbers * self._workload.backward_bytes
        copied = constants.copy_forward + (constants.sum_forward if is_sum else 0.0)
        copied_back = constants.copy_backward + (constants.sum_backward if is_sum else 0.0)
        return (
            milliseconds(there, bandwidth) + milliseconds(there * copied, fast),
            milliseconds(back, bandwidth) + milliseconds(back * copied_back, fast),
        )

    def _between_tiers(self, share: float, dim: int) -> float:
        """Return how long the rows take that this share of the table misses in fast memory."""
        row_bytes = dim * self._workload.weight_bytes + self._workload.state_bytes(dim)
        missed, from_files = self._missed
        return self._cluster.below.milliseconds(missed * share, from_files * share, row_bytes)

    def _size(
        self, share: float, dim: int, ids: float, vectors: float, *, in_tiers: bool = True
    ) -> float:
        """Return the bytes of this share of the rows with their state, of the ids that arrive and of what is sent."""
        workload, rows = self._workload, self._table.num_rows * share
        held = held_bytes(workload, self._cluster, rows, dim, in_tiers=in_tiers)
        waiting = self._constants.input_copies * ids * INDEX_BYTES
        return held + waiting + vectors * dim * workload.forward_bytes


def held_bytes(
    workload: Workload, cluster: Cluster, rows: float, dim: int, *, in_tiers: bool
) -> float:
    """Return the bytes of fast memory that rows of `dim` columns take with their state from step to step."""
    state = workload.state_bytes(dim)
    if in_tiers and cluster.below.is_used:
        return cluster.below.fast_bytes(rows, dim, state)
    return rows * (dim * workload.weight_bytes + state)


def missed_rows(table: TableLoad, workload: Workload, cluster: Cluster) -> tuple[float, float]:
    """Return how many rows the batches of all ranks are expected to miss in fast memory, and to need from an SSD."""
    if not cluster.below.is_used:
        return 0.0, 0.0
    ids = workload.batch_size * table.ids
    return _missed(cluster.below, table.num_rows, ids, table.repeated, cluster.world_size)


@lru_cache(maxsize=4096)
def _missed(
    below: Below, num_rows: int, ids: float, repeated: float, world: int
) -> tuple[float, float]:
    return below.missed(fitted(num_rows, ids, repeated), ids * world, num_rows)
