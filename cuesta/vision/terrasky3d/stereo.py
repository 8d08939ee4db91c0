"""The planes of one view, by PatchMatch from coarse to fine, and again with what its sources found.

After the multi-scale scheme of Xu and Tao (CVPR 2019) with the ops of `cuesta.ops.patch_match`: at the
coarsest size anything is tried; from there on, what the size below found is refined. A second pass, and more, add the
geometric term of Schönberger et al. (ECCV 2016): depths that the sources' own depths confirm are cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from cuesta.geometry import Transform, pixels_from_pixels
from cuesta.ops.consistency import consistency
from cuesta.ops.patch_match import PatchMatch, Search, patch_match
from cuesta.vision.terrasky3d.completion import complete
from cuesta.vision.terrasky3d.settings import StereoSettings

COARSEST = 128  # px of the longer side: below, there is nothing to correlate
_TILE = 256
_NEAR_TRIALS, _ALL_TRIALS = 3, 6
_STEEPEST = math.tan(math.radians(75.0))
_SAME_PX, _SAME_DEPTH = 2.0, 0.02  # what two views may differ by to confirm each other's depth
_LIMIT_OF_NONE, _LIMIT_OF_ONE = (
    0.7,
    0.9,
)  # costs up to which planes that no view, or one, confirms are
_WEIGHT_OF_NONE = (
    0.2  # more often right than what is continued; measured on photographs with known depth
)


class Picture(NamedTuple):
    """Hold a view as stereo sees it: grey pixels, K [3, 3] and pose, float64."""

    grey: UInt8[Tensor, "Y X"]
    matrix: Float[Tensor, "3 3"]
    cam_from_world: Transform

    def other_from_this(self, other: Picture) -> Float[Tensor, "3 4"]:
        """Return [K' R K^-1 | K' t], which takes pixels times depth to those of another view."""
        pose = other.cam_from_world @ self.cam_from_world.inverse()
        return pixels_from_pixels(self.matrix, other.matrix, pose)

    def shrunk(self, times: int) -> Picture:
        """Return the view with 2 ** times fewer pixels a side, each the mean of those it covers."""
        if times == 0:
            return self
        height, width = (max(1, round(side / 2**times)) for side in self.grey.shape)
        grey = interpolate(self.grey[None, None].float(), (height, width), mode="area")[0, 0]
        stretch = torch.tensor([width / self.grey.shape[1], height / self.grey.shape[0], 1.0])
        return Picture(
            grey.round().to(torch.uint8),
            stretch[:, None].double() * self.matrix,
            self.cam_from_world,
        )


class Range(NamedTuple):
    """Hold the depths between which a view is searched."""

    nearest: float
    farthest: float


def match_coarse_to_fine(
    view: Picture, sources: Sequence[Picture], within: Range, settings: StereoSettings, seed: int
) -> PatchMatch:
    """Return the planes of a view from its sources' pixels alone."""
    generator = torch.Generator().manual_seed(seed)
    levels = num_levels(max(view.grey.shape))
    found: PatchMatch | None = None
    for level in range(levels - 1, -1, -1):
        here, others = view.shrunk(level), [source.shrunk(level) for source in sources]
        is_first = found is None
        start = _random(here, within, generator) if found is None else _enlarged(found, here)
        rounds = settings.coarse_iterations if is_first else settings.iterations
        plan = _Plan(rounds, 0.05 if is_first else 0.02, level > 0 or is_first)
        found = _iterate(
            (here, others), start, (), plan, within=within, settings=settings, generator=generator
        )
    assert found is not None
    return found


def match_again(
    view: Picture,
    sources: Sequence[Picture],
    start: PatchMatch,
    inverse_depths: Sequence[Float32[Tensor, "_ _"]],
    within: Range,
    settings: StereoSettings,
    seed: int,
) -> PatchMatch:
    """Return better planes, now that the sources have planes of their own, of the same sizes."""
    generator = torch.Generator().manual_seed(seed)
    plan = _Plan(rounds=1, near=0.01, is_wide=False)
    return _iterate(
        (view, sources), start, inverse_depths, plan,
        within=within, settings=settings, generator=generator,
    )  # fmt: skip


def completed(
    view: Picture,
    sources: Sequence[Picture],
    found: PatchMatch,
    inverse_depths: Iterable[Float32[Tensor, "_ _"]],
    settings: StereoSettings,
) -> tuple[Float32[Tensor, "3 Y X"], Float32[Tensor, "Y X"]]:
    """Return planes everywhere, and how many sources confirm each pixel's own plane.

    A pixel keeps its own where two sources confirm it, or all where there are fewer; and where it matches
    well, the better the fewer confirm it. The rest is continued from there. Sources' depths are read one at a time.
    """
    depth = _depth(found.planes[0])
    confirmed = torch.zeros_like(depth)
    for source, inverse_depth in zip(sources, inverse_depths, strict=True):
        errors = consistency(depth, _depth(inverse_depth), view.other_from_this(source))
        confirmed += (errors.pixel_error < _SAME_PX) & (errors.depth_error < _SAME_DEPTH)
    limit = torch.where(confirmed > 0, _LIMIT_OF_ONE, _LIMIT_OF_NONE)
    is_kept = (confirmed >= min(2, len(sources))) | (found.costs < limit)
    weight = (confirmed + _WEIGHT_OF_NONE) * torch.exp(-2 * found.costs)
    planes = complete(
        found.planes,
        torch.where(is_kept, weight, 0.0),
        view.grey,
        sigma=settings.fill_sigma,
        reach=settings.fill_reach,
    )
    return planes, confirmed


