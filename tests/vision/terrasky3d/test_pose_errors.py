"""Errors of poses do not depend on the frame, count missing images, and are never capped."""

import numpy as np
import pytest
import torch

from cuesta.data.scenes.views import Views
from cuesta.geometry import Camera, Transform
from cuesta.vision.terrasky3d.pose_errors import auc, centre_errors, pair_errors

CAMERA = Camera("PINHOLE", torch.tensor([100.0, 100.0, 50.0, 50.0]).double(), 100, 100)
Tensor = torch.Tensor


def views(tangents: Tensor) -> Views:
    names = tuple(f"cam_0/{number}.jpg" for number in range(len(tangents)))
    return Views(names, {1: CAMERA}, (1,) * len(names), Transform.exp(tangents))


@pytest.fixture
def truth() -> Views:
    return views(torch.randn(6, 6, dtype=torch.float64))


def test_a_similarity_changes_no_error(truth: Views) -> None:
    new_from_world = Transform.exp(torch.randn(7, dtype=torch.float64))
    moved = truth.moved(new_from_world)
    assert pair_errors(moved, truth).max() < 1e-6
    assert centre_errors(moved, truth).max() < 1e-9


def test_a_turned_camera_is_wrong_by_that_angle_in_its_pairs(truth: Views) -> None:
    turn = torch.zeros(6, 6, dtype=torch.float64)
    turn[2, 3] = np.deg2rad(3.0)
    poses = Transform.exp(turn) @ truth.cam_from_world
    turned = Views(truth.names, truth.cameras, truth.camera_ids, poses)
    errors = pair_errors(turned, truth)
    assert np.sum(errors > 1e-6) == 5
    assert np.allclose(errors[errors > 1e-6], 3.0)  # the direction turns by less than the rotation
    assert centre_errors(turned, truth).max() < 1e-9


def test_a_camera_moved_aside_is_wrong_by_the_angle_of_the_direction(truth: Views) -> None:
    two = truth.select(truth.names[:2])
    baseline = two.centres()[1] - two.centres()[0]
    across = torch.linalg.cross(baseline, torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64))
    across *= np.tan(np.deg2rad(2.0)) * baseline.norm() / across.norm()
    poses, shift = two.cam_from_world, torch.stack([torch.zeros_like(across), across])
    translation = poses.translation - (poses.rotation @ shift[..., None])[..., 0]
    moved = Views(
        two.names, two.cameras, two.camera_ids, Transform.rigid(poses.rotation, translation)
    )
    assert pair_errors(moved, two) == pytest.approx([2.0])


def test_pairs_of_missing_images_are_infinitely_wrong(truth: Views) -> None:
    some = truth.select(truth.names[:4])
    errors = pair_errors(some, truth)
    assert len(errors) == 15
    assert np.isinf(errors).sum() == 9
    assert auc(errors, 1.0) == pytest.approx(6 / 15, abs=1e-6)


def test_nothing_placed_is_all_wrong(truth: Views) -> None:
    none = truth.select([])
    assert np.isinf(pair_errors(none, truth)).all()
    assert auc(pair_errors(none, truth), 5.0) == 0


def test_auc_of_a_vector_by_hand() -> None:
    errors = np.array([0.5, 1.5, 4.0, np.inf])
    # recall rises to 1/4 at 0.5, 1/2 at 1.5, and stays until 2: 1/16 + 3/8 + 1/4, over 2
    assert auc(errors, 2.0) == pytest.approx((1 / 16 + 3 / 8 + 1 / 4) / 2)


def test_errors_are_not_capped(truth: Views) -> None:
    turn = torch.zeros(6, 6, dtype=torch.float64)
    turn[0, 4] = np.deg2rad(150.0)
    turned = Views(
        truth.names, truth.cameras, truth.camera_ids, Transform.exp(turn) @ truth.cam_from_world
    )
    assert pair_errors(turned, truth).max() > 149
