"""The lookups and updates that tests of the Triton bodies of embeddings share."""

import torch
from torch import Tensor

from cuesta.ops import (
    SGD,
    Adagrad,
    Lookup,
    PartialRowwiseAdam,
    RowwiseAdagrad,
    TableLayout,
    TableOptimizer,
    TableState,
    embedding_update,
)
from tests.ops.gpu_rungs import DEVICE, random

ALIGNED = TableLayout(
    rows=(7, 300), dims=(16, 64), features=(0, 1, 1), poolings=("sum", "mean", "sum")
)
MIXED = TableLayout(rows=(7, 300), dims=(5, 21), features=(1, 0), poolings=("mean", "sum"))
SINGLE = TableLayout(rows=(50,), dims=(8,), features=(0,), poolings=("sum",))
SAME = TableLayout(rows=(7, 300), dims=(21, 21), features=(1, 0), poolings=("sum", "sum"))
KINDS = (SGD, Adagrad, RowwiseAdagrad, PartialRowwiseAdam)


def lookup(layout: TableLayout, num_rows: int) -> Lookup:
    """Return a weighted lookup of ids that repeat; bags are short, empty, and one is long."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 5, (len(layout.features), num_rows), generator=generator)
    lengths[:, -1:] = 0
    lengths[0, :1] = 12
    sizes = torch.tensor([layout.rows[table] for table in layout.features])
    sizes = sizes.repeat_interleave(lengths.sum(1))
    ids = (torch.rand(sizes.numel(), generator=generator) ** 3 * sizes).long()
    offsets = torch.nn.functional.pad(lengths.flatten().cumsum(0), (1, 0))
    weights = torch.rand(ids.numel(), generator=generator)
    grad = random(num_rows, layout.width)
    return Lookup(layout, ids.to(DEVICE), offsets.to(DEVICE), grad, weights.to(DEVICE))


def updated(weight: Tensor, parts: list[Lookup], optimizer: TableOptimizer) -> list[Tensor]:
    state = TableState.fresh(weight.clone(), parts[0].layout, optimizer)
    for step in (1, 2):
        embedding_update(state, parts, optimizer, step=step)
    return list(state)
