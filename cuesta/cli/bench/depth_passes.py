"""Our depth of pictures whose sources are given: what `make_depth` does, without its files."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cuesta.cli.bench.depth_cases import DepthCase
from cuesta.data.maps import Map
from cuesta.ops.patch_match import PatchMatch
from cuesta.vision.terrasky3d.completion import smoothed
from cuesta.vision.terrasky3d.settings import StereoSettings
from cuesta.vision.terrasky3d.stereo import completed, match_again, match_coarse_to_fine


class Passes:
    """Match the pictures of a case; each source counts from the first geometric pass on if it is matched."""

    def __init__(self, case: DepthCase, settings: StereoSettings) -> None:
        self._case, self._settings = case, settings
        self._places = {name: place for place, name in enumerate(case.pictures)}

    def maps(self) -> dict[str, Map]:
        """Return the depth of every picture that is matched."""
        names = list(self._case.sources)
        found = {name: self._first(name) for name in names}
        for number in range(1, self._settings.geometric_passes + 1):
            depths = {name: planes.planes[0] for name, planes in found.items()}
            found = {name: self._again(name, found[name], depths, number) for name in names}
        depths = {name: planes.planes[0] for name, planes in found.items()}
        return {name: self._finished(name, found[name], depths) for name in names}

    def one(self, name: str, inverse_depths: Mapping[str, Tensor]) -> Map:
        """Return the depth of one picture, all passes, given what its sources have."""
        found = self._first(name)
        for number in range(1, self._settings.geometric_passes + 1):
            found = self._again(name, found, inverse_depths, number)
        return self._finished(name, found, inverse_depths)

    def _first(self, name: str) -> PatchMatch:
        case = self._case
        sources = case.of(self._sources(name))
        return match_coarse_to_fine(
            case.pictures[name], sources, case.ranges[name], self._settings, self._seed(name, 0)
        )

    def _again(
        self, name: str, start: PatchMatch, inverse_depths: Mapping[str, Tensor], number: int
    ) -> PatchMatch:
        case = self._case
        names = [other for other in self._sources(name) if other in inverse_depths]
        if not names:
            return start
        depths = [inverse_depths[other] for other in names]
        return match_again(
            case.pictures[name], case.of(names), start, depths, case.ranges[name],
            self._settings, self._seed(name, number),
        )  # fmt: skip

    def _finished(self, name: str, found: PatchMatch, inverse_depths: Mapping[str, Tensor]) -> Map:
        case, settings = self._case, self._settings
        names = [other for other in self._sources(name) if other in inverse_depths]
        depths = [inverse_depths[other] for other in names]
        planes, _ = completed(case.pictures[name], case.of(names), found, depths, settings)
        planes = smoothed(
            planes if settings.fills else found.planes,
            radius=settings.smooth_radius,
            tolerance=settings.smooth_tolerance,
        )
        depth: Map = torch.where(planes[0] > 0, 1 / planes[0], 0.0).numpy()
        return depth

    def _sources(self, name: str) -> tuple[str, ...]:
        return self._case.sources[name][: self._settings.num_sources]

    def _seed(self, name: str, number: int) -> int:
        return self._settings.seed + 1000003 * number + self._places[name]
