"""The specification of copy_rows: index, round, and index again."""

from __future__ import annotations

import torch
from torch import Tensor

from cuesta.ops.embedding_update.reference import random_bits, round_to


def copy_rows(
    target: Tensor, target_rows: Tensor, source: Tensor, source_rows: Tensor, random_key: int | None
) -> None:
    dim = target.shape[1]
    elements = target_rows[:, None] * dim + torch.arange(dim, device=target.device)
    random = None if random_key is None else random_bits(random_key, elements)
    target[target_rows] = round_to(source[source_rows], target.dtype, random)
