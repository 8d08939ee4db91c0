"""The check of one view against another: twins, an oracle that walks the pixels, and the laws of two
views of planes, spheres and steps.
"""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cuesta.ops import force_body
from cuesta.ops.consistency import consistency
from cuesta.ops.consistency.rays import SAME_SURFACE
from tests.laws import seeds
from tests.ops.two_views import (
    SIZES,
    Case,
    Pair,
    case,
    intrinsics,
    listed,
    numbers,
    pair,
    rays,
    rotation,
    rough,
    two_planes,
)
from tests.twins import assert_twins

BODY = pytest.mark.parametrize("body", ["reference", "cpu"])
EPSILON = torch.finfo(torch.float32).eps


@SIZES
@pytest.mark.parametrize("seed", [0, 5])
def test_bodies_are_twins(size: tuple[int, int], other_size: tuple[int, int], seed: int) -> None:
    given = case(size, other_size, seed)
    inputs = [each.float() for each in given[1:]]
    assert_twins(lambda *inputs: listed(given.run(*inputs)), *inputs)
    matrix = given.views.other_from_this()
    assert_twins(lambda *maps: listed(consistency(*maps, matrix)), *inputs[:2])


def walked(given: Case) -> list[list[list[float]]]:
    """Return the three maps by following one pixel after another in plain numbers."""
    matrix = given.views.other_from_this()
    height, width = given.other_depth.shape
    maps = [[[math.inf] * given.depth.shape[1] for _ in given.depth] for _ in range(3)]
    for y, line in enumerate(given.depth.tolist()):
        for x, z in enumerate(line):
            here = torch.tensor([x + 0.5, y + 0.5, 1], dtype=torch.float64)
            there = matrix[:, :3] @ (z * here) + matrix[:, 3]
            u, v = (there[:2] / there[2]).tolist()
            is_inside = 0 <= u < width and 0 <= v < height
            if not (0 < z < math.inf and there[2] > 0 and is_inside):
                continue
            seen = read(given.other_depth, u, v)
            if not 0 < seen < math.inf:
                continue
            there = seen * torch.tensor([u, v, 1], dtype=torch.float64) - matrix[:, 3]
            a, b, back = torch.linalg.solve(matrix[:, :3], there).tolist()
            if back > 0:
                maps[0][y][x] = math.hypot(a / back - x - 0.5, b / back - y - 0.5)
                maps[1][y][x] = abs(back - z) / z
                other_normal = given.other_normal[int(v), int(u)]
                maps[2][y][x] = degrees(given.normal[y, x], given.views.rotation.mT @ other_normal)
    return maps


def read(depth: Tensor, u: float, v: float) -> float:
    """Return a depth between four that are one surface, else that of the pixel around (u, v)."""
    x, y = math.floor(u - 0.5), math.floor(v - 0.5)
    four = depth[max(y, 0) : y + 2, max(x, 0) : x + 2].flatten().tolist()
    if len(four) == 4 and all(0 < each < math.inf for each in four):
        a, b, c, d = (1 / each for each in four)
        p, q = u - 0.5 - x, v - 0.5 - y
        if max(four) <= SAME_SURFACE * min(four):
            upper, lower = a + p * (b - a), c + p * (d - c)
            return 1 / (upper + q * (lower - upper))
    return float(depth[int(v), int(u)])


def degrees(normal: Tensor, other: Tensor) -> float:
    if not normal.any() or not other.any():
        return math.inf
    cosine = float(normal @ other / normal.norm() / other.norm())
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


@BODY
@pytest.mark.parametrize("seed", [1, 2])
@SIZES
def test_errors_are_those_of_pixels_followed_one_by_one(
    size: tuple[int, int], other_size: tuple[int, int], seed: int, body: str
) -> None:
    given = case(size, other_size, seed)
    with force_body(body):
        found = given.run(*given[1:])
    for actual, expected in zip(found, walked(given), strict=True):
        expected = torch.tensor(expected, dtype=torch.float64).reshape(actual.shape)
        assert torch.equal(actual.isinf(), expected.isinf())
        gap = (actual - expected)[actual.isfinite()]
        assert bool((gap.abs() <= EPSILON * (1 + expected[actual.isfinite()])).all())


@BODY
@given(seed=seeds)
def test_a_view_agrees_with_itself(seed: int, body: str) -> None:
    depth = rough(5 + numbers(7, 9, seed=seed).abs(), seed).float()
    same = torch.eye(3, 4)
    with force_body(body):
        found = consistency(depth, depth, same)
    is_valid = (depth > 0) & depth.isfinite()
    for error in found[:2]:
        assert torch.equal(error.isfinite(), is_valid)
    assert not found.pixel_error[is_valid].any()
    assert bool((found.depth_error[is_valid] <= EPSILON).all())


