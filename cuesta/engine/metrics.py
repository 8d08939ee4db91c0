"""Metrics of a ranker: log-loss, normalised entropy, AUC (exact and streaming), grouped AUC and
calibration.

Everything takes logits, not probabilities: a float32 sigmoid rounds large logits to ties and its
logarithm to infinity. Sums are float64, counts int64, and no result depends on the order of rows
beyond rounding. A metric that does not exist, such as an AUC without negatives, is NaN.

Sources: normalised entropy, He et al., ADKDD 2014, section 3; AUC as the Mann-Whitney statistic
with ties counted half; gAUC, Zhou et al., KDD 2018 (DIN), section 6.2; expected calibration error,
Naeini et al., AAAI 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float64, Int, Int64, Num, Shaped

Labels = Shaped[np.ndarray, " B"]  # 0 and 1, of any type
Scores = Num[np.ndarray, " B"]

MEANINGS = {
    "auc": "chance that a random positive scores above a random negative; higher is better",
    "ne": "normalised entropy: log-loss over that of this split's base rate; lower is better",
    "log_loss": "mean negative log-likelihood in nats; lower is better",
    "gauc": "AUC within each user, averaged by impressions; higher is better",
    "calibration": "predicted over actual positives; 1 is best",
    "calibration_error": "mean distance of predicted and actual rate over bins; lower is better",
    "base_rate": "share of positives",
    "rows": "impressions evaluated",
}


def log_loss(labels: Labels, logits: Scores) -> float:
    """Return the mean of softplus(z) - y z over logits z and labels y; NaN without rows."""
    if not len(labels):
        return float("nan")
    z = np.asarray(logits, np.float64)
    return float(np.mean(np.logaddexp(0.0, z) - np.asarray(labels, np.float64) * z))


def entropy(rate: float) -> float:
    """Return the entropy in nats of a coin that shows 1 at `rate`; NaN at 0 and 1."""
    if not 0.0 < rate < 1.0:
        return float("nan")
    return float(-rate * np.log(rate) - (1.0 - rate) * np.log1p(-rate))


def normalised_entropy(labels: Labels, logits: Scores) -> float:
    """Return the log-loss over the entropy of the base rate of these very labels.

    The base rate is that of the evaluated rows, not of the training rows, so that the denominator
    is the same for every model that is evaluated on them. 1 is what the constant prediction of the
    base rate scores.
    """
    return log_loss(labels, logits) / entropy(_mean(labels))


def auc(labels: Labels, scores: Scores) -> float:
    """Return the share of (positive, negative) pairs in the right order, ties counted half.

    Exact: pairs are counted in integers, for up to 2e9 positives and as many negatives.
    """
    groups = _grouped_auc(labels, scores, np.zeros(len(labels), np.int64))
    return float(groups.auc[0]) if len(groups.auc) else float("nan")


def gauc(labels: Labels, scores: Scores, groups: Shaped[np.ndarray, " B"]) -> float:
    """Return the mean of each group's AUC, weighted by its rows, over groups with both labels."""
    found = _grouped_auc(labels, scores, groups)
    return float(np.average(found.auc, weights=found.rows)) if len(found.auc) else float("nan")


class _GroupedAUC(NamedTuple):
    """Hold AUC and number of rows of each group that has both labels."""

    auc: Float64[np.ndarray, " _"]
    rows: Int64[np.ndarray, " _"]


def _grouped_auc(labels: Labels, scores: Scores, groups: Shaped[np.ndarray, " B"]) -> _GroupedAUC:
    """Sort by group and score, then count in runs of ties.

    A positive beats the negatives below it in its group, and half of those it ties with.
    """
    if not len(labels):
        return _GroupedAUC(np.empty(0), np.empty(0, np.int64))
    order = np.lexsort((scores, groups))
    positive = np.asarray(labels)[order] > 0.5
    group, score = np.asarray(groups)[order], np.asarray(scores)[order]
    new_group = np.append(True, group[1:] != group[:-1])
    new_tie = new_group | np.append(True, score[1:] != score[:-1])
    group_start, tie_start = np.flatnonzero(new_group), np.flatnonzero(new_tie)
    positives = np.add.reduceat(positive, tie_start, dtype=np.int64)  # of each run of ties
    negatives = np.add.reduceat(~positive, tie_start, dtype=np.int64)
    first_tie = np.searchsorted(tie_start, group_start)  # of each group
    below = np.cumsum(negatives) - negatives
    below -= np.repeat(below[first_tie], np.diff(np.append(first_tie, len(tie_start))))
    twice_ordered = np.add.reduceat(positives * (2 * below + negatives), first_tie)
    group_positives = np.add.reduceat(positives, first_tie)
    group_negatives = np.add.reduceat(negatives, first_tie)
    counted = (group_positives > 0) & (group_negatives > 0)
    twice_pairs = 2 * group_positives[counted] * group_negatives[counted]
    rows = (group_positives + group_negatives)[counted]
    return _GroupedAUC(twice_ordered[counted] / twice_pairs, rows)


