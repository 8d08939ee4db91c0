"""Elementwise operations of ragged values, or of flat squares of scores, with dense tensors, and the
differences of a row's values.

The jagged feature-interaction kernels of Xu et al., RecSys 2024, arXiv 2409.15373: biases, masks
and gaps in time for attention whose scores are not padded.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from cuesta.ops.bodies import body
from cuesta.ops.squares import can_read, check_floats, count_scores, side_offsets
from cuesta.ragged import Ragged, offsets_from_lengths

__all__ = [
    "jagged_dense_elementwise_add",
    "jagged_dense_elementwise_mul_jagged_out",
    "jagged_self_subtraction_jagged_out",
]


def jagged_dense_elementwise_add(
    x: Ragged, dense: Float[Tensor, "B L D"] | Float[Tensor, "B L"]
) -> Ragged:
    """Return the sum of each value and its place in the padded `dense`: x[b, i] + dense[b, i].

    ```
    row 0: x0 x1                d00 d01 d02      x0 + d00   x1 + d01
    row 1:            dense =   d10 d11 d12  ->
    row 2: x2                   d20 d21 d22      x2 + d20
    ```

    x holds [T, D] values for dense [B, L, D], or [T] for [B, L], of one floating dtype, which the
    result has. Differentiable in both. Raises `ValueError` where shapes, dtypes or devices do not
    go together, and naming a row longer than L, except on a GPU, where the numbers that dense
    lacks count as zeros. Source: the paper, section 2.

    >>> x = Ragged.from_lengths(torch.tensor([1.0, 2.0, 3.0]), [2, 1])
    >>> jagged_dense_elementwise_add(x, torch.tensor([[10.0, 20.0], [30.0, 40.0]])).values.tolist()
    [11.0, 22.0, 33.0]
    """
    check_floats(x=x.values, dense=dense)
    trailing = x.values.shape[1:]
    is_shaped = dense.dim() == len(trailing) + 2 and dense.shape[0] == x.num_rows
    if len(trailing) > 1 or not is_shaped or dense.shape[2:] != trailing:
        raise ValueError(
            f"x must hold [T, D] values for dense [B, L, D], or [T] for [B, L], got "
            f"{tuple(x.values.shape)} in {x.num_rows} rows and {tuple(dense.shape)}"
        )
    _check_longest(x.lengths(), dense.shape[1], "x", "values")
    width = trailing.numel()
    out = torch.ops.cuesta.jagged_dense_add(
        x.values.reshape(x.values.shape[0], width),
        dense.reshape(*dense.shape[:2], width),
        x.offsets,
    )
    return x.with_values(out.reshape(x.values.shape))


def jagged_dense_elementwise_mul_jagged_out(scores: Ragged, dense: Float[Tensor, "L L"]) -> Ragged:
    """Return each row's square of scores times the corner of `dense` of its size, as a mask does.

    ```
    row 0: s00 s01 s10 s11             d00 d01        s00 d00   s01 d01   s10 d10   s11 d11
    row 1:                    dense =  d10 d11   ->
    row 2: s22                                        s22 d00
    ```

    scores holds flat squares, l * l values in a row, of dense's floating dtype, which the result
    has. Differentiable in both; the gradient of dense is summed over the rows in their order, in
    float32 or wider. Raises `ValueError` where shapes, dtypes or devices do not go together, naming
    a row that is no square or whose side is longer than L, except on a GPU, where the numbers that
    dense lacks count as zeros. Source: the paper, section 2.

    >>> scores = Ragged.from_lengths(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), [4, 1])
    >>> causal = torch.ones(2, 2).tril()
    >>> jagged_dense_elementwise_mul_jagged_out(scores, causal).values.tolist()
    [1.0, 0.0, 3.0, 4.0, 5.0]
    """
    check_floats(scores=scores.values, dense=dense)
    offsets = side_offsets(scores)
    if dense.dim() != 2 or dense.shape[0] != dense.shape[1]:
        raise ValueError(f"dense must be [L, L], got {tuple(dense.shape)}")
    _check_longest(offsets.diff(), dense.shape[0], "scores", "lines")
    return scores.with_values(torch.ops.cuesta.jagged_dense_mul(scores.values, dense, offsets))


def jagged_self_subtraction_jagged_out(x: Ragged, *, num_scores: int | None = None) -> Ragged:
    """Return for each row of l + 1 values the flat l x l square of x[i] - x[j + 1]: of times, the
    gap from each event to the one before each.

    ```
    row 0: a b c        a-b a-c b-b b-c
    row 1:         ->
    row 2: d                                  one value has no other
    ```

    x holds [T] floating values and the result numbers of their dtype; whole seconds since 1970 are
    too long for 16 or 32 bits, so take off a row's first time before. `num_scores`, the sum of all
    l * l, saves a GPU from waiting where the caller knows it. Differentiable. Raises `ValueError`
    for values of another shape or dtype. Source: the paper, section 2.

    >>> x = Ragged.from_lengths(torch.tensor([9.0, 5.0, 2.0, 7.0]), [3, 1])
    >>> jagged_self_subtraction_jagged_out(x).values.tolist()
    [4.0, 7.0, 0.0, 3.0]
    """
    if x.values.dim() != 1:
        raise ValueError(f"x must hold [T] values, got {tuple(x.values.shape)}")
    check_floats(x=x.values)
    squares = offsets_from_lengths((x.lengths() - 1).clamp(min=0).square())
    num_scores = count_scores(squares, num_scores)
    out = torch.ops.cuesta.jagged_self_subtraction(x.values, x.offsets, num_scores)
    return Ragged(out, squares)


def _check_longest(lengths: Tensor, longest: int, name: str, what: str) -> None:
    if can_read(lengths) and bool((lengths > longest).any()):
        row = int((lengths > longest).nonzero()[0])
        raise ValueError(
            f"dense must reach as far as {name}, but row {row} has {int(lengths[row])} {what} and "
            f"dense is for {longest}"
        )


@torch.library.custom_op("cuesta::jagged_dense_add", mutates_args=())
def _jagged_dense_add(values: Tensor, dense: Tensor, offsets: Tensor) -> Tensor:
    run = body("jagged_elementwise", values).jagged_dense_add
    return run(values.contiguous(), dense.contiguous(), offsets)


@_jagged_dense_add.register_fake
def _(values: Tensor, dense: Tensor, offsets: Tensor) -> Tensor:
    return values.new_empty(values.shape)


@torch.library.custom_op("cuesta::jagged_dense_mul", mutates_args=())
def _jagged_dense_mul(scores: Tensor, dense: Tensor, offsets: Tensor) -> Tensor:
    run = body("jagged_elementwise", scores).jagged_dense_mul
    return run(scores.contiguous(), dense.contiguous(), offsets)


@_jagged_dense_mul.register_fake
def _(scores: Tensor, dense: Tensor, offsets: Tensor) -> Tensor:
    return scores.new_empty(scores.shape)


@torch.library.custom_op("cuesta::jagged_dense_mul_backward", mutates_args=())
def _jagged_dense_mul_backward(
    grad: Tensor, scores: Tensor, offsets: Tensor, longest: int
) -> Tensor:
    """Return the sum over rows of grad times scores, [L, L]."""
    run = body("jagged_elementwise", grad).jagged_dense_mul_backward
    return run(grad.contiguous(), scores.contiguous(), offsets, longest)


@_jagged_dense_mul_backward.register_fake
def _(grad: Tensor, scores: Tensor, offsets: Tensor, longest: int) -> Tensor:
    return grad.new_empty(longest, longest)


@torch.library.custom_op("cuesta::jagged_self_subtraction", mutates_args=())
def _jagged_self_subtraction(values: Tensor, offsets: Tensor, num_scores: int) -> Tensor:
    run = body("jagged_elementwise", values).jagged_self_subtraction
    return run(values.contiguous(), offsets, num_scores)


@_jagged_self_subtraction.register_fake
def _(values: Tensor, offsets: Tensor, num_scores: int) -> Tensor:
    return values.new_empty(num_scores)


@torch.library.custom_op("cuesta::jagged_self_subtraction_backward", mutates_args=())
def _jagged_self_subtraction_backward(grad: Tensor, offsets: Tensor, num_values: int) -> Tensor:
    """Return for each value the sum of its line, less that of the column of its predecessor."""
    run = body("jagged_elementwise", grad).jagged_self_subtraction_backward
    return run(grad.contiguous(), offsets, num_values)


@_jagged_self_subtraction_backward.register_fake
def _(grad: Tensor, offsets: Tensor, num_values: int) -> Tensor:
    return grad.new_empty(num_values)


class _Context(Protocol):
    """What autograd keeps of a call."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    size: int  # L of the padded tensor, or the number of the values or scores going in

    def save_for_backward(self, *tensors: Tensor) -> None: ...


