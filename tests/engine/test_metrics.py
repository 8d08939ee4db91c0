"""Metrics against their definitions, pair by pair, and scikit-learn where it has them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from sklearn import metrics as sklearn_metrics

from cuesta.engine.metrics import (
    MEANINGS,
    RankingMetrics,
    StreamingAUC,
    auc,
    calibration,
    entropy,
    gauc,
    log_loss,
    normalised_entropy,
    sigmoid,
)
from cuesta.engine.ranking_report import buckets, ranking_evaluation
from cuesta.engine.section import Table

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def rows(draw: st.DrawFn, min_size: int = 0) -> Rows:
    """Draw labels, logits with many ties, and users with few and many rows."""
    row = st.tuples(st.booleans(), st.integers(-8, 8), st.integers(0, 4))
    drawn = draw(st.lists(row, min_size=min_size, max_size=40))
    labels = np.array([label for label, _, _ in drawn], np.float32)
    logits = np.array([logit / 4 for _, logit, _ in drawn], np.float32)
    return labels, logits, np.array([user for _, _, user in drawn], np.int64)


def both_classes(labels: np.ndarray) -> bool:
    """Return whether there are positives and negatives."""
    return 0 < labels.sum() < len(labels)


def counted_auc(labels: np.ndarray, scores: np.ndarray) -> Fraction | None:
    """Return the AUC by its definition: every pair, one by one."""
    positives, negatives = scores[labels == 1], scores[labels == 0]
    if not len(positives) or not len(negatives):
        return None
    halves = sum(int(p > n) + int(p >= n) for p in positives for n in negatives)
    return Fraction(halves, 2 * len(positives) * len(negatives))


@given(rows())
def test_auc_counts_every_pair_exactly(drawn: Rows) -> None:
    labels, logits, _ = drawn
    expected = counted_auc(labels, logits)
    if expected is None:
        assert math.isnan(auc(labels, logits))
    else:
        assert auc(labels, logits) == float(expected)
        np.testing.assert_allclose(
            auc(labels, logits), sklearn_metrics.roc_auc_score(labels, logits)
        )


@given(rows())
def test_gauc_is_the_impression_weighted_mean_over_users_with_both_labels(drawn: Rows) -> None:
    labels, logits, users = drawn
    weighted, impressions = Fraction(0), 0
    for user in np.unique(users):
        inside = users == user
        expected = counted_auc(labels[inside], logits[inside])
        if expected is not None:
            weighted += int(inside.sum()) * expected
            impressions += int(inside.sum())
    if impressions:
        np.testing.assert_allclose(gauc(labels, logits, users), float(weighted / impressions))
    else:
        assert math.isnan(gauc(labels, logits, users))


@given(rows(min_size=1), st.randoms(use_true_random=False))
def test_permuting_rows_changes_no_metric(drawn: Rows, random: object) -> None:
    labels, logits, users = drawn
    order = np.random.default_rng(random.getrandbits(32)).permutation(len(labels))
    before, after = RankingMetrics(), RankingMetrics()
    before.update(labels, logits, users)
    after.update(labels[order], logits[order], users[order])
    for name, value in before.result().items():
        np.testing.assert_allclose(after.result()[name], value, err_msg=name)


@given(rows(min_size=1), st.integers(0, 40))
def test_batches_add_up_to_one_split(drawn: Rows, cut: int) -> None:
    whole, parts = RankingMetrics(), RankingMetrics()
    whole.update(*drawn)
    parts.update(*(column[:cut] for column in drawn))
    parts.update(*(column[cut:] for column in drawn))
    for name, value in whole.result().items():
        np.testing.assert_array_equal(parts.result()[name], value, err_msg=name)


@given(rows(), st.sampled_from([2, 7, 64]))
def test_streaming_auc_keeps_its_bound(drawn: Rows, num_bins: int) -> None:
    labels, logits, _ = drawn
    streaming = StreamingAUC(num_bins=num_bins, limit=1.5)
    for part in np.array_split(np.arange(len(labels)), 3):
        streaming.update(labels[part], logits[part])
    if both_classes(labels):
        distance = abs(streaming.result() - auc(labels, logits))
        assert distance <= streaming.error_bound() + np.finfo(np.float64).eps
    else:
        assert math.isnan(streaming.result())


def test_streaming_auc_is_close_on_many_rows() -> None:
    random = np.random.default_rng(0)
    labels = random.random(100_000) < 0.3
    logits = random.normal(labels * 1.0, 2.0)
    streaming = StreamingAUC()
    streaming.update(labels, logits)
    assert abs(streaming.result() - auc(labels, logits)) <= streaming.error_bound()
    assert streaming.error_bound() * 1000 < 1


@given(rows(min_size=1))
def test_log_loss_agrees_with_sklearn(drawn: Rows) -> None:
    labels, logits, _ = drawn
    expected = sklearn_metrics.log_loss(labels, sigmoid(logits), labels=[0, 1])
    np.testing.assert_allclose(log_loss(labels, logits), expected)


def test_log_loss_stays_finite_where_probabilities_round() -> None:
    assert log_loss(np.array([0.0, 1.0]), np.array([800.0, -800.0])) == 800.0
    assert sigmoid(np.array([-800.0, 0.0, 800.0])).tolist() == [0.0, 0.5, 1.0]


@given(rows(min_size=1))
def test_predicting_the_base_rate_has_a_normalised_entropy_of_one(drawn: Rows) -> None:
    labels, _, _ = drawn
    if not both_classes(labels):
        assert math.isnan(normalised_entropy(labels, np.zeros(len(labels))))
        return
    rate = float(labels.mean(dtype=np.float64))
    logits = np.full(len(labels), math.log(rate / (1 - rate)))
    np.testing.assert_allclose(normalised_entropy(labels, logits), 1.0)
    np.testing.assert_allclose(
        entropy(rate), sklearn_metrics.log_loss(labels, np.full(len(labels), rate))
    )


@given(rows(min_size=1), st.integers(1, 12))
def test_calibration_bins_partition_the_rows_by_prediction(drawn: Rows, num_bins: int) -> None:
    labels, logits, _ = drawn
    result = calibration(labels, logits, num_bins=num_bins)
    assert sum(row.rows for row in result.bins) == len(labels)
    assert len(result.bins) <= num_bins
    predicted = [row.predicted for row in result.bins]
    assert predicted == sorted(predicted)
    total = sum(row.rows * row.actual for row in result.bins)
    np.testing.assert_allclose(total, labels.sum())
    if labels.any():
        np.testing.assert_allclose(result.ratio, sigmoid(logits).sum() / labels.sum())
    error = sum(row.rows * abs(row.predicted - row.actual) for row in result.bins) / len(labels)
    np.testing.assert_allclose(result.error, error)


def test_calibration_bins_of_distinct_predictions_have_equal_counts() -> None:
    random = np.random.default_rng(0)
    logits = random.permutation(np.linspace(-3, 3, 1000))
    labels = random.random(1000) < sigmoid(logits)
    result = calibration(labels, logits, num_bins=10)
    assert [row.rows for row in result.bins] == [100] * 10
    actual, predicted = _sklearn_curve(labels, logits)
    np.testing.assert_allclose([row.predicted for row in result.bins], predicted)
    np.testing.assert_allclose([row.actual for row in result.bins], actual)


def _sklearn_curve(labels: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.calibration import calibration_curve

    return calibration_curve(labels, sigmoid(logits), n_bins=10, strategy="quantile")


def test_every_metric_of_a_ranker_is_explained() -> None:
    metrics = RankingMetrics()
    assert list(metrics.result()) == list(MEANINGS), "no rows are no error"


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises((ValueError, TypeCheckError)):  # the latter when shapes are checked
        RankingMetrics().update(np.zeros(3), np.zeros(2), np.zeros(3, np.int64))


@given(st.lists(st.integers(-5, 30), max_size=50), st.integers(1, 8))
def test_buckets_are_few_and_never_split_a_value(values: list[int], num_buckets: int) -> None:
    names = buckets(np.array(values, np.int64), num_buckets=num_buckets)
    assert len(names) == len(values)
    assert len(set(names)) <= num_buckets
    of_value = dict(zip(values, names, strict=True))
    assert [of_value[value] for value in values] == names.tolist()
    for value, name in of_value.items():
        low, _, high = name.partition(" to ")
        assert int(low) <= value <= int(high or low)


def test_slices_show_the_largest_buckets_and_gather_the_rest() -> None:
    random = np.random.default_rng(0)
    metrics = RankingMetrics()
    labels = (random.random(1000) < 0.4).astype(np.float32)
    logits, keys = random.normal(size=1000), np.minimum(random.geometric(0.2, 1000), 20)
    metrics.update(labels, logits, keys)
    evaluation = ranking_evaluation(metrics, {"depth": keys})
    (table,) = evaluation.sections[-1].parts
    assert isinstance(table, Table)
    assert len(table.rows) == 13
    assert str(table.rows[-1][0]).endswith(" others")
    assert sum(int(row[1]) for row in table.rows) == 1000
    first = np.flatnonzero(keys == int(table.rows[0][0]))
    assert table.rows[0][4] == auc(labels[first], logits[first])
