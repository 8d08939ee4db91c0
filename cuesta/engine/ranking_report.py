"""The evaluation of a ranker as a report shows it: metrics, calibration, scores, slices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Num, Shaped

from cuesta.engine.metrics import (
    MEANINGS,
    CalibrationBin,
    Labels,
    RankingMetrics,
    Scores,
    auc,
    calibration,
    log_loss,
    normalised_entropy,
    sigmoid,
)
from cuesta.engine.section import Chart, Section, Series, Table
from cuesta.engine.task import Evaluation

_MOST_BUCKETS = 12
_SLICE_COLUMNS = ("rows", "share", "base rate", "AUC", "NE", "log-loss", "calibration")


def ranking_evaluation(
    metrics: RankingMetrics, slices: Mapping[str, Shaped[np.ndarray, " B"]] | None = None
) -> Evaluation:
    """Return the evaluation of all rows in `metrics`.

    `slices` gives each row's bucket under a title, such as `{"history length": buckets(lengths)}`.
    """
    labels, logits = metrics.labels(), metrics.logits()
    sections = [_predictions_section(labels, logits)]
    if slices:
        sections.append(_slices_section(labels, logits, slices))
    return Evaluation(metrics=metrics.result(), meanings=MEANINGS, sections=tuple(sections))


def buckets(values: Num[np.ndarray, " B"], *, num_buckets: int = 5) -> Shaped[np.ndarray, " B"]:
    """Return each value's bucket, `low to high`, of at most `num_buckets` of equal count.

    >>> buckets(np.array([1, 1, 2, 9]), num_buckets=2).tolist()
    ['1', '1', '2 to 9', '2 to 9']
    """
    if not len(values):
        return np.empty(0, dtype=str)
    ordered = np.sort(values)
    starts = np.unique([ordered[len(ordered) * cut // num_buckets] for cut in range(num_buckets)])
    ends = ordered[np.append(np.searchsorted(ordered, starts[1:]) - 1, -1)]
    names = [f"{a:g}" if a == b else f"{a:g} to {b:g}" for a, b in zip(starts, ends, strict=True)]
    return np.array(names)[np.searchsorted(starts, values, side="right") - 1]


def _predictions_section(labels: Labels, logits: Scores) -> Section:
    bins = calibration(labels, logits).bins
    table = Table(
        title="Reliability table",
        columns=("predicted", "actual", "difference", "rows"),
        rows=tuple((p, a, p - a, rows) for p, a, rows in bins),
    )
    note = (
        f"Reliability has {len(bins)} bins of equal count by predicted probability; below the line "
        "the model promises too much. The less the scores overlap, the better the ranking."
    )
    parts = (_reliability_chart(bins), _histogram_chart(labels, logits), table)
    return Section(title="Predictions", note=note, parts=parts)


def _reliability_chart(bins: tuple[CalibrationBin, ...]) -> Chart:
    predicted = tuple(row.predicted for row in bins)
    actual = tuple(row.actual for row in bins)
    top = max((*predicted, *actual, 1e-3)) * 1.05
    return Chart(
        title="Reliability",
        x_label="predicted rate",
        y_label="actual rate",
        series=(
            Series(name="perfect", x=(0.0, top), y=(0.0, top), kind="reference"),
            Series(name="bins", x=predicted, y=actual, kind="points"),
        ),
    )


def _histogram_chart(labels: Labels, logits: Scores) -> Chart:
    predicted, positive = sigmoid(logits), np.asarray(labels) > 0.5
    edges = np.linspace(0.0, max(float(np.max(predicted, initial=0.0)), 1e-3), 41)
    series = []
    for name, rows in (("label 0", ~positive), ("label 1", positive)):
        counts, _ = np.histogram(predicted[rows], edges)
        share = counts / max(int(rows.sum()), 1)
        bars = Series(name=name, x=tuple(edges.tolist()), y=tuple(share.tolist()), kind="bars")
        series.append(bars)
    return Chart(
        title="Scores by label",
        x_label="predicted probability",
        y_label="share of the label's rows",
        series=tuple(series),
    )


def _slices_section(
    labels: Labels, logits: Scores, slices: Mapping[str, Shaped[np.ndarray, " B"]]
) -> Section:
    tables = [_slice_table(title, keys, labels, logits) for title, keys in slices.items()]
    note = (
        "NE of a slice is relative to the slice's own base rate, so 1 means: no better than "
        "knowing that rate. Small slices are noisy."
    )
    return Section(title="Slices", note=note, parts=tuple(tables))


def _slice_table(
    title: str, keys: Shaped[np.ndarray, " B"], labels: Labels, logits: Scores
) -> Table:
    """Return the metrics of the largest buckets by number or name, the others as one."""
    if len(keys) != len(labels):
        raise ValueError(f"slice {title!r} has {len(keys)} rows, the evaluation {len(labels)}")
    names, codes, counts = np.unique(
        np.asarray(keys).astype(str), return_inverse=True, return_counts=True
    )
    shown = np.sort(np.argsort(-counts, kind="stable")[:_MOST_BUCKETS])
    masks = {str(names[code]): codes == code for code in shown}
    masks = dict(sorted(masks.items(), key=lambda item: _natural(item[0])))
    if len(names) > len(shown):
        masks[f"{len(names) - len(shown)} others"] = ~np.isin(codes, shown)
    rows = []
    for name, mask in masks.items():
        inside = np.flatnonzero(mask)
        y, z = labels[inside], logits[inside]
        rate = float(np.mean(y, dtype=np.float64))
        quality = (auc(y, z), normalised_entropy(y, z), log_loss(y, z), calibration(y, z).ratio)
        rows.append((name, len(inside), f"{len(inside) / len(labels):.1%}", rate, *quality))
    return Table(title=f"By {title}", columns=(title, *_SLICE_COLUMNS), rows=tuple(rows))


def _natural(name: str) -> tuple[int, float, str]:
    """Order names that begin with a number by it, before all other names."""
    try:
        return (0, float(name.split()[0]), name)
    except (ValueError, IndexError):
        return (1, 0.0, name)
