"""Synthetic click streams: what clicks depend on is known, and so is the best normalised entropy.

A row is one impression of an item to a user; its click is drawn with probability sigmoid(z), where

    z = intercept + signal (p_u . R(t) q_i  +  sum_c e_c[x_c] / sqrt(C)  +  d . R(t) w)
        + history_signal mean_j s_j (q_i . q_j)

p, q: the factors of users and items; e: the effect of each value of the C categorical features; d:
the dense features and w their weights; j: the items of the user's last events with s = +1 where
clicked, -1 where not. R(t) turns pairs of coordinates by `drift` radians over the whole stream, so
that what is learned early grows stale. Ids follow a Zipf law. One row passes each second, so that a
user's earlier rows are strictly earlier.

Given everything in the row and the parameters at its time, no model has a lower expected log-loss
than the mean entropy of sigmoid(z): that over the entropy of the base rate is the Bayes NE.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import numba
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuesta.data.batch import RankingBatch, batch_of
from cuesta.data.columns import columns_of
from cuesta.data.encoders import fit_encoders
from cuesta.data.files import atomic_folder
from cuesta.data.order import Order, Span, Stretch, pieces
from cuesta.data.parts import Layout
from cuesta.data.reader import Chosen, joined
from cuesta.data.registry import data_root
from cuesta.data.rows import Rows, Window
from cuesta.data.schema import SPLITS, Feature, Schema, save_schema, split_bounds
from cuesta.errors import UserError

ROW_GROUP = 65_536
VERSION = 1  # of what a config generates; kept streams of another version are not used
START_S = 1_700_000_000


@final
@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Describe a stream; `mini`, `small` and `large` are sizes to start from."""

    num_rows: int = 100_000
    num_users: int = 2_000
    num_items: int = 1_000
    categories: tuple[int, ...] = (10, 100, 1_000)  # the size of each categorical feature
    num_dense: int = 4
    num_factors: int = 8
    longest: int = 20  # events kept of a user's history
    zipf: float = 1.1
    intercept: float = -1.0
    signal: float = 1.0
    history_signal: float = 2.0
    drift: float = 0.5
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_rows", "num_users", "num_items", "num_factors", "longest"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.zipf <= 0:
            raise UserError(f"zipf is {self.zipf}; give a number above 0")

    @staticmethod
    def mini() -> StreamConfig:
        """Return a stream for tests: 20,000 rows, a fraction of a second."""
        return StreamConfig(num_rows=20_000, num_users=500, num_items=200, categories=(7, 50))

    @staticmethod
    def small() -> StreamConfig:
        """Return a stream to learn from on a laptop: a million rows, seconds."""
        return StreamConfig(
            num_rows=1_000_000, num_users=20_000, num_items=10_000, categories=(10, 1_000, 10_000)
        )

    @staticmethod
    def large() -> StreamConfig:
        """Return a stream for measuring: fifty million rows, minutes, some ten GB."""
        return StreamConfig(
            num_rows=50_000_000,
            num_users=1_000_000,
            num_items=1_000_000,
            categories=(10, 1_000, 100_000, 1_000_000),
            num_dense=8,
            longest=50,
        )


class Bayes(NamedTuple):
    """Say what the true probabilities achieve: expected log-loss, over the base rate's entropy."""

    num_rows: int
    base_rate: float
    log_loss: float
    normalised_entropy: float


def stream_schema(config: StreamConfig) -> Schema:
    """Return the schema of the stream's columns."""
    names = [f"category_{number}" for number in range(len(config.categories))]
    return Schema(
        label="clicked",
        time="time",
        user="user",
        split=config.split,
        dense=tuple(f"dense_{number}" for number in range(config.num_dense)),
        features=(
            Feature(name="user", kind="id", size=config.num_users),
            Feature(name="item", kind="id", size=config.num_items),
            *(
                Feature(name=name, kind="id", size=size)
                for name, size in zip(names, config.categories, strict=True)
            ),
            Feature(
                name="history_item",
                vocabulary_of="item",
                ragged=True,
                group="history",
                weights="history_sign",
                longest=config.longest,
            ),
        ),
    )


def stream_tables(config: StreamConfig) -> Iterator[pa.Table]:
    """Yield the stream as Arrow tables: the schema's columns and the click's true `probability`."""
    parameters = Parameters.of(config)
    seen = _Seen.of(config)
    for first in range(0, config.num_rows, ROW_GROUP):
        yield _next_rows(
            config, parameters, seen, range(config.num_rows)[first : first + ROW_GROUP]
        )


