"""Lanes that read where they want to: samples against numpy's interpolation, every other element of an
array, and clamping of what is no number.
"""

from __future__ import annotations

import numba
import numpy as np
import pytest

from cuesta.ops.lane_gather import (
    bilinear,
    clamp,
    load_every_other,
    nearest,
    pack_quads,
    ramp,
    store_every_other,
)
from cuesta.ops.lanes import WIDTH, load, store
from tests.ops.patch_cases import sampled

SIZES = pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 1), (9, 23)], ids=str)


@numba.njit
def sample_linearly(packed, base, stride, u, v, out):
    for first in range(0, len(out), WIDTH):
        store(out, first, bilinear(packed, base, stride, load(u, first), load(v, first)))


@numba.njit
def sample_nearest(maps, base, stride, u, v, out):
    for first in range(0, len(out), WIDTH):
        store(out, first, nearest(maps, base, stride, load(u, first), load(v, first)))


@numba.njit
def copy_every_other(source, start, target, place, count):
    store_every_other(target, place, load_every_other(source, start), count)


@numba.njit
def clamp_all(values, low, high):
    store(values, 0, clamp(load(values, 0), low, high))


@numba.njit
def write_ramp(values, start, step):
    store(values, 0, ramp(start, step))


def positions(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and rows between the centres of an image's pixels: corners, centres, anywhere."""
    generator = np.random.default_rng(0)
    bottom, right = (edge - 1 for edge in size)
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    whole = generator.integers(0, [right + 1, bottom + 1], (28, 2))
    anywhere = generator.random((96, 2)) * [right, bottom]
    u, v = np.concatenate([corners, whole, anywhere]).astype(np.float32).T
    return np.ascontiguousarray(u), np.ascontiguousarray(v)


@SIZES
def test_linear_samples_are_numpys_in_the_second_of_two_images(size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    image[-1, -1] = 255
    packed, base = np.zeros(40 + image.size, np.uint32), 40
    pack_quads(image, packed[base:].reshape(size))
    u, v = positions(size)
    out = np.full_like(u, np.nan)
    sample_linearly(packed, base, size[1], u, v, out)
    expected = sampled(image.astype(float), u.astype(float) + 0.5, v.astype(float) + 0.5)
    assert np.abs(out - expected).max() <= 255 * 4 * np.finfo(np.float32).eps
    is_whole = (u == np.floor(u)) & (v == np.floor(v))
    at = v[is_whole].astype(int), u[is_whole].astype(int)
    assert is_whole.sum() >= 32
    assert (out[is_whole] == image[at]).all()


@SIZES
def test_nearest_samples_are_the_elements_of_the_pixels(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(2).random(17 + size[0] * size[1]).astype(np.float32)
    u, v = positions(size)
    out = np.full_like(u, np.nan)
    sample_nearest(maps, 17, size[1], u, v, out)
    assert (out == maps[17:].reshape(size)[v.astype(int), u.astype(int)]).all()


@pytest.mark.parametrize("count", range(WIDTH + 1))
def test_every_other_element_is_read_and_written_and_what_lies_between_stays(count: int) -> None:
    source = np.arange(100, dtype=np.float32)
    target = -source
    copy_every_other(source, 5, target, 3, count)
    expected = -source
    expected[3 : 3 + 2 * count : 2] = source[5 : 5 + 2 * count : 2]
    assert (target == expected).all()


def test_clamped_lanes_are_within_bounds_even_those_that_are_no_number() -> None:
    values = np.array([-np.inf, -3, 0, 1, 2.5, 4, 9, np.inf, np.nan] + [1] * 7, np.float32)
    clamp_all(values, np.float32(0.5), np.float32(4))
    assert values.tolist() == [0.5, 0.5, 0.5, 1, 2.5, 4, 4, 4, 0.5] + [1] * 7


def test_a_ramp_rises_by_its_step() -> None:
    values = np.zeros(WIDTH, np.float32)
    write_ramp(values, np.float32(0.5), np.float32(2))
    assert (values == 0.5 + 2 * np.arange(WIDTH)).all()
