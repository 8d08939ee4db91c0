"""The specification of embedding_bag: gather the rows, weigh them, add them up by bag."""

from __future__ import annotations

import torch
from torch import Tensor


def embedding_bag(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    sample_weights: Tensor | None,
    grid: Tensor,
    width: int,
) -> Tensor:
    num_rows = (offsets.numel() - 1) // grid.shape[0]
    out = weight.new_zeros(num_rows, width, dtype=compute_dtype(weight))
    scales = occurrence_scales(offsets, sample_weights, grid).to(out.dtype)
    columns = []
    for feature, (start, _, rows, dim, _, _) in enumerate(grid.tolist()):
        table = weight[start : start + rows * dim].view(rows, dim).to(out.dtype)
        bags = offsets[feature * num_rows : (feature + 1) * num_rows + 1]
        begin, end = int(bags[0]), int(bags[-1])
        bag_ids = torch.repeat_interleave(torch.arange(num_rows, device=ids.device), bags.diff())
        gathered = table[checked(ids[begin:end], rows, feature)] * scales[begin:end, None]
        columns.append(out.new_zeros(num_rows, dim).index_add(0, bag_ids, gathered))
    return torch.cat(columns, 1)


def embedding_rows(weight: Tensor, ids: Tensor, offsets: Tensor, grid: Tensor, dim: int) -> Tensor:
    num_rows = (offsets.numel() - 1) // grid.shape[0]
    parts = []
    for feature, (start, _, rows, _, _, _) in enumerate(grid.tolist()):
        table = weight[start : start + rows * dim].view(rows, dim).to(compute_dtype(weight))
        begin, end = int(offsets[feature * num_rows]), int(offsets[(feature + 1) * num_rows])
        parts.append(table[checked(ids[begin:end], rows, feature)])
    return torch.cat(parts)


def sample_weight_grad(
    grad: Tensor, weight: Tensor, ids: Tensor, offsets: Tensor, grid: Tensor
) -> Tensor:
    scales = occurrence_scales(offsets, None, grid).to(grad.dtype)
    num_rows = grad.shape[0]
    parts = []
    for feature, (start, _, rows, dim, column, _) in enumerate(grid.tolist()):
        table = weight[start : start + rows * dim].view(rows, dim).to(grad.dtype)
        bags = offsets[feature * num_rows : (feature + 1) * num_rows + 1]
        begin, end = int(bags[0]), int(bags[-1])
        bag_ids = torch.repeat_interleave(torch.arange(num_rows, device=ids.device), bags.diff())
        of_bag = grad[bag_ids, column : column + dim]
        parts.append((of_bag * table[ids[begin:end].long()]).sum(1) * scales[begin:end])
    return torch.cat(parts)


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Return float64 for float64 storage and float32 for any other."""
    return torch.float64 if weight.dtype is torch.float64 else torch.float32


def occurrence_scales(offsets: Tensor, sample_weights: Tensor | None, grid: Tensor) -> Tensor:
    """Return what multiplies each id's row in its bag: its sample weight, over the bag's length for
    mean.
    """
    lengths = offsets.diff()
    is_mean = grid[:, 5].bool().repeat_interleave(lengths.numel() // grid.shape[0])
    divisor = torch.where(is_mean, lengths, 1).double().repeat_interleave(lengths)
    return (1.0 if sample_weights is None else sample_weights.double()) / divisor


def checked(ids: Tensor, rows: int, feature: int) -> Tensor:
    """Return ids as int64, or raise `ValueError` naming the first outside [0, rows)."""
    outside = (ids < 0) | (ids >= rows)
    if bool(outside.any()):
        raise ValueError(f"feature {feature}: id {int(ids[outside][0])} is outside [0, {rows})")
    return ids.long()
