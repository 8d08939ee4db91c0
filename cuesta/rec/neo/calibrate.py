"""What the machine at hand can do: the planner's constants, measured with all ranks of a group busy at once.

Ranks on one machine share its memory's bandwidth and its cores, so that what one measures alone is no guide.
Everything is timed from one meeting of all ranks to the next, on the parts that a step of `ShardedEmbeddingBags` is
made of: lookups and fused updates of tables far larger than the cache and of one inside it, asking for ids, exchanges,
what is copied around them, dense layers with their optimiser and all-reduce, and a step with next to nothing to do.
Differences of sizes give what an id, a byte or a part of a table takes; medians are taken.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from cuesta.nn import MLP, EmbeddingBags, Table
from cuesta.ops import RowwiseAdagrad, bucketize_ids
from cuesta.ragged import Ragged, RaggedFeatures
from cuesta.rec.neo.cluster import GIB, MIB, Cluster
from cuesta.rec.neo.constants import Constants
from cuesta.rec.neo.costs import Scheme
from cuesta.rec.neo.dense import add_gradients
from cuesta.rec.neo.exchange import Ids, Sending, Wire
from cuesta.rec.neo.plan import Plan, TablePlan
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.sharded import ShardedEmbeddingBags
from cuesta.rec.neo.sharding import Sharding
from cuesta.rec.neo.steps import NUM_EXCHANGES
from cuesta.rec.neo.ways import Bags, ways_of

_OPTIMIZER = RowwiseAdagrad(lr=0.01)
_NUMBER = 4  # bytes of a float32
_LINE = 16  # float32 numbers of a cache line
_IDS_A_BAG = 10


@final
@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Say how much is measured: MiB of large tables, KiB of a small one, rows of a rank's batch, widths of tables, of
    answers and of dense layers, repetitions.
    """

    large_mib: int = 256
    small_kib: int = 512
    rows: int = 4096
    widths: tuple[int, ...] = (16, 64, 128)
    answer_width: int = 32
    dense_width: int = 512
    narrow_width: int = 64
    repetitions: int = 9


QUICK = Sizes(
    large_mib=2,
    small_kib=64,
    rows=64,
    widths=(16, 32),
    dense_width=64,
    narrow_width=8,
    repetitions=2,
)


def measure(ranks: Ranks, sizes: Sizes | None = None) -> Cluster:
    """Return this machine as a cluster of one node; every rank calls, and gets what rank 0 timed."""
    sizes = sizes or Sizes()
    clock = _Clock(ranks, sizes.repetitions)
    lookups, links = _lookups(clock, sizes), _links(clock, sizes)
    constants = _dense(clock, sizes, lookups)
    constants = _copies(clock, sizes, constants, lookups.fast, links.bandwidth)
    constants = _asked(clock, sizes, constants)
    return Cluster(
        world_size=ranks.size,
        ranks_per_node=ranks.size,
        fast=lookups.fast / GIB,
        inside=links.bandwidth / GIB,
        ring_inside=_ring(clock, sizes) / GIB,
        fast_capacity=_memory() / GIB / ranks.size,
        constants=_overhead(clock, constants, links.latency_us),
    )


class _Clock:
    """Time work that all ranks do at once."""

    def __init__(self, ranks: Ranks, repetitions: int) -> None:
        self.ranks, self._repetitions = ranks, repetitions

    def median(self, *works: Callable[[], object]) -> list[float]:
        """Return the median seconds of each of these, done in turn, after one round that does not count."""
        seconds: list[list[float]] = [[] for _ in works]
        for repetition in range(self._repetitions + 1):
            for place, work in enumerate(works):
                self._meet()
                began = time.perf_counter()
                work()
                self._meet()
                if repetition:
                    seconds[place].append(time.perf_counter() - began)
        medians = torch.tensor([float(np.median(each)) for each in seconds], dtype=torch.float64)
        return self.ranks.gather(medians)[0].tolist()

    def _meet(self) -> None:
        self.ranks.add(torch.zeros(1))


class _Lookups(NamedTuple):
    """Hold bytes a second, and what ids take beside, as `Constants` says."""

    fast: float
    id_ns: float
    backward: float
    update_ns: float
    cached: float
    cached_update: float


def _lookups(clock: _Clock, sizes: Sizes) -> _Lookups:
    num_ids = sizes.rows * _IDS_A_BAG
    moved, forward, update = [], [], []
    for width in sizes.widths:
        times = _lookup_times(clock, sizes, width, sizes.large_mib * MIB)
        moved.append(num_ids * (8 + width * _NUMBER) + sizes.rows * width * _NUMBER)
        forward.append(times[0])
        update.append(times[1])
    byte_s, id_s = _line(moved, forward, num_ids)
    update_byte_s, update_id_s = _line(moved, update, num_ids)
    width = sizes.widths[-1]
    small = _lookup_times(clock, sizes, width, sizes.small_kib * 1024)
    return _Lookups(
        fast=1 / byte_s,
        id_ns=id_s * 1e9,
        backward=update_byte_s / byte_s,
        update_ns=update_id_s * 1e9,
        cached=min(small[0] / forward[-1], 1.0),
        cached_update=min(small[1] / update[-1], 1.0),
    )


