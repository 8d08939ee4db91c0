"""Small ranking logs for tests, and the schema that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cuesta.data import Feature, Schema


def log_schema(**changes: object) -> Schema:
    """Return a schema with every kind of feature."""
    given: dict[str, object] = {
        "label": "clicked",
        "time": "time",
        "user": "user",
        "dense": ("price", "age"),
        "split": (0.6, 0.2, 0.2),
        "features": (
            Feature(name="city"),
            Feature(name="history", vocabulary_of="item", ragged=True, group="h", longest=3),
            Feature(name="item", min_count=2),
            Feature(name="user", kind="hash", size=50),
            Feature(
                name="stars",
                kind="id",
                size=6,
                ragged=True,
                group="h",
                weights="shares",
                longest=3,
            ),
            Feature(name="tags", ragged=True),
        ),
        **changes,
    }
    return Schema(**given)


def log_frame(num_rows: int, *, seed: int = 0) -> pl.DataFrame:
    """Return random rows in time order, some of equal time; `row` numbers them."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 6, num_rows) * (draw.random(num_rows) < 0.7)
    return pl.DataFrame(
        {
            "row": np.arange(num_rows),
            "clicked": draw.integers(0, 2, num_rows).astype(np.int8),
            "time": np.sort(draw.integers(0, max(num_rows // 2, 1), num_rows)),
            "user": draw.integers(-5, 20, num_rows),
            "price": draw.random(num_rows, dtype=np.float32),
            "age": draw.integers(0, 90, num_rows),
            "city": pl.Series(
                [f"cité {k}" if k else None for k in draw.integers(0, 8, num_rows)], dtype=pl.String
            ),
            "item": draw.integers(0, 40, num_rows) ** 5,
            "history": pl.Series([draw.integers(0, 50, n) ** 5 for n in lengths], dtype=_INTEGERS),
            "stars": pl.Series([draw.integers(0, 6, n) for n in lengths], dtype=_INTEGERS),
            "shares": pl.Series([draw.random(n) for n in lengths], dtype=pl.List(pl.Float64)),
            "tags": pl.Series(
                [[f"t{k}" for k in draw.integers(0, 9, n)] for n in draw.integers(0, 3, num_rows)],
                dtype=pl.List(pl.String),
            ),
        }
    )


def write_log(
    frame: pl.DataFrame, folder: Path, *, row_group: int = 37, files: int = 1
) -> list[Path]:
    """Write the rows as Parquet files of many row groups."""
    paths = []
    bounds = np.linspace(0, len(frame), files + 1).astype(int)
    for number, (begin, end) in enumerate(pairwise(bounds)):
        paths.append(folder / f"part_{number}.parquet")
        write_columns(frame[begin:end].to_arrow(), paths[-1], row_group=row_group)
    return paths


def write_columns(table: pa.Table, path: Path, *, row_group: int = 37) -> None:
    """Write an Arrow table with small row groups."""
    pq.write_table(table, path, row_group_size=row_group)


def shuffled(frame: pl.DataFrame, order: Sequence[int]) -> pl.DataFrame:
    """Return the rows in this order."""
    return frame[list(order)]


_INTEGERS = pl.List(pl.Int64)
