"""Gradients of what every rank has a copy of: averaged over all ranks' rows, in one exchange.

The dense part of a sharded model is data-parallel (Neo, ISCA 2022): each rank's gradients are those of the mean over
its own rows, and count by its share of all.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cuesta.rec.neo.ranks import Ranks


def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks, num_rows: int) -> None:
    """Replace the gradients of parameters by their mean over all ranks' rows, of which this rank has `num_rows`.

    One without a gradient on some rank counts as zero there; all ranks need the same parameters. Sums are made in
    float32 or wider, in the same order everywhere, so that copies stay equal to the bit.
    """
    if ranks.size == 1:
        return
    learning = [each for each in parameters if each.requires_grad]
    grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in learning]
    flat = torch.cat([grad.flatten() for grad in grads] or [torch.zeros(0)])
    count = torch.tensor([num_rows], dtype=torch.float64, device=flat.device)
    ranks.add(count)
    flat *= num_rows / max(float(count), 1.0)
    ranks.add(flat)
    mean: Tensor
    for parameter, mean in zip(learning, flat.split([g.numel() for g in grads]), strict=True):
        parameter.grad = mean.view_as(parameter)
