"""Embedding lookup for many tables in one call: pooled into bags, or one row an id.

Table-batched embedding after Neo (ISCA 2022, "horizontal fusion"); the exact fused backward is
`ops.embedding_update`. Storage is float32, bfloat16 or float16; sums are float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from cuesta.ops.bodies import body
from cuesta.ops.embedding_bag.layout import Pooling, TableLayout
from cuesta.ops.flops import flop_formula

__all__ = ["Pooling", "TableLayout", "embedding_bag", "embedding_rows"]


def embedding_bag(
    weight: Float[Tensor, " storage"],
    ids: Int[Tensor, " T"],
    offsets: Int64[Tensor, " F*B+1"],
    *,
    layout: TableLayout,
    sample_weights: Float[Tensor, " T"] | None = None,
) -> Float[Tensor, "B width"]:
    """Look up and pool the rows of every feature's bags: out[b, columns of f] = sum over the bag of
    w * row.

    ```
    ids      a b | c | d e f | ...     bag f * B + b holds feature f of row b (see RaggedFeatures)
    out      row b: [ feature 0's pooled row | feature 1's | ... ]           [B, width]
    ```

    Mean divides by the bag's length, also when `sample_weights` are given; an empty bag gives
    zeros. The output is float32 (float64 for float64 storage), summed in float32 in the order of
    the ids, so it does not depend on the number of threads. Differentiable in `sample_weights`;
    tables learn through `embedding_update`. Raises `ValueError` naming feature, row and id when an
    id is out of range (on a CPU; a GPU reads row zeros). Source: Neo, section on the embedding
    operator; FBGEMM's table-batched embedding is the peer.

    >>> layout = TableLayout(rows=(3,), dims=(2,), features=(0,), poolings=("sum",))
    >>> weight = torch.arange(6.0)
    >>> embedding_bag(weight, torch.tensor([0, 2]), torch.tensor([0, 2, 2]), layout=layout).tolist()
    [[4.0, 6.0], [0.0, 0.0]]
    """
    _check(weight, ids, offsets, layout)
    if sample_weights is not None and sample_weights.shape != ids.shape:
        raise ValueError(
            f"sample_weights must have one number an id, {ids.numel()}, got shape {tuple(sample_weights.shape)}"
        )
    if sample_weights is not None:
        sample_weights = kernel_weights(sample_weights)
    grid = layout.grid.to(weight.device, non_blocking=True)
    return torch.ops.cuesta.embedding_bag(
        weight, ids.contiguous(), offsets.contiguous(), sample_weights, grid, layout.width
    )


def embedding_rows(
    weight: Float[Tensor, " storage"],
    ids: Int[Tensor, " T"],
    offsets: Int64[Tensor, " F*B+1"],
    *,
    layout: TableLayout,
) -> Float[Tensor, "T D"]:
    """Look up one row an id, unpooled; all tables named must share their dim D.

    Shapes, dtypes and errors are those of `embedding_bag`; the result is float32 and bit-exact
    storage.

    >>> layout = TableLayout(rows=(3,), dims=(2,), features=(0,), poolings=("sum",))
    >>> embedding_rows(torch.arange(6.0), torch.tensor([2]), torch.tensor([0, 1]), layout=layout).tolist()
    [[4.0, 5.0]]
    """
    _check(weight, ids, offsets, layout)
    dims = {layout.dims[table] for table in layout.features}
    if len(dims) != 1:
        raise ValueError(
            f"unpooled features must share one dim, got {sorted(dims)}; look them up in groups"
        )
    grid = layout.grid.to(weight.device, non_blocking=True)
    return torch.ops.cuesta.embedding_rows(
        weight, ids.contiguous(), offsets.contiguous(), grid, dims.pop()
    )


def kernel_weights(sample_weights: Tensor) -> Tensor:
    """Return sample weights as the bodies read them: contiguous, and float32 or wider."""
    is_narrow = sample_weights.dtype in (torch.bfloat16, torch.float16)
    return (sample_weights.float() if is_narrow else sample_weights).contiguous()


def _check(weight: Tensor, ids: Tensor, offsets: Tensor, layout: TableLayout) -> None:
    if weight.numel() != layout.storage or weight.dim() != 1:
        raise ValueError(
            f"weight must be flat with the layout's {layout.storage} elements, got shape {tuple(weight.shape)}"
        )
    if weight.requires_grad:
        raise ValueError(
            "table gradients are never materialised: pass weight without requires_grad and train with embedding_update"
        )
    if (offsets.numel() - 1) % len(layout.features):
        raise ValueError(
            f"offsets must hold F * B + 1 numbers for F = {len(layout.features)}, got {offsets.numel()}"
        )


@torch.library.custom_op("cuesta::embedding_bag", mutates_args=())
def _embedding_bag(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    sample_weights: Tensor | None,
    grid: Tensor,
    width: int,
) -> Tensor:
    run = body("embedding_bag", weight).embedding_bag
    return run(weight, ids, offsets, sample_weights, grid, width)


@_embedding_bag.register_fake
def _(
    weight: Tensor,
    ids: Tensor,
    offsets: Tensor,
    sample_weights: Tensor | None,
    grid: Tensor,
    width: int,
) -> Tensor:
    return weight.new_empty((offsets.numel() - 1) // grid.shape[0], width, dtype=_out_dtype(weight))


@torch.library.custom_op("cuesta::embedding_rows", mutates_args=())
def _embedding_rows(weight: Tensor, ids: Tensor, offsets: Tensor, grid: Tensor, dim: int) -> Tensor:
    return body("embedding_bag", weight).embedding_rows(weight, ids, offsets, grid, dim)


@_embedding_rows.register_fake
def _(weight: Tensor, ids: Tensor, offsets: Tensor, grid: Tensor, dim: int) -> Tensor:
    return weight.new_empty(ids.numel(), dim, dtype=_out_dtype(weight))


@torch.library.custom_op("cuesta::sample_weight_grad", mutates_args=())
def _sample_weight_grad(
    grad: Tensor, weight: Tensor, ids: Tensor, offsets: Tensor, grid: Tensor
) -> Tensor:
    run = body("embedding_bag", weight).sample_weight_grad
    return run(grad.contiguous(), weight, ids, offsets, grid)


@_sample_weight_grad.register_fake
def _(grad: Tensor, weight: Tensor, ids: Tensor, offsets: Tensor, grid: Tensor) -> Tensor:
    return grad.new_empty(ids.numel())


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    weight, ids, offsets, sample_weights, grid, _ = inputs
    ctx.save_for_backward(weight, ids, offsets, grid)
    ctx.sample_dtype = None if sample_weights is None else sample_weights.dtype


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    sample_grad = None
    if ctx.needs_input_grad[3]:
        sample_grad = torch.ops.cuesta.sample_weight_grad(grad, *ctx.saved_tensors).to(
            ctx.sample_dtype
        )
    return None, None, None, sample_grad, None, None


_embedding_bag.register_autograd(_backward, setup_context=_setup)


@flop_formula(torch.ops.cuesta.embedding_bag)
def _flops(
    weight: Sequence[int],
    ids: Sequence[int],
    offsets: Sequence[int],
    sample: Sequence[int] | None,
    grid: Sequence[int],
    width: int,
    **_: object,
) -> int:
    """Count a multiply and an add per element gathered, at the mean dim of the features."""
    return 2 * ids[0] * width // grid[0]


def _out_dtype(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype is torch.float64 else torch.float32
