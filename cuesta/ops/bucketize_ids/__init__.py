"""Sort a batch's ids by who holds their rows: what a sharded embedding table sends before a lookup.

After Neo (ISCA 2022), row-wise partitioning: ids are dealt to blocks of rows and counted from their block's first row.
A table that is not cut by rows is one block, so that every scheme of sharding is the same op.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from cuesta.ops.bodies import body, plain_op

__all__ = ["Bucketized", "bucketize_ids"]


class Bucketized(NamedTuple):
    """Hold the ids of each block, bag by bag, less the block's first row; how many there are of each bag; and
    where each was among the ids given (none, if they were not wanted).
    """

    ids: Int[Tensor, " found"]
    lengths: Int64[Tensor, "blocks B"]
    places: Int64[Tensor, " found"]


def bucketize_ids(
    ids: Int[Tensor, " T"],
    offsets: Int64[Tensor, " F*B+1"],
    blocks: Int64[Tensor, "blocks 3"],
    *,
    num_features: int,
    wants_places: bool = False,
) -> Bucketized:
    """Return for each block (feature, first row, end row) the ids of its feature in these rows.

    ```
    feature 0: 4 0 | 7          blocks (0, 0, 4)  ->  0   |          lengths 1 0
                                       (0, 4, 8)  ->  0   | 3                1 1
    ```

    Ids keep their order and their dtype; those in no block are dropped, those in several are repeated.
    `offsets` are feature-major as in `RaggedFeatures`, of F = `num_features`. Not differentiable; waits for
    a GPU once, for N. Raises `ValueError` where shapes or dtypes do not go together. Source: the paper;
    `block_bucketize_sparse_features` is the peer.

    >>> found = bucketize_ids(
    ...     torch.tensor([4, 0, 7]), torch.tensor([0, 2, 3]), torch.tensor([[0, 0, 4], [0, 4, 8]]), num_features=1
    ... )
    >>> found.ids.tolist(), found.lengths.tolist()
    ([0, 0, 3], [[1, 0], [1, 1]])
    """
    if ids.dtype not in (torch.int32, torch.int64) or ids.dim() != 1:
        raise ValueError(f"ids must be 1-D int32 or int64, got {ids.dtype} {tuple(ids.shape)}")
    if num_features < 1 or (offsets.numel() - 1) % num_features:
        raise ValueError(
            f"offsets must hold F * B + 1 numbers for F = {num_features}, got {offsets.numel()}"
        )
    if blocks.dim() != 2 or blocks.shape[1] != 3 or blocks.dtype is not torch.int64:
        raise ValueError(f"blocks must be int64 [S, 3], got {blocks.dtype} {tuple(blocks.shape)}")
    found = torch.ops.cuesta.bucketize_ids(
        ids.contiguous(), offsets.contiguous(), blocks.contiguous(), num_features, wants_places
    )
    return Bucketized(*found)


@plain_op("bucketize_ids")
def _bucketize_ids(
    ids: Tensor, offsets: Tensor, blocks: Tensor, num_features: int, wants_places: bool
) -> tuple[Tensor, Tensor, Tensor]:
    run = body("bucketize_ids", ids).bucketize_ids
    return run(ids, offsets, blocks, num_features, wants_places)


@torch.library.register_fake("cuesta::bucketize_ids")
def _(
    ids: Tensor, offsets: Tensor, blocks: Tensor, num_features: int, wants_places: bool
) -> tuple[Tensor, Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    num_bags = (offsets.numel() - 1) // num_features
    return (
        ids.new_empty(count),
        offsets.new_empty(blocks.shape[0], num_bags),
        offsets.new_empty(count if wants_places else 0),
    )
