"""Generalised dot-product attention on ragged rows: an activation in the place of the softmax.

Kunlun (arXiv 2602.10016), section on GDPA: with keys W1^T and values W2 made from a row's context,
act(Q K^T) V is a two-layer feed-forward network personalised to that row. No statistics are saved;
backward computes the scores anew. Results have the same bits for any number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cuesta.ops.attended_rows import Band, Context, Mask, check_rows, count_flops
from cuesta.ops.bodies import body
from cuesta.ops.flops import flop_formula
from cuesta.ops.gdpa.activations import ACTIVATIONS, FORMULAS, SAME_AS, Activation
from cuesta.ragged import Ragged

__all__ = ["ACTIVATIONS", "Activation", "gdpa"]

_EVERY_KEY = Mask()


def gdpa(
    q: Ragged,
    k: Ragged,
    v: Ragged,
    *,
    activation: Activation = "fast_gelu",
    mask: Mask = _EVERY_KEY,
    scale: float = 1.0,
) -> Ragged:
    """Return out = scale * act(Q K^T) V of each row, over the keys that `mask` leaves.

    q holds [Tq, H, D], k [T, H, D] and v [T, H, C] values, D and C up to 256, in one dtype, float16,
    bfloat16, float32 or float64, that the result [Tq, H, C] has; sums are float32 or wider. Rows of
    q and k correspond; k and v have the same rows; keys of F generated rows each are a `Ragged`
    with offsets 0, F, 2 F, ... Scores enter the activation unscaled, and `scale` follows it, as in
    the published kernels: a temperature within belongs into K. Hidden pairs count 0. Rows without
    keys give zeros. Differentiable in q, k and v.

    Raises `ValueError` for an unknown activation, and naming the argument, the row and the rule
    where shapes, rows, dtypes or devices do not go together; on a GPU, where reading offsets would
    wait for it, k and v of as many values are taken to have the same rows.

    >>> q = Ragged.from_lengths(torch.ones(2, 1, 2), [1, 1])
    >>> k = Ragged.from_lengths(torch.tensor([1.0, -2.0, 3.0]).view(3, 1, 1).expand(3, 1, 2), [2, 1])
    >>> gdpa(q, k, k, activation="relu").values.flatten().tolist()
    [2.0, 2.0, 18.0, 18.0]
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    check_rows(q, k, v)
    number = FORMULAS.index(SAME_AS.get(activation, activation))
    out = torch.ops.cuesta.gdpa(
        q.values, k.values, v.values, q.offsets, k.offsets, number, *mask.band(), scale
    )
    return Ragged(out, q.offsets)


@torch.library.custom_op("cuesta::gdpa", mutates_args=())
def _gdpa(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, offsets: Tensor,
    activation: int, before: int, after: int, aligns_last: bool, scale: float,
) -> Tensor:  # fmt: skip
    return body("gdpa", q).gdpa(
        q, k, v, q_offsets, offsets, activation, before, after, aligns_last, scale
    )


@_gdpa.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape[0], v.shape[1], v.shape[2])


@torch.library.custom_op("cuesta::gdpa_backward", mutates_args=())
def _gdpa_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, offsets: Tensor,
    activation: int, before: int, after: int, aligns_last: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return body("gdpa", q).gdpa_backward(
        grad.contiguous(), q, k, v, q_offsets, offsets,
        activation, before, after, aligns_last, scale,
    )  # fmt: skip


@_gdpa_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


_Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int, int, int, bool, float]


def _setup(ctx: Context, inputs: _Inputs, output: Tensor) -> None:
    q, k, v, q_offsets, offsets, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, q_offsets, offsets)


def _backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.cuesta.gdpa_backward(grad, *ctx.saved_tensors, *ctx.settings)
    return *grads, *(None,) * 7


_gdpa.register_autograd(_backward, setup_context=_setup)


@flop_formula(torch.ops.cuesta.gdpa, get_raw=True)
def _flops(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, offsets: Tensor,
    activation: int, before: int, after: int, aligns_last: bool, *_: object, **__: object,
) -> int:  # fmt: skip
    return count_flops(q, k, v, q_offsets, offsets, Band(before, after, aligns_last))


@flop_formula(torch.ops.cuesta.gdpa_backward, get_raw=True)
def _flops_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, offsets: Tensor,
    activation: int, before: int, after: int, aligns_last: bool, *_: object, **__: object,
) -> int:  # fmt: skip
    band = Band(before, after, aligns_last)
    return count_flops(q, k, v, q_offsets, offsets, band, is_backward=True)
