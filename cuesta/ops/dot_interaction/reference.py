"""The specification of dot_interaction: all products by one matrix product, of which the lower
triangle is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dot_interaction(dense: Tensor, sparse: Tensor) -> Tensor:
    vectors = torch.cat([dense[:, None], sparse], 1)  # [B, F + 1, D]
    products = vectors @ vectors.transpose(1, 2)
    row, column = _pairs(vectors)
    return torch.cat([dense, products[:, row, column]], 1)


def dot_interaction_backward(grad: Tensor, dense: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
    vectors = torch.cat([dense[:, None], sparse], 1)
    row, column = _pairs(vectors)
    slopes = grad.new_zeros(vectors.shape[0], vectors.shape[1], vectors.shape[1])
    slopes[:, row, column] = grad[:, dense.shape[1] :]
    moved = (slopes + slopes.transpose(1, 2)) @ vectors
    return grad[:, : dense.shape[1]] + moved[:, 0], moved[:, 1:].contiguous()


def _pairs(vectors: Tensor) -> Tensor:
    return torch.tril_indices(vectors.shape[1], vectors.shape[1], offset=-1, device=vectors.device)
