"""The Triton bodies of plane sweeps: features by groups and windows of grey images, with their
gradients, at planes and at hypotheses of pixels.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cuesta.ops import plane_sweep, plane_sweep_zncc
from tests.ops.gpu_rungs import (
    DEVICE,
    differentiated,
    random,
    runs,
    tells_nothing_of_fusion,
    with_dtypes,
)
from tests.twins import assert_twins

pytestmark = tells_nothing_of_fusion

SIZE = (5, 27)  # more pixels than a program's tile


@pytest.fixture(autouse=True)
def atomics_are_allowed() -> None:
    """Sums by atomics differ from run to run, within rounding."""
    torch.set_deterministic_debug_mode("default")


@runs
@with_dtypes(("channels", "is_plane", "dtype"), [6, 20], [True, False])
def test_plane_sweep_is_a_twin(channels: int, is_plane: bool, dtype: torch.dtype) -> None:
    groups = 2
    poses, depths = geometry(is_plane)
    reference = random(2, channels, *SIZE).to(dtype)
    sources = random(2, 2, channels, 9, 14, seed=1).to(dtype)
    slope = random(2, 2, groups, 2, *SIZE, seed=2).to(dtype)
    assert_twin(
        lambda a, b, poses, depths: plane_sweep(a, b, poses, depths=depths, groups=groups),
        reference, sources, slope, poses, depths,
    )  # fmt: skip


@runs
@with_dtypes(("is_plane", "dtype"), [True, False])
def test_plane_sweep_zncc_is_a_twin(is_plane: bool, dtype: torch.dtype) -> None:
    poses, depths = geometry(is_plane)
    reference, sources = random(*SIZE).to(dtype), random(2, 9, 28, seed=1).to(dtype)
    sources[0, 4, 4] = torch.nan  # the windows that it is in count nothing
    slope = random(2, 2, *SIZE, seed=2).to(dtype)
    assert_twin(
        lambda a, b, poses, depths: plane_sweep_zncc(a, b, poses, depths=depths, radius=1),
        reference, sources, slope, poses[0], depths[0],
    )  # fmt: skip


@runs
def test_nothing_to_sweep_is_legal() -> None:
    poses, depths = geometry(is_plane=True)
    reference, sources = random(2, 4, *SIZE), random(2, 2, 4, 9, 14)

    def run(a: Tensor, b: Tensor, poses: Tensor, depths: Tensor) -> Tensor:
        return plane_sweep(a, b, poses, depths=depths, groups=2)

    no_views = (reference, sources[:, :0], random(2, 0, 2, 2, *SIZE), poses[:, :0], depths)
    no_planes = (reference, sources, random(2, 2, 2, 0, *SIZE), poses, depths[:, :0])
    for inputs in (no_views, no_planes):
        assert_twin(run, *inputs)


def geometry(is_plane: bool) -> tuple[Tensor, Tensor]:
    """Return poses [2, 2, 3, 4] that see most of the pixels, and depths."""
    near = torch.tensor([0.02, 0.02, 0.002]).view(3, 1).to(DEVICE)
    poses = torch.eye(3, 4).to(DEVICE) + random(2, 2, 3, 4, seed=3) * near
    poses[..., :2, 3] = poses[..., :2, 3] * 40 + 1
    return poses, random(2, 2, *(() if is_plane else SIZE), seed=4).abs() + 0.8


def assert_twin(run: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Check results and gradients for a reference, sources, a slope, poses and depths."""

    def both(a: Tensor, b: Tensor, slope: Tensor, poses: Tensor, depths: Tensor) -> list[Tensor]:
        return differentiated(lambda a, b: run(a, b, poses, depths))(a, b, slope)

    assert_twins(both, *inputs, body="gpu")
