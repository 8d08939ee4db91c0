"""What is to be sharded: the tables of a model with how much they are looked up, and the batch of a rank.

From a recipe, or one of three production models that the paper describes, as far as it does: A (793 billion
parameters, a thousand tables), F (12 trillion in tens of tables) and I (332 billion in hundreds). Their rows and
looked-up ids are drawn from a seed, log-normal with the means that are known, and scaled to the number of parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final

import numpy as np

from cuesta.errors import UserError

INDEX_BYTES = 8


@final
@dataclass(frozen=True, kw_only=True)
class TableLoad:
    """Say how large a table is and what one row of a batch asks of it.

    `ids` are looked up in it; they are pooled into `bags` vectors, but for `unpooled` ones, which get a vector each.
    `repeated` is the share of a batch's ids that were in it before.
    """

    name: str
    num_rows: int
    dim: int
    ids: float
    bags: int = 1
    unpooled: float = 0.0
    is_weighted: bool = False
    repeated: float = 0.0

    def __post_init__(self) -> None:
        if min(self.num_rows, self.dim) < 1:
            raise UserError(
                f"table {self.name!r}: rows and dim must be at least 1, got {self.num_rows} and {self.dim}"
            )
        if not 0 <= self.unpooled <= self.ids or self.bags < 0:
            raise UserError(
                f"table {self.name!r}: bags must not be negative nor unpooled ids more than all, got "
                f"{self.bags}, {self.unpooled} and {self.ids}"
            )
        if not 0 <= self.repeated <= 1:
            raise UserError(f"table {self.name!r}: repeated must be in [0, 1], got {self.repeated}")


@final
@dataclass(frozen=True, kw_only=True)
class Dense:
    """Describe the layers that every rank has a copy of: what a row takes forward, in MFLOP and in numbers between
    layers, and their weights. `bottom` is the share of the layers that need no answer of a table.
    """

    mflops: float = 0.0
    activations: float = 0.0
    parameters: float = 0.0
    bottom: float = 0.2


@final
@dataclass(frozen=True, kw_only=True)
class Workload:
    """Hold the tables, the rows of a rank's batch, and bytes: of a stored weight, of the optimiser's state a row and a
    weight, and of a number on the wire, forward and backward; and the dense layers.
    """

    name: str
    tables: tuple[TableLoad, ...]
    batch_size: int = 512
    weight_bytes: int = 4
    state_bytes_a_row: int = 4
    state_bytes_a_weight: int = 0
    forward_bytes: int = 4
    backward_bytes: int = 4
    dense: Dense = Dense()

    def __post_init__(self) -> None:
        names = [table.name for table in self.tables]
        if not names or len(set(names)) != len(names):
            raise UserError(f"{self.name}: tables must be at least one, each of its own name")
        if self.batch_size < 1:
            raise UserError(f"batch-size must be at least 1, got {self.batch_size}")

    def table_bytes(self, table: TableLoad) -> float:
        """Return the bytes of a table's weights and of their optimiser's state."""
        return table.num_rows * (table.dim * self.weight_bytes + self.state_bytes(table.dim))

    def state_bytes(self, dim: int) -> int:
        """Return the bytes of the optimiser's state of a row of `dim` columns."""
        return self.state_bytes_a_row + dim * self.state_bytes_a_weight

    @property
    def num_bytes(self) -> float:
        """Return the bytes of all tables with their states."""
        return sum(self.table_bytes(table) for table in self.tables)

    @cached_property
    def num_parameters(self) -> int:
        """Return how many weights the tables have."""
        return sum(table.num_rows * table.dim for table in self.tables)


class _Known(NamedTuple):
    """Hold what is known of a model of the paper (arXiv 2104.05158), from secondary sources: the number of weights and
    tables, the means of their columns and of the ids that a row looks up in one; MFLOP a row, dense layers and their
    mean width.
    """

    parameters: float
    num_tables: int
    dims: tuple[int, ...]
    mean_dim: float
    ids: float
    mflops: float
    num_layers: int
    width: float


PAPER = {
    "model-a": _Known(
        793e9, 1000, (4, 32, 64, 96, 128, 192, 256, 384), 93.0, 15.0, 638.0, 20, 3375.0
    ),
    "model-f": _Known(12e12, 24, (256,), 256.0, 20.0, 5.0, 7, 490.0),
    "model-i": _Known(332e9, 300, (64, 92, 128), 92.0, 70.0, 60.0, 43, 682.0),
}


def paper_model(
    name: str, *, batch_size: int = 512, weight_bytes: int = 4, seed: int = 0
) -> Workload:
    """Return model A, F or I of the paper as far as it is known, the rest drawn from `seed`."""
    if name not in PAPER:
        raise UserError(f"no model {name!r}; choose one of {', '.join(PAPER)}")
    known, draw = PAPER[name], np.random.default_rng(seed)
    dims = draw.choice(known.dims, known.num_tables, p=_shares(known.dims, known.mean_dim))
    ids = draw.lognormal(0.0, 1.0, known.num_tables)
    ids *= known.ids / ids.mean()
    rows = draw.lognormal(0.0, 1.5, known.num_tables)
    rows *= known.parameters / (rows * dims).sum()
    tables = tuple(
        TableLoad(
            name=f"table_{number:04d}",
            num_rows=max(1, round(float(rows[number]))),
            dim=int(dims[number]),
            ids=max(1.0, float(ids[number])),
        )
        for number in range(known.num_tables)
    )
    return Workload(
        name=name,
        tables=tables,
        batch_size=batch_size,
        weight_bytes=weight_bytes,
        dense=Dense(
            mflops=known.mflops,
            activations=known.num_layers * known.width,
            parameters=known.num_layers * known.width**2,
        ),
    )


def _shares(values: tuple[int, ...], mean: float) -> np.ndarray:
    """Return probabilities p ~ exp(a v) of values, with `a` such that their mean is `mean`."""
    points = np.array(values, np.float64)
    if len(points) == 1:
        return np.ones(1)
    low, high = -1.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        weights = np.exp(middle * (points - points.mean()))
        low, high = (low, middle) if (weights / weights.sum() @ points) > mean else (middle, high)
    weights = np.exp(low * (points - points.mean()))
    return np.asarray(weights / weights.sum())
