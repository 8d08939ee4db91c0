"""Depth where photographs do not determine it: continued from where they do, up to edges of the picture.

Inverse depth times confidence, and confidence, are smoothed alike and divided (Knutsson and Westin,
CVPR 1993), by the separable edge-aware smoother of Min et al. (IEEE TIP 2014, section III): rows, then
columns, three times with a shrinking step. A plane's inverse depth is linear in the image, so what lies between
two parts of a wall becomes that wall.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from cuesta.ops.numba_support import num_threads, view
from cuesta.vision.terrasky3d.completion_kernels import (
    average_planes,
    likeness,
    smooth_columns,
    smooth_rows,
)

_ROUNDS = 3


def complete(
    planes: Float32[Tensor, "3 Y X"],
    confidence: Float32[Tensor, "Y X"],
    picture: UInt8[Tensor, "Y X"],
    *,
    sigma: float,
    reach: float,
) -> Float32[Tensor, "3 Y X"]:
    """Return planes with those of confidence 0 replaced by what the others continue to.

    Planes are inverse depth and its slopes a px, as in `cuesta.ops.patch_match`. Neighbours whose grey
    levels differ by `sigma` count e times less; evidence is carried some `reach` px. Planes stay as they
    are where no evidence reaches, and everywhere if there is none.
    """
    num_threads()
    weights = view(confidence).astype(np.float64)
    values = np.stack([view(planes[0].contiguous()) * weights, weights])
    across, down, carry = (np.empty(weights.shape) for _ in range(3))
    likeness(view(picture.contiguous()), 1.0 / sigma, across, down)
    for turn in range(1, _ROUNDS + 1):
        step = 1.5 * 4.0 ** (_ROUNDS - turn) / (4.0**_ROUNDS - 1.0) * reach**2
        smooth_rows(values, across, carry, step)
        smooth_columns(values, down, carry, step)
    smooth, evidence = torch.from_numpy(values)
    continued = torch.where(evidence > 0, smooth / evidence, 0.0).float()
    slopes_y, slopes_x = (
        torch.gradient(continued, dim=axis)[0] if side > 1 else torch.zeros_like(continued)
        for axis, side in enumerate(continued.shape)
    )
    is_kept = (confidence > 0) | (continued <= 0)
    return torch.where(is_kept, planes, torch.stack([continued, slopes_x, slopes_y]))


def smoothed(
    planes: Float32[Tensor, "3 Y X"], *, radius: int, tolerance: float
) -> Float32[Tensor, "3 Y X"]:
    """Return the mean of the planes within `radius` px that pass near a pixel's own inverse depth.

    Near is within the share `tolerance` of it; planes are continued to the pixel before they are compared,
    so that slopes and steps stay and the noise of single pixels goes.
    """
    num_threads()
    out = torch.empty_like(planes)
    average_planes(view(planes.contiguous()), radius, np.float32(tolerance), view(out))
    return out
