"""Poses of a scene: a similarity changes nothing, missing images are infinite, kinds are told apart."""

import numpy as np
import pytest
import torch

from cuesta.data.scenes.views import Views
from cuesta.geometry import Camera, Transform
from cuesta.vision.terrasky3d.benchmark.scene_pose import errors_by_kind, judge_scene

CAMERA = Camera("PINHOLE", torch.tensor([100.0, 100.0, 50.0, 50.0]).double(), 100, 100)
NAMES = ("cam_1_aerial/a.jpg", "cam_0/c.jpg", "cam_0/a.jpg", "cam_1_aerial/b.jpg", "cam_0/b.jpg")


@pytest.fixture
def truth() -> Views:
    poses = Transform.exp(torch.randn(5, 6, dtype=torch.float64))
    return Views(NAMES, {1: CAMERA}, (1,) * 5, poses)


def turned(views: Views, name: str, degrees: float) -> Views:
    turn = torch.zeros(len(views), 6, dtype=torch.float64)
    turn[views.index(name), 4] = np.deg2rad(degrees)
    poses = Transform.exp(turn) @ views.cam_from_world
    return Views(views.names, views.cameras, views.camera_ids, poses)


def test_a_similarity_of_the_whole_scene_changes_nothing(truth: Views) -> None:
    off = turned(truth, "cam_0/b.jpg", 2.0)
    tangent = torch.tensor([5.0, -2.0, 9.0, 0.3, -1.1, 0.7, 1.5]).double()
    moved = off.moved(Transform.exp(tangent))
    shuffled = moved.select(sorted(moved.names, reverse=True))
    before, after = errors_by_kind(off, truth), errors_by_kind(shuffled, truth)
    assert before["all"].max() > 1
    for kind, errors in before.items():
        assert np.abs(errors - after[kind]).max() < 1e-6


def test_errors_are_told_apart_by_kind(truth: Views) -> None:
    errors = errors_by_kind(turned(truth, "cam_1_aerial/a.jpg", 150.0), truth)
    assert {kind: len(own) for kind, own in errors.items()} == {
        "all": 10,
        "ground": 3,
        "aerial": 1,
        "mixed": 6,
    }
    assert errors["ground"].max() < 1e-6
    assert errors["aerial"].min() > 149  # and not capped
    assert (errors["mixed"] > 149).sum() == 3
    assert (errors["mixed"] < 1e-6).sum() == 3


def test_a_missing_image_makes_its_pairs_infinite(truth: Views) -> None:
    some = truth.select([name for name in NAMES if name != "cam_0/a.jpg"])
    errors = errors_by_kind(some, truth)
    assert {kind: int(np.isinf(own).sum()) for kind, own in errors.items()} == {
        "all": 4,
        "ground": 2,
        "aerial": 0,
        "mixed": 2,
    }
    rows = {row.stratum: row.values for row in judge_scene("castle", some, truth)}
    assert rows["ground"]["auc_at_0.5"] == pytest.approx(100 / 3, abs=1e-3)
    assert rows["aerial"]["auc_at_10"] == pytest.approx(100, abs=1e-3)
    assert (rows["all"]["images"], rows["all"]["missing_images"]) == (5, 1)
    assert rows["ground"]["median_deg"] == np.inf


def test_images_that_the_truth_does_not_know_count_for_nothing(truth: Views) -> None:
    known = truth.select(NAMES[:4])
    assert len(errors_by_kind(truth, known)["all"]) == 6
