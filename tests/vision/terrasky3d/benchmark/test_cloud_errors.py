"""Clouds against the truth: distances are those of brute force, the recipes are those by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuesta.vision.terrasky3d.benchmark.cloud_errors import (
    CloudSettings,
    compare_clouds,
    nearest_distances,
    thin,
)


def cloud(count: int, seed: int, *, far: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)) * [3, 1, 0.1] + far


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
def test_distances_are_those_of_brute_force(num_a: int, num_b: int, seed: int) -> None:
    a, b = cloud(num_a, seed), cloud(num_b, seed + 100)
    exact = np.linalg.norm(a[:, None] - b, axis=-1).min(1)
    assert np.abs(nearest_distances(a, b) - exact).max() < 1e-6


def test_coordinates_of_a_map_lose_nothing() -> None:
    a, b = cloud(400, 1), cloud(500, 2)
    far = np.array([5.1e6, 4.2e5, 300.0])
    off = nearest_distances(a + far, b + far) - nearest_distances(a, b)
    assert np.abs(off).max() < 1e-5


def test_many_times_the_same_point_is_searched_as_well() -> None:
    assert nearest_distances(np.ones((5, 3)), np.zeros((20_000, 3))) == pytest.approx(np.sqrt(3))


def test_measures_by_hand() -> None:
    true = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0]])
    found = np.array([[0.0, 0.01, 0], [1, 0.03, 0], [2, 0, 0.5]])
    settings = CloudSettings(cap=0.1, thresholds=(0.02, 0.05))
    scores = compare_clouds(found, true, settings)
    assert scores.accuracy == pytest.approx((0.01 + 0.03) / 2)
    assert scores.completeness == pytest.approx((0.01 + 0.03) / 2)
    assert scores.overall == pytest.approx(0.02)
    assert (scores.accuracy_outliers, scores.completeness_outliers) == (1 / 3, 2 / 4)
    assert scores.precision == pytest.approx((1 / 3, 2 / 3))
    assert scores.recall == pytest.approx((1 / 4, 2 / 4))
    assert scores.f_score == pytest.approx((2 * (1 / 3) / 4 / (7 / 12), 2 * (2 / 3) / 2 / (7 / 6)))


def test_swapping_the_clouds_swaps_accuracy_and_completeness() -> None:
    a, b = cloud(200, 3), cloud(300, 4)
    settings = CloudSettings(cap=0.5, thresholds=(0.2,))
    one, other = compare_clouds(a, b, settings), compare_clouds(b, a, settings)
    assert one.accuracy == pytest.approx(other.completeness, abs=1e-7)
    assert one.recall == other.precision
    assert one.f_score == other.f_score


def test_a_point_that_the_truth_did_not_see_does_not_count_against_the_cloud() -> None:
    true = np.zeros((1, 3))
    found = np.array([[0.0, 0, 0.01], [5, 5, 5]])
    scores = compare_clouds(found, true, CloudSettings(), is_observed=np.array([True, False]))
    assert (scores.precision, scores.recall) == ((1.0,), (1.0,))
    assert scores.accuracy_outliers == 0


def test_an_empty_or_a_distant_cloud_is_infinitely_wrong() -> None:
    true = cloud(50, 5)
    for found in (np.empty((0, 3)), true + 100):
        scores = compare_clouds(found, true, CloudSettings())
        assert scores.completeness == scores.overall == np.inf
        assert (scores.f_score, scores.completeness_outliers) == ((0.0,), 1.0)


def test_a_thinned_cloud_has_a_point_of_its_own_a_cube() -> None:
    points = cloud(2000, 6)
    few = thin(points, 0.25)
    cells = {tuple(cell) for cell in np.floor(points / 0.25).astype(int).tolist()}
    assert len(few) == len(cells)
    assert {tuple(cell) for cell in np.floor(few / 0.25).astype(int).tolist()} == cells
    assert set(map(tuple, few.tolist())) <= set(map(tuple, points.tolist()))
    with pytest.raises(ValueError, match="spacing must be above 0, got 0"):
        thin(points, 0.0)
