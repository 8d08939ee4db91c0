"""ml-100k: a row knows what happened strictly earlier, and nothing else."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cuesta.data import open_ranking_data
from cuesta.data.check import check
from cuesta.data.ml_100k import HISTORY, MEMBERS, Tables, convert, log_of, parse, schema
from cuesta.data.ml_100k_features import DENSE, Events, causal_features
from cuesta.data.registry import data_root, find_data_set, get_data_set

GENRES = ("Action", "Comedy", "Drama", "Sci-Fi")


def random_tables(seed: int, *, num_rows: int = 400) -> tuple[bytes, bytes, bytes]:
    """Return the three files of a small world, with many equal timestamps and gaps in the ids."""
    draw = np.random.default_rng(seed)
    pairs = draw.permutation(20 * 60)[:num_rows]
    users, items = pairs // 60 * 3 + 1, pairs % 60 * 2 + 5
    inter = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user, item in zip(users, items, strict=True):
        inter.append(
            f"{user}\t{item}\t{draw.integers(1, 6)}\t{880_000_000 + draw.integers(0, 150)}"
        )
    film = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    for item in range(5, 125, 2):
        genres = " ".join(draw.permutation(GENRES)[: draw.integers(0, 3)])
        film.append(f'{item}\tThe "film" {item}\t{draw.choice(["1995", "1996", ""])}\t{genres}')
    person = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    for user in range(1, 61, 3):
        person.append(f"{user}\t{draw.integers(10, 70)}\tF\twriter\t12345")
    return tuple("\n".join(lines).encode() for lines in (inter, film, person))


@pytest.fixture(scope="module")
def tables() -> Tables:
    return parse(*random_tables(0))


@pytest.fixture(scope="module")
def log(tables: Tables) -> pl.DataFrame:
    return pl.DataFrame(log_of(tables))


@pytest.fixture(scope="module")
def real() -> pl.DataFrame:
    """Return the real log where its wheel is at hand; tests never use the network."""
    data_set = find_data_set("ml-100k")
    for root in (data_root(), Path.home() / ".cache" / "cuesta"):
        if (root / "downloads" / data_set.source.file).exists():
            return pl.read_parquet(get_data_set("ml-100k", root=root) / "ml-100k.parquet")
    pytest.skip(f"{data_set.source.file} is not in the cache; run: cuesta data get ml-100k")


def check_histories(log: pl.DataFrame, rows: np.ndarray) -> None:
    """Compare histories with all strictly earlier events of the user, found by brute force."""
    for row in rows:
        now = log.row(int(row), named=True)
        earlier = log.filter((pl.col("user") == now["user"]) & (pl.col("time") < now["time"]))
        earlier = earlier.tail(HISTORY)
        residual = earlier["rating"] - earlier["item_mean"]
        assert now["history_item"] == earlier["item"].to_list()
        assert now["history_rating"] == earlier["rating"].to_list()
        assert now["history_residual"] == residual.to_list()
        assert now["history_year"] == earlier["year"].to_list()
        assert now["history_genre_set"] == earlier["genre_set"].to_list()
        age = np.log1p((now["time"] - earlier["time"].to_numpy()) / 60) / 5
        assert now["history_age"] == age.astype(np.float32).tolist()


def test_rows_are_in_time_order_and_equal_times_keep_theirs(tables: Tables) -> None:
    lines = [line.split("\t") for line in random_tables(0)[0].decode().splitlines()[1:]]
    expected = sorted(lines, key=lambda line: int(line[3]))
    assert tables.inter["item_id"].to_list() == [int(line[1]) for line in expected]


def test_histories_are_strictly_earlier(log: pl.DataFrame) -> None:
    assert log["time"].n_unique() < len(log)
    check_histories(log, np.arange(len(log)))


def test_a_user_seen_twice_at_once_does_not_know_of_it(log: pl.DataFrame) -> None:
    twice = log.filter(pl.struct("user", "time").is_duplicated())
    assert len(twice) > 0
    lengths = twice.group_by("user", "time").agg(pl.col("history_item").list.len().n_unique())
    assert lengths["history_item"].max() == 1


def test_labels_and_static_columns(log: pl.DataFrame, tables: Tables) -> None:
    assert ((log["rating"] >= 4).cast(pl.Int8) == log["label"]).all()
    assert (log["hour"] == log["time"] // 3600 % 24).all()
    joined = log.join(tables.item, left_on="item", right_on="item_id", maintain_order="left")
    assert (joined["year"] == joined["year_right"]).all()
    assert joined["genres"].to_list() == joined["genres_right"].to_list()
    sets = [sum(1 << GENRES.index(genre) for genre in row) for row in log["genres"]]
    assert log["genre_set"].to_list() == sets
    bands = log.join(tables.user, left_on="user", right_on="user_id", maintain_order="left")
    assert (bands["age_band"] == bands["age_band_right"]).all()
    assert set(log["age_band"]) <= {"under 18", "18-24", "25-34", "35-44", "45-49", "50-55"} | {
        "56 and over"
    }


def naive_features(log: pl.DataFrame, row: int) -> dict[str, float]:
    """Compute a row's running features from the events strictly before it, one by one."""
    now = log.row(row, named=True)
    past = log.filter(pl.col("time") < now["time"])
    mean = (past["rating"].sum() + 3.5 * 50) / (len(past) + 50)
    positive = (past["label"].sum() + 0.55 * 50) / (len(past) + 50)
    item = past.filter(pl.col("item") == now["item"])
    mine = past.filter(pl.col("user") == now["user"])
    residual = (mine["rating"] - mine["item_mean"]).to_numpy().astype(float)
    user = residual.sum() / (len(mine) + 5)
    genres = [
        (residual[(has := mine["genres"].list.contains(g).to_numpy())] - user).sum()
        / (has.sum() + 5)
        for g in now["genres"]
    ]
    return {
        "item_mean": (item["rating"].sum() + 5 * mean) / (len(item) + 5),
        "item_log_count": np.log1p(len(item)),
        "item_positive": (item["label"].sum() + 5 * positive) / (len(item) + 5),
        "user_residual": user,
        "user_log_count": np.log1p(len(mine)),
        "user_residual_std": np.sqrt(((residual**2).sum() + 5) / (len(mine) + 5)),
        "user_genre_residual": float(np.mean(genres)) if genres else 0.0,
        "recent_residual": residual[-10:].sum() / (min(len(mine), 10) + 2),
        "log_gap": np.log1p(now["time"] - mine["time"][-1]) if len(mine) else 0.0,
        "neighbour_residual": naive_neighbours(past, mine, now),
    }


