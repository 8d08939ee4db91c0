"""The reader's batches: equal to a naive reading, permuted by a shuffle, resumed exactly."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuesta.data import Encoders, RankingBatch, RankingData, open_ranking_data
from cuesta.data import ranking as ranking_module
from cuesta.data.log import ParquetLog, TableLog
from cuesta.data.order import Order
from cuesta.data.reader import Reader
from cuesta.errors import UserError
from tests.data.logs import log_frame, log_schema, shuffled, write_columns, write_log

NUM_ROWS = 500


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return log_frame(NUM_ROWS)


@pytest.fixture(scope="module")
def data(frame: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> RankingData:
    schema = log_schema(dense=("price", "age", "row"))
    folder = tmp_path_factory.mktemp("log")
    return open_ranking_data(write_log(frame, folder, files=3), schema)


def equal(left: RankingBatch, right: RankingBatch) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in [
            (left.label, right.label),
            (left.dense, right.dense),
            (left.user, right.user),
            (left.time, right.time),
            (left.features.values, right.features.values),
            (left.features.offsets, right.features.offsets),
            (left.features.weights, right.features.weights),
        ]
    )


def row_numbers(batches: Iterator[RankingBatch]) -> list[int]:
    return [int(row) for batch in batches for row in batch.dense[:, 2]]


def naive_ids(frame: pl.DataFrame, encoders: Encoders, feature: str) -> list[list[int]]:
    """Encode row by row through Python lists."""
    kinds = {"city": pa.string(), "tags": pa.string()}
    rows = []
    for value in frame[feature].to_list():
        values = (value or [])[-3:] if feature in ("history", "stars") else value
        values = values if isinstance(value, list) else [value]
        array = pa.array(values, kinds.get(feature, pa.int64()))
        rows.append(encoders.encode(feature, array).tolist())
    return rows


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_batches_equal_a_naive_reading(frame: pl.DataFrame, data: RankingData, split: str) -> None:
    first = {"train": 0, "validation": 300, "test": 400}[split]
    part = frame[first : first + data.num_rows(split)]
    begin = 0
    for batch in data.batches(split, batch_size=64):
        rows = part[begin : begin + batch.num_rows]
        begin += batch.num_rows
        assert batch.label.tolist() == rows["clicked"].to_list()
        assert batch.user.tolist() == rows["user"].to_list()
        assert batch.time.tolist() == rows["time"].to_list()
        dense = rows.select("price", "age", "row").cast(pl.Float32).to_numpy()
        assert np.array_equal(batch.dense.numpy(), dense)
        assert batch.features.values.dtype == torch.int64
        for feature in data.schema.features:
            ragged = batch.features[feature.name]
            expected = naive_ids(rows, data.encoders, feature.name)
            assert [ragged.row(i).tolist() for i in range(batch.num_rows)] == expected
        shares = [np.float32(x) for row in rows["shares"].to_list() for x in row[-3:]]
        assert batch.features.weights_of("stars").tolist() == shares
        assert (batch.features.weights_of("history") == 1).all()
    assert begin == len(part)


@given(st.integers(0, 9), st.integers(0, 3), st.integers(16, 130), st.integers(1, 10**5))
def test_a_shuffle_is_a_permutation(
    data: RankingData, seed: int, epoch: int, batch_size: int, window_bytes: int
) -> None:
    order = Order(batch_size=batch_size, seed=seed, epoch=epoch, window_bytes=window_bytes)
    reader = Reader(data.log, data.schema, data.encoders, 0, 300)
    rows = row_numbers(reader.batches(order))
    assert rows != sorted(rows)
    assert sorted(rows) == list(range(300))
    assert rows == row_numbers(reader.batches(order))
    assert rows != row_numbers(reader.batches(dataclasses.replace(order, epoch=epoch + 1)))


@pytest.mark.parametrize("window_bytes", [1, 5_000, 10**9])
def test_a_shuffled_row_is_the_same_row(data: RankingData, window_bytes: int) -> None:
    reader = Reader(data.log, data.schema, data.encoders, 0, 300)
    (every,) = reader.batches(Order(batch_size=300))
    for batch in reader.batches(Order(batch_size=64, seed=5, window_bytes=window_bytes)):
        rows = batch.dense[:, 2].long()
        same = RankingBatch(
            every.label[rows],
            every.dense[rows],
            every.features.select_rows(rows),
            every.user[rows],
            every.time[rows],
        )
        assert equal(batch, same)


def test_files_and_row_groups_without_rows_are_passed_over(tmp_path: Path) -> None:
    frame = log_frame(120)
    table = frame.to_arrow()
    pieces = (0, 40), (40, 40), (40, 120), (120, 120)
    for number, (begin, end) in enumerate(pieces):
        write_columns(table.slice(begin, end - begin), tmp_path / f"{number}.parquet")
    data = open_ranking_data(tmp_path, log_schema(dense=("price", "age", "row")))
    for seed in (None, 0):
        batches = list(data.batches("train", batch_size=36, seed=seed))
        assert [batch.num_rows for batch in batches] == [36, 36]
        assert sorted(row_numbers(iter(batches))) == list(range(72))


def test_small_data_is_shuffled_fully(data: RankingData) -> None:
    """Without windows, rows of one row group are spread over the epoch."""
    rows = np.array(row_numbers(data.batches("train", batch_size=50, seed=0)))
    positions = np.argsort(rows)[:37]
    assert positions.max() - positions.min() > 200


@given(
    st.integers(0, 12),
    st.integers(1, 70),
    st.one_of(st.none(), st.integers(0, 3)),
    st.sampled_from([1, 5_000, 10**9]),
)
def test_starting_at_k_equals_skipping_k(
    data: RankingData, start: int, batch_size: int, seed: int | None, window_bytes: int
) -> None:
    order = Order(batch_size=batch_size, seed=seed, window_bytes=window_bytes)
    reader = Reader(data.log, data.schema, data.encoders, 300, 450)
    every = list(reader.batches(order))[start:]
    resumed = list(reader.batches(dataclasses.replace(order, start=start)))
    assert len(every) == len(resumed)
    assert all(map(equal, every, resumed))


def test_a_start_decodes_nothing_before_it(
    data: RankingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = ParquetLog.read

    def counting(log: ParquetLog, group: int, names: list[str]) -> dict[str, object]:
        read.append(group)
        return original(log, group, names)

    monkeypatch.setattr(ParquetLog, "read", counting)
    assert len(list(data.batches("train", batch_size=10, start=29))) == 1
    assert read == [data_group_of(data, 299)]


def data_group_of(data: RankingData, row: int) -> int:
    return max(n for n, group in enumerate(data.log.groups) if group.first <= row)


@pytest.mark.parametrize(
    ("batch_size", "drop_last"), [(7, False), (7, True), (300, True), (900, True)]
)
def test_num_batches_counts_batches(data: RankingData, batch_size: int, drop_last: bool) -> None:
    batches = list(data.batches("train", batch_size=batch_size, drop_last=drop_last))
    assert len(batches) == data.num_batches("train", batch_size, drop_last=drop_last)
    assert {batch.num_rows for batch in batches[:-1]} <= {batch_size}


def test_the_base_rate_is_the_mean_label(frame: pl.DataFrame, data: RankingData) -> None:
    assert data.base_rate("train") == frame[:300]["clicked"].mean()
    with pytest.raises(UserError, match="no split 'valid'; choose one of train, validation, test"):
        data.base_rate("valid")


def test_an_unsorted_log_reads_as_the_sorted_one(frame: pl.DataFrame, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(NUM_ROWS)
    mixed = shuffled(frame, order)
    (tmp_path / "mixed").mkdir()
    (tmp_path / "sorted").mkdir()
    left = open_ranking_data(write_log(mixed, tmp_path / "mixed"), log_schema())
    stable = mixed.sort("time", maintain_order=True)
    right = open_ranking_data(write_log(stable, tmp_path / "sorted"), log_schema())
    assert isinstance(left.log, TableLog)
    assert left.sizes == right.sizes
    for split in ("train", "validation", "test"):
        ours, theirs = (d.batches(split, batch_size=64, seed=None) for d in (left, right))
        assert all(map(equal, ours, theirs))


def test_time_that_falls_between_row_groups_is_noticed(tmp_path: Path) -> None:
    frame = log_frame(200)
    mixed = pl.concat([frame[100:174], frame[:100], frame[174:]])  # row groups hold 37 rows
    assert isinstance(open_ranking_data(write_log(mixed, tmp_path), log_schema()).log, TableLog)


def test_a_large_unsorted_log_is_refused_with_the_remedy(
    frame: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking_module, "SORT_LIMIT_BYTES", 1000)
    paths = write_log(shuffled(frame, list(range(100, NUM_ROWS)) + list(range(100))), tmp_path)
    with pytest.raises(UserError, match=r"row group 10, row 30: time is earlier .*sort_by_time"):
        open_ranking_data(paths, log_schema())


def test_timestamps_become_seconds_and_strings_users(frame: pl.DataFrame, tmp_path: Path) -> None:
    table = frame.with_columns(
        (pl.col("time") * 1_000_000 + 999_999).cast(pl.Datetime("us")),
        pl.format("user {}", "user").alias("user"),
    )
    path = tmp_path / "a.parquet"
    write_columns(table.to_arrow(), path)
    batch = next(open_ranking_data(path, log_schema()).batches("train", batch_size=300))
    assert batch.time.tolist() == frame["time"][:300].to_list()
    _, ours = np.unique(batch.user.numpy(), return_inverse=True)
    _, first, theirs = np.unique(frame["user"][:300], return_index=True, return_inverse=True)
    assert len(first) == len(np.unique(batch.user.numpy()))
    assert len(set(zip(ours, theirs, strict=True))) == len(first)


def test_the_cache_is_used_and_belongs_to_its_files(
    frame: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = open_ranking_data(write_log(frame, tmp_path), log_schema(), cache_folder=cache)
    with monkeypatch.context() as patch:
        patch.setattr(ranking_module, "fit_encoders", None)
        again = open_ranking_data(tmp_path, log_schema(), cache_folder=cache)
    assert again.sizes == first.sizes
    other = open_ranking_data(
        write_log(frame.with_columns(city=pl.lit("Rome")), tmp_path),
        log_schema(),
        cache_folder=cache,
    )
    assert other.sizes["city"] == 2


def test_an_error_in_the_thread_reaches_the_consumer(frame: pl.DataFrame, tmp_path: Path) -> None:
    bad = frame.with_columns(clicked=pl.when(pl.col("row") == 200).then(2).otherwise("clicked"))
    data = open_ranking_data(write_log(bad, tmp_path), log_schema())
    batches = data.batches("train", batch_size=37)
    for _ in range(5):
        next(batches)
    with pytest.raises(
        UserError, match=r"part_0.parquet: row group 5, row 15: clicked is 2; a lab"
    ):
        next(batches)
    assert reader_threads() == []


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "cuesta-reader"]


def test_closing_the_iterator_ends_its_thread(data: RankingData) -> None:
    batches = data.batches("train", batch_size=1)
    next(batches)
    assert reader_threads() == ["cuesta-reader"]
    batches.close()
    assert reader_threads() == []


def test_a_program_that_forgets_its_iterator_ends(frame: pl.DataFrame, tmp_path: Path) -> None:
    write_log(frame, tmp_path)
    script = (
        "import sys; from cuesta.data import open_ranking_data; from tests.data.logs import *\n"
        "batches = open_ranking_data(sys.argv[1], log_schema()).batches('train', batch_size=1)\n"
        "next(batches)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], timeout=60, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_iterations_at_the_same_time_do_not_write_into_each_other(data: RankingData) -> None:
    def epoch() -> Iterator[RankingBatch]:
        return data.batches("train", batch_size=7, seed=1)

    alone = list(epoch())  # leaves its memory to the next
    for ours, mine, other in zip(alone, epoch(), epoch(), strict=True):
        for batch in (mine, other):
            assert torch.equal(batch.features.values, ours.features.values)
            assert torch.equal(batch.dense, ours.dense)


@pytest.mark.parametrize("seed", [None, 0])
def test_memory_does_not_grow_with_the_log(tmp_path: Path, seed: int | None) -> None:
    """The peak of NumPy's and Arrow's memory is about that of a log a twelfth as long."""
    frame = log_frame(10_000)
    peaks = []
    for times in (4, 48):  # the short one fills the reader too
        rows = pl.concat([frame] * times).sort("time")
        paths = write_log(rows, tmp_path, row_group=2_500)
        data = open_ranking_data(paths, log_schema(split=(1.0, 0.0, 0.0)))
        reader = Reader(data.log, data.schema, data.encoders, 0, len(rows))
        order = Order(batch_size=500, seed=seed, window_bytes=2_000_000)
        tracemalloc.start()
        arrow = [pa.total_allocated_bytes() for _ in reader.batches(order)]
        peaks.append((tracemalloc.get_traced_memory()[1], max(arrow)))
        tracemalloc.stop()
    assert all(long < 2.5 * short for short, long in zip(*peaks, strict=True)), peaks


def test_options_that_make_no_sense_are_refused(data: RankingData) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        data.batches("train", batch_size=0)
    with pytest.raises(ValueError, match="start must not be negative, got -1"):
        data.batches("train", batch_size=1, start=-1)
