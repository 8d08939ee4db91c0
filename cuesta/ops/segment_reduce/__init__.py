"""Reduce every row of a ragged tensor to one: sum, mean or maximum, forward and backward, in
float32 or wider.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cuesta.ops.bodies import body
from cuesta.ops.flops import flop_formula
from cuesta.ragged import Ragged

__all__ = ["segment_reduce", "segment_spread"]


def segment_reduce(
    ragged: Ragged, how: Literal["sum", "mean", "max"] = "sum"
) -> Float[Tensor, "B ..."]:
    """Reduce the values of each row, column by column: out[b] = sum, mean or max over row b.

    ```
    row 0: v0 v1 v2   ->   v0 + v1 + v2
    row 1:            ->   0                  an empty row gives 0 for all three
    row 2: v3         ->   v3
    ```

    Values are floating point [T, ...]; the result has their dtype and trailing shape, accumulated
    in float32 (float64 for float64), in the order of the row, so it does not depend on the number
    of threads. The gradient of max goes to the first value that attains it. Raises `ValueError` for
    an unknown `how` or integer values.

    >>> segment_reduce(Ragged.from_lengths(torch.tensor([1.0, 2.0, 3.0]), [2, 0, 1]), "mean").tolist()
    [1.5, 0.0, 3.0]
    """
    if how not in ("sum", "mean", "max"):
        raise ValueError(f"how must be sum, mean or max, got {how!r}")
    if not ragged.values.is_floating_point():
        raise ValueError(f"values must be floating point, got {ragged.values.dtype}")
    trailing = ragged.values.shape[1:]
    values = ragged.values.reshape(ragged.values.shape[0], trailing.numel()).contiguous()
    if how == "max":
        out, _ = torch.ops.cuesta.segment_max(values, ragged.offsets)
    else:
        out = torch.ops.cuesta.segment_sum(values, ragged.offsets, how == "mean")
    return out.reshape(ragged.num_rows, *trailing)


def segment_spread(rows: Float[Tensor, "B ..."], offsets: Int64[Tensor, " B+1"]) -> Ragged:
    """Give every value of row b of a ragged tensor a copy of rows[b]; the transpose of a segment
    sum.

    Floating point [B, ...] in, [T, ...] out, same dtype. Differentiable; its gradient is a segment
    sum.

    >>> segment_spread(torch.tensor([1.0, 2.0]), torch.tensor([0, 2, 3])).values.tolist()
    [1.0, 1.0, 2.0]
    """
    if rows.shape[0] != offsets.numel() - 1:
        raise ValueError(f"offsets describe {offsets.numel() - 1} rows, got {rows.shape[0]}")
    flat = rows.reshape(rows.shape[0], rows.shape[1:].numel()).contiguous()
    values = torch.ops.cuesta.segment_sum_backward(flat, offsets, int(offsets[-1]), False)
    return Ragged(values.reshape(-1, *rows.shape[1:]), offsets)


@torch.library.custom_op("cuesta::segment_sum", mutates_args=())
def _segment_sum(values: Tensor, offsets: Tensor, is_mean: bool) -> Tensor:
    return body("segment_reduce", values).segment_sum(values, offsets, is_mean)


@torch.library.custom_op("cuesta::segment_sum_backward", mutates_args=())
def _segment_sum_backward(grad: Tensor, offsets: Tensor, num_values: int, is_mean: bool) -> Tensor:
    run = body("segment_reduce", grad).segment_sum_backward
    return run(grad.contiguous(), offsets, num_values, is_mean)


@torch.library.custom_op("cuesta::segment_max", mutates_args=())
def _segment_max(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    return body("segment_reduce", values).segment_max(values, offsets)


@torch.library.custom_op("cuesta::segment_max_backward", mutates_args=())
def _segment_max_backward(grad: Tensor, winner: Tensor, num_values: int) -> Tensor:
    return body("segment_reduce", grad).segment_max_backward(grad.contiguous(), winner, num_values)


@_segment_sum.register_fake
def _(values, offsets, is_mean):  # type: ignore[no-untyped-def]
    return values.new_empty(offsets.numel() - 1, values.shape[1])


@_segment_sum_backward.register_fake
def _(grad, offsets, num_values, is_mean):  # type: ignore[no-untyped-def]
    return grad.new_empty(num_values, grad.shape[1])


@_segment_max.register_fake
def _(values, offsets):  # type: ignore[no-untyped-def]
    out = values.new_empty(offsets.numel() - 1, values.shape[1])
    return out, torch.empty_like(out, dtype=torch.int64)


@_segment_max_backward.register_fake
def _(grad, winner, num_values):  # type: ignore[no-untyped-def]
    return grad.new_empty(num_values, grad.shape[1])


def _save_sum(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    values, offsets, ctx.is_mean = inputs
    ctx.num_values = values.shape[0]
    ctx.save_for_backward(offsets)


def _backward_sum(ctx, grad):  # type: ignore[no-untyped-def]
    (offsets,) = ctx.saved_tensors
    return (
        torch.ops.cuesta.segment_sum_backward(grad, offsets, ctx.num_values, ctx.is_mean),
        None,
        None,
    )


def _save_spread(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, offsets, _, ctx.is_mean = inputs
    ctx.save_for_backward(offsets)


def _backward_spread(ctx, grad):  # type: ignore[no-untyped-def]
    (offsets,) = ctx.saved_tensors
    return torch.ops.cuesta.segment_sum(grad.contiguous(), offsets, ctx.is_mean), None, None, None


def _save_max(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.num_values = inputs[0].shape[0]
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward_max(ctx, grad, _):  # type: ignore[no-untyped-def]
    (winner,) = ctx.saved_tensors
    return torch.ops.cuesta.segment_max_backward(grad, winner, ctx.num_values), None


_segment_sum.register_autograd(_backward_sum, setup_context=_save_sum)
_segment_sum_backward.register_autograd(_backward_spread, setup_context=_save_spread)
_segment_max.register_autograd(_backward_max, setup_context=_save_max)


@flop_formula([torch.ops.cuesta.segment_sum, torch.ops.cuesta.segment_max])
def _flops(values, *_, **__) -> int:  # type: ignore[no-untyped-def]
    """Count an addition or a comparison a value."""
    return values[0] * values[1]
