"""Poses of a scene: a reconstruction's cameras against the true ones, over all pairs of images.

The error of a pair is the larger of the angles by which its relative rotation and its direction of
translation are off, so that the frame and the scale of the reconstruction do not matter; a pair with
an image that was not placed is infinitely wrong. Angles are those of `pose_errors`.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from jaxtyping import Float64

from cuesta.data.scenes.views import Views
from cuesta.vision.terrasky3d.benchmark.table import Row, percent_at
from cuesta.vision.terrasky3d.benchmark.two_view import middle_of
from cuesta.vision.terrasky3d.pose_errors import pair_errors
from cuesta.vision.terrasky3d.strata import KINDS, kind_of

THRESHOLDS = (0.5, 1.0, 3.0, 5.0, 10.0)  # degrees


def errors_by_kind(estimated: Views, truth: Views) -> dict[str, Float64[np.ndarray, " pairs"]]:
    """Return the errors in degrees of all true pairs, under "all", and of each kind that has some.

    Images of the reconstruction that the truth does not know are left out.
    """
    names = sorted(truth.names)
    placed = [name for name in names if name in set(estimated.names)]
    found = list(combinations(placed, 2))
    lost = sorted(set(combinations(names, 2)) - set(found))
    kinds = np.array([kind_of(*pair) for pair in [*found, *lost]])
    errors = pair_errors(estimated, truth)  # in this order: the placed pairs, then the lost ones
    assert len(errors) == len(kinds)
    by_kind = {kind: errors[kinds == kind] for kind in KINDS}
    return {"all": errors} | {kind: own for kind, own in by_kind.items() if len(own)}


def judge_scene(scene: str, estimated: Views, truth: Views) -> list[Row]:
    """Return a row of all pairs and one for each kind: AUC, and how many images are missing."""
    num_missing = len(set(truth.names) - set(estimated.names))
    return [
        Row(
            scene,
            "cameras",
            kind,
            {
                "pairs": len(errors),
                "failed": int(np.isinf(errors).sum()),
                **percent_at(errors, THRESHOLDS),
                "median_deg": middle_of(errors),
                "images": len(truth),
                "missing_images": num_missing,
            },
        )
        for kind, errors in errors_by_kind(estimated, truth).items()
    ]
