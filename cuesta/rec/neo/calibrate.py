"""What the machine at hand can do: the planner's constants, measured with all ranks of a group busy at once.

Ranks on one machine share its memory's bandwidth and its cores, so that what one measures alone is no guide.
Everything is timed from one meeting of all ranks to the next, on the parts that a step of `ShardedEmbeddingBags` is
made of: lookups and fused updates of tables far larger than the cache and of one inside it, exchanges
(`calibrate_exchanges.py`), dense layers with their optimiser, and a step with next to nothing to do.
Differences of sizes give what an id, a byte or a part of a table takes; medians are taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cuesta.nn import MLP, EmbeddingBags, Table
from cuesta.ragged import Ragged, RaggedFeatures
from cuesta.rec.neo.calibrate_exchanges import (
    OPTIMIZER,
    measured_links,
    measured_ring,
    with_asking,
    with_copying,
    with_gathering,
)
from cuesta.rec.neo.cluster import GIB, MIB, Cluster
from cuesta.rec.neo.constants import Constants
from cuesta.rec.neo.dense import add_gradients
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.sharded import ShardedEmbeddingBags
from cuesta.rec.neo.steps import NUM_EXCHANGES
from cuesta.rec.neo.timing import IDS_A_BAG, NUMBER, Clock, Sizes, plan_of, tables_of

_TABLES = 8  # looked up at once
_LINE = 16  # float32 numbers of a cache line


def measure(ranks: Ranks, sizes: Sizes | None = None) -> Cluster:
    """Return this machine as a cluster of one node; every rank calls, and gets what rank 0 timed."""
    sizes = sizes or Sizes()
    clock = Clock(ranks, sizes.repetitions)
    lookups, links = _lookups(clock, sizes), measured_links(clock, sizes)
    constants = _dense(clock, sizes, lookups)
    constants = with_copying(clock, sizes, constants, lookups.fast, links.bandwidth)
    constants = with_gathering(clock, sizes, constants, lookups.fast, links.bandwidth)
    constants = with_asking(clock, sizes, constants)
    return Cluster(
        world_size=ranks.size,
        ranks_per_node=ranks.size,
        fast=lookups.fast / GIB,
        inside=links.bandwidth / GIB,
        ring_inside=measured_ring(clock, sizes) / GIB,
        fast_capacity=_memory() / GIB / ranks.size,
        constants=_overhead(clock, constants, links.latency_us),
    )


class _Lookups(NamedTuple):
    """Hold bytes a second, and what ids take beside, as `Constants` says."""

    fast: float
    id_ns: float
    backward: float
    update_ns: float
    cached: float
    cached_update: float


def _lookups(clock: Clock, sizes: Sizes) -> _Lookups:
    num_bags = sizes.rows * _TABLES
    num_ids = num_bags * IDS_A_BAG
    moved, forward, update = [], [], []
    for width in sizes.widths:
        times = _lookup_times(clock, sizes, width, sizes.large_mib * MIB)
        moved.append(num_ids * (8 + width * NUMBER) + num_bags * width * NUMBER)
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


def _lookup_times(clock: Clock, sizes: Sizes, width: int, num_bytes: int) -> list[float]:
    """Return the seconds that `sizes.rows` rows of a batch take, beyond what a few take, for random ids in tables of
    `num_bytes` together: of a lookup, and of its backward with the update.
    """
    num_rows = num_bytes // (width * NUMBER) // _TABLES
    names = [str(number) for number in range(_TABLES)]
    tables = [Table(name=name, num_rows=num_rows, dim=width, pooled=(name,)) for name in names]
    bags = EmbeddingBags(tables, OPTIMIZER)
    draw = torch.Generator().manual_seed(clock.ranks.rank)
    few = sizes.rows // 8
    works: list[Callable[[], None]] = []
    for rows in (few, few + sizes.rows):
        lengths = torch.full((rows,), IDS_A_BAG)

        def ids(lengths: Tensor = lengths) -> Ragged:
            drawn = torch.randint(num_rows, (int(lengths.sum()),), generator=draw)
            return Ragged.from_lengths(drawn, lengths)

        batches = [RaggedFeatures.from_ragged({name: ids() for name in names}) for _ in range(4)]
        works += _lookup_works(bags, batches, torch.ones(rows, bags.width))
    forward, update, more_forward, more_update = clock.median(*works)
    return [max(more_forward - forward, 1e-9), max(more_update - update, 1e-9)]


def _lookup_works(
    bags: EmbeddingBags, batches: Sequence[RaggedFeatures], grad: Tensor
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a lookup of one batch after another, and its backward with the update."""
    turns, out = cycle(batches), torch.empty(0)

    def look_up() -> None:
        nonlocal out
        out = bags(next(turns))

    def update() -> None:
        out.backward(grad)
        bags.step()

    return look_up, update


def _line(xs: Sequence[float], ys: Sequence[float], count: int) -> tuple[float, float]:
    """Return slope and offset / count of the line through points; no slope or offset is below nothing."""
    slope, offset = np.polyfit(np.array(xs), np.array(ys), 1)
    if offset < 0:
        slope, offset = float(np.dot(xs, ys) / np.dot(xs, xs)), 0.0
    if slope <= 0:
        slope, offset = float(np.mean(ys) / np.mean(xs)), 0.0
    return float(slope), float(offset / count)


def _dense(clock: Clock, sizes: Sizes, lookups: _Lookups) -> Constants:
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


def _overhead(clock: Clock, constants: Constants, latency_us: float) -> Constants:
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
    tables = tables_of(num_parts * ranks.size, _LINE)
    bags = ShardedEmbeddingBags(tables, OPTIMIZER, plan_of(tables, "table", ranks.size), ranks)
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
