"""The best other images are those that share points at a good angle; what cannot be matched says why."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cuesta.data.scenes.views import Views
from cuesta.geometry import Camera, Transform
from cuesta.vision.terrasky3d.settings import StereoSettings
from cuesta.vision.terrasky3d.sparse_points import SparsePoints
from cuesta.vision.terrasky3d.view_selection import choose_sources

AWAY = 10.0
SETTINGS = StereoSettings(name="test")


def ring(*degrees: float) -> Views:
    """Return views on a circle about the origin, `AWAY` from it and looking at it, at these angles."""
    tangents = torch.zeros(len(degrees), 6, dtype=torch.float64)
    tangents[:, 4] = torch.tensor(degrees).deg2rad()
    translation = torch.tensor([0.0, 0.0, AWAY], dtype=torch.float64).expand(len(degrees), 3)
    poses = Transform.rigid(Transform.exp(tangents).rotation, translation)
    params = torch.tensor([100.0, 100.0, 50.0, 50.0], dtype=torch.float64)
    names = tuple(f"cam_0/{angle:g}.jpg" for angle in degrees)
    return Views(names, {1: Camera("PINHOLE", params, 100, 100)}, (1,) * len(names), poses)


def cloud(views: Views, count: int = 50) -> SparsePoints:
    """Return points close to the origin, that every view sees."""
    positions = np.random.default_rng(0).normal(size=(count, 3)) * 0.01
    return SparsePoints(positions, {name: np.arange(count) for name in views.names})


def test_eight_degrees_come_first_and_narrow_ones_not_at_all() -> None:
    views = ring(0.0, 0.5, 3.0, 8.0, 30.0, 90.0)
    chosen, refused = choose_sources(views, cloud(views), SETTINGS)
    choice = chosen["cam_0/0.jpg"]
    assert choice.sources[0] == "cam_0/8.jpg"
    assert choice.sources[-1] == "cam_0/90.jpg"
    assert "cam_0/0.5.jpg" not in choice.sources
    assert choice.degrees == pytest.approx(
        [float(name[6:].removesuffix(".jpg")) for name in choice.sources], abs=0.1
    )
    assert choice.shared == (50,) * 4
    assert refused == {}


def test_no_more_than_asked_for_and_never_itself() -> None:
    views = ring(*range(0, 40, 4))
    chosen, _ = choose_sources(views, cloud(views), dataclasses.replace(SETTINGS, num_sources=3))
    for name, choice in chosen.items():
        assert len(set(choice.sources)) == 3
        assert name not in choice.sources


def test_more_shared_points_count_more() -> None:
    views = ring(0.0, 8.0, -8.0)
    points = cloud(views)
    fewer = SparsePoints(points.positions, {**points.seen, "cam_0/8.jpg": np.arange(20)})
    chosen, _ = choose_sources(views, fewer, SETTINGS)
    assert chosen["cam_0/0.jpg"].sources == ("cam_0/-8.jpg", "cam_0/8.jpg")
    assert chosen["cam_0/0.jpg"].shared == (50, 20)


def test_the_range_holds_the_points_with_room_on_both_sides() -> None:
    views = ring(0.0, 8.0)
    positions = np.random.default_rng(0).uniform(-5, 5, size=(400, 3))
    points = SparsePoints(positions, {name: np.arange(400) for name in views.names})
    chosen, _ = choose_sources(views, points, SETTINGS)
    depths = positions[:, 2] + AWAY
    low, high = np.quantile(depths, [0.01, 0.99])
    within = chosen["cam_0/0.jpg"].within
    assert within.nearest == pytest.approx(0.25 * low)
    assert within.farthest == pytest.approx(4 * high)
    given = dataclasses.replace(SETTINGS, nearest=2.0, farthest=7.0)
    assert choose_sources(views, points, given)[0]["cam_0/0.jpg"].within == (2.0, 7.0)


def test_points_behind_do_not_widen_the_range() -> None:
    views = ring(0.0, 8.0)
    points = cloud(views)
    behind = points.positions.copy()
    behind[:5, 2] -= 3 * AWAY
    chosen, _ = choose_sources(views, SparsePoints(behind, points.seen), SETTINGS)
    assert chosen["cam_0/0.jpg"].within.nearest == pytest.approx(0.25 * AWAY, rel=0.05)


def test_what_cannot_be_matched_says_why() -> None:
    views = ring(0.0, 8.0, 16.0, 0.1)
    points = cloud(views)
    seen = {**points.seen, "cam_0/16.jpg": np.arange(4)}
    del seen["cam_0/0.1.jpg"]
    chosen, refused = choose_sources(views, SparsePoints(points.positions, seen), SETTINGS)
    assert sorted(chosen) == ["cam_0/0.jpg", "cam_0/8.jpg"]
    assert sorted(refused) == ["cam_0/0.1.jpg", "cam_0/16.jpg"]
    assert "shares no 5 points with another image" in refused["cam_0/16.jpg"]
    empty = dataclasses.replace(SETTINGS, nearest=7.0, farthest=2.0)
    chosen, refused = choose_sources(views, points, empty)
    assert chosen == {}
    assert "depth range is empty: 7 to 2" in refused["cam_0/0.jpg"]


def test_moving_and_scaling_the_world_changes_no_choice() -> None:
    views = ring(0.0, 5.0, 12.0, 40.0)
    points = cloud(views)
    move = Transform(
        ring(33.0).pose("cam_0/33.jpg").rotation,
        torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64),
        torch.tensor(2.5, dtype=torch.float64),
    )
    moved = (move @ torch.from_numpy(points.positions)).numpy()
    before, _ = choose_sources(views, points, SETTINGS)
    after, _ = choose_sources(views.moved(move), SparsePoints(moved, points.seen), SETTINGS)
    for name, choice in before.items():
        assert after[name].sources == choice.sources
        assert after[name].degrees == pytest.approx(choice.degrees)
        assert after[name].within == pytest.approx([2.5 * depth for depth in choice.within])
