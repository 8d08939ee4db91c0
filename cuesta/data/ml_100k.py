"""ml-100k as a ranking log: from the recbole wheel's three tables to Parquet and a schema.

The protocol is prequential: rows are in time order (stable), split 80/10/10, and what a row knows
is everything at strictly earlier timestamps, those of the validation and test periods included, as
a live system would. The label is rating >= 4; `rating` is in the file but not in the schema.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuesta.data.ml_100k_features import DENSE, Events, Known, causal_features
from cuesta.data.schema import Feature, Schema, save_schema
from cuesta.data.sources import read_members

MEMBERS = tuple(
    f"recbole/dataset_example/ml-100k/ml-100k.{kind}" for kind in ("inter", "item", "user")
)
HISTORY = 100  # events kept in the file; the schema reads the last 50 of them
_AGE_BANDS = ("under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56 and over")
_AGE_BOUNDS = (18, 25, 35, 45, 50, 56)
_ROW_GROUP = 10_000


class Tables(NamedTuple):
    """Hold the three tables with typed columns; `inter` is in time order, items by their id."""

    inter: pl.DataFrame  # user_id, item_id, rating, timestamp
    item: pl.DataFrame  # item_id, year (0: unknown), genres (list)
    user: pl.DataFrame  # user_id, age_band, gender, occupation


def schema() -> Schema:
    """Return the schema of the converted log."""

    def history(name: str, **given: str | int) -> Feature:
        return Feature(name=name, ragged=True, group="history", longest=50, **given)  # type: ignore[arg-type]

    return Schema(
        label="label",
        time="time",
        user="user",
        dense=DENSE,
        features=(
            Feature(name="user"),
            Feature(name="item"),
            Feature(name="age_band"),
            Feature(name="gender"),
            Feature(name="occupation"),
            Feature(name="genres", ragged=True),
            Feature(name="genre_set"),
            Feature(name="year"),
            Feature(name="hour", kind="id", size=24),
            history("history_item", vocabulary_of="item", weights="history_residual"),
            history("history_rating", kind="id", size=6, weights="history_age"),
            history("history_genre_set", vocabulary_of="genre_set"),
            history("history_year", vocabulary_of="year"),
        ),
    )


def convert(wheel: Path, folder: Path) -> None:
    """Write ml-100k.parquet and schema.toml into `folder` from the recbole wheel."""
    tables = parse(*read_members(wheel, MEMBERS, max_bytes=16 * 2**20))
    pq.write_table(log_of(tables), folder / "ml-100k.parquet", row_group_size=_ROW_GROUP)
    save_schema(schema(), folder / "schema.toml")


def parse(inter: bytes, item: bytes, user: bytes) -> Tables:
    """Return the tables in the three tab-separated files, whose headers read `name:type`."""
    people = _table(user)
    band = np.searchsorted(_AGE_BOUNDS, people["age"].cast(pl.Int64).to_numpy(), side="right")
    year = pl.col("release_year").cast(pl.Int32, strict=False)
    return Tables(
        inter=_table(inter)
        .select(
            pl.col("user_id").cast(pl.Int64),
            pl.col("item_id").cast(pl.Int64),
            pl.col("rating").cast(pl.Float32),
            pl.col("timestamp").cast(pl.Float64).cast(pl.Int64),
        )
        .sort("timestamp", maintain_order=True),
        item=_table(item)
        .select(
            pl.col("item_id").cast(pl.Int64),
            year.fill_null(0).alias("year"),
            pl.col("class").fill_null("").str.extract_all(r"\S+").list.sort().alias("genres"),
        )
        .sort("item_id"),
        user=people.select(
            pl.col("user_id").cast(pl.Int64),
            pl.Series("age_band", np.array(_AGE_BANDS)[band]),
            "gender",
            "occupation",
        ),
    )


def log_of(tables: Tables) -> pa.Table:
    """Return the ranking log: one row a rating, in time order."""
    inter = tables.inter
    item = np.searchsorted(tables.item["item_id"].to_numpy(), inter["item_id"].to_numpy())
    genres = tables.item["genres"]
    names = genres.explode().drop_nulls().unique().sort()
    has_genre = np.stack([genres.list.contains(name).to_numpy() for name in names], axis=1)
    genre_set = has_genre @ (1 << np.arange(len(names)))  # bit g: the g-th genre by name
    events = Events(
        user=np.unique(inter["user_id"].to_numpy(), return_inverse=True)[1],
        item=item,
        rating=inter["rating"].to_numpy(),
        time=inter["timestamp"].to_numpy(),
        genres=has_genre.astype(np.float32),
    )
    known = causal_features(events, longest=HISTORY)
    people = inter.join(tables.user, on="user_id", how="left", maintain_order="left")
    year = tables.item["year"].to_numpy()
    columns = {
        "label": (events.rating >= 4).astype(np.int8),
        "time": events.time,
        "user": inter["user_id"].to_arrow(),
        "item": inter["item_id"].to_arrow(),
        "rating": events.rating,
        **{name: people[name].to_arrow() for name in ("age_band", "gender", "occupation")},
        "genres": genres.gather(item).to_arrow(),
        "genre_set": genre_set[item],
        "year": year[item],
        "hour": events.time // 3600 % 24,
        **{name: known.dense[:, position] for position, name in enumerate(DENSE)},
        **_history_columns(inter, events, known, genre_set=genre_set, year=year),
    }
    return pa.table(columns)


def _history_columns(
    inter: pl.DataFrame,
    events: Events,
    known: Known,
    *,
    genre_set: NDArray[np.int64],
    year: NDArray[np.int32],
) -> dict[str, pa.Array]:
    """Return the list columns of the user's earlier events, oldest first.

    `history_residual` is the rating less the item's mean at that event's time; `history_age` is
    log(1 + minutes from that event to the row) / 5, of the order of 1.
    """
    earlier = known.history
    row = np.repeat(np.arange(len(inter)), np.diff(known.offsets))
    minutes = (events.time[row] - events.time[earlier]) / 60
    offsets = pa.array(known.offsets.astype(np.int32))
    values = {
        "history_item": inter["item_id"].to_numpy()[earlier].astype(np.int32),
        "history_rating": events.rating[earlier].astype(np.int8),
        "history_residual": known.residual[earlier],
        "history_age": (np.log1p(minutes) / 5).astype(np.float32),
        "history_genre_set": genre_set[events.item[earlier]].astype(np.int32),
        "history_year": year[events.item[earlier]],
    }
    return {
        name: pa.ListArray.from_arrays(offsets, pa.array(column)) for name, column in values.items()
    }


def _table(text: bytes) -> pl.DataFrame:
    table = pl.read_csv(io.BytesIO(text), separator="\t", quote_char=None, infer_schema=False)
    return table.rename({name: name.split(":")[0] for name in table.columns})
