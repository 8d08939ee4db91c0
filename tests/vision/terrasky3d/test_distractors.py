"""The kernels of what moved give what numpy gives, a pixel at a time."""

import numpy as np

from cuesta.vision.terrasky3d.distractor_kernels import (
    agreed_surface,
    keep_least_change,
    keep_nearest,
    look_up,
)

HIGH, WIDE, NUM_POINTS = 12, 17, 400


def test_of_the_points_in_a_pixel_the_nearest_stays() -> None:
    draw = np.random.default_rng(0)
    at = draw.uniform(-4, 20, (NUM_POINTS, 2))
    at[::50] = np.nan
    depth = draw.uniform(1, 9, NUM_POINTS).astype(np.float32)
    found = np.full((HIGH, WIDE), np.inf, np.float32)
    keep_nearest(at, depth, found)
    expected = np.full_like(found, np.inf)
    is_inside = ((at > 0) & (at < [WIDE, HIGH])).all(1)
    x, y = at[is_inside].astype(int).T
    np.minimum.at(expected, (y, x), depth[is_inside])
    assert np.array_equal(found, expected)
    assert np.isinf(found).any()


def test_a_surface_is_the_nearest_depth_with_another_just_behind_it() -> None:
    draw = np.random.default_rng(1)
    seen = draw.choice(np.float32([1, 1.02, 1.5, 1.52, 3, np.inf]), (5, HIGH, WIDE))
    found = np.empty((HIGH, WIDE), np.float32)
    agreed_surface(seen, np.float32(1.03), found)
    ordered = np.sort(seen, axis=0)
    is_pair = np.isfinite(ordered[1:]) & (ordered[1:] <= ordered[:-1] * np.float32(1.03))
    first = np.take_along_axis(ordered, is_pair.argmax(0)[None], 0)[0]
    assert np.array_equal(found, np.where(is_pair.any(0), first, 0))
    assert {0.0, 1.0, 1.5} <= set(found.ravel().tolist())


def test_colours_lie_between_pixels_and_are_seen_where_depth_agrees() -> None:
    draw = np.random.default_rng(2)
    rows, columns = np.mgrid[:HIGH, :WIDE] + 0.5
    color = np.stack([columns, 2 * rows, columns + rows], -1).astype(np.float32)
    depth = np.full((HIGH, WIDE), 4, np.float32)
    depth[:, :3] = 0
    at = draw.uniform([-2, -2], [WIDE + 2, HIGH + 2], (NUM_POINTS, 2))
    z = draw.choice(np.float32([3.95, 4.1, 4.6]), NUM_POINTS)
    found, is_shown = np.zeros((NUM_POINTS, 3), np.float32), np.zeros(NUM_POINTS, bool)
    look_up(at, z, depth, color, np.float32(0.03), found, is_shown)
    is_inside = (at[:, 0] >= 3) & (at[:, 1] >= 0) & (at[:, 0] < WIDE) & (at[:, 1] < HIGH)
    assert np.array_equal(is_shown, is_inside & (z < 4.5))
    x, y = at[is_shown].T.clip(0.5, np.array([[WIDE], [HIGH]]) - 0.5)
    assert np.allclose(found[is_shown], np.stack([x, 2 * y, x + y], -1), rtol=1e-5)


def test_the_least_change_is_that_of_the_channel_that_differs_most() -> None:
    own = np.float32([[10, 20, 30], [10, 20, 30], [10, 20, 30]])
    found = np.float32([[5, 10, 10], [5, 10, 15], [5, 10, 10]])
    least = np.float32([np.inf, np.inf, 4])
    keep_least_change(own, found, np.float32([2, 2, 2]), np.array([True, False, True]), least)
    assert least.tolist() == [10, np.inf, 4]
