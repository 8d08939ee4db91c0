"""The Triton bodies of PatchMatch."""

from __future__ import annotations

from unittest.mock import patch as replaced

import pytest
from torch import Tensor

from cuesta.ops.patch_match import Patch
from tests.ops.gpu_rungs import (
    DEVICE,
    HAS_GPU,
    runs,
    tells_nothing_of_fusion,
)
from tests.ops.patch_cases import Case, assert_sweeps_are_twins, case, costs_of, wanted_of
from tests.twins import assert_twins

pytest.importorskip("triton", reason="Triton is for Linux")

pytestmark = tells_nothing_of_fusion

SMALL = ((7, 11), ((7, 11), (9, 6)))
PATCH = Patch(radius=2)


def on_device(size: tuple[int, int], source_sizes: tuple[tuple[int, int], ...]) -> Case:
    given = case(size, source_sizes)
    return Case(
        *(
            [each.to(DEVICE) for each in field] if isinstance(field, list) else field.to(DEVICE)
            for field in given
        )
    )


@runs
@pytest.mark.parametrize("is_asked", [False, True], ids=["all", "wanted"])
def test_costs_are_twins(is_asked: bool) -> None:
    given = on_device(*SMALL)
    wanted = wanted_of(given).to(DEVICE) if is_asked else None

    def run(matrices: Tensor, planes: Tensor) -> Tensor:
        return costs_of(given._replace(matrices=matrices, planes=planes), PATCH, wanted)

    assert_twins(run, given.matrices, given.planes, body="gpu")


@runs
@pytest.mark.parametrize("is_geometric", [False, True], ids=["near", "wide and geometric"])
def test_sweeps_are_twins(is_geometric: bool) -> None:
    given = on_device(*SMALL)
    assert_sweeps_are_twins(
        given, int(is_geometric), is_geometric=is_geometric, is_wide=is_geometric, body="gpu"
    )


@runs
@pytest.mark.skipif(not HAS_GPU, reason="the interpreter is slow")
@pytest.mark.parametrize("colour", [0, 1], ids=["even", "odd"])
def test_sweeps_in_bands_are_twins(colour: int) -> None:
    given = on_device((37, 61), ((37, 61), (41, 50), (60, 33)))
    with replaced("cuesta.ops.patch_match.gpu.BAND_BYTES", 1 << 14):
        assert_sweeps_are_twins(given, colour, is_geometric=True, is_wide=True, body="gpu")
