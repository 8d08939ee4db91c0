"""`refined`: given poses brought into agreement with what their photographs show.

Poses from a headset, a robot or GPS are off by centimetres, which bends every depth. Features are matched, points
triangulated with the poses as they are, and poses and points adjusted together (bundle adjustment, lenses as given);
twice, since better poses keep more matches. Last, one similarity (Umeyama, PAMI 1991) brings the cameras back, so
that frame and unit stay as given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycolmap
import torch
from jaxtyping import Float
from torch import Tensor

from cuesta.data.scenes.colmap import views_of
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.geometry import umeyama
from cuesta.vision.terrasky3d.native import call
from cuesta.vision.terrasky3d.sparse_points import match_posed, triangulate_posed
from cuesta.vision.terrasky3d.stages import OnProgress

LEAST_OBSERVED = 15  # points that an image must see for its pose to be changed
_ROUNDS = 2
_MOST_PX, _LEAST_DEGREES = 4.0, 1.5  # observations that are adjusted
_ROBUST_PX = 1.0


class Refined(NamedTuple):
    """Hold the model with better poses, tracks and points, and what it took: for the manifest."""

    model: pycolmap.Reconstruction
    about: dict[str, Any]


def refined(
    frames: Path, views: Views, folder: Path, *, seed: int, on_progress: OnProgress
) -> Refined:
    """Return better poses of the images below `frames`, lenses, frame and unit as they are.

    `folder` is scratch. An image that sees too little keeps its pose. Raises `UserError` where fewer than
    three images can be refined, which leaves the frame open.
    """
    database = match_posed(
        frames, views, folder, seed, lambda done, total: on_progress("match", done, total)
    )
    better = views
    for turn in range(_ROUNDS):
        on_progress("adjust", turn, _ROUNDS)
        model = triangulate_posed(frames, better, database, folder / "triangulated")
        moved = _adjust(model)
        if len(moved) < 3:
            raise UserError(
                f"{frames}: poses cannot be refined: {len(moved)} images see {LEAST_OBSERVED} points that "
                "others see too, three are needed; leave out --refine-poses"
            )
        _bring_back(model, views, moved)
        better = views_of(model)
    on_progress("adjust", _ROUNDS, _ROUNDS)
    model = triangulate_posed(frames, better, database, folder / "triangulated")
    return Refined(model, _about(model, views, moved))


def _adjust(model: pycolmap.Reconstruction) -> list[str]:
    """Adjust poses and points in place; return the names of the images that were."""
    manager = pycolmap.ObservationManager(model)
    manager.filter_all_points3D(_MOST_PX, _LEAST_DEGREES)
    images = [model.image(image_id) for image_id in model.reg_image_ids()]
    free = [image for image in images if image.num_points3D >= LEAST_OBSERVED]
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_focal_length = options.refine_extra_params = False
    options.refine_principal_point = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = _ROBUST_PX
    options.ceres.solver_options.num_threads = 1  # the same result every time
    config = pycolmap.BundleAdjustmentConfig()
    for image in free:
        config.add_image(image.image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    if len(free) >= 3:
        adjuster = pycolmap.create_default_bundle_adjuster(options, config, model)
        call(lambda _: adjuster.solve())
    return sorted(image.name for image in free)


def _bring_back(model: pycolmap.Reconstruction, given: Views, names: list[str]) -> None:
    """Move the model so that its cameras of these names lie as given; the others get their poses back."""
    now, then = views_of(model).select(tuple(names)), given.select(tuple(names))
    back = umeyama(_tripods(now), _tripods(then))
    scale, rotation, translation = back.scale.item(), back.rotation, back.translation
    model.transform(
        pycolmap.Sim3d(scale, pycolmap.Rotation3d(rotation.numpy()), translation.numpy())
    )
    for name in set(given.names) - set(names):
        frame = model.frame(model.find_image_with_name(name).frame_id)
        pose = given.pose(name)
        frame.rig_from_world = pycolmap.Rigid3d(
            pycolmap.Rotation3d(pose.rotation.numpy()), pose.translation.numpy()
        )


def _tripods(views: Views) -> Float[Tensor, "points 3"]:
    """Return each camera's centre and the ends of its axes, as long as the cameras are spread: points
    that fix a similarity on any path.
    """
    centres = views.centres()
    axes = views.cam_from_world.rotation * centres.std(0).norm()
    return torch.cat([centres, (centres[:, None] + axes).flatten(0, 1)])


def _about(model: pycolmap.Reconstruction, given: Views, names: list[str]) -> dict[str, Any]:
    now, then = views_of(model).select(tuple(names)), given.select(tuple(names))
    steps = (now.centres() - then.centres()).norm(dim=1)
    turns = now.cam_from_world.rotation @ then.cam_from_world.rotation.mT
    cosines = ((turns.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)
    model.update_point_3d_errors()
    return {
        "num_images": len(names),
        "num_points": model.num_points3D(),
        "mean_reprojection_px": round(model.compute_mean_reprojection_error(), 4),
        "median_moved": float(np.median(steps)),
        "median_turned_deg": float(np.median(cosines.arccos().rad2deg())),
    }
