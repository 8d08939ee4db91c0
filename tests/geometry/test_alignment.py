"""umeyama: exact on exact points, blind to points of no weight, never a reflection."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cuesta.geometry import Transform, umeyama
from tests.geometry.test_transforms import (
    assert_near,
    assert_same,
    both_dtypes,
    random,
    tangents,
)
from tests.laws import seeds


@both_dtypes
@given(seed=seeds, with_scale=st.booleans())
def test_the_transform_of_exact_points_is_found(
    dtype: torch.dtype, seed: int, with_scale: bool
) -> None:
    b_from_a = Transform.exp(tangents(7 if with_scale else 6, seed, dtype=dtype))
    spread = torch.eye(3, dtype=dtype).expand(5, 3, 3)  # never on one line, nor nearly
    points = torch.cat([random(5, 6, 3, seed=seed + 1, dtype=dtype), 3 * spread, -3 * spread], 1)
    target = b_from_a @ points
    found = umeyama(points, target, with_scale=with_scale)
    assert_near(found.matrix(), b_from_a.matrix(), size=1 + target.abs().amax((1, 2)))


@given(seed=seeds)
def test_no_other_transform_is_nearer(seed: int) -> None:
    source, target = random(1, 9, 3, seed=seed), random(1, 9, 3, seed=seed + 1)
    best = umeyama(source, target)
    error = (best @ source - target).square().sum()
    for other in range(5):
        near = Transform.exp(1e-2 * random(1, 7, seed=seed + 2 + other)) @ best
        assert (near @ source - target).square().sum() >= error


def test_points_without_weight_do_not_count() -> None:
    b_from_a = Transform.exp(tangents(7, 3, num=1))
    points = random(1, 6, 3, seed=0)
    target = b_from_a @ points
    target[:, 0] += 100
    weights = torch.ones(1, 6, dtype=torch.float64)
    weights[:, 0] = 0
    assert_same(umeyama(points, target, weights=weights), b_from_a)


def test_mirrored_points_get_a_rotation_all_the_same() -> None:
    points = random(1, 6, 3, seed=0)
    found = umeyama(points, points * torch.tensor([1.0, 1.0, -1.0]))
    assert_close(torch.linalg.det(found.rotation), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("with_scale", [True, False])
def test_it_has_gradients(with_scale: bool) -> None:
    def matrix(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        return umeyama(source, target, weights=weights, with_scale=with_scale).matrix()

    source, target = (random(2, 5, 3, seed=seed).requires_grad_() for seed in (0, 1))
    weights = random(2, 5, seed=2).exp().requires_grad_()
    torch.autograd.gradcheck(matrix, (source, target, weights))


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(5, 3\)"):
        umeyama(torch.ones(4, 3), torch.ones(5, 3))
