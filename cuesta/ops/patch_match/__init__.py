"""PatchMatch stereo: every pixel's plane, found by trying its neighbours' planes and random ones.

Planes propagate over a checkerboard as in Galliani et al. (ICCV 2015); eight directions, and how much
each source counts for a pixel, follow Xu and Tao (CVPR 2019); patches are weighted bilaterally as in
Schönberger et al. (ECCV 2016), whose geometric term keeps depths that the sources' own depths confirm.
What differs: a plane is inverse depth and its slopes in the image, so that no camera enters; sources
are weighted softly, without counts and thresholds; and correlation knows the noise of pixels, so that
patches without texture match nothing rather than anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from cuesta.ops.bodies import body, plain_op
from cuesta.ops.patch_match.rules import NO_MATCH, REACH

__all__ = ["NO_MATCH", "Patch", "PatchMatch", "Search", "patch_match", "patch_match_costs"]

LEAST_TILE = 32


@final
@dataclass(frozen=True, kw_only=True)
class Patch:
    """Say what is compared: every `step`-th pixel from a pixel on, within `radius` px, both ways.

    A pixel of the patch counts by its distance from the centre and by its difference from the centre's
    value, Gaussians with deviations of `spatial_sigma` px and `color_sigma` grey levels.
    `noise` is the deviation of the pixels' own noise, in grey levels.
    """

    radius: int = 4
    step: int = 2
    spatial_sigma: float = 5.0
    color_sigma: float = 20.0
    noise: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.radius < REACH or self.step < 1:
            raise ValueError(
                f"radius must be 1 to {REACH - 1} px and step at least 1, "
                f"got {self.radius} and {self.step}"
            )
        if min(self.spatial_sigma, self.color_sigma, self.noise) <= 0:
            raise ValueError("spatial_sigma, color_sigma and noise must be above 0")


@final
@dataclass(frozen=True, kw_only=True)
class Search:
    """Say which planes are tried: inverse depths from `low` to `high`; slopes up to `steepest` times the
    inverse depth a px; near ones within the share `near_depth` of the depth and `near_slope` of the
    steepest. `is_wide` also asks neighbours far away.

    A source counts by exp(-cost^2 / (2 `view_sigma`^2)). A px that a pixel comes back off its place,
    by way of a source's own depth, costs `drift_weight`; more than `most_drift` px cost no more.
    """

    low: float
    high: float
    steepest: float
    near_depth: float = 0.02
    near_slope: float = 0.1
    is_wide: bool = False
    view_sigma: float = 0.3
    drift_weight: float = 0.2
    most_drift: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"0 < low < high is needed, got {self.low} and {self.high}")


class PatchMatch(NamedTuple):
    """Hold the planes [3, Y, X] and what each of them costs [Y, X], 0 to 2 without the geometric term."""

    planes: Float[Tensor, "3 Y X"]
    costs: Float[Tensor, "Y X"]


def patch_match(
    reference: UInt8[Tensor, "Y X"],
    sources: Sequence[UInt8[Tensor, "_ _"]],
    source_from_reference: Float[Tensor, "V 3 4"],
    *,
    start: PatchMatch,
    noise: Float[Tensor, "maps side side"],
    search: Search,
    patch: Patch | None = None,
    inverse_depths: Sequence[Float[Tensor, "_ _"]] = (),
) -> PatchMatch:
    """Return better planes: one iteration, first the one colour of the checkerboard, then the other.

    ```
    plane at pixel p = (x, y)      inverse depth w(q) = w + (q - p) . (slope_x, slope_y): exact for planes
    pixel q in source v            [u z, v z, z] = matrix_v [q, 1, w(q)], to first order around p
    cost of a plane in v           1 - bilaterally weighted, zero-mean normalised correlation of the
                                   patch with v's pixels where the plane takes it
    cost of a plane                weighted mean over v (+ drift_weight * min(drift, most_drift))
    ```

    A pixel tries its own plane, the cheapest plane of each direction, and after these its best so far,
    changed at random. `source_from_reference` is [K' R K^-1 | K' t]: pixels times depth to pixels times
    depth. `start` holds planes as above, inverse depth in 1 / (unit of t), slopes in that a px, and costs
    (equal ones, if they are not known). `noise` holds uniform random numbers of [0, 1): three maps a
    trial, 3 or 6 trials (three near, three anywhere), each a tile that repeats, of `LEAST_TILE` px at
    least; the same numbers give the same planes, for any number of threads. With `inverse_depths`, one a
    source, of its size, 0 for none, the geometric term is added. Images are grey, of any sizes.

    Not differentiable. float32; float64 states run the reference. Raises `ValueError` where shapes,
    dtypes or numbers do not go together. Source: as in the file's paragraph.

    >>> flat = torch.zeros(8, 8, dtype=torch.uint8)
    >>> start = PatchMatch(torch.zeros(3, 8, 8) + torch.tensor([0.5, 0, 0])[:, None, None], torch.zeros(8, 8))
    >>> still = torch.eye(3, 4)[None]
    >>> search = Search(low=0.25, high=1.0, steepest=0.01)
    >>> found = patch_match(flat, [flat], still, start=start, noise=torch.rand(9, 32, 32), search=search)
    >>> found.costs.min().item()
    1.0
    """
    patch = patch or Patch()
    _check(reference, sources, source_from_reference, start.planes)
    _check_search(reference, sources, start, noise, inverse_depths)
    numbers = [
        patch.spatial_sigma, patch.color_sigma, patch.noise, search.view_sigma, search.drift_weight,
        search.most_drift, search.low, search.high, search.steepest, search.near_depth,
        search.near_slope,
    ]  # fmt: skip
    depths = [each.contiguous() for each in inverse_depths]
    state = torch.cat([start.planes, start.costs[None]])
    for colour in (0, 1):
        state = torch.ops.cuesta.patch_match_sweep(
            reference.contiguous(), [image.contiguous() for image in sources],
            source_from_reference.contiguous(), state, noise.contiguous(), depths, numbers,
            [patch.radius, patch.step], colour, search.is_wide,
        )  # fmt: skip
    return PatchMatch(state[:3], state[3])


def patch_match_costs(
    reference: UInt8[Tensor, "Y X"],
    sources: Sequence[UInt8[Tensor, "_ _"]],
    source_from_reference: Float[Tensor, "V 3 4"],
    planes: Float[Tensor, "3 Y X"],
    patch: Patch | None = None,
    wanted: Bool[Tensor, "V Y X"] | None = None,
) -> Float[Tensor, "V Y X"]:
    """Return what planes cost in each source, without the geometric term: 0 to 2, `NO_MATCH` where the
    source does not see the pixel. All else is as in `patch_match`.

    `wanted` says for which pixels of which sources the cost is wanted; the others' is `NO_MATCH`, and
    saves time where neighbours are not wanted either.

    >>> image = (torch.arange(64).reshape(8, 8) * 5 % 256).to(torch.uint8)
    >>> planes = torch.tensor([0.5, 0, 0])[:, None, None].expand(3, 8, 8)
    >>> costs = patch_match_costs(image, [image], torch.eye(3, 4)[None], planes)
    >>> costs.shape, bool(costs.max() < 0.2)
    (torch.Size([1, 8, 8]), True)
    """
    patch = patch or Patch()
    _check(reference, sources, source_from_reference, planes)
    shape = (len(sources), *reference.shape)
    if wanted is not None and (wanted.shape != shape or wanted.dtype is not torch.bool):
        raise ValueError(
            f"wanted must be bool [V, Y, X], {shape}, got {wanted.dtype} {tuple(wanted.shape)}"
        )
    return torch.ops.cuesta.patch_match_costs(
        reference.contiguous(), [image.contiguous() for image in sources],
        source_from_reference.contiguous(), planes.contiguous(),
        None if wanted is None else wanted.contiguous(),
        [patch.spatial_sigma, patch.color_sigma, patch.noise], [patch.radius, patch.step],
    )  # fmt: skip


@plain_op("patch_match_sweep")
def _patch_match_sweep(
    reference: Tensor,
    sources: list[Tensor],
    matrices: Tensor,
    state: Tensor,
    noise: Tensor,
    inverse_depths: list[Tensor],
    numbers: list[float],
    window: list[int],
    colour: int,
    is_wide: bool,
) -> Tensor:
    run = body("patch_match", state).patch_match_sweep
    return run(
        reference, sources, matrices, state, noise, inverse_depths, numbers, window, colour, is_wide
    )


@torch.library.register_fake("cuesta::patch_match_sweep")
def _(
    reference: Tensor,
    sources: list[Tensor],
    matrices: Tensor,
    state: Tensor,
    noise: Tensor,
    inverse_depths: list[Tensor],
    numbers: list[float],
    window: list[int],
    colour: int,
    is_wide: bool,
) -> Tensor:
    return torch.empty_like(state)


@plain_op("patch_match_costs")
def _patch_match_costs(
    reference: Tensor,
    sources: list[Tensor],
    matrices: Tensor,
    planes: Tensor,
    wanted: Tensor | None,
    numbers: list[float],
    window: list[int],
) -> Tensor:
    run = body("patch_match", planes).patch_match_costs
    return run(reference, sources, matrices, planes, wanted, numbers, window)


@torch.library.register_fake("cuesta::patch_match_costs")
def _(
    reference: Tensor,
    sources: list[Tensor],
    matrices: Tensor,
    planes: Tensor,
    wanted: Tensor | None,
    numbers: list[float],
    window: list[int],
) -> Tensor:
    return planes.new_empty(len(sources), *planes.shape[1:])


def _check(reference: Tensor, sources: Sequence[Tensor], matrices: Tensor, planes: Tensor) -> None:
    images = [reference, *sources]
    if any(image.dim() != 2 or image.dtype is not torch.uint8 for image in images):
        kinds = [(tuple(image.shape), image.dtype) for image in images]
        raise ValueError(f"images must be uint8 [Y, X], got {kinds}")
    if any(image.numel() == 0 for image in images):
        shapes = [tuple(image.shape) for image in images]
        raise ValueError(f"images must have pixels, got {shapes}")
    if not sources or matrices.shape != (len(sources), 3, 4):
        raise ValueError(
            f"source_from_reference must be [V, 3, 4] of V sources, one at least, "
            f"got {tuple(matrices.shape)} of {len(sources)}"
        )
    if planes.shape != (3, *reference.shape):
        raise ValueError(
            f"planes must be [3, Y, X] of the reference, {(3, *reference.shape)}, "
            f"got {tuple(planes.shape)}"
        )
    if planes.dtype is not matrices.dtype or planes.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"planes and source_from_reference must both be float32 or both float64, "
            f"got {planes.dtype} and {matrices.dtype}"
        )


def _check_search(
    reference: Tensor,
    sources: Sequence[Tensor],
    start: PatchMatch,
    noise: Tensor,
    inverse_depths: Sequence[Tensor],
) -> None:
    dtype = start.planes.dtype
    if start.costs.shape != reference.shape or start.costs.dtype is not dtype:
        raise ValueError(
            f"costs must be [Y, X] of the reference, {tuple(reference.shape)}, and {dtype}, "
            f"got {tuple(start.costs.shape)} and {start.costs.dtype}"
        )
    num_maps, *side = noise.shape
    is_tile = len(side) == 2 and side[0] == side[1] >= LEAST_TILE
    if num_maps not in (9, 18) or not is_tile or noise.dtype is not dtype:
        raise ValueError(
            f"noise must be {dtype} [9 or 18, N, N] with N at least {LEAST_TILE}, "
            f"got {noise.dtype} {tuple(noise.shape)}"
        )
    found = [(tuple(each.shape), each.dtype) for each in inverse_depths]
    expected = [(tuple(image.shape), dtype) for image in sources]
    if found and found != expected:
        raise ValueError(
            f"inverse_depths must be one map a source, of its shape: {expected}, got {found}"
        )
