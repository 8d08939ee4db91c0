"""What it costs a rank, in milliseconds a step and in bytes, to hold a part of a table: the planner's model.

Bytes over bandwidths, with the terms of TorchRec's public performance model. A part with d columns that is asked for
`ids` and gives `vectors` moves 8 ids + ids max(d, 32) s + vectors d f bytes in forward, s and f being the bytes of a
weight and of a number on the wire; times 1.15 or 1.75 where its rows are narrower than 128 or 64. Backward takes twice
that, and with weights of the ids 1.1 times more. What is exchanged depends on the scheme:

```
table, column        all-to-all of all pooled vectors, back of their gradients
row                  reduce-scatter, back an all-gather and a copy of what it brings
table_row, grid      reduce-scatter inside a node, then all-to-all of 1 / ranks of a node across
table_column         as column, its parts on the ranks of one node
data                 nothing; back an all-reduce of the whole table's gradient
```
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from cuesta.rec.neo.cluster import Cluster, milliseconds
from cuesta.rec.neo.workload import INDEX_BYTES, TableLoad, Workload

Scheme = Literal["table", "column", "row", "data", "table_row", "table_column", "grid"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
Place = Literal["rank", "node", "everywhere"]

_LEAST_WIDTH = 32  # columns that a read brings at least
_BATCHED_COPY, _TABLE_UPDATE = (
    2.455,
    9.22,
)  # bytes moved beside those that arrive; beside a dense gradient
_BACKWARD, _WEIGHTED = 2.0, 1.1
_INPUT_COPIES = 2  # a batch that is used and one that arrives


class Cost(NamedTuple):
    """Hold the milliseconds of a step."""

    forward: float = 0.0
    backward: float = 0.0
    forward_exchange: float = 0.0
    backward_exchange: float = 0.0

    @property
    def total(self) -> float:
        """Return their sum: nothing overlaps in the model."""
        return sum(self)

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
        self._ids = workload.batch_size * table.ids  # of one rank's batch
        self._bags = workload.batch_size * table.bags
        self._unpooled = workload.batch_size * table.unpooled
        self._vectors = self._bags + self._unpooled

    def of_ranks(self, scheme: Scheme, count: int) -> Option:
        """Cut into `count` parts of columns, each asked by all ranks."""
        world, dim = self._cluster.world_size, self._table.dim // count
        forward = self._lookup(self._ids * world, self._vectors * world, dim, is_narrow=True)
        sent, returned = self._wire(self._vectors * world * dim, self._cluster.exchange)
        if world == 1:
            sent = returned = 0.0
        cost = Cost(forward, self._backward(forward), sent, returned)
        size = self._size(1.0, dim, self._ids * world, self._vectors * world)
        return Option(scheme, count, "rank", dim, cost, size)

    def of_rows(self) -> Option:
        """Cut into a block of rows a rank."""
        world, dim = self._cluster.world_size, self._table.dim
        vectors = self._bags * world + self._unpooled
        forward = self._lookup(self._ids, vectors, dim, is_narrow=False)
        sent, returned = self._wire(vectors * dim, self._cluster.exchange)
        returned += self._copy(vectors * dim)
        cost = Cost(forward, self._backward(forward), sent, returned)
        return Option(
            "row", 1, "everywhere", dim, cost, self._size(1 / world, dim, self._ids, vectors)
        )

    def of_node_rows(self, scheme: Scheme, count: int) -> Option:
        """Cut into `count` parts of columns, each into a block of rows a rank of a node."""
        world, local = self._cluster.world_size, self._cluster.local_size
        dim, ids = self._table.dim // count, self._ids * world / local
        vectors = self._bags * world + self._unpooled * world / local
        forward = self._lookup(ids, vectors, dim, is_narrow=False)
        sent, returned = self._wire(vectors * dim, self._cluster.inside)
        far_sent, far_returned = self._wire(vectors * dim / local, self._cluster.across)
        returned += far_returned + self._copy(vectors * dim)
        cost = Cost(forward, self._backward(forward), sent + far_sent, returned)
        return Option(scheme, count, "node", dim, cost, self._size(1 / local, dim, ids, vectors))

    def of_copies(self) -> Option:
        """Give every rank the whole table."""
        cluster, dim = self._cluster, self._table.dim
        forward = self._lookup(self._ids, self._vectors, dim, is_narrow=False)
        size = float(self._table.num_rows * dim * self._workload.weight_bytes)
        update = milliseconds(_TABLE_UPDATE * size, cluster.fast)
        returned = 0.0
        if cluster.world_size > 1:
            nodes = min(cluster.num_nodes, 2)
            passes = (2 * nodes - 1) / nodes * (2 if cluster.num_nodes > 2 else 1)
            returned = milliseconds(passes * size, cluster.exchange * cluster.local_size)
        cost = Cost(forward, self._backward(forward) + update, 0.0, returned)
        own = self._size(1.0, dim, self._ids, self._vectors) + size  # and a dense gradient
        return Option("data", 1, "everywhere", dim, cost, own)

    def _lookup(self, ids: float, vectors: float, dim: int, *, is_narrow: bool) -> float:
        read = ids * INDEX_BYTES * (2 if self._table.is_weighted else 1)
        looked_up = ids * max(dim, _LEAST_WIDTH) * self._workload.weight_bytes
        written = vectors * dim * self._workload.forward_bytes
        penalty = (1.0 if dim >= 128 else 1.15 if dim >= 64 else 1.75) if is_narrow else 1.0
        return milliseconds((read + looked_up + written) * penalty, self._cluster.fast)

    def _backward(self, forward: float) -> float:
        return forward * (_BACKWARD + (_WEIGHTED if self._table.is_weighted else 0.0))

    def _wire(self, numbers: float, bandwidth: float) -> tuple[float, float]:
        """Return how long numbers take forward, and their gradients back."""
        return (
            milliseconds(numbers * self._workload.forward_bytes, bandwidth),
            milliseconds(numbers * self._workload.backward_bytes, bandwidth),
        )

    def _copy(self, numbers: float) -> float:
        moved = numbers * self._workload.backward_bytes * _BATCHED_COPY
        return milliseconds(moved, self._cluster.fast)

    def _size(self, share: float, dim: int, ids: float, vectors: float) -> float:
        """Return the bytes of this share of the rows with their state, of the ids that arrive and of what is sent."""
        workload, rows = self._workload, self._table.num_rows * share
        weight = workload.weight_bytes + workload.state_bytes_a_weight
        held = rows * (dim * weight + workload.state_bytes_a_row)
        return held + _INPUT_COPIES * ids * INDEX_BYTES + vectors * dim * workload.forward_bytes
