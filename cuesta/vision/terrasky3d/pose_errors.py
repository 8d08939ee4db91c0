"""Pose errors against true cameras: of all pairs of images, and of the centres after alignment.

The error of a pair is the larger of the angles by which its relative rotation and its direction of
translation are off. A pair with an image that was not placed is infinitely wrong, and no error is
capped. AUC@t is the area under recall over error from 0 to t, over t (specs of IMC and of TerraSky3D's
scene task).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.data.scenes.views import Views
from cuesta.geometry import Transform, umeyama


def pair_errors(estimated: Views, truth: Views) -> NDArray[np.float64]:
    """Return the error in degrees of each pair of the true images [pairs], inf for missing ones."""
    names = sorted(truth.names)
    placed = [name for name in names if name in estimated.names]
    first, second = np.array(list(combinations(range(len(placed)), 2)), int).reshape(-1, 2).T
    found, true = (_relative(views.select(placed), first, second) for views in (estimated, truth))
    turned = _angle_of(found.rotation @ true.rotation.mT)
    moved = _angle_between(found.translation, true.translation)
    errors = torch.rad2deg(torch.maximum(turned, moved)).numpy()
    missing = len(names) * (len(names) - 1) // 2 - len(errors)
    return np.concatenate([errors, np.full(missing, np.inf)])


def auc(errors: NDArray[np.float64], threshold: float) -> float:
    """Return the area under the recall curve up to `threshold`, 0 to 1.

    The curve rises in straight lines from (0, 0) through (error, share of errors up to it), as the
    evaluations of two-view pose draw it.

    >>> auc(np.array([1.0, np.inf]), 2.0)
    0.375
    """
    ordered = np.sort(errors)
    within = ordered[ordered <= threshold]
    recall = np.arange(1, len(within) + 1) / len(ordered)
    last = recall[-1] if len(within) else 0.0
    x = np.concatenate([[0.0], within, [threshold]])
    y = np.concatenate([[0.0], recall, [last]])
    return float(np.trapezoid(y, x) / threshold)


def centre_errors(estimated: Views, truth: Views) -> NDArray[np.float64]:
    """Return how far the placed cameras' centres are off after a similarity, in the truth's unit."""
    placed = [name for name in sorted(truth.names) if name in estimated.names]
    found, true = estimated.select(placed).centres(), truth.select(placed).centres()
    moved = umeyama(found, true) @ found
    return torch.linalg.vector_norm(moved - true, dim=-1).numpy()


def _relative(views: Views, first: NDArray[np.int64], second: NDArray[np.int64]) -> Transform:
    poses = views.cam_from_world
    one, two = (
        Transform(poses.rotation[i], poses.translation[i], poses.scale[i])
        for i in (torch.from_numpy(first), torch.from_numpy(second))
    )
    return two @ one.inverse()


def _angle_of(rotation: torch.Tensor) -> torch.Tensor:
    """Return the angle of rotations, exact also near 0, where the arc cosine of the trace is not."""
    quaternion = Transform.rigid(rotation, torch.zeros_like(rotation[..., 0])).quaternion()
    return 2 * torch.atan2(
        torch.linalg.vector_norm(quaternion[..., 1:], dim=-1), quaternion[..., 0]
    )


def _angle_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    cross = torch.linalg.vector_norm(torch.linalg.cross(a, b), dim=-1)
    return torch.atan2(cross, (a * b).sum(-1))
