"""Find the sky of a photo by what sky looks like: a smooth region of blue, or of bright grey, that
reaches the upper edge of the picture and where no depth was confirmed (the fallback of TerraSky3D's
semantic masks).

It knows nothing of things: a smooth pale wall that reaches the upper edge is sky to it until depth
says otherwise, and sky that is enclosed by a gate or by leaves, or that is dark or orange, is missed.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from numpy.typing import NDArray

_SEEN_AT = 640  # px, longer side, at which the region is found
_SMOOTH, _SMOOTH_ENOUGH = 3.0, 6.0  # most change of grey levels a px: where sky starts, and goes on
_SMOOTH_ON_AVERAGE = 1.5  # of a whole region; paving and plaster have more
_BLUER = 10  # grey levels by which blue exceeds red
_BRIGHT, _PALE = 140, 40  # of grey sky: least brightest channel, most difference of channels
_LEAST_SHARE = 0.002  # of the picture, of one region of sky
_LEAST_HOLE = 0.0005  # of the picture: smaller ones in the sky (birds, wires) are sky
_GAP = 0.02  # of the longer side, between patches of depth on a wall that is smooth elsewhere
_RIM = 3  # px at the size where the region is found, over which its border is drawn anew


def find_sky(
    image: UInt8[ndarray, "Y X 3"], depth: Float[ndarray, "Y X"] | None = None
) -> Bool[ndarray, "Y X"]:
    """Return where an RGB picture shows the sky.

    `depth` is z, 0 where none was confirmed; pass None where there is none at all. Smooth pixels of the
    colour of sky are grown from the upper edge, at 640 px, stopping at depth; the border is then drawn
    at full size, each pixel going to the side whose mean colour nearby is nearer to its own.

    >>> image = np.full((60, 80, 3), 90, np.uint8)
    >>> image[:20] = (110, 150, 230)
    >>> find_sky(image).sum(axis=1)[[0, 19, 20, 59]].tolist()
    [80, 80, 0, 0]
    """
    height, width = image.shape[:2]
    scale = min(1.0, _SEEN_AT / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    found = _grow(small, _supported(depth, size))
    if not found.any():
        return np.zeros((height, width), bool)
    return _with_sharp_border(image, found, small)


def _grow(small: NDArray[np.uint8], is_supported: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the regions of sky of a small picture [Y, X, 3]."""
    slope = _slope(small)
    could_be = _looks_like_sky(small) & ~is_supported
    is_sky = _touching_top(could_be & (slope <= _SMOOTH_ENOUGH), slope)
    holes = ~is_sky & ~is_supported
    return is_sky | _small_regions(holes, _LEAST_HOLE * is_sky.size)


def _looks_like_sky(small: NDArray[np.uint8]) -> NDArray[np.bool_]:
    red, green, blue = (small[..., k].astype(np.int16) for k in range(3))
    brightest, darkest = small.max(-1).astype(np.int16), small.min(-1).astype(np.int16)
    is_blue = (blue - red >= _BLUER) & (blue >= green) & (blue >= _BRIGHT // 2)
    is_grey = (brightest >= _BRIGHT) & (brightest - darkest <= _PALE) & (blue >= red - _BLUER)
    return np.asarray(is_blue | is_grey)


def _slope(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the largest change of a channel a px of a picture of 640 px, without its noise."""
    calm = cv2.GaussianBlur(small, (0, 0), 1.2).astype(np.float32)
    across = cv2.Sobel(calm, cv2.CV_32F, 1, 0, scale=1 / 8)
    down = cv2.Sobel(calm, cv2.CV_32F, 0, 1, scale=1 / 8)
    px = max(small.shape[:2]) / _SEEN_AT  # below 1 for smaller pictures
    return np.asarray(np.hypot(across, down).max(-1) * px, np.float32)


def _supported(depth: NDArray[np.float32] | None, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where depth was confirmed, gaps closed, at another size; single pixels do not count."""
    if depth is None:
        return np.zeros(size[::-1], bool)
    share = cv2.resize((depth > 0).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    gap = max(1, round(_GAP * max(size)))
    found = cv2.morphologyEx(
        (share >= 0.5).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)
    )
    padded = cv2.copyMakeBorder(found, gap, gap, gap, gap, cv2.BORDER_REPLICATE)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * gap + 1, 2 * gap + 1))
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc)
    return np.asarray(closed[gap:-gap, gap:-gap] > 0)


def _touching_top(region: NDArray[np.bool_], slope: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the parts of `region` that begin smoothly in the upper row, and are smooth and large."""
    _, numbers, facts, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=4)
    total = np.bincount(numbers.ravel(), slope.ravel(), len(facts))
    areas = facts[:, cv2.CC_STAT_AREA]
    chosen = np.zeros(len(facts), bool)
    chosen[numbers[0][slope[0] <= _SMOOTH]] = True
    chosen &= (areas >= _LEAST_SHARE * region.size) & (total <= _SMOOTH_ON_AVERAGE * areas)
    chosen[0] = False
    return np.asarray(chosen[numbers])


def _small_regions(region: NDArray[np.bool_], most: float) -> NDArray[np.bool_]:
    _, numbers, facts, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    chosen = facts[:, cv2.CC_STAT_AREA] <= most
    chosen[0] = False
    return np.asarray(chosen[numbers])


def _with_sharp_border(
    image: NDArray[np.uint8], found: NDArray[np.bool_], small: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Return the region at the size of `image`; near its border, colours decide."""
    size = image.shape[1::-1]
    weights = found.astype(np.float32)
    mean_sky = _mean_nearby(small, weights)
    mean_rest = _mean_nearby(small, 1 - weights)
    disc = np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)
    grown, shrunk = cv2.dilate(weights, disc), cv2.erode(weights, disc)
    is_sky = cv2.resize(shrunk, size, interpolation=cv2.INTER_NEAREST) > 0
    is_rim = (cv2.resize(grown, size, interpolation=cv2.INTER_NEAREST) > 0) & ~is_sky
    rows, columns = np.nonzero(is_rim)
    at = rows * small.shape[0] // image.shape[0], columns * small.shape[1] // image.shape[1]
    colors = image[rows, columns].astype(np.float32)
    to_sky = ((colors - mean_sky[at]) ** 2).sum(-1)
    to_rest = ((colors - mean_rest[at]) ** 2).sum(-1)
    is_sky[rows, columns] = to_sky < to_rest
    return np.asarray(is_sky)


def _mean_nearby(small: NDArray[np.uint8], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean colour of the weighted pixels round each pixel, of all where none is near."""
    side = (4 * _RIM + 1, 4 * _RIM + 1)
    total = cv2.boxFilter(small.astype(np.float32) * weights[..., None], -1, side, normalize=False)
    count = cv2.boxFilter(weights, -1, side, normalize=False)[..., None]
    everywhere = (small * weights[..., None]).sum((0, 1)) / max(float(weights.sum()), 1.0)
    return np.asarray(np.where(count > 0.5, total / np.maximum(count, 0.5), everywhere), np.float32)