def normals_of(planes: Float32[Tensor, "3 Y X"], view: Picture) -> Float32[Tensor, "Y X 3"]:
    """Return the unit normals of planes in the camera's axes, towards the camera.

    A plane n . X = d has 1 / z = n . K^-1 (u, v, 1) / d, so n / d = K^T (slope_x, slope_y, offset).
    """
    w, slope_x, slope_y = planes
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in w.shape), indexing="ij")
    form = torch.stack([slope_x, slope_y, w - slope_x * x - slope_y * y], -1)
    away = form @ view.matrix.to(form.dtype)
    return -torch.nn.functional.normalize(away, dim=-1)


def planes_of(
    depth: Float32[Tensor, "Y X"],
    normals: Float32[Tensor, "Y X 3"],
    matrix: Float[Tensor, "3 3"],
) -> Float32[Tensor, "3 Y X"]:
    """Return the planes with these depths and normals, the reverse of `normals_of`; 0 where there is no depth."""
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in depth.shape), indexing="ij")
    inverse = torch.linalg.inv(matrix).to(depth.dtype)
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ inverse.mT
    distance = depth * (normals * rays).sum(-1)
    slopes = (normals @ inverse)[..., :2] / distance[..., None]
    planes = torch.cat([1 / depth[..., None], slopes], -1).movedim(-1, 0)
    return torch.where((depth > 0) & planes.isfinite().all(0), planes, 0.0)


def num_levels(side: int) -> int:
    """Return at how many sizes a picture of this longer side is matched, each half of the one before.

    >>> num_levels(100), num_levels(640), num_levels(3840)
    (1, 3, 5)
    """
    return max(1, 1 + math.floor(math.log2(max(side / COARSEST, 1))))


def bytes_needed(sizes: Mapping[str, int], num_sources: int) -> int:
    """Return about how much memory matching takes for pictures of these numbers of pixels."""
    largest = max(sizes.values())
    return largest * (_BYTES_A_PIXEL + num_sources * _BYTES_A_SOURCE_PIXEL)


_BYTES_A_PIXEL = 150  # the state, its padded copies, the view, the maps that come out
_BYTES_A_SOURCE_PIXEL = 18  # a source's pixels, four packed into one, its depth twice


class _Plan(NamedTuple):
    rounds: int
    near: (
        float  # the first round's share of depth within which planes are changed; halved each round
    )
    is_wide: bool


def _iterate(
    pictures: tuple[Picture, Sequence[Picture]],
    start: PatchMatch,
    inverse_depths: Sequence[Tensor],
    plan: _Plan,
    *,
    within: Range,
    settings: StereoSettings,
    generator: torch.Generator,
) -> PatchMatch:
    view, sources = pictures
    matrices = torch.stack([view.other_from_this(source) for source in sources]).float()
    trials = _ALL_TRIALS if plan.is_wide else _NEAR_TRIALS
    found = start
    for turn in range(plan.rounds):
        search = Search(
            low=1 / within.farthest,
            high=1 / within.nearest,
            steepest=_STEEPEST / view.matrix[0, 0].item(),
            near_depth=plan.near / 2**turn,
            near_slope=5 * plan.near / 2**turn,
            is_wide=plan.is_wide,
            view_sigma=settings.view_sigma,
        )
        found = patch_match(
            view.grey,
            [source.grey for source in sources],
            matrices,
            start=found,
            noise=torch.rand(3 * trials, _TILE, _TILE, generator=generator),
            search=search,
            patch=settings.patch,
            inverse_depths=inverse_depths,
        )
    return found


def _random(view: Picture, within: Range, generator: torch.Generator) -> PatchMatch:
    low, high = 1 / within.farthest, 1 / within.nearest
    random = torch.rand(3, *view.grey.shape, generator=generator)
    w = low + random[0] * (high - low)
    slopes = (2 * random[1:] - 1) * w / view.matrix[0, 0].float()
    return PatchMatch(torch.cat([w[None], slopes]), torch.zeros_like(w))


def _enlarged(found: PatchMatch, view: Picture) -> PatchMatch:
    """Return each plane at the pixels that it covers, continued to their centres."""
    shape, (height, width) = view.grey.shape, found.costs.shape
    shares = [old / new for old, new in zip((height, width), shape, strict=True)]
    ys, xs = ((torch.arange(new) + 0.5) * share for new, share in zip(shape, shares, strict=True))
    rows, columns = ys.long(), xs.long()
    w, slope_x, slope_y = found.planes[:, rows[:, None], columns]
    w = w + slope_x * (xs - columns - 0.5) + slope_y * (ys - rows - 0.5)[:, None]
    planes = torch.stack([w, slope_x * shares[1], slope_y * shares[0]])
    return PatchMatch(planes, found.costs[rows[:, None], columns])


def _depth(inverse_depth: Tensor) -> Tensor:
    return torch.where(inverse_depth > 0, 1 / inverse_depth, 0.0)
