"""Synthetic streams: deterministic, with the Bayes error they claim and the drift they got."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from cuesta.data import StreamConfig, open_ranking_data, stream_batches, write_stream
from cuesta.data.check import check
from cuesta.data.streams import Parameters, entropy, stream_schema, stream_tables
from cuesta.errors import UserError

MINI = StreamConfig.mini()


@pytest.fixture(scope="module")
def stream() -> pl.DataFrame:
    return pl.DataFrame(pa.concat_tables(stream_tables(MINI)))


def log_loss(probability: np.ndarray, label: np.ndarray) -> float:
    return float(-np.log(np.where(label == 1, probability, 1 - probability)).mean())


def test_a_seed_is_a_stream(stream: pl.DataFrame) -> None:
    again = pl.DataFrame(pa.concat_tables(stream_tables(MINI)))
    assert again.equals(stream)
    other = next(stream_tables(dataclasses.replace(MINI, seed=1)))
    assert not pl.DataFrame(other).equals(stream[: other.num_rows])


def test_the_bayes_log_loss_equals_monte_carlo(stream: pl.DataFrame, tmp_path: Path) -> None:
    """Clicks drawn again and again from the true probabilities cost what is claimed, on average."""
    bayes = write_stream(MINI, tmp_path / "stream")["train"]
    probability = stream["probability"].to_numpy()[: bayes.num_rows]
    draw = np.random.default_rng(0)
    costs = [log_loss(probability, draw.random(len(probability)) < probability) for _ in range(200)]
    error = np.std(costs) / np.sqrt(len(costs))
    assert abs(np.mean(costs) - bayes.log_loss) < 4 * error
    base = float(entropy(np.array(stream["clicked"][: bayes.num_rows].mean())))
    assert bayes.normalised_entropy == bayes.log_loss / base
    assert 0.3 < bayes.normalised_entropy < 0.9


def test_the_clicks_are_drawn_from_the_probabilities(stream: pl.DataFrame) -> None:
    probability, clicked = stream["probability"].to_numpy(), stream["clicked"].to_numpy()
    spread = np.sqrt((probability * (1 - probability)).sum())
    assert abs(clicked.sum() - probability.sum()) < 4 * spread
    for low in np.arange(0, 1, 0.1):
        within = (probability >= low) & (probability < low + 0.1)
        p = probability[within]
        assert abs(clicked[within].sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum()) + 1


def test_the_probabilities_follow_the_formula(stream: pl.DataFrame) -> None:
    parameters = Parameters.of(MINI)

    def turned(vector: np.ndarray, angle: float) -> np.ndarray:
        left, right = vector[0::2].astype(float), vector[1::2].astype(float)
        result = np.empty(len(vector))
        result[0::2] = np.cos(angle) * left - np.sin(angle) * right
        result[1::2] = np.sin(angle) * left + np.cos(angle) * right
        return result

    for number in (0, 777, 19_999):
        row = stream.row(number, named=True)
        angle = MINI.drift * number / MINI.num_rows
        item = parameters.items[row["item"]]
        own = parameters.users[row["user"]] @ turned(item, angle)
        dense = np.array([row[f"dense_{k}"] for k in range(MINI.num_dense)])
        own += dense @ turned(parameters.dense, angle)
        for c, first in enumerate(parameters.first_effect):
            own += parameters.effects[first + row[f"category_{c}"]]
        likeness = [
            sign * (item @ parameters.items[other])
            for other, sign in zip(row["history_item"], row["history_sign"], strict=True)
        ]
        logit = MINI.intercept + MINI.signal * own
        logit += MINI.history_signal * np.mean(likeness) if likeness else 0.0
        assert row["probability"] == pytest.approx(1 / (1 + np.exp(-logit)))


def test_histories_are_the_users_last_events(stream: pl.DataFrame) -> None:
    past: dict[int, list[tuple[int, float]]] = {}
    for row in stream[:3000].iter_rows(named=True):
        expected = past.setdefault(row["user"], [])[-MINI.longest :]
        given = list(zip(row["history_item"], row["history_sign"], strict=True))
        assert given == expected
        past[row["user"]].append((row["item"], 1.0 if row["clicked"] else -1.0))


def test_histories_carry_signal() -> None:
    """Without them the best log-loss is another: the same rows, the history's strength set to 0."""
    strong, none = (
        np.concatenate([table["probability"].to_numpy() for table in stream_tables(config)])
        for config in (MINI, dataclasses.replace(MINI, history_signal=0.0))
    )
    assert np.abs(strong - none).mean() > 0.02


def test_drift_makes_what_was_learned_early_stale() -> None:
    """The same users and items at the end of the stream click by other probabilities."""

    def change(drift: float) -> float:
        config = dataclasses.replace(MINI, drift=drift, history_signal=0.0)
        table = pl.DataFrame(pa.concat_tables(stream_tables(config)))
        still = pl.DataFrame(
            pa.concat_tables(stream_tables(dataclasses.replace(config, drift=0.0)))
        )
        gap = (table["probability"] - still["probability"]).abs().to_numpy()
        return float(gap[-2000:].mean() - gap[:2000].mean())

    assert change(0.0) == 0
    assert 0 < change(0.2) < change(1.0)


def test_ids_follow_zipf() -> None:
    config = dataclasses.replace(MINI, num_items=1000, zipf=1.2)
    items = np.concatenate([table["item"].to_numpy() for table in stream_tables(config)])
    counts = np.bincount(items, minlength=1000)
    assert counts.min() >= 0
    assert len(counts) == 1000
    slope = np.polyfit(np.log(np.arange(3, 60)), np.log(counts[2:59]), 1)[0]
    assert abs(slope + 1.2) < 0.15


def test_a_written_stream_opens_sound(tmp_path: Path, stream: pl.DataFrame) -> None:
    folder = tmp_path / "stream"
    bayes = write_stream(MINI, folder)
    assert sorted(os.listdir(folder)) == ["schema.toml", "stream.json", "stream.parquet"]
    assert check(folder, folder / "schema.toml") == []
    data = open_ranking_data(folder)
    assert data.schema == stream_schema(MINI)
    assert data.sizes["history_item"] == MINI.num_items
    assert data.base_rate("test") == bayes["test"].base_rate
    told = json.loads((folder / "stream.json").read_text())
    assert told["config"]["num_rows"] == MINI.num_rows == len(stream)
    assert told["bayes"]["test"] == bayes["test"]._asdict()


def test_batches_in_memory_equal_those_of_the_file(tmp_path: Path) -> None:
    config = dataclasses.replace(MINI, num_rows=3000, split=(1.0, 0.0, 0.0))
    write_stream(config, tmp_path / "stream")
    written = open_ranking_data(tmp_path / "stream").batches("train", batch_size=700)
    for ours, theirs in zip(stream_batches(config, batch_size=700), written, strict=True):
        assert torch.equal(ours.features.values, theirs.features.values)
        assert torch.equal(ours.features.offsets, theirs.features.offsets)
        assert torch.equal(ours.dense, theirs.dense)
        assert torch.equal(ours.label, theirs.label)


def test_an_existing_folder_and_senseless_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already exists"):
        write_stream(MINI, tmp_path)
    with pytest.raises(UserError, match="num_users is 0; give at least 1"):
        dataclasses.replace(MINI, num_users=0)
    with pytest.raises(UserError, match="zipf is -1; give a number above 0"):
        dataclasses.replace(MINI, zipf=-1)