def naive_neighbours(past: pl.DataFrame, mine: pl.DataFrame, now: dict[str, object]) -> float:
    """Weigh what the user gave other items beyond her mean by their likeness to this one."""

    def beyond(events: pl.DataFrame) -> np.ndarray:
        columns = ("rating", "item_mean", "user_residual")
        rating, item, user = (events[name].to_numpy().astype(float) for name in columns)
        return rating - item - user

    candidate = past.filter(pl.col("item") == now["item"])
    weighted = weight = 0.0
    for event, z in zip(mine.iter_rows(named=True), beyond(mine), strict=True):
        both = candidate.join(past.filter(pl.col("item") == event["item"]), on="user")
        other = beyond(
            both.select(
                "user", *(f"{n}_right" for n in ("rating", "item_mean", "user_residual"))
            ).rename(lambda name: name.removesuffix("_right"))
        )
        ours = beyond(both)
        shared = len(set(now["genres"]) & set(event["genres"]))
        either = max(len(set(now["genres"]) | set(event["genres"])), 1)
        product = (ours * other).sum() + 10 * shared / either
        near = product / np.sqrt(((ours**2).sum() + 100) * ((other**2).sum() + 100))
        weighted += near * abs(near) * z
        weight += near * near
    return weighted / (weight + 0.3)


def test_features_equal_a_naive_reading_of_the_past(log: pl.DataFrame) -> None:
    eps = float(np.finfo(np.float32).eps)
    for row in np.random.default_rng(0).permutation(len(log))[:40]:
        for name, expected in naive_features(log, int(row)).items():
            given = log[name][int(row)]
            assert abs(given - expected) < 64 * eps * max(abs(expected), 1), (row, name)


def test_later_ratings_change_no_earlier_row(tables: Tables, log: pl.DataFrame) -> None:
    cut = log["time"][200]
    draw = np.random.default_rng(1)
    ratings = np.where(
        log["time"] >= cut, draw.integers(1, 6, len(log)), log["rating"].to_numpy()
    ).astype(np.float32)
    inter = tables.inter.with_columns(rating=pl.Series(ratings))
    changed = pl.DataFrame(log_of(tables._replace(inter=inter)))
    known = [name for name in log.columns if name not in ("rating", "label")]
    until = pl.col("time") <= cut
    assert changed.filter(until).select(known).equals(log.filter(until).select(known))
    assert not changed.select(known).equals(log.select(known))


def test_long_histories_keep_the_last_events() -> None:
    num_rows = 30
    events = Events(
        user=np.zeros(num_rows, np.int64),
        item=np.arange(num_rows),
        rating=np.full(num_rows, 3, np.float32),
        time=np.arange(num_rows),
        genres=np.ones((num_rows, 1), np.float32),
    )
    known = causal_features(events, longest=4)
    assert known.history[-4:].tolist() == [25, 26, 27, 28]
    assert np.diff(known.offsets).tolist() == [0, 1, 2, 3] + [4] * 26


def test_a_wheel_becomes_a_log_that_opens(tmp_path: Path) -> None:
    wheel = tmp_path / "recbole-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        for member, content in zip(MEMBERS, random_tables(3), strict=True):
            opened.writestr(member, content)
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    convert(wheel, folder)
    assert sorted(os.listdir(folder)) == ["ml-100k.parquet", "schema.toml"]
    assert check(folder, folder / "schema.toml") == []
    data = open_ranking_data(folder)
    assert data.schema == schema()
    assert [data.num_rows(split) for split in ("train", "validation", "test")] == [320, 40, 40]
    batch = next(data.batches("test", batch_size=40))
    assert batch.dense.shape == (40, len(DENSE))
    assert batch.features["history_item"].lengths().max() <= 50


def test_the_real_data_set(real: pl.DataFrame) -> None:
    assert len(real) == 100_000
    assert real["label"][90_000:].mean() == 0.5629
    assert (real["user"].n_unique(), real["item"].n_unique()) == (943, 1682)
    check_histories(real, np.random.default_rng(0).permutation(100_000)[:30])