def _lookup_times(clock: _Clock, sizes: Sizes, width: int, num_bytes: int) -> list[float]:
    """Return the seconds of a lookup of distinct random rows, and of its backward with the update."""
    num_rows = num_bytes // (width * _NUMBER)
    table = Table(name="t", num_rows=num_rows, dim=width, pooled=("f",))
    bags = EmbeddingBags([table], _OPTIMIZER)
    draw = torch.Generator().manual_seed(clock.ranks.rank)
    lengths = torch.full((sizes.rows,), _IDS_A_BAG)
    batches = [
        RaggedFeatures.from_ragged(
            {"f": Ragged.from_lengths(torch.randint(num_rows, (int(lengths.sum()),), generator=draw), lengths)}
        )
        for _ in range(4)
    ]  # fmt: skip
    grad = torch.ones(sizes.rows, width)
    turn, out = 0, torch.empty(0)

    def look_up() -> None:
        nonlocal turn, out
        turn += 1
        out = bags(batches[turn % len(batches)])

    def update() -> None:
        out.backward(grad)
        bags.step()

    return clock.median(look_up, update)


def _line(xs: Sequence[float], ys: Sequence[float], count: int) -> tuple[float, float]:
    """Return slope and offset / count of the line through points; no slope or offset is below nothing."""
    slope, offset = np.polyfit(np.array(xs), np.array(ys), 1)
    if offset < 0:
        slope, offset = float(np.dot(xs, ys) / np.dot(xs, xs)), 0.0
    if slope <= 0:
        slope, offset = float(np.mean(ys) / np.mean(xs)), 0.0
    return float(slope), float(offset / count)


class _Links(NamedTuple):
    """Hold bytes a second of what a rank sends, to itself too, and microseconds a peer."""

    bandwidth: float
    latency_us: float


def _links(clock: _Clock, sizes: Sizes) -> _Links:
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
    num_bytes = (amounts[1] - amounts[0]) * world * _NUMBER
    bandwidth = num_bytes / max(long - short, 1e-9)
    (meeting,) = clock.median(lambda: None)
    return _Links(bandwidth, max(short - meeting, 0.0) / max(world - 1, 1) * 1e6)


def _ring(clock: _Clock, sizes: Sizes) -> float:
    """Return bytes a second of a sum of dense gradients over all ranks, as `Cluster.all_reduce` counts them."""
    world = clock.ranks.size
    net = MLP((sizes.dense_width,) * 5)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    (seconds,) = clock.median(lambda: add_gradients(net.parameters(), clock.ranks))
    num_bytes = sum(each.numel() for each in net.parameters()) * _NUMBER
    return 2 * num_bytes * max(world - 1, 1) / world / max(seconds, 1e-9)


def _copies(
    clock: _Clock, sizes: Sizes, constants: Constants, fast: float, bandwidth: float
) -> Constants:
    """Return constants with the bytes copied beside each byte of answers, and of gradients, that is exchanged."""
    if clock.ranks.size == 1:
        return replace(constants, sum_backward=0.0)
    found = {}
    for scheme in ("table", "row"):
        forward, backward, num_bytes = _answer_times(clock, sizes, scheme)
        for words, seconds in (("forward", forward), ("backward", backward)):
            beside = (seconds - num_bytes / bandwidth) * fast / num_bytes
            found[scheme, words] = max(beside, 0.0)
    return replace(
        constants,
        copy_forward=found["table", "forward"],
        copy_backward=found["table", "backward"],
        sum_forward=max(found["row", "forward"] - found["table", "forward"], 0.0),
        sum_backward=max(found["row", "backward"] - found["table", "backward"], 0.0),
    )


def _answer_times(clock: _Clock, sizes: Sizes, scheme: Scheme) -> tuple[float, float, int]:
    """Return the seconds of answers on their way, of their gradients, and the bytes that a rank sends."""
    ranks, rows, width = clock.ranks, sizes.rows // 4, sizes.answer_width
    tables = _tables(8 * ranks.size, width)
    sharding = Sharding(tables, _plan(tables, scheme, ranks.size), _OPTIMIZER, ranks.size)
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

    forward, backward = clock.median(there, lambda: out.backward(grad))
    return forward, backward, values.numel() * _NUMBER


def _asked(clock: _Clock, sizes: Sizes, constants: Constants) -> Constants:
    """Return constants with the nanoseconds of an id and of a bag asked of a rank by all ranks."""
    if clock.ranks.size == 1:
        return constants
    rows = sizes.rows // 4
    works = [_asking(clock.ranks, *each) for each in ((1, 1), (rows, 1), (rows, 2 * _IDS_A_BAG))]
    nothing, bags, full = clock.median(*works)
    num_bags = 8 * rows * clock.ranks.size
    id_s = max(full - bags, 0.0) / (num_bags * (2 * _IDS_A_BAG - 1))
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


