"""Two or three views of a slanted, textured plane give that plane; the same seed gives the same bits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from cuesta.geometry import Transform
from cuesta.ops.patch_match import PatchMatch
from cuesta.vision.terrasky3d.settings import StereoSettings
from cuesta.vision.terrasky3d.stereo import (
    Picture,
    Range,
    _enlarged,
    bytes_needed,
    completed,
    match_again,
    match_coarse_to_fine,
    normals_of,
    num_levels,
    planes_of,
)

NORMAL, FAR = np.array([0.3, -0.2, -1.0]) / np.linalg.norm([0.3, -0.2, -1.0]), -4.0  # n . X = FAR
MATRIX = torch.tensor([[120.0, 0, 66], [0, 118.0, 47], [0, 0, 1]], dtype=torch.float64)
SHAPE = (96, 130)
WITHIN = Range(2.0, 12.0)
SETTINGS = StereoSettings(name="test")


def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return grey levels that are everywhere different, from waves of many lengths."""
    random = np.random.default_rng(3)
    total = np.zeros_like(x)
    for _ in range(40):
        turn, rate, phase = random.uniform(0, np.pi), random.uniform(3, 20), random.uniform(0, 7)
        total += np.sin(rate * (x * np.cos(turn) + y * np.sin(turn)) + phase)
    return np.clip(128 + 16 * total, 0, 255).round().astype(np.uint8)


def seen_from(x: float, y: float, turn: float) -> tuple[Picture, Tensor]:
    """Return the plane as it is seen from a place, and its inverse depth."""
    tangent = torch.tensor([0, 0, 0, 0, turn, 0], dtype=torch.float64)
    rotation = Transform.exp(tangent).rotation
    centre = torch.tensor([x, y, 0.0], dtype=torch.float64)
    pose = Transform.rigid(rotation, -(rotation @ centre))
    v, u = np.meshgrid(*(np.arange(side) + 0.5 for side in SHAPE), indexing="ij")
    rays = (
        np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(MATRIX.numpy()).T @ rotation.numpy()
    )
    depth = (FAR - NORMAL @ centre.numpy()) / (rays @ NORMAL)
    points = centre.numpy() + depth[..., None] * rays
    grey = texture(points[..., 0], points[..., 1])
    return Picture(torch.from_numpy(grey), MATRIX, pose), torch.from_numpy(1 / depth).float()


@pytest.fixture(scope="module")
def views() -> list[tuple[Picture, Tensor]]:
    return [seen_from(0.0, 0.0, 0.0), seen_from(0.5, 0.1, -0.1), seen_from(-0.4, -0.2, 0.08)]


@pytest.fixture(scope="module")
def found(views: list[tuple[Picture, Tensor]]) -> PatchMatch:
    pictures = [picture for picture, _ in views]
    return match_coarse_to_fine(pictures[0], pictures[1:], WITHIN, SETTINGS, 5)


def share_within(found: Tensor, truth: Tensor, tolerance: float) -> float:
    return ((found / truth - 1).abs() < tolerance).float().mean().item()


def test_a_slanted_plane_is_found(views: list[tuple[Picture, Tensor]], found: PatchMatch) -> None:
    truth = views[0][1]
    assert share_within(found.planes[0], truth, 0.01) > 0.85
    assert float(((found.planes[0] / truth - 1).abs()).median()) < 0.003
    normals = normals_of(found.planes, views[0][0])
    cosine = normals.double() @ torch.from_numpy(NORMAL)
    assert float(cosine.median()) > np.cos(np.radians(5))


def test_two_views_are_enough(views: list[tuple[Picture, Tensor]]) -> None:
    few = match_coarse_to_fine(views[0][0], [views[1][0]], WITHIN, SETTINGS, 5)
    assert share_within(few.planes[0], views[0][1], 0.02) > 0.6


def test_the_same_seed_gives_the_same_bits(
    views: list[tuple[Picture, Tensor]], found: PatchMatch
) -> None:
    pictures = [picture for picture, _ in views]
    again = match_coarse_to_fine(pictures[0], pictures[1:], WITHIN, SETTINGS, 5)
    assert torch.equal(again.planes, found.planes)
    assert torch.equal(again.costs, found.costs)
    quick = dataclasses.replace(SETTINGS, coarse_iterations=1, iterations=1)
    one, other = (
        match_coarse_to_fine(pictures[0], pictures[1:], WITHIN, quick, seed) for seed in (1, 2)
    )
    assert not torch.equal(one.planes, other.planes)


def test_depths_of_the_sources_draw_depth_to_them(
    views: list[tuple[Picture, Tensor]], found: PatchMatch
) -> None:
    (view, truth), *others = views
    sources, depths = [picture for picture, _ in others], [inverse for _, inverse in others]
    again = match_again(view, sources, found, depths, WITHIN, SETTINGS, 6)
    assert share_within(again.planes[0], truth, 0.01) >= share_within(found.planes[0], truth, 0.01)
    wrong = match_again(view, sources, found, [1.5 * each for each in depths], WITHIN, SETTINGS, 6)
    assert wrong.costs.mean() > again.costs.mean() + 0.1