def stream_batches(config: StreamConfig, *, batch_size: int) -> Iterator[RankingBatch]:
    """Yield the stream as batches in time order, without touching a disk."""
    schema = stream_schema(config)
    encoders = fit_encoders(schema, [])
    window, order, layout = (
        Window(schema, encoders),
        Order(batch_size=batch_size),
        Layout.of(schema),
    )

    def windows() -> Iterator[tuple[Rows, list[Chosen]]]:
        for number, table in enumerate(stream_tables(config)):
            window.clear()
            window.append(columns_of(table))
            span = Span(number, 0, table.num_rows)
            stretch = Stretch(number, number * ROW_GROUP, number, [span])
            found = pieces(order, stretch, config.num_rows)
            yield window.rows(), [Chosen(np.arange(*piece[:2]), piece.is_last) for piece in found]

    return (batch_of(layout, part) for part in joined(windows(), layout))


def write_stream(
    config: StreamConfig,
    folder: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Bayes]:
    """Write stream.parquet, schema.toml and stream.json to a new `folder`; return what is best.

    The folder appears when it is complete. stream.json holds the config and, for each split, the
    Bayes normalised entropy that is returned. `progress` is told the number of rows done and of all.
    """
    bounds = split_bounds(config.num_rows, stream_schema(config))
    with atomic_folder(folder) as temporary:
        sums = _write_rows(config, temporary / "stream.parquet", bounds, progress)
        best = {
            split: _bayes(bounds[number + 1] - bounds[number], *sums[number].tolist())
            for number, split in enumerate(SPLITS)
        }
        save_schema(stream_schema(config), temporary / "schema.toml")
        report = {
            "config": dataclasses.asdict(config),
            "bayes": {split: bayes._asdict() for split, bayes in best.items()},
        }
        (temporary / "stream.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return best


def stream_folder(name: str) -> Path:
    """Return where the stream `stream.mini`, `stream.small` or `stream.large` is kept."""
    return data_root() / f"{name}.v{VERSION}"


def entropy(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy in nats of a coin that falls 1 with each probability."""
    p = np.clip(probability, 1e-300, 1 - 1e-16)
    return -(p * np.log(p) + (1 - p) * np.log1p(-p))


class Parameters(NamedTuple):
    """Hold what the clicks depend on, as drawn at the stream's beginning."""

    users: NDArray[np.float32]  # [users, factors]
    items: NDArray[np.float32]  # [items, factors]
    effects: NDArray[np.float32]  # [values of all categories]
    first_effect: NDArray[np.int64]  # [categories]
    dense: NDArray[np.float32]  # [dense]

    @staticmethod
    def of(config: StreamConfig) -> Parameters:
        """Return the parameters of the stream."""
        draw = np.random.default_rng([config.seed, 0])
        shape = (config.num_users + config.num_items, config.num_factors)
        factors = draw.standard_normal(shape, dtype=np.float32) / np.float32(shape[1] ** 0.25)
        num_effects = sum(config.categories)
        return Parameters(
            users=factors[: config.num_users],
            items=factors[config.num_users :],
            effects=draw.standard_normal(num_effects, dtype=np.float32)
            / np.float32(max(len(config.categories), 1) ** 0.5),
            first_effect=np.cumsum([0, *config.categories])[:-1],
            dense=draw.standard_normal(config.num_dense, dtype=np.float32)
            / np.float32(max(config.num_dense, 1) ** 0.5),
        )


class _Seen(NamedTuple):
    """Hold each user's last events in a ring: event n is at n mod longest."""

    items: NDArray[np.int32]  # [users, longest]
    signs: NDArray[np.int8]  # [users, longest]
    counts: NDArray[np.int64]  # [users]

    @staticmethod
    def of(config: StreamConfig) -> _Seen:
        shape = (config.num_users, config.longest)
        return _Seen(
            np.zeros(shape, np.int32), np.zeros(shape, np.int8), np.zeros(shape[0], np.int64)
        )


def _write_rows(
    config: StreamConfig,
    file: Path,
    bounds: list[int],
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.float64]:
    """Write the rows; return for each split the sum of its labels and of its entropies."""
    sums = np.zeros((len(SPLITS), 2))
    done = 0
    tables = stream_tables(config)
    head = next(tables)
    with pq.ParquetWriter(file, head.schema) as writer:
        for table in itertools.chain([head], tables):
            writer.write_table(table, row_group_size=ROW_GROUP)
            for split in range(len(SPLITS)):
                begin, end = (max(bound - done, 0) for bound in bounds[split : split + 2])
                part = table.slice(begin, max(end - begin, 0))
                sums[split, 0] += part["clicked"].to_numpy().sum()
                sums[split, 1] += entropy(part["probability"].to_numpy()).sum()
            done += table.num_rows
            if progress is not None:
                progress(done, config.num_rows)
    return sums


def _next_rows(config: StreamConfig, parameters: Parameters, seen: _Seen, rows: range) -> pa.Table:
    """Draw and simulate `rows`; `seen` moves on."""
    draw = np.random.default_rng([config.seed, 1, rows.start])
    num_rows = len(rows)
    user = _zipf(draw, config.num_users, config.zipf, num_rows)
    item = _zipf(draw, config.num_items, config.zipf, num_rows)
    categories = np.empty((num_rows, len(config.categories)), np.int64)
    for number, size in enumerate(config.categories):
        categories[:, number] = _zipf(draw, size, config.zipf, num_rows)
    dense = draw.standard_normal((num_rows, config.num_dense), dtype=np.float32)
    turn = np.arange(rows.start, rows.stop) * (config.drift / config.num_rows)
    offsets = np.zeros(num_rows + 1, np.int32)
    history = np.empty(num_rows * config.longest, np.int32)
    signs = np.empty(num_rows * config.longest, np.float32)
    probability = np.empty(num_rows)
    clicked = np.empty(num_rows, np.int8)
    _simulate(
        (user, item, categories, dense, turn, draw.random(num_rows)),
        (config.intercept, config.signal, config.history_signal),
        parameters,
        seen,
        (offsets, history, signs, probability, clicked),
    )
    columns = {
        "clicked": clicked,
        "time": START_S + np.arange(rows.start, rows.stop),
        "user": user,
        "item": item,
        **{f"category_{number}": column for number, column in enumerate(categories.T)},
        **{f"dense_{number}": column for number, column in enumerate(dense.T)},
        "history_item": pa.ListArray.from_arrays(offsets, history[: offsets[-1]]),
        "history_sign": pa.ListArray.from_arrays(offsets, signs[: offsets[-1]]),
        "probability": probability,
    }
    return pa.table(columns)


def _zipf(
    draw: np.random.Generator, size: int, exponent: float, num_rows: int
) -> NDArray[np.int64]:
    """Return ids 0 .. size - 1 of which id k has probability about (k + 1)^-exponent.

    The density x^-exponent on [1, size + 1) is inverted and floored.
    """
    uniform = draw.random(num_rows)
    if exponent == 1:
        continuous = (size + 1.0) ** uniform
    else:
        power = 1 - exponent
        continuous = (1 + uniform * ((size + 1.0) ** power - 1)) ** (1 / power)
    return np.minimum(continuous.astype(np.int64) - 1, size - 1)


def _bayes(num_rows: int, clicks: float, entropies: float) -> Bayes:
    if num_rows == 0:
        return Bayes(0, 0.0, 0.0, 0.0)
    base_rate, log_loss = clicks / num_rows, entropies / num_rows
    return Bayes(num_rows, base_rate, log_loss, log_loss / float(entropy(np.array(base_rate))))


@numba.njit(nogil=True, cache=True)
def _turned(left, right, cosine, sine):  # type: ignore[no-untyped-def]
    """Return left . R right, R turning each pair of coordinates; an odd last one stays."""
    total = 0.0
    for k in range(0, left.shape[0] - 1, 2):
        total += left[k] * (cosine * right[k] - sine * right[k + 1])
        total += left[k + 1] * (sine * right[k] + cosine * right[k + 1])
    if left.shape[0] % 2:
        total += left[-1] * right[-1]
    return total


@numba.njit(nogil=True, cache=True)
def _simulate(rows, strengths, parameters, seen, out):  # type: ignore[no-untyped-def]
    user, item, categories, dense, turn, uniform = rows
    intercept, signal, history_signal = strengths
    offsets, history, signs, probability, clicked = out
    longest = seen.items.shape[1]
    end = 0
    for i in range(user.shape[0]):
        u, candidate = user[i], parameters.items[item[i]]
        cosine, sine = np.cos(turn[i]), np.sin(turn[i])
        own = _turned(parameters.users[u], candidate, cosine, sine)
        own += _turned(dense[i], parameters.dense, cosine, sine)
        for c in range(categories.shape[1]):
            own += parameters.effects[parameters.first_effect[c] + categories[i, c]]
        length, likeness = min(seen.counts[u], longest), 0.0
        for event in range(seen.counts[u] - length, seen.counts[u]):
            slot = event % longest
            history[end] = seen.items[u, slot]
            signs[end] = seen.signs[u, slot]
            other = parameters.items[history[end]]
            for k in range(candidate.shape[0]):
                likeness += signs[end] * candidate[k] * other[k]
            end += 1
        offsets[i + 1] = end
        logit = intercept + signal * own + history_signal * likeness / max(length, 1)
        probability[i] = 1 / (1 + np.exp(-logit))
        clicked[i] = uniform[i] < probability[i]
        slot = seen.counts[u] % longest
        seen.items[u, slot] = item[i]
        seen.signs[u, slot] = 1 if clicked[i] else -1
        seen.counts[u] += 1
