"""The benches of depth and fusion: what they score, that peers find known depth, and which bars they tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from cuesta.cli.bench.depth import Bar
from cuesta.cli.bench.depth_cases import DepthCase, _near_sources
from cuesta.cli.bench.depth_passes import Passes
from cuesta.cli.bench.depth_scores import consistent_share, score, textured
from cuesta.cli.bench.stereo_peers import PEERS
from cuesta.data.maps import Map
from cuesta.geometry import Transform
from cuesta.vision.terrasky3d.depth_recipes import debug
from cuesta.vision.terrasky3d.stereo import Picture, Range

DEPTH, FOCAL = 4.0, 100.0
SHIFTS = {"left": (-0.4, 0.0), "middle": (0.0, 0.0), "right": (0.4, 0.0), "above": (0.0, -0.4)}
HEIGHT, WIDTH = 96, 128


def _grey(shift: tuple[float, float]) -> torch.Tensor:
    """Return what a camera that was moved sees of a textured wall, 10 px a shift of 0.4."""
    draw = torch.Generator().manual_seed(0)
    wall = torch.randint(0, 256, (1, 1, 68, 84), generator=draw).float()
    wall = interpolate(wall, scale_factor=2, mode="bilinear", align_corners=False)[0, 0]
    x, y = (20 + round(part * FOCAL / DEPTH) for part in shift)
    return wall[y : y + HEIGHT, x : x + WIDTH].round().to(torch.uint8)


@pytest.fixture(scope="module")
def wall() -> DepthCase:
    matrix = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]).double()
    pictures = {
        name: Picture(
            _grey(shift),
            matrix,
            Transform.rigid(torch.eye(3).double(), -torch.tensor([*shift, 0.0]).double()),
        )
        for name, shift in SHIFTS.items()
    }
    names = tuple(SHIFTS)
    return DepthCase(
        name="wall",
        pictures=pictures,
        sources={name: tuple(other for other in names if other != name) for name in names},
        ranges=dict.fromkeys(names, Range(2.0, 8.0)),
        references=("middle",),
        truth={"middle": np.full((HEIGHT, WIDTH), DEPTH, np.float32)},
    )


@pytest.mark.parametrize("provider", PEERS)
def test_a_peer_finds_the_depth_of_a_wall(wall: DepthCase, provider: str) -> None:
    sources = wall.of(wall.sources["middle"])
    found = PEERS[provider](wall.pictures["middle"], sources, wall.ranges["middle"])
    assert found.dtype == np.float32
    about = score(wall, {"middle": found})
    assert about.median < 0.01
    assert about.complete > 0.5
    assert about.within[0.05] > 0.9


def test_ours_finds_it_with_given_sources(wall: DepthCase) -> None:
    maps = Passes(wall, debug()).maps()
    assert set(maps) == set(SHIFTS)
    about = score(wall, maps)
    assert about.complete == 1
    assert about.median < 0.01
    inverse = {name: 1 / torch.from_numpy(depth) for name, depth in maps.items()}
    alone = score(wall, {"middle": Passes(wall, debug()).one("middle", inverse)})
    assert alone.median < 0.01
    assert textured(wall.pictures["middle"]).mean() > 0.99
    everything = replace(wall, references=tuple(SHIFTS))
    assert consistent_share(everything, maps).consistent > 0.7


def test_a_pair_with_its_epipole_in_the_picture_is_left_out(wall: DepthCase) -> None:
    middle = wall.pictures["middle"]
    ahead = middle._replace(
        cam_from_world=Transform.rigid(
            torch.eye(3).double(), torch.tensor([0.0, 0.0, -0.5]).double()
        )
    )
    match = PEERS["OpenCV SGBM, 4 pairs"]
    assert not match(middle, [ahead, ahead], Range(2.0, 8.0)).any()


def test_missing_estimates_are_errors_of_nothing_and_count_as_incomplete(wall: DepthCase) -> None:
    found: Map = np.full((HEIGHT, WIDTH), DEPTH * 1.02, np.float32)
    found[: HEIGHT // 2] = 0
    about = score(wall, {"middle": found})
    assert about.complete == 0.5
    assert about.within == {0.01: 0.0, 0.05: 1.0}
    kept = np.zeros((HEIGHT, WIDTH), bool)
    assert score(wall, {"middle": found}, {"middle": kept}).complete == 0


def test_sources_are_the_farthest_of_those_near_enough() -> None:
    centres = torch.zeros(6, 3).double()
    centres[:, 0] = torch.tensor([0.0, 0.05, 0.2, 0.3, 0.39, 0.5])
    names = [str(place) for place in range(6)]
    poses = {
        name: Transform.rigid(torch.eye(3).double(), -centre)
        for name, centre in zip(names, centres, strict=True)
    }
    assert _near_sources(names, poses)["0"] == ("4", "3", "2")


@pytest.mark.parametrize(
    ("bar", "verdict"),
    [
        (Bar("abs-rel", 0.2, 0.2), "met"),
        (Bar("abs-rel", 0.21, 0.2), "MISSED"),
        (Bar("kept", 0.5, 0.48, is_least=True), "met"),
        (Bar("kept", float("nan"), 0.48, is_least=True), "MISSED"),
    ],
)
def test_a_bar_is_met_or_missed(bar: Bar, verdict: str) -> None:
    assert bar.verdict == verdict
