"""Sorting a log by time keeps all rows, and the order of those of equal time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cuesta.data import sort_by_time
from cuesta.errors import UserError
from tests.data.logs import log_frame, log_schema, shuffled, write_log


@pytest.mark.parametrize("bucket_bytes", [1, 10_000, 10**9])
def test_sorting_is_stable_and_complete(tmp_path: Path, bucket_bytes: int) -> None:
    mixed = shuffled(log_frame(300), list(np.random.default_rng(0).permutation(300)))
    (tmp_path / "in").mkdir()
    write_log(mixed, tmp_path / "in", files=2)
    target = tmp_path / "out" / "sorted.parquet"
    sort_by_time(tmp_path / "in", target, log_schema(), bucket_bytes=bucket_bytes)
    expected = mixed.sort("time", maintain_order=True).select(log_schema().columns())
    assert pl.read_parquet(target).equals(expected)
    assert os.listdir(target.parent) == ["sorted.parquet"]


def test_a_bad_row_leaves_nothing(tmp_path: Path) -> None:
    frame = log_frame(100).with_columns(clicked=pl.lit(3))
    with pytest.raises(UserError, match="clicked is 3"):
        sort_by_time(write_log(frame, tmp_path), tmp_path / "sorted.parquet", log_schema())
    assert os.listdir(tmp_path) == ["part_0.parquet"]
