"""Several ranks in one process, a thread each, over gloo: what one test of sharding needs, without starting processes.

Also plans of one scheme, and batches of ids dealt to ranks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from cuesta.nn import Table
from cuesta.ragged import Ragged, RaggedFeatures
from cuesta.rec.neo.costs import Scheme
from cuesta.rec.neo.plan import Plan, TablePlan
from cuesta.rec.neo.ranks import Levels, Ranks

Result = TypeVar("Result")
TABLES = (
    Table(name="user", num_rows=7, dim=8, pooled=("user",)),
    Table(name="item", num_rows=31, dim=8, pooled=("item", "seen"), unpooled=("history",)),
    Table(name="tag", num_rows=5, dim=4, pooled=("tag",), unpooled=("tags",), pooling="mean"),
    Table(name="wide", num_rows=12, dim=8, pooled=("wide",), unpooled=("more",), pooling="mean"),
)
KEYS = ("tag", "history", "user", "wide", "seen", "more", "item", "tags")
SIZES = {key: table.num_rows for table in TABLES for key in (*table.pooled, *table.unpooled)}


def run_ranks(
    size: int, work: Callable[[Ranks], Result], ranks_per_node: int | None = None
) -> list[Result]:
    """Return what `work` returns on each of `size` ranks; the first error of one is raised.

    They know of nodes only if `ranks_per_node` are given.
    """
    store, results, errors = dist.HashStore(), {}, []

    def ranks_of(name: str, rank: int, size: int, levels: Levels | None = None) -> Ranks:
        own = dist.PrefixStore(name, store)
        return Ranks(dist.ProcessGroupGloo(own, rank, size, timedelta(seconds=20)), levels)

    def one(rank: int) -> None:
        try:
            levels = None
            if ranks_per_node is not None:
                node, place = divmod(rank, ranks_per_node)
                levels = Levels(
                    inside=ranks_of(f"node {node}", place, ranks_per_node),
                    across=ranks_of(f"place {place}", node, size // ranks_per_node),
                )
            results[rank] = work(ranks_of("all", rank, size, levels))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((e for e in errors if not isinstance(e, RuntimeError)), errors[0])
    return [results[rank] for rank in range(size)]


def plan_of(
    scheme: Scheme, world: int, tables: Sequence[Table] = TABLES, ranks_per_node: int = 2
) -> Plan:
    """Return a plan that cuts every table by one scheme."""
    node = min(ranks_per_node, world)
    planned = {}
    for number, table in enumerate(tables):
        parts = 2 if scheme in ("column", "table_column", "grid") else 1
        if scheme in ("row", "data"):
            ranks = tuple(range(world))
        elif scheme in ("table_row", "grid"):
            nodes = world // node
            ranks = tuple(
                ((number + part) % nodes) * node + rank
                for part in range(parts)
                for rank in range(node)
            )
        else:
            ranks = tuple((number + 1 + part) % world for part in range(parts))
        planned[table.name] = TablePlan(
            name=table.name, num_rows=table.num_rows, dim=table.dim, scheme=scheme, columns=parts,
            ranks=ranks,
        )  # fmt: skip
    return Plan(world_size=world, ranks_per_node=node, tables=planned)


def batches(num_rows: Sequence[int], seed: int, *, weighted: bool = False) -> list[RaggedFeatures]:
    """Return each rank's batch: bags of 0 to 4 ids, which repeat."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for rows in num_rows:
        features = {}
        for key in KEYS:
            lengths = torch.randint(5, (rows,), generator=generator)
            ids = torch.randint(SIZES[key], (int(lengths.sum()),), generator=generator)
            features[key] = Ragged.from_lengths(ids, lengths)
        batch = RaggedFeatures.from_ragged(features)
        if weighted:
            weights = torch.rand(batch.values.shape, generator=generator) + 0.5
            batch = RaggedFeatures(batch.keys, batch.values, batch.offsets, weights)
        found.append(batch)
    return found
