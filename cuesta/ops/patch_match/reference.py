"""The specification of PatchMatch: every pixel's candidates, their costs in every source, the choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from cuesta.ops.patch_match.rules import (
    ANYWHERE,
    DIRECTIONS,
    LEAST_CHANCE,
    NEARBY,
    NO_MATCH,
    NUM_NEAR,
    REACH,
    SAME,
    TRIALS,
)


def patch_match_sweep(
    reference: Tensor,
    sources: Sequence[Tensor],
    matrices: Tensor,
    state: Tensor,
    noise: Tensor,
    inverse_depths: Sequence[Tensor],
    numbers: Sequence[float],
    window: Sequence[int],
    colour: int,
    is_wide: bool,
) -> Tensor:
    *patch, sharpness, drift_weight, most_drift, low, high, steepest, near_depth, near_slope = (
        numbers
    )
    search = low, high, steepest, near_depth, near_slope

    def costs_of(planes: Tensor) -> Tensor:
        return patch_match_costs(reference, sources, matrices, planes, None, patch, window)

    def penalty(planes: Tensor) -> Tensor | float:
        if not inverse_depths:
            return 0.0
        return drift_weight * _drift(matrices, planes[0], inverse_depths, most_drift)

    own = state[:3]
    proposed = _neighbours(state, len(DIRECTIONS) if is_wide else NUM_NEAR, low, high)
    costs = [costs_of(planes) for planes in proposed]
    matches = torch.stack(costs).square().mul(-0.5 / sharpness**2).exp().sum(0)
    chances = matches + LEAST_CHANCE
    chances = chances / chances.sum(0)

    best = (chances * (costs_of(own) + penalty(own))).sum(0)
    planes = own
    candidates = list(zip(proposed, costs, strict=True))
    for trial in range(len(candidates) + len(noise) // 3):
        if trial < len(candidates):
            new, cost = candidates[trial]
        else:
            new = _trial(trial - len(candidates), planes, noise, search)
            cost = costs_of(new)
        cost = (chances * (cost + penalty(new))).sum(0)
        planes = torch.where(cost < best, new, planes)
        best = torch.minimum(cost, best)
    y, x = _grid(reference)
    is_chosen = (x + y) % 2 == colour
    return torch.where(is_chosen, torch.cat([planes, best[None]]), state)


def patch_match_costs(
    reference: Tensor,
    sources: Sequence[Tensor],
    matrices: Tensor,
    planes: Tensor,
    wanted: Tensor | None,
    numbers: Sequence[float],
    window: Sequence[int],
) -> Tensor:
    spatial, color, deviation = numbers
    radius, step = window
    dtype = planes.dtype
    image = reference.to(dtype)
    reach = radius // step * step
    line = range(-reach, reach + 1, step)
    taps = [(right, down) for down in line for right in line]
    near = [_moved(image, right, down) - image for right, down in taps]
    weights = []
    for (right, down), value in zip(taps, near, strict=True):
        distance = (right**2 + down**2) / (2 * spatial**2) + value.square() / (2 * color**2)
        weights.append(torch.exp(-distance))
    total = torch.stack(weights).sum(0)
    mean, variance = _moments(weights, near, total)

    costs = []
    for matrix, source in zip(matrices, sources, strict=True):
        u, v, z, slopes = _project(matrix.to(dtype), planes)
        seen = []
        for right, down in taps:
            column = u + slopes[0] * right + slopes[1] * down
            row = v + slopes[2] * right + slopes[3] * down
            seen.append(_bilinear(source.to(dtype), column, row) - image)
        other_mean, other_variance = _moments(weights, seen, total)
        products = (w * a * b for w, a, b in zip(weights, near, seen, strict=True))
        covariance = sum(products) / total - mean * other_mean
        noise = deviation**2
        deviations = torch.sqrt((variance + noise) * (other_variance.clamp(min=0) + noise))
        height, width = source.shape
        is_seen = (z > 0) & (u > 0) & (u < width) & (v > 0) & (v < height)
        costs.append(torch.where(is_seen, 1 - covariance / deviations, NO_MATCH))
    found = torch.stack(costs)
    return found if wanted is None else torch.where(wanted, found, NO_MATCH)


def _moments(weights: list[Tensor], values: list[Tensor], total: Tensor) -> tuple[Tensor, Tensor]:
    mean = sum(w * a for w, a in zip(weights, values, strict=True)) / total
    square = sum(w * a * a for w, a in zip(weights, values, strict=True)) / total
    return mean, square - mean.square()


def _project(matrix: Tensor, planes: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return where a source sees each pixel, in front by how much, and how that moves with x and y."""
    w, *steps = planes
    y, x = _centres(w)
    a, b, c = (row[0] * x + row[1] * y + row[2] + row[3] * w for row in matrix)
    u, v = a / c, b / c
    a_to, b_to, c_to = ([row[k] + row[3] * steps[k] for k in range(2)] for row in matrix)
    slopes = [(a_to[k] - u * c_to[k]) / c for k in range(2)]
    slopes += [(b_to[k] - v * c_to[k]) / c for k in range(2)]
    return u, v, c, slopes


