"""What `cuesta bench depth` compares with: OpenCV's semi-global matching on rectified pairs, and a plane sweep
whose costs are aggregated in the same way over all sources.

Pairs are rectified as Fusiello et al. do (MVA 2000): both cameras are turned so that x is the baseline and y
is square to it and to the mean of the viewing directions, which also turns vertical pairs upright. A pair
with its epipole in either picture cannot be rectified and is left out. Disparity maps come back into the
reference, and the median of up to four pairs counts. The sweep has 128 planes, even in inverse depth; the cost
at a plane is 1 - ZNCC of 7 x 7 px, averaged over the better half of the sources.
It is aggregated along eight paths (Hirschmüller, TPAMI 2008, equation 13; the second penalty falls with the
step in grey), and the best plane is refined by a parabola.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from cuesta.cli.bench.stereo_peer_kernels import (
    aggregate_across,
    aggregate_down,
    best_planes,
    keep_best,
    write_moments,
)
from cuesta.data.maps import Map
from cuesta.ops.numba_support import num_threads
from cuesta.vision.terrasky3d.stereo import Picture, Range

SGBM, SWEEP = "OpenCV SGBM, 4 pairs", "plane sweep + SGM"
Matcher = Callable[[Picture, Sequence[Picture], Range], Map]

_NUM_PAIRS = 4
_MOST_GROWTH = 4.0  # of a rectified picture's area
_BLOCK = 7  # px
_NUM_PLANES, _WINDOW = 128, 7
_STEP, _JUMP, _EDGE = (
    0.3,
    4.0,
    10.0,
)  # penalties of one plane and of more; grey levels that halve it

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]
Kind = TypeVar("Kind", np.uint8, np.float32)


def semi_global_pairs(view: Picture, sources: Sequence[Picture], within: Range) -> Map:
    """Return the median of the depths from pairs with the first sources that can be rectified; 0 for none."""
    pairs = [_rectified(view, source, within) for source in sources]
    depths = [_pair_depth(pair) for pair in pairs if pair is not None][:_NUM_PAIRS]
    stack = np.sort(
        np.stack([np.full(view.grey.shape, np.nan, np.float32), *depths]), 0
    )  # NaN last
    count = np.isfinite(stack).sum(0)
    median = np.take_along_axis(stack, np.maximum(count - 1, 0)[None] // 2, 0)[0]
    return np.where(count > 0, median, 0.0).astype(np.float32)


class _Pair(NamedTuple):
    """Hold a rectified pair, the reference on the left; `rectified_from_view` takes its pixels there."""

    left: NDArray[np.uint8]
    right: NDArray[np.uint8]
    rectified_from_view: Floats
    depth_scale: Floats  # [Y, X]: a pixel's depth times its disparity
    disparities: tuple[int, int]


def _rectified(view: Picture, source: Picture, within: Range) -> _Pair | None:
    relative = source.cam_from_world @ view.cam_from_world.inverse()
    turn, shift = relative.rotation.numpy(), relative.translation.numpy()
    centre = -turn.T @ shift  # of the source, in the view's axes
    matrices = view.matrix.numpy(), source.matrix.numpy()
    ends = (matrices[0] @ centre, view), (matrices[1] @ shift, source)
    if any(_is_inside(end, picture) for end, picture in ends):
        return None
    baseline = float(np.linalg.norm(centre))
    x = centre / baseline
    y = np.cross(np.array([0.0, 0, 1]) + turn[2], x)
    y /= np.linalg.norm(y)
    rotation = np.stack([x, y, np.cross(x, y)])
    focal = float(matrices[0][0, 0])
    upright = np.diag([focal, focal, 1.0])
    forms = [
        upright @ rotation @ np.linalg.inv(matrices[0]),
        upright @ rotation @ turn.T @ np.linalg.inv(matrices[1]),
    ]
    height, width = view.grey.shape
    corners = (
        forms[0] @ np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1.0]]).T
    )
    if (corners[2] <= 0).any():
        return None
    low, high = (corners[:2] / corners[2]).min(1), (corners[:2] / corners[2]).max(1)
    least = int(np.floor(focal * baseline / within.farthest))
    count = 16 * int(np.ceil((focal * baseline / within.nearest - least + 1) / 16))
    if np.prod(high - low) > _MOST_GROWTH * width * height:
        return None
    low[0] -= least + count  # the first columns have nowhere to match
    move = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1]])
    size = tuple(int(side) for side in np.ceil(high - low))
    left, right = (
        _warped(picture.grey.numpy(), move @ form, size)
        for picture, form in zip((view, source), forms, strict=True)
    )
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ forms[0].T
    # The rectified depth is focal baseline / disparity; along a pixel's ray the view's own depth is 1 where the
    # rectified one is rays[..., 2].
    return _Pair(left, right, move @ forms[0], focal * baseline / rays[..., 2], (least, count))


def _pair_depth(pair: _Pair) -> Map:
    """Return depths of the reference's pixels from one pair, NaN for none."""
    least, count = pair.disparities
    matcher = cv2.StereoSGBM.create(
        minDisparity=least,
        numDisparities=count,
        blockSize=_BLOCK,
        P1=8 * _BLOCK**2,
        P2=32 * _BLOCK**2,
        disp12MaxDiff=1,
        preFilterCap=31,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )
    disparity = matcher.compute(pair.left, pair.right).astype(np.float32) / 16
    disparity[disparity < max(least, 1e-3)] = np.nan
    height, width = pair.depth_scale.shape
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    places = np.stack([columns, rows, np.ones_like(rows)], -1) @ pair.rectified_from_view.T
    there = (places[..., :2] / places[..., 2:] - 0.5).astype(np.float32)
    x, y = np.ascontiguousarray(np.moveaxis(there, -1, 0))
    found = cv2.remap(disparity, x, y, cv2.INTER_NEAREST, borderValue=np.nan)
    return np.asarray(pair.depth_scale / found, np.float32)


