"""Poses of pairs: exact of exact points, freed of the lens, infinite where there is none, never capped."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cuesta.geometry import Camera, Transform
from cuesta.vision.terrasky3d.benchmark.matchers import Matches, Photo
from cuesta.vision.terrasky3d.benchmark.two_view import (
    ESTIMATORS,
    Estimator,
    PairScore,
    PoseSettings,
    TruePair,
    judge_pairs,
    pose_error,
    relative_pose,
    rows_of,
)

PINHOLE = Camera("PINHOLE", torch.tensor([500.0, 520.0, 310.0, 250.0]).double(), 640, 480)
BENT = Camera("SIMPLE_RADIAL", torch.tensor([480.0, 300.0, 260.0, -0.2]).double(), 640, 480)
B_FROM_A = Transform.exp(torch.tensor([-0.9, 0.1, 0.3, 0.05, 0.2, -0.1]).double())


def matches(*, count: int = 200, num_wrong: int = 0, noise: float = 0.0) -> Matches:
    draw = torch.Generator().manual_seed(0)
    rays = torch.rand(count, 3, generator=draw, dtype=torch.float64)
    depth = 3 + 6 * rays[:, 2:]
    points = torch.cat([(rays[:, :2] - 0.5) * depth * 0.7, depth], 1)
    a = PINHOLE.project(points)
    b = BENT.project(B_FROM_A @ points)
    a, b = (p + noise * torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in (a, b))
    b[:num_wrong] = 480 * torch.rand(num_wrong, 2, generator=draw, dtype=b.dtype)
    return Matches(a.numpy(), b.numpy())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_exact_points_of_a_bent_lens_give_the_exact_pose(estimator: Estimator) -> None:
    found = relative_pose(matches(), (PINHOLE, BENT), PoseSettings(estimator=estimator))
    assert found is not None
    assert found.num_inliers == 200
    assert pose_error(found.b_from_a, B_FROM_A) < 1e-3


def test_a_lens_that_is_forgotten_is_seen() -> None:
    straight = Camera("PINHOLE", torch.tensor([480.0, 480.0, 300.0, 260.0]).double(), 640, 480)
    found = relative_pose(matches(), (PINHOLE, straight), PoseSettings())
    assert found is not None
    assert pose_error(found.b_from_a, B_FROM_A) > 0.05


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_wrong_matches_are_left_out_and_a_seed_repeats(estimator: Estimator) -> None:
    given = matches(num_wrong=80, noise=0.3)
    settings = [PoseSettings(estimator=estimator, seed=seed) for seed in (3, 3)]
    one, two = (relative_pose(given, (PINHOLE, BENT), own) for own in settings)
    assert one is not None
    assert two is not None
    assert pose_error(one.b_from_a, B_FROM_A) < 1.5
    assert 80 <= one.num_inliers <= 125
    assert torch.equal(one.b_from_a.matrix(), two.b_from_a.matrix())


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("count", [0, 1, 4])
def test_fewer_than_five_matches_are_no_pose(estimator: Estimator, count: int) -> None:
    few = Matches(*(points[:count] for points in matches()))
    assert relative_pose(few, (PINHOLE, BENT), PoseSettings(estimator=estimator)) is None


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_five_times_the_same_match_is_no_pose_or_no_error(estimator: Estimator) -> None:
    same = Matches(*(np.repeat(points[:1], 8, axis=0) for points in matches()))
    found = relative_pose(same, (PINHOLE, BENT), PoseSettings(estimator=estimator))
    assert found is None or np.isfinite(pose_error(found.b_from_a, B_FROM_A))


def test_matches_that_the_lens_does_not_show_are_left_out() -> None:
    given = matches()
    given.points_b[:50] = np.nan
    found = relative_pose(given, (PINHOLE, BENT), PoseSettings())
    assert found is not None
    assert found.num_inliers == 150


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 30.0, 90.0, 170.0, 180.0])
def test_a_rotation_is_wrong_by_its_angle_and_never_capped(degrees: float) -> None:
    turn = Transform.exp(torch.tensor([0, 0, 0, 0, np.deg2rad(degrees), 0]).double())
    away = Transform.rigid(turn.rotation @ B_FROM_A.rotation, B_FROM_A.translation)
    assert pose_error(away, B_FROM_A) == pytest.approx(degrees, abs=1e-6)


@pytest.mark.parametrize(
    ("degrees", "error"), [(20.0, 20.0), (90.0, 90.0), (130.0, 50.0), (180.0, 0)]
)
def test_a_direction_has_no_sign(degrees: float, error: float) -> None:
    aside = Transform.rigid(torch.eye(3).double(), torch.tensor([2.0, 0.0, 0.0]).double())
    angle = np.deg2rad(degrees)
    moved = torch.tensor([np.cos(angle), np.sin(angle), 0.0]).double()
    found = Transform.rigid(torch.eye(3).double(), moved)
    assert pose_error(found, aside) == pytest.approx(error, abs=1e-6)


def photo(name: str) -> Photo:
    return Photo(name, Path(name), PINHOLE if name.endswith("a.jpg") else BENT)


def test_pairs_are_judged_by_whatever_finds_matches() -> None:
    """One pair has good matches, one has four, one has none that agree with the truth."""
    turned = Transform.exp(torch.tensor([1.0, 0, 0, 0, 2.0, 0]).double())
    pairs = [
        TruePair(photo("cam_0/a.jpg"), photo("cam_0/b.jpg"), B_FROM_A, 0.4),
        TruePair(photo("cam_0/a.jpg"), photo("cam_1_aerial/b.jpg"), B_FROM_A, 0.05),
        TruePair(photo("cam_0_aerial/a.jpg"), photo("cam_1_aerial/b.jpg"), turned),
    ]

    def matcher(_: Photo, image_b: Photo) -> Matches:
        asked.append(image_b.name)
        is_mixed = len(asked) == 2
        return Matches(*(points[: 4 if is_mixed else None] for points in matches(noise=0.2)))

    asked: list[str] = []
    settings = [PoseSettings(), PoseSettings(estimator="ransac")]
    ours, theirs = judge_pairs(pairs, matcher, settings)
    assert len(asked) == 3
    for scores in (ours, theirs):
        assert scores[0].error < 2
        assert scores[1].error == np.inf
        assert (scores[1].num_matches, scores[1].num_inliers) == (4, 0)
        assert scores[2].error > 90
        rows = {row.stratum: row.values for row in rows_of("castle", "own", scores)}
        assert [rows[kind]["pairs"] for kind in ("all", "ground", "mixed", "aerial")] == [
            3,
            1,
            1,
            1,
        ]
        assert set(rows) - {"all", "ground", "mixed", "aerial"} == {
            "overlap 0.3-0.5",
            "overlap below 0.1",
        }
        assert [rows[kind]["failed"] for kind in ("all", "ground", "mixed")] == [1, 0, 1]
        assert rows["ground"]["auc_at_5"] > 80
        assert rows["mixed"]["auc_at_20"] == rows["aerial"]["auc_at_20"] == 0


def test_auc_of_rows_is_that_by_hand() -> None:
    scores = [PairScore("a", "b", error, 10, 5, None) for error in (2.0, np.inf, 8.0, 90.0)]
    values = rows_of("castle", "own", scores)[0].values
    # recall: to 1/4 at 2, to 1/2 at 8; up to a threshold it stays where the last error before left it
    assert values["auc_at_5"] == pytest.approx(100 * (0.25 + 3 * 0.25) / 5)
    assert values["auc_at_10"] == pytest.approx(100 * (0.25 + 6 * 0.375 + 2 * 0.5) / 10)
    assert values["auc_at_20"] == pytest.approx(100 * (0.25 + 6 * 0.375 + 12 * 0.5) / 20)
    assert values["median_deg"] == 8.0
    assert values["failed"] == 1


def test_no_pairs_are_a_row_without_numbers() -> None:
    (row,) = rows_of("castle", "own", [])
    assert json.dumps(row.to_json(), allow_nan=False)
    assert np.isnan(row.values["auc_at_5"])
