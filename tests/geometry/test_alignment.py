"""umeyama: exact on exact points, blind to points of no weight, never a reflection."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from cuesta.geometry import Transform, umeyama
from tests.geometry.test_transforms import assert_same, random, tangents
from tests.laws import seeds


@given(seed=seeds, with_scale=st.booleans())
def test_the_transform_of_exact_points_is_found(seed: int, with_scale: bool) -> None:
    b_from_a = Transform.exp(tangents(7 if with_scale else 6, seed))
    points = random(5, 6, 3, seed=seed + 1)
    assert_same(umeyama(points, b_from_a @ points, with_scale=with_scale), b_from_a)


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


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(5, 3\)"):
        umeyama(torch.ones(4, 3), torch.ones(5, 3))