def _dense(clock: _Clock, sizes: Sizes, lookups: _Lookups) -> Constants:
    """Return constants of lookups and of dense layers: products of wide ones, numbers between narrow ones, weights.

    Rows are read by cache lines, at no other penalty.
    """
    rows = sizes.rows // 4
    wide, narrow = (sizes.dense_width,) * 5, (sizes.narrow_width,) * 9
    nets = [MLP(widths) for widths in (wide, narrow)]
    optimizer = torch.optim.AdamW(nets[0].parameters(), fused=True)
    works = [
        partial(_learn, net, torch.rand(rows, widths[0]))
        for net, widths in zip(nets, (wide, narrow), strict=True)
    ]
    wide_s, narrow_s, update_s = clock.median(*works, optimizer.step)
    flops = [6.0 * rows * len(w[1:]) * w[0] ** 2 for w in (wide, narrow)]
    numbers = [float(rows * len(w[1:]) * w[0]) for w in (wide, narrow)]
    system = np.array([flops, numbers]).T
    flop_s, number_s = np.linalg.solve(system, np.array([wide_s, narrow_s]))
    if number_s < 0 or flop_s <= 0:
        flop_s, number_s = wide_s / flops[0], 0.0
    weights = sum(each.numel() for each in nets[0].parameters())
    return Constants(
        least_width=_LINE,
        narrow=1.0,
        medium=1.0,
        backward=lookups.backward,
        id_ns=lookups.id_ns,
        update_ns=lookups.update_ns,
        cached=lookups.cached,
        cached_update=lookups.cached_update,
        cache_mib=_last_cache() / MIB / clock.ranks.size,
        copies="gathered",
        gflops=float(1 / flop_s / 1e9),
        activation_bytes=float(number_s * lookups.fast),
        parameter_bytes=update_s * lookups.fast / weights,
    )


def _learn(net: nn.Module, inputs: Tensor) -> None:
    net(inputs).sum().backward()


def _overhead(clock: _Clock, constants: Constants, latency_us: float) -> Constants:
    """Return constants with what a step takes that has next to nothing to do, and each part of a table on a rank.

    Its exchanges, with each peer, are taken out of it; they cannot be more than all of it.
    """
    few, many = 2, 34
    less, more = clock.median(*(_tiny_step(clock.ranks, count) for count in (few, many)))
    part_s = max(more - less, 0.0) / (many - few)
    rest = max(less - few * part_s, 0.0)
    waits = NUM_EXCHANGES * max(clock.ranks.size - 1, 0)
    latency_s = min(latency_us / 1e6, rest / max(waits, 1))
    return replace(
        constants,
        part_us=part_s * 1e6,
        latency_us=latency_s * 1e6,
        step_ms=(rest - waits * latency_s) * 1e3,
    )


def _tiny_step(ranks: Ranks, num_parts: int) -> Callable[[], object]:
    """Return a step of a small model with so many tables a rank and a row a rank."""
    tables = _tables(num_parts * ranks.size, _LINE)
    bags = ShardedEmbeddingBags(tables, _OPTIMIZER, _plan(tables, "table", ranks.size), ranks)
    batch = RaggedFeatures.from_ragged(
        {
            table.name: Ragged.from_lengths(torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))
            for table in tables
        }
    )  # fmt: skip
    top = MLP((bags.width, _LINE, _LINE, 1))
    optimizer = torch.optim.AdamW(top.parameters(), fused=True)

    def step() -> None:
        nn.functional.binary_cross_entropy_with_logits(
            top(bags(batch)).squeeze(1), torch.ones(1)
        ).backward()
        add_gradients(top.parameters(), ranks)
        optimizer.step()
        optimizer.zero_grad()
        bags.step()

    return step


def _tables(count: int, width: int) -> list[Table]:
    return [Table(name=str(t), num_rows=1000, dim=width, pooled=(str(t),)) for t in range(count)]


def _plan(tables: Sequence[Table], scheme: Scheme, world: int) -> Plan:
    planned = {
        table.name: TablePlan(
            name=table.name,
            num_rows=table.num_rows,
            dim=table.dim,
            scheme=scheme,
            columns=1,
            ranks=tuple(range(world)) if scheme == "row" else (place * world // len(tables),),
        )
        for place, table in enumerate(tables)
    }
    return Plan(world_size=world, ranks_per_node=world, tables=planned)


def _last_cache() -> float:
    """Return the bytes of the processor's last level of cache; none where the system does not say."""
    found = [0.0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        words = path.read_text().strip()
        units = {"K": 2**10, "M": 2**20}
        found.append(float(words[:-1]) * units[words[-1]] if words[-1] in units else float(words))
    return max(found)


def _memory() -> float:
    """Return the bytes of this machine's memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
