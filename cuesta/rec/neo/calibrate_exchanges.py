"""What exchanges between the ranks of the machine at hand take: bytes, peers, and what is copied around them.

Timed on the parts of a step of `ShardedEmbeddingBags`, with all ranks at work: exchanges alone, the sum of dense
gradients, answers and their gradients, asking for ids, and gathering what copies learn from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from cuesta.nn import MLP
from cuesta.ops import Lookup, RowwiseAdagrad, TableLayout, bucketize_ids
from cuesta.ops.embedding_bag import Pooling
from cuesta.ragged import Ragged, offsets_from_lengths
from cuesta.rec.neo.constants import Constants
from cuesta.rec.neo.copies import gathered
from cuesta.rec.neo.costs import Scheme
from cuesta.rec.neo.dense import add_gradients
from cuesta.rec.neo.exchange import Ids, Sending, Wire
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.sharding import Sharding
from cuesta.rec.neo.timing import IDS_A_BAG, NUMBER, Clock, Sizes, plan_of, tables_of
from cuesta.rec.neo.ways import Bags, ways_of

OPTIMIZER = RowwiseAdagrad(lr=0.01)


class Links(NamedTuple):
    """Hold bytes a second of what a rank sends, to itself too, and microseconds a peer."""

    bandwidth: float
    latency_us: float


def measured_links(clock: Clock, sizes: Sizes) -> Links:
    """Return what short and long exchanges among all ranks say of their links."""
    world = clock.ranks.size
    amounts = [64, sizes.rows * 512]  # numbers to each rank
    values = [torch.zeros(amount * world) for amount in amounts]
    works = [
        lambda own=own, amount=amount: clock.ranks.exchange(
            own, [amount] * world, [amount] * world
        ).wait()
        for own, amount in zip(values, amounts, strict=True)
    ]
    short, long = clock.median(*works)
    num_bytes = (amounts[1] - amounts[0]) * world * NUMBER
    bandwidth = num_bytes / max(long - short, 1e-9)
    (meeting,) = clock.median(lambda: None)
    return Links(bandwidth, max(short - meeting, 0.0) / max(world - 1, 1) * 1e6)


def measured_ring(clock: Clock, sizes: Sizes) -> float:
    """Return bytes a second of a sum of dense gradients over all ranks, as `Cluster.all_reduce` counts them."""
    world = clock.ranks.size
    net = MLP((sizes.dense_width,) * 5)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    (seconds,) = clock.median(lambda: add_gradients(net.parameters(), clock.ranks))
    num_bytes = sum(each.numel() for each in net.parameters()) * NUMBER
    return 2 * num_bytes * max(world - 1, 1) / world / max(seconds, 1e-9)


def with_copying(
    clock: Clock, sizes: Sizes, constants: Constants, fast: float, bandwidth: float
) -> Constants:
    """Return constants with the bytes copied beside each byte of answers, and of gradients, that is exchanged."""
    if clock.ranks.size == 1:
        return replace(constants, sum_backward=0.0)
    rows = sizes.rows // 4
    found = {}
    for scheme in ("table", "row"):
        works, few = _answering(clock.ranks, sizes, scheme, 1)
        more, many = _answering(clock.ranks, sizes, scheme, rows)
        short, short_back, long, long_back = clock.median(*works, *more)
        times = {"forward": long - short, "backward": long_back - short_back}
        for words, seconds in times.items():
            found[scheme, words] = _beside(seconds, many - few, fast, bandwidth)
    return replace(
        constants,
        copy_forward=found["table", "forward"],
        copy_backward=found["table", "backward"],
        sum_forward=max(found["row", "forward"] - found["table", "forward"], 0.0),
        sum_backward=max(found["row", "backward"] - found["table", "backward"], 0.0),
    )


def _beside(seconds: float, num_bytes: float, fast: float, bandwidth: float) -> float:
    """Return the bytes copied beside each that is exchanged."""
    return max((seconds - num_bytes / bandwidth) * fast / num_bytes, 0.0)


def _answering(
    ranks: Ranks, sizes: Sizes, scheme: Scheme, rows: int
) -> tuple[tuple[Callable[[], object], ...], int]:
    """Return the sending of answers and of their gradients, and the bytes that a rank sends."""
    width = sizes.answer_width
    tables = tables_of(8 * ranks.size, width)
    sharding = Sharding(tables, plan_of(tables, scheme, ranks.size), OPTIMIZER, ranks.size)
    (way,) = ways_of(sharding, ranks)
    own_width = sum(slot.columns.width for slot in sharding.slots[ranks.rank])
    lengths = torch.ones(len(tables), rows, dtype=torch.int64)
    bags = Bags([rows] * ranks.size, lengths, 1 / ranks.size)
    values = torch.rand(rows * ranks.size, own_width)
    grad = torch.rand(rows, len(tables) * width)
    out = torch.empty(0)

    def there() -> None:
        nonlocal out
        out = way.send(values, bags, Wire()).wait()

    return (there, lambda: out.backward(grad)), values.nbytes


def with_gathering(
    clock: Clock, sizes: Sizes, constants: Constants, fast: float, bandwidth: float
) -> Constants:
    """Return constants with the bytes copied beside each byte that ranks gather for copies of tables."""
    if clock.ranks.size == 1:
        return constants
    lookups = [_copied(sizes, rows, 8 * clock.ranks.size) for rows in (1, sizes.rows // 4)]
    short, long = clock.median(*(partial(gathered, each, clock.ranks, "mean") for each in lookups))
    few, many = (clock.ranks.size * (each.ids.nbytes + each.grad.nbytes) for each in lookups)
    beside = _beside(long - short, many - few, fast, bandwidth)
    return replace(constants, copy_gathered=beside)


def _copied(sizes: Sizes, rows: int, num_features: int) -> Lookup:
    """Return a lookup of copied tables."""
    pooling: Pooling = "sum"
    numbers, width = tuple(range(num_features)), sizes.answer_width
    return Lookup(
        layout=TableLayout((1000,) * num_features, (width,) * num_features, numbers, (pooling,) * num_features),
        ids=torch.zeros(num_features * rows * IDS_A_BAG, dtype=torch.int64),
        offsets=offsets_from_lengths(torch.full((num_features * rows,), IDS_A_BAG)),
        grad=torch.rand(rows, num_features * width),
    )  # fmt: skip


def with_asking(clock: Clock, sizes: Sizes, constants: Constants) -> Constants:
    """Return constants with the nanoseconds of an id and of a bag asked of a rank by all ranks."""
    if clock.ranks.size == 1:
        return constants
    rows = sizes.rows // 4
    works = [_asking(clock.ranks, *each) for each in ((1, 1), (rows, 1), (rows, 2 * IDS_A_BAG))]
    nothing, bags, full = clock.median(*works)
    num_bags = 8 * rows * clock.ranks.size
    id_s = max(full - bags, 0.0) / (num_bags * (2 * IDS_A_BAG - 1))
    bag_s = max((bags - nothing) / num_bags - id_s, 0.0)
    return replace(constants, asked_ns=id_s * 1e9, bag_ns=bag_s * 1e9)


def _asking(ranks: Ranks, rows: int, ids_a_bag: int) -> Callable[[], object]:
    """Return the asking of ids of eight whole tables on every rank."""
    num_rows, num_features = 1000, 8 * ranks.size
    lengths = torch.full((num_features * rows,), ids_a_bag)
    draw = torch.Generator().manual_seed(ranks.rank)
    ids = Ragged.from_lengths(
        torch.randint(num_rows, (int(lengths.sum()),), generator=draw), lengths
    )
    blocks = torch.tensor([(feature, 0, num_rows) for feature in range(num_features)])

    def ask() -> object:
        dealt = bucketize_ids(ids.values, ids.offsets, blocks, num_features=num_features)
        return Sending(ranks, Ids(dealt.ids, dealt.lengths), [8] * ranks.size).wait()

    return ask
