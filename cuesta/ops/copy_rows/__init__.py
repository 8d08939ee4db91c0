"""Copy rows of one matrix into rows of another, converting between 32 and 16 bits: how rows move between tiers."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cuesta.ops.bodies import body, plain_op

__all__ = ["copy_rows"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def copy_rows(
    target: Float[Tensor, "_ D"],
    target_rows: Int64[Tensor, " T"],
    source: Float[Tensor, "_ D"],
    source_rows: Int64[Tensor, " T"],
    *,
    random_key: int | None = None,
) -> None:
    """Write target[target_rows[i]] = source[source_rows[i]]; target rows differ from each other.

    Rows may lie apart, as columns of a wider matrix do. One matrix may be in a GPU's memory, with the numbers of rows,
    and the other in host memory that is pinned.

    A target of 16 bits is rounded to nearest, or with `random_key` up or down by chance, with bits that depend on the
    key and the element's place in the target alone, as in `embedding_update`. Not differentiable. Raises `ValueError`
    where shapes, dtypes or devices do not go together.

    >>> target = torch.zeros(3, 2)
    >>> copy_rows(target, torch.tensor([2, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, 1]))
    >>> target.tolist()
    [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0]]
    """
    if target.dim() != 2 or source.dim() != 2 or target.shape[1] != source.shape[1]:
        raise ValueError(
            f"target and source must be matrices of one width, got {tuple(target.shape)} and {tuple(source.shape)}"
        )
    if target.dtype not in _DTYPES or source.dtype not in _DTYPES:
        raise ValueError(f"rows must be of 32 or 16 bits, got {target.dtype} and {source.dtype}")
    if target_rows.dim() != 1 or target_rows.shape != source_rows.shape:
        raise ValueError(
            f"target_rows and source_rows must be of one length, got {tuple(target_rows.shape)} and "
            f"{tuple(source_rows.shape)}"
        )
    if target.device != source.device and not any(each.is_pinned() for each in (target, source)):
        raise ValueError(
            f"target must be where source is, or one of them pinned, got {target.device} and {source.device}"
        )
    for name, matrix in (("target", target), ("source", source)):
        if matrix.shape[1] > 1 and matrix.stride(1) != 1:
            raise ValueError(
                f"numbers of a row of {name} must lie side by side, got strides {matrix.stride()}"
            )
    torch.ops.cuesta.copy_rows(target, target_rows, source, source_rows, random_key)


@plain_op("copy_rows", mutates_args=("target",))
def _copy_rows(
    target: Tensor, target_rows: Tensor, source: Tensor, source_rows: Tensor, random_key: int | None
) -> None:
    where = source if source.is_cuda else target
    body("copy_rows", where).copy_rows(target, target_rows, source, source_rows, random_key)


@torch.library.register_fake("cuesta::copy_rows")
def _(
    target: Tensor, target_rows: Tensor, source: Tensor, source_rows: Tensor, random_key: int | None
) -> None:
    return None