class CalibrationBin(NamedTuple):
    """Hold one bin of a reliability table: mean predicted and actual rate of `rows` rows."""

    predicted: float
    actual: float
    rows: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Hold how far predicted probabilities are from observed rates.

    `ratio` is predicted over actual positives; `error` the mean distance of the two rates over
    `bins`, weighted by rows.
    """

    ratio: float
    error: float
    bins: tuple[CalibrationBin, ...]


def calibration(labels: Labels, logits: Scores, *, num_bins: int = 20) -> Calibration:
    """Return the calibration over `num_bins` bins of equal count; equal predictions share one."""
    num_rows = len(labels)
    if not num_rows:
        return Calibration(ratio=float("nan"), error=float("nan"), bins=())
    predicted = sigmoid(logits)
    order = np.argsort(predicted)
    predicted = predicted[order]
    actual = np.asarray(labels, np.float64)[order]
    cuts = predicted[[num_rows * cut // num_bins for cut in range(1, num_bins)]]
    start = np.unique(np.append(0, np.searchsorted(predicted, cuts, side="left")))
    rows = np.diff(np.append(start, num_rows))
    mean_predicted = np.add.reduceat(predicted, start) / rows
    mean_actual = np.add.reduceat(actual, start) / rows
    table = zip(mean_predicted.tolist(), mean_actual.tolist(), rows.tolist(), strict=True)
    total = actual.sum()
    return Calibration(
        ratio=float(predicted.sum() / total) if total else float("nan"),
        error=float(np.sum(rows * np.abs(mean_predicted - mean_actual)) / num_rows),
        bins=tuple(CalibrationBin(*row) for row in table),
    )


def sigmoid(logits: Scores) -> Float64[np.ndarray, " B"]:
    """Return 1 / (1 + exp(-z)) in float64, without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


@final
@dataclass
class StreamingAUC:
    """Accumulate AUC in a fixed histogram of logits, for splits too large to sort.

    Pairs in different bins are counted exactly, pairs in the same bin as ties. So the result is
    within `error_bound()`, half the share of (positive, negative) pairs that share a bin, of the
    exact AUC. Logits beyond `limit` fall into the outermost bins.
    """

    num_bins: int = 1 << 16
    limit: float = 20.0
    _counts: Int64[np.ndarray, "2 _"] = field(init=False)

    def __post_init__(self) -> None:
        self._counts = np.zeros((2, self.num_bins), np.int64)

    def update(self, labels: Labels, logits: Scores) -> None:
        """Add rows."""
        z = np.asarray(logits, np.float64)
        position = (z / self.limit + 1.0) * (self.num_bins / 2)
        bins = np.clip(position, 0, self.num_bins - 1).astype(np.int64)
        positive = np.asarray(labels) > 0.5
        self._counts[0] += np.bincount(bins[~positive], minlength=self.num_bins)
        self._counts[1] += np.bincount(bins[positive], minlength=self.num_bins)

    def result(self) -> float:
        """Return the AUC of all rows added."""
        negatives, positives = self._counts.astype(np.float64)
        below = np.cumsum(negatives) - negatives
        return _ratio(np.sum(positives * (below + 0.5 * negatives)), self._pairs())

    def error_bound(self) -> float:
        """Return how far from the exact AUC `result` can be."""
        negatives, positives = self._counts.astype(np.float64)
        return _ratio(0.5 * np.sum(positives * negatives), self._pairs())

    def _pairs(self) -> float:
        negatives, positives = self._counts.sum(axis=1).tolist()
        return float(negatives) * float(positives)


@final
@dataclass
class RankingMetrics:
    """Accumulate labels, logits and users of one split, for all exact metrics at its end.

    Keeps 16 bytes a row; ten million rows take 160 MB and some seconds to sort. Beyond, use
    `StreamingAUC`.
    """

    _labels: list[Labels] = field(default_factory=list)
    _logits: list[Scores] = field(default_factory=list)
    _users: list[Int[np.ndarray, " B"]] = field(default_factory=list)

    def update(self, labels: Labels, logits: Scores, users: Int[np.ndarray, " B"]) -> None:
        """Add rows; arrays are kept, not copied."""
        if not len(labels) == len(logits) == len(users):
            lengths = f"{len(labels)}, {len(logits)} and {len(users)}"
            raise ValueError(f"labels, logits and users must be of one length, got {lengths}")
        self._labels.append(labels)
        self._logits.append(logits)
        self._users.append(users)

    def labels(self) -> Labels:
        """Return the labels of all rows, in the order in which they came."""
        return _joined(self._labels, np.float32)

    def logits(self) -> Scores:
        """Return the logits of all rows, in the order in which they came."""
        return _joined(self._logits, np.float32)

    def users(self) -> Int[np.ndarray, " B"]:
        """Return the users of all rows, in the order in which they came."""
        return _joined(self._users, np.int64)

    def result(self) -> dict[str, float]:
        """Return every metric by name, those of `MEANINGS`."""
        labels, logits = self.labels(), self.logits()
        calibrated = calibration(labels, logits)
        return {
            "auc": auc(labels, logits),
            "ne": normalised_entropy(labels, logits),
            "log_loss": log_loss(labels, logits),
            "gauc": gauc(labels, logits, self.users()),
            "calibration": calibrated.ratio,
            "calibration_error": calibrated.error,
            "base_rate": _mean(labels),
            "rows": float(len(labels)),
        }


def _joined(parts: Sequence[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _mean(labels: Labels) -> float:
    return float(np.mean(labels, dtype=np.float64)) if len(labels) else float("nan")


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else float("nan")
