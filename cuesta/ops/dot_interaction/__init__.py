"""DLRM's feature interaction: the dot product of every pair of a row's vectors, behind its dense
vector.

Naumov et al., 2019, arXiv 1906.00091, section 2.2 and figure 1. In one pass over the vectors: no
[F + 1, F + 1] matrix of products is written, no pair is computed twice, and the vectors are not
first copied side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx

from cuesta.ops.bodies import body
from cuesta.ops.flops import flop_formula

__all__ = ["dot_interaction"]


def dot_interaction(
    dense: Float[Tensor, "B D"], sparse: Float[Tensor, "B F D"]
) -> Float[Tensor, "B D+pairs"]:
    """Return each row's dense vector, then the dot products of all pairs of its F + 1 vectors.

    ```
    vectors   x0 = dense   x1 ... xF = sparse
    out       row b: [ x0 | x1.x0 | x2.x0 x2.x1 | x3.x0 x3.x1 x3.x2 | ... ]    pairs = F (F + 1) / 2
    ```

    Both inputs are of one floating dtype, which the result has; sums are float32 or wider.
    Differentiable in both. Raises `ValueError` where the shapes or dtypes do not agree. Source:
    DLRM, section 2.2; the layout is that of its reference model.

    >>> dense, sparse = torch.tensor([[1.0, 2.0]]), torch.tensor([[[3.0, 4.0], [5.0, 6.0]]])
    >>> dot_interaction(dense, sparse).tolist()
    [[1.0, 2.0, 11.0, 17.0, 39.0]]
    """
    if dense.dim() != 2 or sparse.dim() != 3 or dense.shape != (sparse.shape[0], sparse.shape[2]):
        raise ValueError(
            "dense must be [B, D] and sparse [B, F, D], "
            f"got shapes {tuple(dense.shape)} and {tuple(sparse.shape)}"
        )
    if dense.dtype is not sparse.dtype or not dense.is_floating_point():
        raise ValueError(
            f"dense and sparse must be of one floating dtype, got {dense.dtype} and {sparse.dtype}"
        )
    return torch.ops.cuesta.dot_interaction(dense.contiguous(), sparse.contiguous())


@torch.library.custom_op("cuesta::dot_interaction", mutates_args=())
def _dot_interaction(dense: Tensor, sparse: Tensor) -> Tensor:
    return body("dot_interaction", sparse).dot_interaction(dense, sparse)


@_dot_interaction.register_fake
def _(dense: Tensor, sparse: Tensor) -> Tensor:
    return dense.new_empty(dense.shape[0], _width(sparse.shape))


@torch.library.custom_op("cuesta::dot_interaction_backward", mutates_args=())
def _dot_interaction_backward(grad: Tensor, dense: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
    run = body("dot_interaction", sparse).dot_interaction_backward
    return run(grad.contiguous(), dense, sparse)


@_dot_interaction_backward.register_fake
def _(grad: Tensor, dense: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(dense), torch.empty_like(sparse)


def _setup(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: BackwardCFunction, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.cuesta.dot_interaction_backward(grad, *ctx.saved_tensors)


_dot_interaction.register_autograd(_backward, setup_context=_setup)


@flop_formula(torch.ops.cuesta.dot_interaction)
def _flops(dense: Sequence[int], sparse: Sequence[int], **_: object) -> int:
    """Count a multiply and an add per element of every pair."""
    return 2 * sparse[0] * sparse[2] * (_width(sparse) - sparse[2])


@flop_formula(torch.ops.cuesta.dot_interaction_backward)
def _flops_backward(
    grad: Sequence[int], dense: Sequence[int], sparse: Sequence[int], **_: object
) -> int:
    """Count each pair twice: it moves both of its vectors."""
    return 2 * _flops(dense, sparse)


def _width(sparse: Sequence[int]) -> int:
    """Return D + pairs of the shape [B, F, D]."""
    return sparse[2] + sparse[1] * (sparse[1] + 1) // 2
