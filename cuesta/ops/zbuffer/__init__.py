"""The nearest point of a cloud in every pixel: a z-buffer of points, each in the one pixel that holds it.

What hides what when a cloud is seen from a camera; no splats, no blending. The depths and indices are
exact: the same bits from every body, on any number of threads, in any order of the points.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cuesta.ops.bodies import body, plain_op
from cuesta.ragged import Ragged

__all__ = ["ZBuffer", "zbuffer"]

MAX_POINTS = 2**32  # an index shares 64 bits with a depth


class ZBuffer(NamedTuple):
    """The nearest point of every pixel, of every image."""

    depth: Float[Tensor, "B Y X"]  # z, 0 where there is no point
    point: Int64[Tensor, "B Y X"]  # its index in the values of all rows, -1 where there is none


def zbuffer(points: Ragged, *, height: int, width: int) -> ZBuffer:
    """Return depth and index of the nearest point in every pixel; each row of points is an image.

    ```
    row b: (u, v, z) (u, v, z) ...   ->   depth[b, y, x] = min z of row b with floor(v) = y, floor(u) = x
    ```

    The values are float32 [P, 3]: u, v in pixels and z > 0 in front of the camera. Points elsewhere,
    behind, or of no finite z are left out; of points of one depth the first is taken. Not
    differentiable: gather what is to learn by `point`. Raises `ValueError` for other shapes and
    dtypes (float64 takes the reference), a negative size, or 2^32 points and more.

    >>> points = torch.tensor([[1.5, 0.2, 4.0], [1.1, 0.9, 3.0], [0.5, 0.5, -1.0]])
    >>> found = zbuffer(Ragged.from_lengths(points, [3]), height=1, width=3)
    >>> found.depth.tolist(), found.point.tolist()
    ([[[0.0, 3.0, 0.0]]], [[[-1, 1, -1]]])
    """
    values = points.values
    if values.dim() != 2 or values.shape[1] != 3:
        raise ValueError(f"points must hold (u, v, z), [P, 3], got shape {tuple(values.shape)}")
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"points must be float32 or float64, got {values.dtype}")
    if height < 0 or width < 0:
        raise ValueError(f"height and width must not be negative, got {height} and {width}")
    if values.shape[0] >= MAX_POINTS:
        raise ValueError(f"there must be fewer than {MAX_POINTS} points, got {values.shape[0]}")
    return ZBuffer(*torch.ops.cuesta.zbuffer(values.contiguous(), points.offsets, height, width))


@plain_op("zbuffer")
def _zbuffer(points: Tensor, offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    return body("zbuffer", points).zbuffer(points, offsets, height, width)


@torch.library.register_fake("cuesta::zbuffer")
def _(points: Tensor, offsets: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    depth = points.new_empty(offsets.shape[0] - 1, height, width)
    return depth, torch.empty_like(depth, dtype=torch.int64)
