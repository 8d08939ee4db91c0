"""The z-buffer of points: the same bits from every body, those of a minimum over each pixel's points."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from torch import Tensor

from cuesta.ops import force_body
from cuesta.ops.zbuffer import ZBuffer, zbuffer
from cuesta.ragged import Ragged
from tests.laws import permuted, row_lengths, seeds

BODY = pytest.mark.parametrize("body", ["reference", "cpu"])
HEIGHT, WIDTH = 3, 5


def clouds(lengths: list[int], seed: int = 0) -> Ragged:
    """Return points in and around images of 3 x 5 pixels, some on their edges, some of no depth, and
    many of the same one.
    """
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    place = torch.rand(count, 2, generator=generator) * torch.tensor([WIDTH + 2, HEIGHT + 2]) - 1
    is_edge = torch.rand(count, 2, generator=generator) < 0.2
    place = torch.where(is_edge, place.round(), place)
    depths = torch.tensor([1.0, 2.0, 2.5, 1e-42, 3e38, 0.0, -0.0, -1.0, math.inf, math.nan])
    z = depths[torch.randint(0, len(depths), (count,), generator=generator)]
    place[torch.rand(count, generator=generator) < 0.05] = math.nan
    return Ragged.from_lengths(torch.cat([place, z[:, None]], 1), lengths)


def found(points: Ragged, body: str) -> ZBuffer:
    with force_body(body):
        return zbuffer(points, height=HEIGHT, width=WIDTH)


def same(one: ZBuffer, other: ZBuffer) -> bool:
    return all(torch.equal(*both) for both in zip(one, other, strict=True))


@BODY
@given(lengths=row_lengths(max_length=40), seed=seeds)
def test_depth_and_index_are_those_of_the_least_of_all_points_of_a_pixel(
    lengths: list[int], seed: int, body: str
) -> None:
    points = clouds(lengths, seed)
    actual = found(points, body)
    nearest: dict[tuple[int, int, int], tuple[float, int]] = {}
    for image in range(len(lengths)):
        for i in range(int(points.offsets[image]), int(points.offsets[image + 1])):
            u, v, z = points.values[i].tolist()
            if 0 <= u < WIDTH and 0 <= v < HEIGHT and 0 < z < math.inf:
                pixel = image, math.floor(v), math.floor(u)
                nearest[pixel] = min(nearest.get(pixel, (math.inf, 0)), (z, i))
    shape = len(lengths), HEIGHT, WIDTH
    depth, index = torch.zeros(shape), torch.full(shape, -1)
    for pixel, (z, i) in nearest.items():
        depth[pixel], index[pixel] = z, i
    assert same(actual, ZBuffer(depth, index))


@BODY
@given(lengths=row_lengths(max_length=40), seed=seeds)
def test_the_order_of_points_moves_indices_only(lengths: list[int], seed: int, body: str) -> None:
    points = clouds(lengths, seed)
    depths = torch.randn(points.values.shape[0], generator=torch.Generator().manual_seed(seed))
    points.values[:, 2] = depths  # no two alike
    order = torch.cat(
        [
            begin + permuted(length, seed)
            for begin, length in zip(points.offsets.tolist(), lengths, strict=False)
        ]
        or [torch.zeros(0, dtype=torch.int64)]
    )
    before, after = found(points, body), found(points.with_values(points.values[order]), body)
    assert torch.equal(before.depth, after.depth)
    is_seen = after.point >= 0
    assert torch.equal(is_seen, before.point >= 0)
    assert torch.equal(order[after.point[is_seen]], before.point[is_seen])


@BODY
@given(lengths=row_lengths(max_length=40), seed=seeds)
def test_permuting_clouds_permutes_images(lengths: list[int], seed: int, body: str) -> None:
    points, order = clouds(lengths, seed), permuted(len(lengths), seed)
    before, after = found(points, body), found(points.select_rows(order), body)
    assert torch.equal(after.depth, before.depth[order])
    starts = [each.offsets[:-1, None, None] for each in (points, points.select_rows(order))]
    inside = [
        torch.where(each.point >= 0, each.point - start, -1)
        for each, start in zip((before, after), starts, strict=True)
    ]
    assert torch.equal(inside[1], inside[0][order])


def test_the_first_of_the_nearest_is_taken_by_any_number_of_threads() -> None:
    points = clouds([7, 0, 3000, 1, 500])
    expected = found(points, "reference")
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert same(found(points, "cpu"), expected)
    torch.set_num_threads(before)
    for tasks in (5, 300):
        with patch("cuesta.ops.zbuffer.cpu.num_threads", return_value=tasks):
            assert same(found(points, "cpu"), expected)


@BODY
def test_images_of_no_pixels_and_strided_points_are_understood(body: str) -> None:
    points = clouds([4, 2])
    with force_body(body):
        for height, width in ((0, 5), (5, 0)):
            empty = zbuffer(points, height=height, width=width)
            assert empty.depth.shape == empty.point.shape == (2, height, width)
    strided = points.with_values(points.values.T.contiguous().T)
    assert same(found(strided, body), found(points, body))


def test_float64_takes_the_reference() -> None:
    points = clouds([40])
    depth, index = zbuffer(points.with_values(points.values.double()), height=HEIGHT, width=WIDTH)
    expected = found(points, "reference")
    assert torch.equal(depth, expected.depth.double())
    assert torch.equal(index, expected.point)


def test_mistakes_are_named() -> None:
    def call(values: Tensor, height: int = 1) -> None:
        zbuffer(Ragged.from_lengths(values, [len(values)]), height=height, width=1)

    with pytest.raises(ValueError, match=r"\[P, 3\], got shape \(2, 2\)"):
        call(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"must be float32 or float64, got torch\.int64"):
        call(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="must not be negative, got -1 and 1"):
        call(torch.zeros(2, 3), height=-1)
    with (
        patch("cuesta.ops.zbuffer.MAX_POINTS", 2),
        pytest.raises(ValueError, match="fewer than 2 points, got 2"),
    ):
        call(torch.zeros(2, 3))
