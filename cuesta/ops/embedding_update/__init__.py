"""The exact fused backward and optimiser of embedding tables: sort, deduplicate, one update a
touched row.

Neo (ISCA 2022), "vertical fusion" and exact optimisers: table gradients are never materialised, ids
that repeat in a batch are summed before the one update, and the result has the same bits on every
run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from cuesta.ops.bodies import body, plain_op
from cuesta.ops.embedding_bag import kernel_weights
from cuesta.ops.embedding_bag.layout import TableLayout
from cuesta.ops.embedding_update.optimizers import (
    SGD,
    Adagrad,
    PartialRowwiseAdam,
    RowwiseAdagrad,
    TableOptimizer,
)

__all__ = [
    "SGD",
    "Adagrad",
    "Lookup",
    "PartialRowwiseAdam",
    "RowwiseAdagrad",
    "TableOptimizer",
    "TableState",
    "embedding_update",
]


class TableState(NamedTuple):
    """The flat storage of all tables and their optimiser's float32 moments, in the order of one
    layout.

    `first` and `second` have one number an element or one a row, as the optimiser says; empty where
    unused.
    """

    weight: Float[Tensor, " storage"]
    first: Float[Tensor, " state"]
    second: Float[Tensor, " state"]

    @staticmethod
    def fresh(weight: Tensor, layout: TableLayout, optimizer: TableOptimizer) -> TableState:
        """Return zero moments for `weight`."""
        first, second = {
            SGD.code: (0, 0),
            Adagrad.code: (layout.storage, 0),
            RowwiseAdagrad.code: (layout.num_rows, 0),
            PartialRowwiseAdam.code: (layout.storage, layout.num_rows),
        }[optimizer.code]
        dtype = torch.float64 if weight.dtype is torch.float64 else torch.float32
        return TableState(
            weight,
            torch.zeros(first, dtype=dtype, device=weight.device),
            torch.zeros(second, dtype=dtype, device=weight.device),
        )


class Lookup(NamedTuple):
    """One forward lookup and the gradient of its output: what a backward pass leaves for the
    update.

    `grad` is [B, width] after `embedding_bag` and [T, D] after `embedding_rows`; `layout` is the
    lookup's own, over the same tables as the state's.
    """

    layout: TableLayout
    ids: Int[Tensor, " T"]
    offsets: Int64[Tensor, " F*B+1"]
    grad: Float[Tensor, "_ _"]
    sample_weights: Float[Tensor, " T"] | None = None
    is_pooled: bool = True


def embedding_update(
    state: TableState,
    lookups: Sequence[Lookup],
    optimizer: TableOptimizer,
    *,
    step: int,
    lr: float | None = None,
    seed: int = 0,
) -> None:
    """Update in place every row that `lookups` touched, once, with the sum of all its gradients.

    ```
    occurrences   row 7 <- g0   row 3 <- g1   row 7 <- g2      one an id, of all lookups
    sorted        row 3: g1     row 7: g0 + g2                 in the order they occurred
    update        row 3, row 7: one step of the optimiser each; no other row changes
    ```

    `step` counts updates from 1 (bias correction, random bits); `lr` takes the place of the
    optimiser's own. Storage of 16 bits is written with stochastic rounding if the optimiser says
    so, with bits that depend on `seed`, `step` and the element alone. Exact: the same bits for any
    number of threads. Source: Neo; FBGEMM.

    >>> layout = TableLayout(rows=(2,), dims=(1,), features=(0,), poolings=("sum",))
    >>> state = TableState.fresh(torch.zeros(2), layout, SGD(lr=1.0))
    >>> lookup = Lookup(layout, torch.tensor([1, 1]), torch.tensor([0, 1, 2]), torch.tensor([[1.0], [2.0]]))
    >>> embedding_update(state, [lookup], SGD(lr=1.0), step=1)
    >>> state.weight.tolist()
    [0.0, -3.0]
    """
    update = prepare_update(state, lookups, optimizer, step=step, lr=lr, seed=seed)
    if update is not None:
        apply_update(state, update)


class Update(NamedTuple):
    """Hold what an update is made from: tables [K, 4], the occurrences of rows, their gradients, the optimiser."""

    tables: Int64[Tensor, "K 4"]
    occurrences: Occurrences
    grad: Float[Tensor, " numbers"]
    code: int
    scalars: list[float]
    random_key: int | None


def prepare_update(
    state: TableState,
    lookups: Sequence[Lookup],
    optimizer: TableOptimizer,
    *,
    step: int,
    lr: float | None = None,
    seed: int = 0,
) -> Update | None:
    """Return what `embedding_update` does, before it is done; None where no row is touched."""
    if step < 1:
        raise ValueError(f"step counts from 1, got {step}")
    lookups = [lookup for lookup in lookups if lookup.ids.numel()]
    if not lookups:
        return None
    occurrences = _occurrences(lookups)
    grad = _joined([lookup.grad.reshape(-1) for lookup in lookups])
    if state.weight.dtype is not torch.float64:
        grad = grad.float()
    rounds = optimizer.stochastic_rounding and state.weight.dtype in (torch.bfloat16, torch.float16)
    tables = lookups[0].layout.tables  # on the CPU: bodies read dims without waiting for a device
    scalars = optimizer.scalars(optimizer.lr if lr is None else lr, step)
    key = _random_key(seed, step) if rounds else None
    return Update(tables, occurrences, grad, optimizer.code, scalars, key)


def apply_update(state: TableState, update: Update) -> None:
    """Make an update in place."""
    torch.ops.cuesta.embedding_update(
        state.weight, state.first, state.second, update.tables,
        *update.occurrences, update.grad, update.code, update.scalars, update.random_key,
    )  # fmt: skip
    torch.autograd.graph.increment_version(tuple(state))  # so that a backward over them is noticed


class Occurrences(NamedTuple):
    """Say which rows take which gradients: row `rows[i]` gets `scales[s]` times the gradient that
    begins at `slots[s]`, s = `sources[i]`.

    A source is a bag, or an occurrence where each has a gradient or a scale of its own.
    """

    rows: Int64[Tensor, " T"]
    sources: Int[Tensor, " T"]
    slots: Int64[Tensor, " sources"]
    scales: Float[Tensor, " sources"]


def _occurrences(lookups: Sequence[Lookup]) -> Occurrences:
    """Return the occurrences of all lookups, whose gradients lie one behind the other."""
    parts = []
    for lookup in lookups:
        grid = lookup.layout.grid.to(lookup.ids.device, non_blocking=True)
        width = lookup.layout.width if lookup.is_pooled else 0
        weights = lookup.sample_weights
        part = torch.ops.cuesta.embedding_occurrences(
            lookup.ids.contiguous(),
            lookup.offsets.contiguous(),
            None if weights is None else kernel_weights(weights),
            grid,
            width,
        )
        parts.append(Occurrences(*part))
    num_sources = sum(part.slots.numel() for part in parts)
    num_rows = lookups[0].layout.num_rows
    if num_sources >= 1 << 31 or num_rows > 1 << 32:
        raise ValueError(
            f"one update takes fewer than 2**31 bags or weighted ids and at most 2**32 rows, got "
            f"{num_sources} and {num_rows}; split the batch or the tables"
        )
    first_source, first_slot = 0, 0
    for number, (part, lookup) in enumerate(zip(parts, lookups, strict=True)):
        if number:
            parts[number] = part._replace(
                sources=part.sources + first_source, slots=part.slots + first_slot
            )
        first_source += part.slots.numel()
        first_slot += lookup.grad.numel()
    return Occurrences(*(_joined(list(same)) for same in zip(*parts, strict=True)))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts)


def _random_key(seed: int, step: int) -> int:
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03) % (1 << 64)
    return mixed - (1 << 64) if mixed >> 63 else mixed


@plain_op("embedding_occurrences")
def _embedding_occurrences(
    ids: Tensor, offsets: Tensor, sample_weights: Tensor | None, grid: Tensor, pooled_width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    run = body("embedding_update", ids).occurrences
    return run(ids, offsets, sample_weights, grid, pooled_width)


@torch.library.register_fake("cuesta::embedding_occurrences")
def _(
    ids: Tensor, offsets: Tensor, sample_weights: Tensor | None, grid: Tensor, pooled_width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_ids = ids.numel()
    is_by_bag = pooled_width > 0 and sample_weights is None
    num_sources = offsets.numel() - 1 if is_by_bag else num_ids
    return (
        ids.new_empty(num_ids, dtype=torch.int64),
        ids.new_empty(num_ids, dtype=torch.int32),
        ids.new_empty(num_sources, dtype=torch.int64),
        ids.new_empty(num_sources, dtype=torch.float32),
    )


@plain_op("embedding_update", mutates_args=("weight", "first", "second"))
def _embedding_update(
    weight: Tensor, first: Tensor, second: Tensor, tables: Tensor,
    rows: Tensor, sources: Tensor, slots: Tensor, scales: Tensor, grad: Tensor,
    code: int, scalars: list[float], random_key: int | None,
) -> None:  # fmt: skip
    run = body("embedding_update", weight).embedding_update
    run(
        weight, first, second, tables, rows, sources, slots, scales, grad, code, scalars, random_key
    )


@torch.library.register_fake("cuesta::embedding_update")
def _(
    weight: Tensor, first: Tensor, second: Tensor, tables: Tensor,
    rows: Tensor, sources: Tensor, slots: Tensor, scales: Tensor, grad: Tensor,
    code: int, scalars: list[float], random_key: int | None,
) -> None:  # fmt: skip
    return None
