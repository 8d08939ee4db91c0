"""Other layouts of ragged rows: flat squares of scores as a padded tensor, and one number put before
each row; each has its way back as its backward.

The jagged feature-interaction kernels of Xu et al., RecSys 2024, arXiv 2409.15373.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Shaped
from torch import Tensor

from cuesta.ops.bodies import body
from cuesta.ops.squares import side_offsets
from cuesta.ragged import Ragged

__all__ = ["dense_jagged_cat_jagged_out", "jagged2_to_padded_dense"]


def jagged2_to_padded_dense(
    scores: Ragged, *, longest: int | None = None, padding: float = 0.0
) -> Shaped[Tensor, "B L L"]:
    """Return each row's square in the corner of one of `longest`, by default the longest side,
    around it `padding`.

    ```
    row 0: a b c d  =  a b   ->   a b 0
                       c d        c d 0      what lies beyond `longest` is dropped
    row 1:                        0 0 0
    ```

    scores holds flat squares, l * l values in a row, of any dtype up to 8 bytes an element.
    Differentiable. Without `longest` a GPU is waited for. Raises `ValueError` naming a row that is
    no square, except on a GPU, and for a negative `longest`. Source: the paper, section 2.

    >>> scores = Ragged.from_lengths(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), [4, 1])
    >>> jagged2_to_padded_dense(scores, padding=-1.0).tolist()
    [[[1.0, 2.0], [3.0, 4.0]], [[5.0, -1.0], [-1.0, -1.0]]]
    """
    offsets = side_offsets(scores)
    if longest is None:
        longest = int(offsets.diff().max()) if scores.num_rows else 0
    elif longest < 0:
        raise ValueError(f"longest must not be negative, got {longest}")
    return torch.ops.cuesta.pad_squares(scores.values, offsets, longest, padding)


def dense_jagged_cat_jagged_out(dense: Shaped[Tensor, " B"], x: Ragged) -> Ragged:
    """Return the rows of x, each with its number of `dense` put before it, as a target before a
    history.

    ```
    dense: p q r      row 0: a b        p a b
                      row 1:       ->   q
                      row 2: c          r c
    ```

    dense [B] and the values of x, [T], are of one dtype, any up to 8 bytes an element.
    Differentiable in both. Raises `ValueError` where shapes, dtypes or devices do not go together.
    Source: the paper, section 2.

    >>> x = Ragged.from_lengths(torch.tensor([1, 2, 3]), [2, 1])
    >>> joined = dense_jagged_cat_jagged_out(torch.tensor([8, 9]), x)
    >>> joined.values.tolist(), joined.offsets.tolist()
    ([8, 1, 2, 9, 3], [0, 3, 5])
    """
    if x.values.dim() != 1 or dense.shape != (x.num_rows,):
        raise ValueError(
            f"x must hold [T] values and dense be [{x.num_rows}], a number a row of x, got "
            f"{tuple(x.values.shape)} and {tuple(dense.shape)}"
        )
    if dense.dtype is not x.values.dtype or dense.device != x.values.device:
        raise ValueError(
            f"dense and x must be of one dtype on one device, got {dense.dtype} on {dense.device} "
            f"and {x.values.dtype} on {x.values.device}"
        )
    out = torch.ops.cuesta.dense_jagged_cat(dense, x.values, x.offsets)
    return Ragged(out, x.offsets + torch.arange(x.num_rows + 1, device=x.offsets.device))


@torch.library.custom_op("cuesta::pad_squares", mutates_args=())
def _pad_squares(scores: Tensor, offsets: Tensor, longest: int, padding: float) -> Tensor:
    run = body("jagged_layout", scores).pad_squares
    return run(scores.contiguous(), offsets, longest, padding)


@_pad_squares.register_fake
def _(scores: Tensor, offsets: Tensor, longest: int, padding: float) -> Tensor:
    return scores.new_empty(offsets.shape[0] - 1, longest, longest)


@torch.library.custom_op("cuesta::unpad_squares", mutates_args=())
def _unpad_squares(padded: Tensor, offsets: Tensor, num_scores: int) -> Tensor:
    """Return the corners of padded squares; numbers beyond L are zeros."""
    run = body("jagged_layout", padded).unpad_squares
    return run(padded.contiguous(), offsets, num_scores)


@_unpad_squares.register_fake
def _(padded: Tensor, offsets: Tensor, num_scores: int) -> Tensor:
    return padded.new_empty(num_scores)


@torch.library.custom_op("cuesta::dense_jagged_cat", mutates_args=())
def _dense_jagged_cat(dense: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    run = body("jagged_layout", values).dense_jagged_cat
    return run(dense.contiguous(), values.contiguous(), offsets)


@_dense_jagged_cat.register_fake
def _(dense: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    return values.new_empty(values.shape[0] + dense.shape[0])


@torch.library.custom_op("cuesta::dense_jagged_split", mutates_args=())
def _dense_jagged_split(joined: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first number of each row, and the others; offsets are those of the others."""
    return body("jagged_layout", joined).dense_jagged_split(joined.contiguous(), offsets)


@_dense_jagged_split.register_fake
def _(joined: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    num_rows = offsets.shape[0] - 1
    return joined.new_empty(num_rows), joined.new_empty(joined.shape[0] - num_rows)


class _Context(Protocol):
    """What autograd keeps of a call."""

    saved_tensors: tuple[Tensor, ...]
    size: int  # num_scores, or L

    def save_for_backward(self, *tensors: Tensor) -> None: ...


def _setup_pad(ctx: _Context, inputs: tuple[Tensor, Tensor, int, float], output: Tensor) -> None:
    ctx.size = inputs[0].shape[0]
    ctx.save_for_backward(inputs[1])


def _backward_pad(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
    (offsets,) = ctx.saved_tensors
    return torch.ops.cuesta.unpad_squares(grad, offsets, ctx.size), None, None, None


def _setup_unpad(ctx: _Context, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.size = inputs[0].shape[1]
    ctx.save_for_backward(inputs[1])


def _backward_unpad(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None]:
    (offsets,) = ctx.saved_tensors
    return torch.ops.cuesta.pad_squares(grad, offsets, ctx.size, 0.0), None, None


def _setup_cat(ctx: _Context, inputs: tuple[Tensor, ...], output: object) -> None:
    ctx.save_for_backward(inputs[-1])


def _backward_cat(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    (offsets,) = ctx.saved_tensors
    return *torch.ops.cuesta.dense_jagged_split(grad, offsets), None


def _backward_split(ctx: _Context, grad: Tensor, others: Tensor) -> tuple[Tensor, None]:
    (offsets,) = ctx.saved_tensors
    return torch.ops.cuesta.dense_jagged_cat(grad, others, offsets), None


_pad_squares.register_autograd(_backward_pad, setup_context=_setup_pad)
_unpad_squares.register_autograd(_backward_unpad, setup_context=_setup_unpad)
_dense_jagged_cat.register_autograd(_backward_cat, setup_context=_setup_cat)
_dense_jagged_split.register_autograd(_backward_split, setup_context=_setup_cat)
