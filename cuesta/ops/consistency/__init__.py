"""Whether another view's depth map agrees with this one's: where each pixel lands after there and back.

The geometric check of multi-view stereo (Schönberger et al., ECCV 2016, section 4.4; Merrell et al.,
ICCV 2007), as masks, fusion and pairs use it: reprojection error, relative error of depth, angle of
normals. Geometry is float64 inside, so that pixels of 4K images keep their thousandths.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cuesta.ops.bodies import body, plain_op

__all__ = ["Consistency", "consistency"]


class Consistency(NamedTuple):
    """How far this view's pixels are from what another view says, inf where it says nothing."""

    pixel_error: Float[Tensor, "Y X"]  # pixels, from a pixel's centre to where it lands
    depth_error: Float[Tensor, "Y X"]  # |depth after there and back - depth| / depth
    angle: Float[Tensor, "Y X"] | None  # degrees between the two normals; None without normals


def consistency(
    depth: Float[Tensor, "Y X"],
    other_depth: Float[Tensor, "other_height other_width"],
    other_from_this: Float[Tensor, "3 4"],
    *,
    normal: Float[Tensor, "Y X 3"] | None = None,
    other_normal: Float[Tensor, "other_height other_width 3"] | None = None,
    rotation: Float[Tensor, "3 3"] | None = None,
) -> Consistency:
    """Return the errors of every pixel sent into another view by its depth and back by that view's.

    ```
    this  (u, v) z  ---->  (u', v') z'     other         other_from_this [u z, v z, z, 1] = [u' z', v' z', z']
    (u", v") z"     <----  (u', v') d'     d' = other_depth at (u', v')
    pixel_error = |(u", v") - (u, v)|      depth_error = |z" - z| / z
    ```

    Depth maps are z, both float32 or both float64 (which takes the reference); 0, or anything that is
    no finite number above it, is no depth. Their sizes may differ. `other_from_this` works on pixels
    times depth: with intrinsics K, K' and the pose R, t it is [K' R K^-1 | K' t]; give it as float64 if
    you have it so. `other_depth` is read between pixels, linearly in 1 / depth, which is exact on
    planes; but where the four pixels around differ by more than `SAME_SURFACE`, one has no depth, or at
    the border, that of the pixel which holds (u', v'). Errors are inf where there is no depth here or
    there, where the point is outside the other image, or behind either camera. With `normal`,
    `other_normal` (in their cameras' axes, of any length above 0) and `rotation` R, given together,
    `angle` is that between a pixel's normal and that of the pixel which holds (u', v'), inf also where
    either is 0.

    Not differentiable. Exact: the same bits for any number of threads. Raises `ValueError` where
    shapes, dtypes or devices do not go together.

    >>> depth = torch.full((2, 3), 4.0)
    >>> moved = torch.tensor([[1.0, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0]])  # one pixel to the right
    >>> found = consistency(depth, torch.full((2, 3), 5.0), moved)
    >>> found.pixel_error[0].tolist(), found.depth_error[0].tolist()
    ([0.20000000298023224, 0.20000000298023224, inf], [0.25, 0.25, inf])
    """
    _check(depth, other_depth, other_from_this)
    normals = (normal, other_normal, rotation)
    if normal is not None and other_normal is not None and rotation is not None:
        _check_normals(depth, other_depth, normal, other_normal, rotation)
        normals = (normal.contiguous(), other_normal.contiguous(), rotation.double().contiguous())
    elif any(each is not None for each in normals):
        raise ValueError(
            "normal, other_normal and rotation must be given together, or none of them"
        )
    out = torch.ops.cuesta.consistency(
        depth.contiguous(),
        other_depth.contiguous(),
        other_from_this.double().contiguous(),
        *normals,
    )
    return Consistency(out[0], out[1], None if normal is None else out[2])


@plain_op("consistency")
def _consistency(
    depth: Tensor,
    other_depth: Tensor,
    matrix: Tensor,
    normal: Tensor | None,
    other_normal: Tensor | None,
    rotation: Tensor | None,
) -> Tensor:
    """Return the two or three maps, [2, Y, X] or [3, Y, X]."""
    run = body("consistency", depth).consistency
    return run(depth, other_depth, matrix, normal, other_normal, rotation)


@torch.library.register_fake("cuesta::consistency")
def _(
    depth: Tensor,
    other_depth: Tensor,
    matrix: Tensor,
    normal: Tensor | None,
    other_normal: Tensor | None,
    rotation: Tensor | None,
) -> Tensor:
    return depth.new_empty(2 if normal is None else 3, *depth.shape)


def _check(depth: Tensor, other_depth: Tensor, matrix: Tensor) -> None:
    if depth.dim() != 2 or other_depth.dim() != 2:
        raise ValueError(
            "depth and other_depth must be [Y, X], "
            f"got shapes {tuple(depth.shape)} and {tuple(other_depth.shape)}"
        )
    if depth.dtype is not other_depth.dtype or depth.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            "depth and other_depth must both be float32 or both float64, "
            f"got {depth.dtype} and {other_depth.dtype}"
        )
    if matrix.shape != (3, 4) or not matrix.is_floating_point():
        raise ValueError(
            f"other_from_this must be floating point [3, 4], got {matrix.dtype} of shape "
            f"{tuple(matrix.shape)}"
        )
    _check_devices(depth, other_depth=other_depth, other_from_this=matrix)


def _check_normals(
    depth: Tensor, other_depth: Tensor, normal: Tensor, other_normal: Tensor, rotation: Tensor
) -> None:
    shapes = (tuple(normal.shape), tuple(other_normal.shape), tuple(rotation.shape))
    expected = ((*depth.shape, 3), (*other_depth.shape, 3), (3, 3))
    if shapes != expected:
        raise ValueError(
            f"normal, other_normal and rotation must be of shapes {expected}, got {shapes}"
        )
    if not normal.dtype is other_normal.dtype is depth.dtype or not rotation.is_floating_point():
        raise ValueError(
            f"normals must have the depth's dtype, {depth.dtype}, and rotation a floating one, got "
            f"{normal.dtype}, {other_normal.dtype} and {rotation.dtype}"
        )
    _check_devices(depth, normal=normal, other_normal=other_normal, rotation=rotation)


def _check_devices(depth: Tensor, **others: Tensor) -> None:
    for name, tensor in others.items():
        if tensor.device != depth.device:
            raise ValueError(f"{name} must be on the depth's {depth.device}, got {tensor.device}")
