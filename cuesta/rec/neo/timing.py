"""How calibration times what all ranks do at once, on how much, and the tables that it does it with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from cuesta.nn import Table
from cuesta.rec.neo.costs import Scheme
from cuesta.rec.neo.plan import Plan, TablePlan
from cuesta.rec.neo.ranks import Ranks

NUMBER = 4  # bytes of a float32
IDS_A_BAG = 10


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


class Clock:
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


def tables_of(count: int, width: int) -> list[Table]:
    """Return so many tables of 1000 rows, each with a pooled feature of its name."""
    return [Table(name=str(t), num_rows=1000, dim=width, pooled=(str(t),)) for t in range(count)]


def plan_of(tables: Sequence[Table], scheme: Scheme, world: int) -> Plan:
    """Return the plan that gives every rank as many whole tables, or cuts all by rows, or copies them."""
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