def test_completion_counts_who_confirms_and_mends_the_rest(
    views: list[tuple[Picture, Tensor]], found: PatchMatch
) -> None:
    (view, truth), *others = views
    sources, depths = [picture for picture, _ in others], [inverse for _, inverse in others]
    planes = found.planes.clone()
    costs = found.costs.clone()
    planes[0, 40:56, 50:70] = 1 / 3.0  # a hole of wrong depth that matches badly
    costs[40:56, 50:70] = 1.5
    broken = PatchMatch(planes, costs)
    settings = dataclasses.replace(SETTINGS, fill_sigma=1e6)
    filled, confirmed = completed(view, sources, broken, depths, settings)
    is_hole = torch.zeros(SHAPE, dtype=torch.bool)
    is_hole[40:56, 50:70] = True
    assert share_within(planes[0][is_hole], truth[is_hole], 0.02) < 0.1
    assert share_within(filled[0][is_hole], truth[is_hole], 0.02) > 0.9
    assert set(confirmed.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert confirmed[is_hole].mean() < 0.5 < confirmed[~is_hole].mean()
    _, none = completed(view, sources, broken, [0 * each for each in depths], settings)
    assert none.sum() == 0


def test_normals_of_a_plane_are_its_normal(views: list[tuple[Picture, Tensor]]) -> None:
    view, inverse_depth = views[0]
    form = FAR**-1 * torch.from_numpy(NORMAL) @ torch.linalg.inv(MATRIX)
    slopes = [torch.full(SHAPE, float(form[k])) for k in (0, 1)]
    normals = normals_of(torch.stack([inverse_depth, *slopes]), view)
    expected = torch.from_numpy(NORMAL).float().expand(*SHAPE, 3)
    torch.testing.assert_close(normals, expected, rtol=1e-4, atol=1e-4)


def test_a_shrunk_picture_shows_the_same_rays(views: list[tuple[Picture, Tensor]]) -> None:
    view = views[0][0]
    small = view.shrunk(1)
    assert small.grey.shape == (48, 65)
    corner = torch.tensor([130.0, 96.0, 1.0], dtype=torch.float64)
    shrunk = torch.tensor([65.0, 48.0, 1.0], dtype=torch.float64)
    rays = torch.linalg.inv(view.matrix) @ corner, torch.linalg.inv(small.matrix) @ shrunk
    torch.testing.assert_close(*rays)
    blocks = view.grey.reshape(48, 2, 65, 2).float().mean((1, 3))
    assert (small.grey - blocks).abs().max() <= 0.5
    assert view.shrunk(0) is view


def test_pixels_times_depth_go_to_the_other_view(views: list[tuple[Picture, Tensor]]) -> None:
    (one, inverse_depth), (other, other_inverse), _ = views
    y, x = 40, 60
    z = 1 / float(inverse_depth[y, x])
    u, v, w = one.other_from_this(other) @ torch.tensor(
        [(x + 0.5) * z, (y + 0.5) * z, z, 1], dtype=torch.float64
    )
    there = other_inverse[int(v / w), int(u / w)]
    assert float(1 / w) == pytest.approx(float(there), rel=0.01)


def test_larger_pictures_have_more_levels_and_need_more_memory() -> None:
    assert [num_levels(side) for side in (1, 128, 255, 256, 1024)] == [1, 1, 1, 2, 4]
    assert bytes_needed({"a": 200, "b": 100}, 3) == 2 * bytes_needed({"a": 100}, 3)
    assert bytes_needed({"a": 100}, 6) > bytes_needed({"a": 100}, 3)


@pytest.mark.parametrize("shape", [(24, 30), (25, 31)])
def test_enlarged_planes_stay_the_plane(shape: tuple[int, int]) -> None:
    small, large = ((shape[0] // 2, shape[1] // 2), shape)

    def of(sides: tuple[int, int]) -> Tensor:
        shares = [side / whole for side, whole in zip((1.0, 1.0), sides, strict=True)]
        y, x = (
            (torch.arange(side) + 0.5) * share for side, share in zip(sides, shares, strict=True)
        )
        w = 0.5 + 0.2 * x - 0.1 * y[:, None]
        across = torch.full_like(w, 0.2 * shares[1])
        return torch.stack([w, across, torch.full_like(w, -0.1 * shares[0])])

    view = Picture(torch.zeros(large, dtype=torch.uint8), MATRIX, Transform.exp(torch.zeros(6)))
    enlarged = _enlarged(PatchMatch(of(small), torch.zeros(small)), view)
    torch.testing.assert_close(enlarged.planes, of(large), rtol=1e-5, atol=1e-6)


def test_planes_of_depth_and_normals_are_those_they_came_from(
    views: list[tuple[Picture, Tensor]],
) -> None:
    view, _ = views[0]
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in SHAPE), indexing="ij")
    planes = torch.stack([0.3 + 1e-3 * x - 5e-4 * y, 1e-3 * x / x, -5e-4 * y / y])
    again = planes_of(1 / planes[0], normals_of(planes, view), view.matrix)
    torch.testing.assert_close(again, planes, rtol=1e-3, atol=1e-7)
    assert not planes_of(torch.zeros(SHAPE), normals_of(planes, view), view.matrix).any()