def _bilinear(image: Tensor, u: Tensor, v: Tensor) -> Tensor:
    height, width = image.shape
    u = (u - 0.5).nan_to_num().clamp(0, width - 1)
    v = (v - 0.5).nan_to_num().clamp(0, height - 1)
    left, top = u.floor().long(), v.floor().long()
    right, below = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    upper = torch.lerp(image[top, left], image[top, right], u - left)
    return torch.lerp(upper, torch.lerp(image[below, left], image[below, right], u - left), v - top)


def _drift(
    matrices: Tensor, inverse_depth: Tensor, inverse_depths: Sequence[Tensor], most: float
) -> Tensor:
    """Return how many px off each pixel comes back by way of each source's own depth, [V, Y, X]."""
    dtype = inverse_depth.dtype
    y, x = _centres(inverse_depth)
    found = []
    for matrix, theirs in zip(matrices, inverse_depths, strict=True):
        a, b, c = (
            row[0] * x + row[1] * y + row[2] + row[3] * inverse_depth for row in matrix.to(dtype)
        )
        u, v = a / c, b / c
        column = u.nan_to_num().clamp(0, theirs.shape[1] - 1).long()
        row = v.nan_to_num().clamp(0, theirs.shape[0] - 1).long()
        w = theirs[row, column].to(dtype)
        whole = torch.cat([matrix.double(), matrix.new_tensor([[0, 0, 0, 1]]).double()])
        back = torch.linalg.inv(whole)[:3].to(dtype)
        a, b, d = (row[0] * u + row[1] * v + row[2] + row[3] * w for row in back)
        drift = torch.hypot(a / d - x, b / d - y)
        is_known = (c > 0) & (d > 0) & (w > 0) & (drift < most)
        found.append(torch.where(is_known, drift, most))
    return torch.stack(found)


def _neighbours(state: Tensor, num_directions: int, low: float, high: float) -> list[Tensor]:
    """Return for each direction the plane of its pixel of least cost, continued to the pixel."""
    proposed = []
    for pixels in DIRECTIONS[:num_directions]:
        planes, best = state[:3], torch.full_like(state[3], torch.inf)
        for right, down in pixels.tolist():
            w, slope_x, slope_y = (_moved(each, right, down) for each in state[:3])
            cost = _moved(state[3], right, down, beyond=torch.inf)
            continued = torch.stack([w - slope_x * right - slope_y * down, slope_x, slope_y])
            planes = torch.where(cost < best, continued, planes)
            best = torch.minimum(cost, best)
        proposed.append(torch.cat([planes[:1].clamp(low, high), planes[1:]]))
    return proposed


def _trial(trial: int, planes: Tensor, noise: Tensor, search: tuple[float, ...]) -> Tensor:
    low, high, steepest, near_depth, near_slope = search
    depth_from, slopes_from = TRIALS[trial].tolist()
    (w, *slopes), (random, *turns) = planes, _tiled(noise[3 * trial : 3 * trial + 3], planes)
    if depth_from == ANYWHERE:
        w = low + random * (high - low)
    elif depth_from == NEARBY:
        w = w * (1 + near_depth * (2 * random - 1))
    w = w.clamp(low, high)
    if slopes_from != SAME:
        reach = steepest * (near_slope if slopes_from == NEARBY else 1)
        kept = slopes if slopes_from == NEARBY else [0, 0]
        slopes = [a + reach * w * (2 * turn - 1) for a, turn in zip(kept, turns, strict=True)]
    return torch.stack([w, *slopes])


def _tiled(noise: Tensor, planes: Tensor) -> Tensor:
    """Return a tile of random numbers [3, N, N] repeated to [3, Y, X]."""
    y, x = _grid(planes[0])
    return noise[:, y % noise.shape[1], x % noise.shape[2]].to(planes.dtype)


def _moved(image: Tensor, right: int, down: int, *, beyond: float | None = None) -> Tensor:
    """Return what lies `right` and `down` of each pixel; beyond the image its border, or a constant."""
    height, width = image.shape
    if beyond is None:
        wide = pad(image[None, None], [REACH] * 4, mode="replicate")[0, 0]
    else:
        wide = pad(image, [REACH] * 4, value=beyond)
    return wide[REACH + down :, REACH + right :][:height, :width]


def _grid(image: Tensor) -> tuple[Tensor, Tensor]:
    height, width = image.shape
    rows = torch.arange(height, device=image.device)[:, None]
    return rows, torch.arange(width, device=image.device)[None]


def _centres(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return where pixels' centres lie, in the image's dtype."""
    y, x = _grid(image)
    return y.to(image.dtype) + 0.5, x.to(image.dtype) + 0.5