def surrounded(views: Pair, depth: Tensor, other_size: tuple[int, int]) -> Tensor:
    """Return which pixels land between the centres of four pixels."""
    ray = rays(views.matrix, tuple(depth.shape))
    there = depth[..., None] * ray @ views.rotation.mT + views.translation
    u, v = ((there / there[..., 2:]) @ views.other_matrix.mT)[..., :2].unbind(-1)
    return (u > 0.5) & (v > 0.5) & (u < other_size[1] - 0.5) & (v < other_size[0] - 0.5)


@BODY
@settings(max_examples=8)
@given(seed=seeds)
def test_views_of_a_plane_agree_wherever_four_pixels_surround_the_place(
    seed: int, body: str
) -> None:
    size, other_size = (42, 57), (45, 63)
    views = pair(size, other_size, seed)
    depth, other_depth = two_planes(views, size, other_size)
    with force_body(body):
        found = consistency(depth, other_depth, views.other_from_this())
    is_surrounded = surrounded(views, depth, other_size)
    assert bool(is_surrounded.any())
    assert bool((found.pixel_error[is_surrounded] <= EPSILON).all())
    assert bool((found.depth_error[is_surrounded] <= EPSILON).all())


def sphere(matrix: Tensor, centre: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the depth of a sphere of radius 1, 0 beside it."""
    ray = rays(matrix, size)
    a, b, c = ray.square().sum(-1), ray @ centre, centre @ centre - 1
    root = (b.square() - a * c).clamp(min=0).sqrt()
    return torch.where(root > 0, (b - root) / a, 0.0)


@BODY
def test_views_of_a_sphere_agree_four_times_better_with_half_the_pixel(body: str) -> None:
    centre = torch.tensor([0.1, -0.2, 4.0], dtype=torch.float64)
    turn, move = rotation(0.1 * numbers(3)), 0.2 * numbers(3, seed=1)
    medians = []
    for scale in (1, 2, 4):
        size = (40 * scale, 50 * scale)
        camera = intrinsics(size, 60 * scale)
        views = Pair(camera, camera, turn, move)
        depth, other = sphere(camera, centre, size), sphere(camera, turn @ centre + move, size)
        with force_body(body):
            found = consistency(depth, other, views.other_from_this())
        medians.append(found.depth_error[found.depth_error.isfinite()].median())
    assert medians[1] < medians[0] / 3
    assert medians[2] < medians[1] / 3


@BODY
@given(seed=seeds, power=st.integers(-8, 8))
def test_the_size_of_the_world_changes_no_bit(seed: int, power: int, body: str) -> None:
    given = case((6, 8), (7, 9), seed)
    inputs, matrix, scale = (
        [each.float() for each in given[1:3]],
        given.views.other_from_this(),
        2.0**power,
    )
    grown = matrix.clone()
    grown[:, 3] *= scale
    with force_body(body):
        found = listed(consistency(*inputs, matrix))
        other = listed(consistency(*(scale * each for each in inputs), grown))
    assert all(torch.equal(*both) for both in zip(found, other, strict=True))


@BODY
def test_a_step_shows_by_its_height_on_both_of_its_sides(body: str) -> None:
    other_depth = torch.full((5, 12), 8.0)
    other_depth[:, 6:] = 4.0
    moved = torch.eye(3, 4)
    moved[0, 3] = 8.0  # f b: a pixel at depth 8, two at 4
    with force_body(body):
        found = consistency(torch.full((5, 12), 8.0), other_depth, moved)
    there = torch.arange(12) + 1
    is_far, is_near = there < 6, (there >= 6) & (there < 12)
    for error, near in ((found.pixel_error, 1.0), (found.depth_error, 0.5)):
        assert torch.equal(error[:, is_far], torch.zeros(5, 5))
        assert torch.equal(error[:, is_near], torch.full((5, 6), near))
        assert bool(error[:, 11].isinf().all())


@BODY
def test_depths_are_read_between_pixels_of_one_surface_only(body: str) -> None:
    def seen(low: float, high: float) -> float:
        """Return what is seen three quarters of the way from `low` to `high`."""
        moved = torch.eye(3, 4)
        moved[0, 3] = 0.75  # at depth 1
        other = torch.tensor([low, high]).repeat(3, 1)
        with force_body(body):
            found = consistency(torch.ones(3, 2), other, moved)
        return 1 + float(found.depth_error[1, 0])

    assert seen(2.0, 2.03) == pytest.approx(1 / (0.25 / 2 + 0.75 / 2.03), rel=EPSILON)
    assert seen(2.0, 2.05) == pytest.approx(2.05, rel=EPSILON)
    assert seen(2.05, 2.0) == 2.0


@BODY
def test_a_pixel_without_a_way_there_and_back_has_no_error(body: str) -> None:
    ones, same = torch.ones(1, 1), torch.eye(3, 4)
    ahead, behind, beside = same.clone(), same.clone(), same.clone()
    ahead[2, 3], behind[2, 3], beside[0, 3] = 3.0, -1.0, 0.5
    cases = [
        (ones, ones, behind),  # in the other camera's plane
        (ones, ones, beside),  # u' is 1, the end of the image
        (ones, torch.full((1, 1), 2.0), ahead),  # at z" = 2 - 3
        (0 * ones, ones, same),
        (-ones, ones, same),
        (ones, 0 * ones, same),
        (ones, ones * torch.nan, same),
        (ones * torch.inf, ones, same),
        (ones, ones, 0 * same),
        (ones, ones, same * torch.nan),
    ]
    with force_body(body):
        for each in cases:
            found = consistency(*each)
            assert found.pixel_error.isinf()
            assert found.depth_error.isinf()
        assert not consistency(ones, ones, same).pixel_error.any()


@BODY
@given(seed=seeds, turn=st.floats(0, 180))
def test_the_angle_is_that_by_which_the_other_normal_is_turned(
    seed: int, turn: float, body: str
) -> None:
    normal, axis = numbers(2, 3, seed=seed).unbind()
    axis = torch.linalg.cross(normal, axis)
    other = rotation(math.radians(turn) * axis / axis.norm()) @ normal
    pose = rotation(numbers(3, seed=seed + 1))
    ones = torch.ones(1, 1, dtype=torch.float64)
    with force_body(body):
        angle = consistency(
            ones, ones, torch.eye(3, 4),
            normal=3 * normal[None, None], other_normal=(pose @ other)[None, None], rotation=pose,
        ).angle  # fmt: skip
    assert abs(float(angle) - turn) <= EPSILON * 180


@BODY
def test_float32_keeps_a_thousandth_of_a_pixel_in_a_4k_image(body: str) -> None:
    size = (3, 4096)
    camera = intrinsics(size, 3000.0)
    turn, move = torch.tensor([[0.0, 0.1, 0.0], [-1.0, 0.0, 0.1]], dtype=torch.float64)
    views = Pair(camera, camera, rotation(turn), move)
    depth, other = two_planes(views, size, size)
    with force_body(body):
        found = consistency(depth.float(), other.float(), views.other_from_this())
    is_surrounded = surrounded(views, depth, size)
    assert is_surrounded.sum() > 2000
    assert float(found.pixel_error[is_surrounded].max()) < 1e-3


def test_the_number_of_threads_changes_no_bit() -> None:
    given = case((37, 23), (30, 31))
    inputs = [each.float() for each in given[1:]]
    torch.set_num_threads(1)
    alone = listed(given.run(*inputs))
    torch.set_num_threads(2)
    shared = [listed(given.run(*inputs))]
    for count in (5, 16):
        with patch("cuesta.ops.consistency.cpu.num_threads", return_value=count):
            shared.append(listed(given.run(*inputs)))
    for each in shared:
        assert all(torch.equal(*both) for both in zip(each, alone, strict=True))


def test_maps_that_are_strided_are_understood() -> None:
    given = case((6, 8), (7, 9))
    inputs = [each.float() for each in given[1:]]
    strided = [each.transpose(0, 1).contiguous().transpose(0, 1) for each in inputs]
    for both in zip(listed(given.run(*inputs)), listed(given.run(*strided)), strict=True):
        assert torch.equal(*both)


def test_mistakes_are_named() -> None:
    ones, same, normal = torch.ones(2, 3), torch.eye(3, 4), torch.ones(2, 3, 3)
    with pytest.raises(ValueError, match=r"must be \[Y, X\], got shapes \(6,\) and \(2, 3\)"):
        consistency(ones.flatten(), ones, same)
    with pytest.raises(ValueError, match=r"both be float32 or both float64, got torch\.float16"):
        consistency(ones.half(), ones.half(), same)
    with pytest.raises(ValueError, match=r"got torch\.float32 and torch\.float64"):
        consistency(ones, ones.double(), same)
    with pytest.raises(ValueError, match=r"other_from_this must be .* of shape \(3, 3\)"):
        consistency(ones, ones, torch.eye(3))
    with pytest.raises(ValueError, match="must be given together"):
        consistency(ones, ones, same, normal=normal)
    with pytest.raises(ValueError, match="must be given together"):
        consistency(ones, ones, same, other_normal=normal, rotation=torch.eye(3))
    with pytest.raises(ValueError, match=r"must be of shapes .* got \(\(3, 2, 3\)"):
        consistency(
            ones, ones, same,
            normal=normal.transpose(0, 1), other_normal=normal, rotation=torch.eye(3),
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"must have the depth's dtype, torch\.float32"):
        consistency(
            ones, ones, same, normal=normal.double(), other_normal=normal, rotation=torch.eye(3)
        )
    with pytest.raises(ValueError, match="other_depth must be on the depth's cpu, got meta"):
        consistency(ones, ones.to("meta"), same)
