"""Tables cut by columns whose optimiser has one number for a whole row: the number is shared over the row's parts.

Row-wise Adagrad and partial row-wise Adam take the mean square of a row's gradient. The ranks of its parts touch the
same rows in the same update, as ids go to all of them; so each sums its own columns' squares, they exchange the sums,
and every part steps by the mean over the whole row. Sums are added in the order of columns: parts hold the same number,
to the bit. Done in torch, a table at a time, after the fused update of all other tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cuesta.nn import EmbeddingBags
from cuesta.ops.embedding_update import TableState, Update, apply_update, prepare_update
from cuesta.ops.embedding_update.reference import row_gradients, step_rows
from cuesta.rec.neo.ranks import Ranks


class Whole(NamedTuple):
    """Hold the columns of rows that are cut, and their parts in the order of columns: the rank of each, and its number
    among the tables there.
    """

    dim: int
    parts: tuple[tuple[int, int], ...]


def step_with_shared_rows(
    bags: EmbeddingBags | None, wholes: Sequence[Whole], ranks: Ranks, lr_scale: float
) -> None:
    """Make the update of a rank's pending lookups; `wholes` are the rows of which this rank has parts.

    Every rank of the group calls, also one that holds nothing.
    """
    update = None if bags is None else _prepared(bags, lr_scale)
    if bags is None or update is None:
        _added([], ranks)
        return
    mine = [[n if rank == ranks.rank else None for rank, n in whole.parts] for whole in wholes]
    touched = {
        number: row_gradients(
            bags.weight, update.tables[number].tolist(), *update.occurrences, update.grad,
            update.scalars,
        )
        for numbers in mine for number in numbers if number is not None
    }  # fmt: skip
    _apply_to_others(bags, update, list(touched))
    squares = {number: each.g.square().sum(1) for number, each in touched.items()}
    held = [[None if number is None else squares[number] for number in numbers] for numbers in mine]
    totals = _added(list(zip(wholes, held, strict=True)), ranks)
    for whole, numbers, total in zip(wholes, mine, totals, strict=True):
        for number in numbers:
            if number is not None:
                step_rows(
                    bags.weight, bags.first, bags.second, touched[number], total / whole.dim,
                    update.code, update.scalars, update.random_key,
                )  # fmt: skip


def _prepared(bags: EmbeddingBags, lr_scale: float) -> Update | None:
    pending, bags.pending = bags.pending, []
    if not pending:
        return None
    bags.updates += 1
    state = TableState(bags.weight, bags.first, bags.second)
    lr = bags.optimizer.lr * lr_scale
    return prepare_update(
        state, pending, bags.optimizer, step=int(bags.updates), lr=lr, seed=bags.seed
    )


def _apply_to_others(bags: EmbeddingBags, update: Update, shared: Sequence[int]) -> None:
    """Make the update of all tables but these."""
    rows = update.occurrences.rows
    is_other = torch.ones_like(rows, dtype=torch.bool)
    for number in shared:
        _, first, size, _ = update.tables[number].tolist()
        is_other &= (rows < first) | (rows >= first + size)
    kept = update.occurrences._replace(
        rows=rows[is_other], sources=update.occurrences.sources[is_other]
    )
    state = TableState(bags.weight, bags.first, bags.second)
    apply_update(state, update._replace(occurrences=kept))


def _added(wholes: Sequence[tuple[Whole, Sequence[Tensor | None]]], ranks: Ranks) -> list[Tensor]:
    """Return for each whole the sum over its parts, of which this rank gives its own."""
    outgoing: list[list[Tensor]] = [[] for _ in range(ranks.size)]
    sizes = [0] * ranks.size
    for whole, held in wholes:
        length = next(part.numel() for part in held if part is not None)
        for rank in {rank for rank, _ in whole.parts}:
            outgoing[rank] += [part for part in held if part is not None]
            sizes[rank] += length * sum(other == rank for other, _ in whole.parts)
    flat = [part for parts in outgoing for part in parts]
    values = torch.cat(flat) if flat else torch.zeros(0, device=ranks.device)
    sent = [sum(part.numel() for part in parts) for parts in outgoing]
    arrived = list(ranks.exchange(values, sent, sizes).wait().split(sizes))
    totals = []
    for whole, held in wholes:
        length = next(part.numel() for part in held if part is not None)
        total: Tensor | None = None
        for rank, _ in whole.parts:
            part, arrived[rank] = arrived[rank].split([length, arrived[rank].numel() - length])
            total = part if total is None else total + part
        assert total is not None
        totals.append(total)
    return totals
