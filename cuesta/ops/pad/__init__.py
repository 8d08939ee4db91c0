"""Pad a ragged tensor to a dense one and back; each is the other's backward."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from cuesta.ops.bodies import body
from cuesta.ragged import Ragged
from cuesta.ragged.ragged import check_offsets

__all__ = ["pad", "unpad"]


def pad(
    ragged: Ragged, *, longest: int | None = None, padding: float = 0.0
) -> Shaped[Tensor, "B L ..."]:
    """Return rows padded at their end with `padding` to `longest`, by default the longest row's
    length.

    ```
    row 0: a b c        a b c
    row 1:         ->   0 0 0        values beyond `longest` are dropped
    row 2: d            d 0 0
    ```

    Any dtype up to 8 bytes an element, any trailing shape. Differentiable.

    >>> pad(Ragged.from_lengths(torch.tensor([1.0, 2.0, 3.0]), [2, 0, 1])).tolist()
    [[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]]
    """
    if longest is None:
        longest = int(ragged.lengths().max()) if ragged.num_rows else 0
    elif longest < 0:
        raise ValueError(f"longest must not be negative, got {longest}")
    trailing = ragged.values.shape[1:]
    values = ragged.values.reshape(ragged.values.shape[0], trailing.numel()).contiguous()
    out = torch.ops.cuesta.pad(values, ragged.offsets, longest, padding)
    return out.reshape(ragged.num_rows, longest, *trailing)


def unpad(
    padded: Shaped[Tensor, "B L ..."],
    offsets: Int64[Tensor, " B+1"],
    *,
    num_values: int | None = None,
) -> Ragged:
    """Return the ragged tensor with these offsets whose rows stand at the front of the padded rows.

    Where a row is longer than L its missing values are zeros. `num_values`, the last of the
    offsets, saves a GPU from waiting where the caller knows it. Differentiable. Raises `ValueError`
    where offsets and the number of rows or of values do not go together, of which only the number
    of rows is checked on a GPU.

    >>> unpad(torch.tensor([[1.0, 2.0], [9.0, 9.0]]), torch.tensor([0, 2, 2])).values.tolist()
    [1.0, 2.0]
    """
    if padded.shape[0] != offsets.numel() - 1:
        raise ValueError(
            f"offsets describe {offsets.numel() - 1} rows, padded has {padded.shape[0]}"
        )
    num_values = int(offsets[-1]) if num_values is None else num_values
    check_offsets(offsets, num_values=num_values)
    trailing = padded.shape[2:]
    flat = padded.reshape(*padded.shape[:2], trailing.numel()).contiguous()
    values = torch.ops.cuesta.unpad(flat, offsets, num_values)
    return Ragged(values.reshape(-1, *trailing), offsets)


@torch.library.custom_op("cuesta::pad", mutates_args=())
def _pad(values: Tensor, offsets: Tensor, longest: int, padding: float) -> Tensor:
    return body("pad", values).pad(values, offsets, longest, padding)


@torch.library.custom_op("cuesta::unpad", mutates_args=())
def _unpad(padded: Tensor, offsets: Tensor, num_values: int) -> Tensor:
    return body("pad", padded).unpad(padded, offsets, num_values)


@_pad.register_fake
def _(values: Tensor, offsets: Tensor, longest: int, padding: float) -> Tensor:
    return values.new_empty(offsets.numel() - 1, longest, values.shape[1])


@_unpad.register_fake
def _(padded: Tensor, offsets: Tensor, num_values: int) -> Tensor:
    return padded.new_empty(num_values, padded.shape[2])


class _Context(Protocol):
    """What autograd keeps of a call: the offsets, and a size of its input."""

    saved_tensors: tuple[Tensor]
    size: int

    def save_for_backward(self, *tensors: Tensor) -> None: ...


def _save_pad(ctx: _Context, inputs: tuple[Tensor, Tensor, int, float], output: Tensor) -> None:
    ctx.size = inputs[0].shape[0]
    ctx.save_for_backward(inputs[1])


def _backward_pad(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
    (offsets,) = ctx.saved_tensors
    return torch.ops.cuesta.unpad(grad.contiguous(), offsets, ctx.size), None, None, None


def _save_unpad(ctx: _Context, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.size = inputs[0].shape[1]
    ctx.save_for_backward(inputs[1])


def _backward_unpad(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None]:
    (offsets,) = ctx.saved_tensors
    return torch.ops.cuesta.pad(grad.contiguous(), offsets, ctx.size, 0.0), None, None


_pad.register_autograd(_backward_pad, setup_context=_save_pad)
_unpad.register_autograd(_backward_unpad, setup_context=_save_unpad)
