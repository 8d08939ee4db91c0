"""Softmax over the rows of a ragged tensor, and over the lines or columns of flat squares of scores.

The jagged feature-interaction kernels of Xu et al., RecSys 2024, arXiv 2409.15373. Both public
functions are one op: each row has a matrix, [l, H] or [l, l], whose columns or lines are
normalised. The largest value is taken off first; sums are float32 or wider.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from cuesta.ops.bodies import body
from cuesta.ops.squares import LENGTH, check_floats, side_offsets
from cuesta.ragged import Ragged

__all__ = ["jagged2_softmax", "jagged_softmax"]


def jagged_softmax(x: Ragged) -> Ragged:
    """Return the softmax along each row, column by column: exp(x[i]) / sum over j of exp(x[j]).

    ```
    row 0: 0 0      ->   0.5 0.5
    row 1:          ->
    row 2: 7        ->   1
    ```

    x holds [T, H] floating values, and so does the result; sums are float32 or wider.
    Differentiable: dX = P (dP - sum of P dP). Raises `ValueError` for values of another shape or
    dtype. Source: the paper, section 2.

    >>> x = Ragged.from_lengths(torch.tensor([[0.0], [0.0], [7.0]]), [2, 0, 1])
    >>> jagged_softmax(x).values.tolist()
    [[0.5], [0.5], [1.0]]
    """
    if x.values.dim() != 2:
        raise ValueError(f"x must hold [T, H] values, got {tuple(x.values.shape)}")
    check_floats(x=x.values)
    width = x.values.shape[1]
    out = torch.ops.cuesta.jagged_softmax(x.values.flatten(), x.offsets, width, False)
    return x.with_values(out.view(x.values.shape))


def jagged2_softmax(scores: Ragged, *, transpose: bool = False) -> Ragged:
    """Return the softmax along each line of each row's square of scores, or down each of its
    columns if `transpose`.

    ```
    row 0: 0 0 0 0  =  0 0   ->   0.5 0.5
                       0 0        0.5 0.5
    row 1: 7        =  7     ->   1
    ```

    scores holds flat squares, l * l floating values in a row, and so does the result; sums are
    float32 or wider. Differentiable: dX = P (dP - sum of P dP). Raises `ValueError` naming a row
    whose number of values is no square, except on a GPU, where its numbers mean nothing. Source:
    the paper, section 2.

    >>> scores = Ragged.from_lengths(torch.tensor([1.0, 1.0, 3.0, 3.0, 9.0]), [4, 1])
    >>> jagged2_softmax(scores).values.tolist()
    [0.5, 0.5, 0.5, 0.5, 1.0]
    """
    check_floats(scores=scores.values)
    offsets = side_offsets(scores)
    out = torch.ops.cuesta.jagged_softmax(scores.values, offsets, LENGTH, not transpose)
    return scores.with_values(out)


@torch.library.custom_op("cuesta::jagged_softmax", mutates_args=())
def _jagged_softmax(values: Tensor, offsets: Tensor, width: int, is_along: bool) -> Tensor:
    """Normalise the columns of each row's [l, width] or, if `is_along`, its lines."""
    run = body("jagged_softmax", values).jagged_softmax
    return run(values.contiguous(), offsets, width, is_along)


@_jagged_softmax.register_fake
def _(values: Tensor, offsets: Tensor, width: int, is_along: bool) -> Tensor:
    return values.new_empty(values.shape[0])


@torch.library.custom_op("cuesta::jagged_softmax_backward", mutates_args=())
def _jagged_softmax_backward(
    grad: Tensor, probs: Tensor, offsets: Tensor, width: int, is_along: bool
) -> Tensor:
    run = body("jagged_softmax", probs).jagged_softmax_backward
    return run(grad.contiguous(), probs, offsets, width, is_along)


@_jagged_softmax_backward.register_fake
def _(grad: Tensor, probs: Tensor, offsets: Tensor, width: int, is_along: bool) -> Tensor:
    return torch.empty_like(probs)


class _Context(Protocol):
    """What autograd keeps of a call."""

    saved_tensors: tuple[Tensor, ...]
    width: int
    is_along: bool

    def save_for_backward(self, *tensors: Tensor) -> None: ...


def _setup(ctx: _Context, inputs: tuple[Tensor, Tensor, int, bool], output: Tensor) -> None:
    _, offsets, ctx.width, ctx.is_along = inputs
    ctx.save_for_backward(output, offsets)


def _backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
    probs, offsets = ctx.saved_tensors
    run = torch.ops.cuesta.jagged_softmax_backward
    return run(grad, probs, offsets, ctx.width, ctx.is_along), None, None, None


_jagged_softmax.register_autograd(_backward, setup_context=_setup)
