"""The Triton bodies of the ops on depth maps and on points seen by cameras."""

from __future__ import annotations

import pytest
import torch

from cuesta.ops import force_body
from cuesta.ops.consistency import consistency
from cuesta.ops.zbuffer import zbuffer
from tests.ops.gpu_rungs import (
    DEVICE,
    runs,
    tells_nothing_of_fusion,
)
from tests.ops.test_zbuffer import HEIGHT, WIDTH, clouds
from tests.ops.two_views import SIZES, case, listed
from tests.twins import assert_twins

pytest.importorskip("triton", reason="Triton is for Linux")

pytestmark = tells_nothing_of_fusion


@runs
@SIZES
def test_consistency_is_a_twin(size: tuple[int, int], other_size: tuple[int, int]) -> None:
    given = case(size, other_size)
    views = given.views._replace(
        **{name: x.to(DEVICE) for name, x in given.views._asdict().items()}
    )
    given = given._replace(views=views)
    inputs = [each.float().to(DEVICE) for each in given[1:]]
    assert_twins(lambda *inputs: listed(given.run(*inputs)), *inputs, body="gpu")
    matrix = views.other_from_this()
    assert_twins(lambda *maps: listed(consistency(*maps, matrix)), *inputs[:2], body="gpu")


@runs
@pytest.mark.parametrize("lengths", [[7, 0, 2500, 1, 500], [3], [0, 0], []], ids=str)
def test_zbuffer_has_the_bits_of_the_reference(lengths: list[int]) -> None:
    points = clouds(lengths).to(DEVICE)
    results = []
    for body in ("reference", "gpu"):
        with force_body(body):
            results.append(zbuffer(points, height=HEIGHT, width=WIDTH))
    for expected, actual in zip(*results, strict=True):
        assert torch.equal(expected, actual)
