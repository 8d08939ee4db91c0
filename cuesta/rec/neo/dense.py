"""Gradients of what every rank has a copy of, added over all ranks in one exchange.

The dense part of a sharded model is data-parallel (Neo, ISCA 2022): each rank's loss is its part of the mean over all
rows, so that gradients need only be added.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from cuesta.rec.neo.ranks import Ranks


def add_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks, share: float = 1.0) -> None:
    """Replace the gradients of parameters by their sum over all ranks, each rank's times `share`.

    One without a gradient on some rank counts as zero there; all ranks need the same parameters. Sums are the same
    everywhere, so that copies stay equal to the bit.
    """
    learning = [each for each in parameters if each.requires_grad]
    if ranks.size == 1 or not learning:
        return
    grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in learning]
    flat = torch.cat([grad.flatten() for grad in grads]) * share
    with ranks.waits.during("dense gradients"):
        ranks.add(flat)
    for parameter, total in zip(learning, flat.split([g.numel() for g in grads]), strict=True):
        parameter.grad = total.view_as(parameter)
