"""What `cuesta bench reader` says of the combined format: rows of many ragged features made a batch of three tensors,
against a pair of tensors a feature, both in torch.

One contender holds each feature in memory as one `Ragged` and selects rows of it, which is the most that can be done a
feature at a time. The other is handed what a data set of samples gives a DataLoader, a dictionary of tensors a row,
and joins them feature by feature, as its collate would.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cuesta.cli.bench.harness import (
    OURS,
    Bar,
    Contender,
    Findings,
    Settings,
    check_bars,
    time_in_turns,
    time_rows,
)
from cuesta.data.batch import RankingBatch, batch_of
from cuesta.data.columns import columns_of
from cuesta.data.encoders import fit_encoders
from cuesta.data.parts import Layout
from cuesta.data.rows import Rows, Window, gather
from cuesta.data.schema import Feature, Schema
from cuesta.ragged import Ragged

NUM_FEATURES = 200
NUM_ROWS = 4096
BATCH_SIZE = 512
LONGEST = 6
SELECTED = "torch, select_rows a feature"
JOINED = "torch, cat a feature of samples"
LEAST = 5.0
_EVERY = 4  # repetitions: a thousand times 200 tensors take long

Sample = dict[str, Tensor]


class Held(NamedTuple):
    """Hold the same rows for us and a feature at a time."""

    rows: Rows
    features: dict[str, Ragged]

    def combined(self, order: np.ndarray) -> RankingBatch:
        """Return rows `order` as a reader does."""
        return batch_of(self.rows.layout, gather(self.rows, order))

    def selected(self, order: np.ndarray) -> dict[str, Ragged]:
        """Return rows `order` of each feature."""
        rows = torch.from_numpy(order)
        return {key: ragged.select_rows(rows) for key, ragged in self.features.items()}

    def samples(self, order: np.ndarray) -> list[Sample]:
        """Return rows `order` one by one."""
        return [{key: r.row(int(row)) for key, r in self.features.items()} for row in order]


def measure_collate(settings: Settings, findings: Findings) -> str | None:
    """Add how long a batch of many features takes; return what is wrong with ours, or None."""
    num_features = 4 if settings.quick else NUM_FEATURES
    held = _held(num_features)
    num_calls = settings.repetitions + 1
    draw = np.random.default_rng(0)
    orders = [draw.permutation(NUM_ROWS)[:BATCH_SIZE] for _ in range(num_calls)]
    every = 1 if settings.quick else _EVERY
    samples = [held.samples(order) if not n % every else [] for n, order in enumerate(orders)]
    ours = held.combined(orders[0])
    for key, right in held.selected(orders[0]).items():
        joined = _joined(samples[0])[key]
        for ragged in (right, joined):
            same = torch.equal(ours.features[key].values, ragged.values)
            if not same or not torch.equal(ours.features[key].offsets, ragged.offsets):
                return f"feature {key} of the batch differs"
    contenders = [
        Contender.over(OURS, held.combined, orders),
        Contender.over(SELECTED, held.selected, orders),
        Contender(JOINED, lambda n: _joined(samples[n]), every=every),
    ]
    seconds = time_in_turns(contenders, settings.repetitions, warm_up=1)
    case = f"collate {BATCH_SIZE} rows of {num_features} features"
    findings.rows += time_rows(case, seconds)
    findings.note(f"{case}: ours are 3 tensors, theirs {2 * num_features}; equal ids and offsets")
    if not settings.quick:
        check_bars(findings, [Bar(case, (SELECTED,), LEAST), Bar(case, (JOINED,), LEAST)])
    return None


def _joined(samples: list[Sample]) -> dict[str, Ragged]:
    """Return the collated samples: values and offsets of each feature."""
    return {key: Ragged.from_rows([sample[key] for sample in samples]) for key in samples[0]}


def _held(num_features: int) -> Held:
    draw = np.random.default_rng(0)
    names = [f"feature_{number}" for number in range(num_features)]
    lists = {}
    for name in names:
        offsets = np.concatenate([[0], np.cumsum(draw.integers(0, LONGEST, NUM_ROWS))])
        values = draw.integers(0, 1000, offsets[-1])
        lists[name] = pa.LargeListArray.from_arrays(offsets, values)
    schema = Schema(
        label="label",
        time="row",
        user="row",
        features=tuple(
            Feature(name=name, kind="id", size=1000, ragged=True, group=name) for name in names
        ),
    )
    row = np.arange(NUM_ROWS)
    window = Window(schema, fit_encoders(schema, []))
    window.append(columns_of(pa.table({"label": row % 2, "row": row, **lists})))
    features = {
        name: Ragged(*(torch.from_numpy(each.to_numpy().copy()) for each in (a.values, a.offsets)))
        for name, a in lists.items()
    }
    assert Layout.of(schema).keys == tuple(features)
    return Held(window.rows(), features)
