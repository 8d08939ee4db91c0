"""Depth measures by hand, what a mask and a scale do, and that maps add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuesta.errors import UserError
from cuesta.vision.terrasky3d.benchmark.depth_errors import (
    NOTHING,
    at_size,
    compare_depth,
    median_scale,
)

TRUTH = np.array([[10.0, 10.0, 10.0, 10.0], [10.0, 10.0, 0.0, np.nan]], np.float32)
FOUND = np.array([[10.0, 10.15, 10.4, 14.0], [0.0, np.inf, 5.0, 5.0]], np.float32)


def test_measures_by_hand() -> None:
    values = compare_depth(FOUND, TRUTH).values()
    assert values["pixels"] == 6
    assert values["complete"] == 4 / 6
    assert values["abs_rel"] == pytest.approx((0 + 0.015 + 0.04 + 0.4) / 4, rel=1e-6)
    assert values["rmse"] == pytest.approx(np.sqrt((0.15**2 + 0.4**2 + 4**2) / 4), rel=1e-6)
    assert [values[f"within_{k}"] for k in (1, 2, 5, 10)] == [0.25, 0.5, 0.75, 0.75]
    assert [values[f"delta_{k}"] for k in (1, 2, 3)] == [0.75, 1.0, 1.0]
    assert [values[f"complete_{k}"] for k in (1, 2, 5, 10)] == [1 / 6, 2 / 6, 3 / 6, 3 / 6]


def test_delta_counts_too_near_as_too_far() -> None:
    near = compare_depth(np.array([[7.9]], np.float32), np.array([[10.0]], np.float32))
    far = compare_depth(np.array([[12.6]], np.float32), np.array([[10.0]], np.float32))
    assert near.factors.tolist() == far.factors.tolist() == [0, 1, 1]


def test_a_mask_takes_estimates_away_and_not_the_truth() -> None:
    keep = np.array([[True, True, False, False], [True, True, True, True]])
    values = compare_depth(FOUND, TRUTH, keep=keep).values()
    assert (values["pixels"], values["complete"]) == (6, 2 / 6)
    assert values["within_2"] == 1.0  # its precision
    assert values["complete_2"] == 2 / 6


def test_nothing_estimated_is_infinitely_wrong() -> None:
    values = compare_depth(np.zeros_like(TRUTH), TRUTH).values()
    assert values["abs_rel"] == values["rmse"] == np.inf
    assert values["complete"] == values["within_10"] == 0


@given(st.floats(0.01, 100), st.integers(0, 1000))
def test_a_common_unit_changes_no_ratio(unit: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.uniform(1, 9, (3, 5)).astype(np.float32)
    found = (truth * draw.uniform(0.8, 1.2, (3, 5))).astype(np.float32)
    before = compare_depth(found, truth)
    after = compare_depth(found * np.float32(unit), truth * np.float32(unit))
    assert after.relative == pytest.approx(before.relative, rel=1e-4)
    assert after.square == pytest.approx(before.square * unit**2, rel=1e-4)


def test_scale_counts_unless_it_is_taken_away() -> None:
    truth = np.random.default_rng(0).uniform(1, 9, (8, 9)).astype(np.float32)
    half = truth / 2
    assert compare_depth(half, truth).values()["abs_rel"] == pytest.approx(0.5)
    scale = median_scale(half, truth)
    assert scale == pytest.approx(2)
    assert compare_depth(half * np.float32(scale), truth).values()["abs_rel"] < 1e-6
    assert median_scale(np.zeros_like(truth), truth) == 1


def test_two_maps_add_up_to_one_of_both() -> None:
    both = compare_depth(np.hstack([FOUND, FOUND]), np.hstack([TRUTH, TRUTH]))
    added = NOTHING + compare_depth(FOUND, TRUTH) + compare_depth(FOUND, TRUTH)
    assert added.values() == pytest.approx(both.values())


def test_another_size_is_refused_or_brought_to_the_truths() -> None:
    with pytest.raises(ValueError, match=r"one size, got \[\[1, 2\], \[2, 4\]\]"):
        compare_depth(np.ones((1, 2), np.float32), TRUTH)
    small = np.array([[1.0, 2.0]], np.float32)
    assert at_size(small, (2, 4), "a.h5").tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    assert at_size(FOUND, (1, 2), "a.h5").shape == (1, 2)
    with pytest.raises(UserError, match=r"a\.h5: 4 x 2, where the true map is 9 x 9"):
        at_size(FOUND, (9, 9), "a.h5")
