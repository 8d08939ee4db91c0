"""`Transform`: rotation, translation and scale, one type for SE(3) and Sim(3).

The exponential's translation is V(w, l) r with V the integral of exp(u (l I + [w])) over u in [0, 1]
(Eade, "Lie groups for 2D and 3D transformations", 2013, section 6). We integrate by Gauss-Legendre
nodes instead of the closed form: exact to rounding for the angles and scales that occur, and without
its singular cases at small angles and scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_NODES, _WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(16))


@final
@dataclass(frozen=True, eq=False)
class Transform:
    """Map points of one frame to another: `a_from_b @ x_b` is scale * rotation @ x_b + translation.

    Names tell frames, and chains meet in the middle: `a_from_c = a_from_b @ b_from_c`. `scale` is 1
    for a rigid motion (SE(3)). All three share their batch dimensions and dtype. Raises `ValueError`
    where shapes do not agree.

    >>> world_from_cam = Transform.rigid(torch.eye(3), torch.tensor([0.0, 0.0, 2.0]))
    >>> (world_from_cam.inverse() @ torch.tensor([[1.0, 0.0, 2.0]])).tolist()
    [[1.0, 0.0, 0.0]]
    """

    rotation: Float[Tensor, "*batch 3 3"]
    translation: Float[Tensor, "*batch 3"]
    scale: Float[Tensor, "*batch"]

    def __post_init__(self) -> None:
        batch = self.scale.shape
        if self.rotation.shape != (*batch, 3, 3) or self.translation.shape != (*batch, 3):
            raise ValueError(
                "rotation, translation and scale must be [*, 3, 3], [*, 3] and [*], got "
                f"{tuple(self.rotation.shape)}, {tuple(self.translation.shape)} and {tuple(batch)}"
            )

    @staticmethod
    def rigid(
        rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]
    ) -> Transform:
        """Return the motion of this rotation and translation, with scale 1."""
        return Transform(rotation, translation, torch.ones_like(translation[..., 0]))

    @staticmethod
    def identity(*batch: int, dtype: torch.dtype = torch.float32) -> Transform:
        """Return the transform that moves nothing."""
        rotation = torch.eye(3, dtype=dtype).expand(*batch, 3, 3)
        return Transform.rigid(rotation, torch.zeros(*batch, 3, dtype=dtype))

    @staticmethod
    def from_quaternion(
        quaternion: Float[Tensor, "*batch 4"], translation: Float[Tensor, "*batch 3"]
    ) -> Transform:
        """Return the rigid motion of a quaternion, w first, of any length but 0."""
        w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
        rows = [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ]
        return Transform.rigid(torch.stack(rows, -1).unflatten(-1, (3, 3)), translation)

    @staticmethod
    def from_matrix(matrix: Float[Tensor, "*batch rows 4"]) -> Transform:
        """Return the transform of a 3 x 4 or 4 x 4 matrix [scale * rotation | translation]."""
        scale = torch.linalg.det(matrix[..., :3, :3]).pow(1 / 3)
        return Transform(matrix[..., :3, :3] / scale[..., None, None], matrix[..., :3, 3], scale)

    @staticmethod
    def exp(tangent: Float[Tensor, "*batch size"]) -> Transform:
        """Return the exponential of (translation part, rotation vector[, log of scale]): 6 or 7 numbers.

        Differentiable everywhere, also at 0.
        """
        if tangent.shape[-1] not in (6, 7):
            raise ValueError(f"a tangent has 6 numbers, or 7 with scale, got {tangent.shape[-1]}")
        part, turn = tangent[..., :3], tangent[..., 3:6]
        growth = tangent[..., 6] if tangent.shape[-1] == 7 else torch.zeros_like(tangent[..., 0])
        translation = (_integral(turn, growth) @ part[..., None])[..., 0]
        return Transform(_rotation(turn), translation, growth.exp())

    def log(self) -> Float[Tensor, "*batch 7"]:
        """Return the tangent of this transform, with angles in [0, pi]: the inverse of `exp`."""
        growth = self.scale.log()
        w, vector = self.quaternion().split([1, 3], -1)
        length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        is_small = length < 1e-9
        safe = torch.where(is_small, 1.0, length)
        turn = vector * torch.where(is_small, 2 / w, 2 * torch.atan2(safe, w) / safe)
        part = torch.linalg.solve(_integral(turn, growth), self.translation)
        return torch.cat([part, turn, growth[..., None]], -1)

    def inverse(self) -> Transform:
        """Return `b_from_a` of `a_from_b`."""
        rotation, scale = self.rotation.mT, 1 / self.scale
        moved = (rotation @ self.translation[..., None])[..., 0]
        return Transform(rotation, -scale[..., None] * moved, scale)

    @overload
    def __matmul__(self, other: Transform) -> Transform: ...

    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...

    def __matmul__(self, other: Transform | Tensor) -> Transform | Tensor:
        """Return `a_from_c` of `a_from_b @ b_from_c`, or the points [*batch, P, 3] in frame a."""
        if isinstance(other, Tensor):
            turned = other @ self.rotation.mT
            return self.scale[..., None, None] * turned + self.translation[..., None, :]
        moved = (self.rotation @ other.translation[..., None])[..., 0]
        return Transform(
            self.rotation @ other.rotation,
            self.scale[..., None] * moved + self.translation,
            self.scale * other.scale,
        )

    def matrix(self) -> Float[Tensor, "*batch 4 4"]:
        """Return the homogeneous matrix."""
        top = torch.cat(
            [self.scale[..., None, None] * self.rotation, self.translation[..., None]], -1
        )
        last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype, device=top.device)
        return torch.cat([top, last.expand(*top.shape[:-2], 1, 4)], -2)

    def quaternion(self) -> Float[Tensor, "*batch 4"]:
        """Return the rotation as a unit quaternion with w >= 0 first.

        Of the four ways to divide, each row takes the one whose divisor is largest (Shepperd, 1978).
        """
        r = self.rotation
        xx, yy, zz = r.diagonal(dim1=-2, dim2=-1).unbind(-1)
        yz, zx, xy = (r[..., i, j] + r[..., j, i] for i, j in ((1, 2), (2, 0), (0, 1)))
        wx, wy, wz = (r[..., i, j] - r[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
        ways = [  # each is 4 * (its own component) * (w, x, y, z)
            *(1 + xx + yy + zz, wx, wy, wz),
            *(wx, 1 + xx - yy - zz, xy, zx),
            *(wy, xy, 1 - xx + yy - zz, yz),
            *(wz, zx, yz, 1 - xx - yy + zz),
        ]
        table = torch.stack(ways, -1).unflatten(-1, (4, 4))
        best = table.diagonal(dim1=-2, dim2=-1).argmax(-1)
        chosen = table.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
        unit = torch.nn.functional.normalize(chosen, dim=-1)
        return torch.where(unit[..., :1] < 0, -unit, unit)

    def to(self, target: torch.dtype | torch.device) -> Transform:
        """Return this transform in another dtype or on another device."""
        return Transform(
            self.rotation.to(target), self.translation.to(target), self.scale.to(target)
        )


def cross_matrix(vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return [v], with [v] x = v cross x."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _sinc(x: Tensor) -> Tensor:
    return torch.sinc(x / torch.pi)  # sin(x) / x


def _rotation(turn: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Return exp([turn]) by Rodrigues' formula."""
    angle = torch.linalg.vector_norm(turn, dim=-1)[..., None, None]
    cross = cross_matrix(turn)
    eye = torch.eye(3, dtype=turn.dtype, device=turn.device)
    return eye + _sinc(angle) * cross + _sinc(angle / 2).square() / 2 * (cross @ cross)


def _integral(
    turn: Float[Tensor, "*batch 3"], growth: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """Return the integral of exp(u (growth I + [turn])) over u from 0 to 1."""
    nodes, weights = _NODES.to(turn), _WEIGHTS.to(turn)
    u = (nodes + 1) / 2
    weight = (growth[..., None] * u).exp() * weights / 2  # [*batch, nodes]
    angle = torch.linalg.vector_norm(turn, dim=-1)[..., None] * u
    first = (weight * u * _sinc(angle)).sum(-1)[..., None, None]
    second = (weight * u * u * _sinc(angle / 2).square() / 2).sum(-1)[..., None, None]
    cross = cross_matrix(turn)
    eye = torch.eye(3, dtype=turn.dtype, device=turn.device)
    return weight.sum(-1)[..., None, None] * eye + first * cross + second * (cross @ cross)
