"""Two views of one plane, with noise, holes and normals: what the tests of `consistency` put in."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from cuesta.ops.consistency import Consistency, consistency

SIZES = pytest.mark.parametrize(
    ("size", "other_size"),
    [((13, 21), (13, 21)), ((9, 16), (17, 8)), ((1, 1), (1, 1)), ((4, 5), (1, 7)), ((5, 4), (7, 1)),
     ((0, 4), (3, 3)), ((3, 0), (3, 3)), ((3, 3), (0, 3)), ((3, 3), (3, 0))],
    ids=str,
)  # fmt: skip


class Pair(NamedTuple):
    """Two cameras: intrinsics, and the pose of the second, float64."""

    matrix: Tensor
    other_matrix: Tensor
    rotation: Tensor
    translation: Tensor

    def other_from_this(self) -> Tensor:
        turned = self.other_matrix @ self.rotation @ torch.linalg.inv(self.matrix)
        return torch.cat([turned, self.other_matrix @ self.translation[:, None]], 1)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(vector: Tensor) -> Tensor:
    x, y, z = vector.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(cross)


def intrinsics(size: tuple[int, int], focal: float) -> Tensor:
    rows = [[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)


def pair(size: tuple[int, int], other_size: tuple[int, int], seed: int = 0) -> Pair:
    """Return two cameras that see much of the same at a depth of 5."""
    focals = [1.2 * (max(each) + 1) for each in (size, other_size)]
    cameras = [intrinsics(*each) for each in zip((size, other_size), focals, strict=True)]
    return Pair(*cameras, rotation(0.05 * numbers(3, seed=seed)), 0.2 * numbers(3, seed=seed + 1))


def rays(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the directions of the pixels' centres, of z 1."""
    v, u = (torch.arange(count).double() + 0.5 for count in size)
    v, u = torch.meshgrid(v, u, indexing="ij")
    return torch.stack([u, v, torch.ones_like(u)], -1) @ torch.linalg.inv(matrix).mT


def two_planes(
    views: Pair, size: tuple[int, int], other_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the depths of one slanted plane, 5 away from the first camera, in both."""
    normal = torch.tensor([0.2, -0.1, 1.0], dtype=torch.float64)
    turned = views.rotation @ normal
    distance = 5 + turned @ views.translation
    other = distance / (rays(views.other_matrix, other_size) @ turned)
    return 5 / (rays(views.matrix, size) @ normal), other


def rough(depth: Tensor, seed: int) -> Tensor:
    """Return depths with noise that some neighbours bear and some do not, with holes, and with what
    is no depth.
    """
    bad = torch.tensor([0.0, -1.0, math.inf, math.nan], dtype=depth.dtype)
    generator = torch.Generator().manual_seed(seed)
    chosen = bad[torch.randint(0, 4, depth.shape, generator=generator)]
    is_bad = torch.rand(depth.shape, generator=generator) < 0.1
    return torch.where(is_bad, chosen, depth * (1 + 0.01 * numbers(*depth.shape, seed=seed)))


def listed(found: Consistency) -> list[Tensor]:
    """Return where each map is infinite, and its numbers elsewhere; a NaN stays one."""
    maps = [each for each in found if each is not None]
    assert not any(each.isnan().any() for each in maps)
    return [part for each in maps for part in (each.isinf(), each.where(~each.isinf(), 0.0))]


class Case(NamedTuple):
    """The arguments of one call, float64."""

    views: Pair
    depth: Tensor
    other_depth: Tensor
    normal: Tensor
    other_normal: Tensor

    def run(
        self, depth: Tensor, other: Tensor, normal: Tensor, other_normal: Tensor
    ) -> Consistency:
        return consistency(
            depth, other, self.views.other_from_this(),
            normal=normal, other_normal=other_normal, rotation=self.views.rotation,
        )  # fmt: skip


def case(size: tuple[int, int], other_size: tuple[int, int], seed: int = 0) -> Case:
    views = pair(size, other_size, seed)
    depth, other_depth = two_planes(views, size, other_size)
    normals = [numbers(*size, 3, seed=seed), numbers(*other_size, 3, seed=seed + 1)]
    for each in normals:
        each[::3, ::2] = 0
    return Case(views, rough(depth, seed), rough(other_depth, seed + 1), *normals)