def _warped(
    grey: NDArray[Kind], form: Floats, size: Sequence[int], *, is_inverse: bool = False
) -> NDArray[Kind]:
    """Return a picture through a homography of pixels whose centres are at halves."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    whole = np.linalg.inv(half) @ form @ half
    flags = cv2.INTER_LINEAR | (cv2.WARP_INVERSE_MAP if is_inverse else 0)
    warped = cv2.warpPerspective(grey, whole, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, grey.dtype)


def _is_inside(place: Floats, picture: Picture) -> bool:
    """Return whether an epipole, which may also lie behind the camera, is in the picture."""
    if place[2] == 0:
        return False
    height, width = picture.grey.shape
    x, y = place[:2] / place[2]
    return bool(0 <= x <= width and 0 <= y <= height)


def swept_planes(view: Picture, sources: Sequence[Picture], within: Range) -> Map:
    """Return the depth of the plane that costs least after aggregation, refined between planes."""
    inverse = np.linspace(1 / within.farthest, 1 / within.nearest, _NUM_PLANES)
    grey = view.grey.numpy().astype(np.float32)
    moments = np.empty((*grey.shape, 3), np.float32)
    own = _means(grey, grey, moments)
    others = [source.grey.numpy().astype(np.float32) for source in sources]
    matrices = [view.other_from_this(source).numpy() for source in sources]
    costs = np.empty((_NUM_PLANES, *grey.shape), np.float32)
    best = np.empty(((len(sources) + 1) // 2, *grey.shape), np.float32)
    for k, inverse_depth in enumerate(inverse):
        best.fill(-1)
        for matrix, other in zip(matrices, others, strict=True):
            form = matrix[:, :3].copy()
            form[:, 2] += matrix[:, 3] * inverse_depth
            warped = _warped(other, form, grey.shape[::-1], is_inverse=True)
            keep_best(own, _means(grey, warped, moments), best)
        costs[k] = 1 - best.mean(0)
    return _aggregated(costs, grey, inverse)


def _means(grey: Plane, warped: Plane, moments: Plane) -> Plane:
    """Return the means over windows of a warped picture, its square and its product with the reference."""
    num_threads()
    write_moments(grey, warped, moments)
    return np.asarray(cv2.blur(moments, (_WINDOW, _WINDOW)), np.float32)


def _aggregated(costs: Plane, grey: Plane, inverse: Floats) -> Map:
    costs = np.ascontiguousarray(np.moveaxis(costs, 0, -1))
    total = np.zeros_like(costs)
    penalties = (np.float32(_STEP), np.float32(_JUMP), np.float32(1 / _EDGE))
    num_threads()
    for step in (1, -1):
        aggregate_across(costs, grey, penalties, step, total)
        for slant in (-1, 0, 1):
            aggregate_down(costs, grey, penalties, (step, slant), total)
    found = np.empty(grey.shape, np.float32)
    best_planes(total, np.float32(inverse[0]), np.float32(inverse[1] - inverse[0]), found)
    return found


PEERS: Mapping[str, Matcher] = {SGBM: semi_global_pairs, SWEEP: swept_planes}
