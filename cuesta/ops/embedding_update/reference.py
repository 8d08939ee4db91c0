"""The specification of embedding_update: add up each row's gradient, then one step of the optimiser
a touched row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cuesta.ops.embedding_bag.reference import compute_dtype, occurrence_scales
from cuesta.ops.embedding_update.optimizers import (
    ADAGRAD_CODE,
    PARTIAL_ROWWISE_ADAM_CODE,
    ROWWISE_ADAGRAD_CODE,
)


def occurrences(
    ids: Tensor, offsets: Tensor, sample_weights: Tensor | None, grid: Tensor, pooled_width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_bags, lengths = offsets.numel() - 1, offsets.diff()
    num_rows = max(num_bags // grid.shape[0], 1)
    bag = torch.arange(num_bags, device=ids.device)
    bag_of_id = bag.repeat_interleave(lengths)
    rows = grid[bag_of_id // num_rows, 1] + ids
    each = torch.arange(ids.numel(), device=ids.device)
    if not pooled_width:
        slots = each * grid[bag_of_id // num_rows, 3]
        return rows, each.int(), slots, torch.ones_like(slots, dtype=torch.float32)
    slots = bag % num_rows * pooled_width + grid[bag // num_rows, 4]
    if sample_weights is None:
        is_mean = grid[bag // num_rows, 5].bool()
        scales = 1.0 / torch.where(is_mean, lengths.clamp(min=1), 1).double()
        return rows, bag_of_id.int(), slots, scales.float()
    scales = occurrence_scales(offsets, sample_weights, grid).float()
    return rows, each.int(), slots[bag_of_id], scales


def embedding_update(
    weight: Tensor, first: Tensor, second: Tensor, tables: Tensor,
    rows: Tensor, sources: Tensor, slots: Tensor, scales: Tensor, grad: Tensor,
    code: int, scalars: list[float], random_key: int | None,
) -> None:  # fmt: skip
    for table in tables.tolist():
        touched = row_gradients(weight, table, rows, sources, slots, scales, grad, scalars)
        step_rows(
            weight, first, second, touched, touched.g.square().mean(1), code, scalars, random_key
        )


class RowGradients(NamedTuple):
    """Hold which rows of a table are touched, counted through all tables, where their elements lie [rows, dim], the
    sums of their gradients, with the pull of an l2 decay, and the weights.
    """

    rows: Tensor
    elements: Tensor
    g: Tensor
    w: Tensor


def row_gradients(
    weight: Tensor, table: Sequence[int], rows: Tensor, sources: Tensor, slots: Tensor,
    scales: Tensor, grad: Tensor, scalars: list[float],
) -> RowGradients:  # fmt: skip
    """Return the rows of a table (start, first row, rows, dim) that are touched, rising, and their gradients."""
    start, first_row, num_rows, dim = table
    mine = (rows >= first_row) & (rows < first_row + num_rows)
    columns = torch.arange(dim, device=rows.device)
    source, dtype = sources[mine].long(), compute_dtype(weight)
    terms = grad.flatten()[slots[source, None] + columns].to(dtype) * scales[source, None]
    touched, row_of_term = (rows[mine] - first_row).unique(return_inverse=True)
    g = terms.new_zeros(touched.numel(), dim).index_add(0, row_of_term, terms)
    elements = start + touched[:, None] * dim + columns
    w = weight[elements].to(dtype)
    *_, decay, decoupled = scalars
    return RowGradients(first_row + touched, elements, g if decoupled else g + decay * w, w)


def step_rows(
    weight: Tensor, first: Tensor, second: Tensor, touched: RowGradients, mean_square: Tensor,
    code: int, scalars: list[float], random_key: int | None,
) -> None:  # fmt: skip
    """Make a step of the optimiser on touched rows, whose squared gradients have these means [rows]."""
    new = _step(first, second, touched, mean_square, code, scalars)
    random = None if random_key is None else random_bits(random_key, touched.elements)
    weight[touched.elements] = round_to(new, weight.dtype, random)


def _step(
    first: Tensor, second: Tensor, touched: RowGradients, mean_square: Tensor,
    code: int, scalars: list[float],
) -> Tensor:  # fmt: skip
    lr, eps, beta1, beta2, correction1, correction2, decay, decoupled = scalars
    rows, elements, g, w = touched
    if decoupled:
        w = w * (1 - lr * decay)
    if code == ROWWISE_ADAGRAD_CODE:
        first[rows] += mean_square.to(first.dtype)
        return w - lr * g / (first[rows].to(w.dtype).sqrt() + eps)[:, None]
    if code == ADAGRAD_CODE:
        first[elements] += g.square().to(first.dtype)
        return w - lr * g / (first[elements].to(w.dtype).sqrt() + eps)
    if code == PARTIAL_ROWWISE_ADAM_CODE:
        first[elements] = (beta1 * first[elements] + (1 - beta1) * g).to(first.dtype)
        second[rows] = (beta2 * second[rows] + (1 - beta2) * mean_square).to(second.dtype)
        root = (second[rows].to(w.dtype) / correction2).sqrt() + eps
        return w - lr * first[elements].to(w.dtype) / correction1 / root[:, None]
    return w - lr * g


def round_to(value: Tensor, dtype: torch.dtype, random: Tensor | None) -> Tensor:
    """Return `value` in the storage dtype: to nearest, or up or down by the 32 `random` bits of
    each element.
    """
    if random is None or dtype not in (torch.bfloat16, torch.float16):
        return value.to(dtype)
    value = value.float()
    spare = 16 if dtype is torch.bfloat16 else 13
    bits = value.view(torch.int32).long() + (random & ((1 << spare) - 1))
    truncated = (bits >> spare << spare).to(torch.int32).view(torch.float32)
    if dtype is torch.float16:  # below the normal range its grid is fixed: 2^-24
        steps = (value.abs() * 2.0**24 + (random >> 8).float() * 2.0**-24).floor()
        truncated = torch.where(value.abs() < 2.0**-14, steps * 2.0**-24 * value.sign(), truncated)
    return torch.where(value.isfinite(), truncated, value).to(dtype)


def random_bits(key: int, index: Tensor) -> Tensor:
    """Return 32 random bits (as int64) of each counter in `index` under `key`: SplitMix64's
    finaliser.
    """
    z = key + (index + 1) * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return _shift(z ^ _shift(z, 31), 32)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >> 63 else constant


def _shift(value: Tensor, bits: int) -> Tensor:
    return (value >> bits) & ((1 << (64 - bits)) - 1)