def _setup_add(ctx: _Context, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.size = inputs[1].shape[1]
    ctx.save_for_backward(inputs[2])


def _backward_add(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
    (offsets,) = ctx.saved_tensors
    dense = None
    if ctx.needs_input_grad[1]:
        dense = torch.ops.cuesta.pad(grad.contiguous(), offsets, ctx.size, 0.0)
    return grad, dense, None


def _setup_mul(ctx: _Context, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_mul(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    scores, dense, offsets = ctx.saved_tensors
    ours = others = None
    if ctx.needs_input_grad[0]:
        ours = torch.ops.cuesta.jagged_dense_mul(grad, dense, offsets)
    if ctx.needs_input_grad[1]:
        longest = dense.shape[0]
        others = torch.ops.cuesta.jagged_dense_mul_backward(grad, scores, offsets, longest)
    return ours, others, None


def _setup_sum(ctx: _Context, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _backward_sum(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    slopes, scores, offsets = ctx.saved_tensors
    run = torch.ops.cuesta.jagged_dense_mul
    return run(scores, grad, offsets), run(slopes, grad, offsets), None, None


def _setup_subtraction(ctx: _Context, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.size = inputs[0].shape[0]
    ctx.save_for_backward(inputs[1])


def _backward_subtraction(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None]:
    (offsets,) = ctx.saved_tensors
    run = torch.ops.cuesta.jagged_self_subtraction_backward
    return run(grad, offsets, ctx.size), None, None


def _backward_gather(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None]:
    (offsets,) = ctx.saved_tensors
    return torch.ops.cuesta.jagged_self_subtraction(grad, offsets, ctx.size), None, None


_jagged_dense_add.register_autograd(_backward_add, setup_context=_setup_add)
_jagged_dense_mul.register_autograd(_backward_mul, setup_context=_setup_mul)
_jagged_dense_mul_backward.register_autograd(_backward_sum, setup_context=_setup_sum)
_jagged_self_subtraction.register_autograd(_backward_subtraction, setup_context=_setup_subtraction)
_jagged_self_subtraction_backward.register_autograd(
    _backward_gather, setup_context=_setup_subtraction
)
