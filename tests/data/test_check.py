"""Bad input is named by file, row group and row, by `check` and by opening or reading alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from cuesta.data import open_ranking_data
from cuesta.data.check import check
from cuesta.errors import UserError
from tests.data.logs import log_frame, log_schema, write_columns, write_log

ROW = 200  # row 15 of row group 5, in the training split of 300 rows


def replaced(column: str, value: object) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return a change of one column at `ROW`."""

    def change(frame: pl.DataFrame) -> pl.DataFrame:
        kind = pl.Int64 if value == 2**40 else frame.schema[column]
        values = frame[column].to_list()
        values[ROW] = value
        return frame.with_columns(pl.Series(column, values, dtype=kind))

    return change


def test_a_sound_log_has_no_violations(tmp_path: Path) -> None:
    paths = write_log(log_frame(500), tmp_path, files=2)
    assert check(paths, log_schema()) == []
    assert check(tmp_path, log_schema()) == []


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (replaced("clicked", 2), "label", "clicked is 2; a label is 0 or 1"),
        (replaced("clicked", None), "null", "clicked is null; a label is 0 or 1"),
        (replaced("time", None), "null", "time is null; fill it or drop the row"),
        (replaced("user", None), "null", "user is null; fill it or drop the row"),
        (replaced("price", None), "null", "price is null; fill it"),
        (replaced("price", float("nan")), "not finite", "price is NaN or infinite"),
        (replaced("price", float("-inf")), "not finite", "price is NaN or infinite"),
        (
            lambda frame: replaced("shares", [0.5, float("inf")])(
                replaced("stars", [1, 2])(replaced("history", [1, 2])(frame))
            ),
            "not finite",
            "shares is NaN or infinite",
        ),
        (
            lambda frame: replaced("shares", [1.0, 1.0])(
                replaced("stars", [5, 6])(replaced("history", [1, 2])(frame))
            ),
            "id range",
            "stars is 6; ids are 0 .. 5: raise size in the schema or mend the ids",
        ),
        (
            lambda frame: replaced("shares", [1.0])(
                replaced("stars", [-1])(replaced("history", [1])(frame))
            ),
            "id range",
            "stars is -1; ids are 0 .. 5",
        ),
        (
            replaced("history", [1] * 9),
            "lengths",
            r"stars has \d values but history has 9; columns of group 'h' must agree",
        ),
        (replaced("shares", [0.5] * 9), "lengths", r"shares has 9 values but history has \d"),
    ],
)
def test_a_bad_row_is_named(
    tmp_path: Path, change: Callable[[pl.DataFrame], pl.DataFrame], kind: str, message: str
) -> None:
    write_log(change(log_frame(500)), tmp_path)
    found = [violation for violation in check(tmp_path, log_schema()) if violation.kind == kind]
    assert (found[0].file.name, found[0].row_group, found[0].row) == ("part_0.parquet", 5, 15)
    with pytest.raises(
        UserError, match=rf"part_0.parquet: row group 5, row 15: .*{message}"
    ) as err:
        list(open_ranking_data(tmp_path, log_schema()).batches("train", batch_size=64))
    assert "\n" not in str(err.value)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            lambda f: f.rename({"item": "items"}),
            "missing column",
            "no column 'item'; did you mean 'items'",
        ),
        (
            lambda f: f.rename({"city": "town"}),
            "missing column",
            "no column 'city'; it has row, clicked",
        ),
        (lambda f: f.cast({"clicked": pl.String}), "wrong type", "'clicked' is of type .*string"),
        (lambda f: f.cast({"time": pl.Float64}), "wrong type", "write integers .seconds., timest"),
        (lambda f: f.cast({"user": pl.Float64}), "wrong type", "write integers or strings"),
        (lambda f: f.cast({"price": pl.String}), "wrong type", "write numbers"),
        (
            lambda f: f.with_columns(item=pl.concat_list("item")),
            "wrong type",
            r"set ragged = true in \[features.item\]",
        ),
        (
            lambda f: f.with_columns(tags=pl.col("tags").list.first()),
            "wrong type",
            "set ragged = false",
        ),
        (
            lambda f: f.cast({"history": pl.List(pl.String)}),
            "wrong type",
            "write int64, as column 'item', whose vocabulary it shares",
        ),
        (lambda f: f.cast({"stars": pl.List(pl.String)}), "wrong type", "write integers"),
        (lambda f: f.cast({"shares": pl.List(pl.String)}), "wrong type", "write lists of numbers"),
    ],
)
def test_a_bad_column_is_named(
    tmp_path: Path, change: Callable[[pl.DataFrame], pl.DataFrame], kind: str, message: str
) -> None:
    write_log(change(log_frame(100)), tmp_path)
    assert kind in {violation.kind for violation in check(tmp_path, log_schema())}
    with pytest.raises(UserError, match=rf"part_0.parquet: .*{message}"):
        open_ranking_data(tmp_path, log_schema())


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (lambda _: b"", "empty file", "the file is empty; write it again"),
        (lambda _: b"a,b\n1,2\n", "not Parquet", "not a Parquet file, it begins with b'a,b"),
        (lambda whole: whole[:-500], "corrupt", "truncated or corrupt Parquet"),
        (lambda whole: whole[:6], "corrupt", "truncated or corrupt Parquet"),
        (
            lambda whole: whole[:4] + b"\xff" * 20_000 + whole[20_004:],
            "corrupt",
            "row group 0: cannot be decoded",
        ),
    ],
)
def test_a_bad_file_is_named(
    tmp_path: Path, damage: Callable[[bytes], bytes], kind: str, message: str
) -> None:
    write_log(log_frame(2_000), tmp_path, files=2, row_group=500)
    path = tmp_path / "part_1.parquet"
    path.write_bytes(damage(path.read_bytes()))
    (violation, *_) = check(tmp_path, log_schema())
    assert (violation.kind, violation.file) == (kind, path)
    with pytest.raises(UserError, match=rf"part_1.parquet: .*{message}") as caught:
        list(open_ranking_data(tmp_path, log_schema()).batches("test", batch_size=64))
    assert "\n" not in str(caught.value)


def test_a_column_of_two_types_is_named(tmp_path: Path) -> None:
    frame = log_frame(100)
    write_columns(frame[:50].to_arrow(), tmp_path / "a.parquet")
    write_columns(frame[50:].cast({"user": pl.String}).to_arrow(), tmp_path / "b.parquet")
    message = r"b.parquet: column 'user' holds strings but in \S+a.parquet integers"
    with pytest.raises(UserError, match=message):
        open_ranking_data(tmp_path, log_schema())
    assert [violation.kind for violation in check(tmp_path, log_schema())] == ["wrong type"]


def test_paths_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        check(tmp_path / "none", log_schema())
    with pytest.raises(UserError, match=r"the folder has no \*.parquet file"):
        check(tmp_path, log_schema())
    with pytest.raises(UserError, match="no schema given; name a TOML file"):
        open_ranking_data(tmp_path / "none.parquet")


def test_a_log_without_rows_is_told(tmp_path: Path) -> None:
    paths = write_log(log_frame(0), tmp_path)
    assert [violation.kind for violation in check(paths, log_schema())] == ["no rows"]
    with pytest.raises(UserError, match="no rows to train on"):
        open_ranking_data(paths, log_schema())


def test_a_split_of_one_class_is_told(tmp_path: Path) -> None:
    frame = log_frame(500).with_columns(
        clicked=pl.when(pl.col("row") >= 400).then(1).otherwise("clicked")
    )
    (violation,) = check(write_log(frame, tmp_path), log_schema())
    assert violation.kind == "one class"
    assert "every label of the test split is 1" in str(violation)


def test_time_that_runs_back_is_told_where(tmp_path: Path) -> None:
    frame = log_frame(200)
    mixed = pl.concat([frame[100:150], frame[:100], frame[150:]])
    (violation,) = check(write_log(mixed, tmp_path), log_schema())
    assert (violation.kind, violation.row_group, violation.row) == ("unsorted", 1, 13)


def test_the_list_is_bounded_and_counts_all(tmp_path: Path) -> None:
    frame = log_frame(500).with_columns(clicked=pl.lit(7), price=pl.lit(None, pl.Float32))
    violations = check(write_log(frame, tmp_path), log_schema(), limit=4)
    assert [violation.kind for violation in violations] == ["label"] * 4 + ["null"] * 4
    assert {violation.total for violation in violations} == {500}
    assert [violation.row for violation in violations[:4]] == [0, 1, 2, 3]


def test_a_null_category_or_list_is_no_violation(tmp_path: Path) -> None:
    frame = replaced("tags", None)(replaced("city", None)(log_frame(300)))
    write_columns(frame.to_arrow(), tmp_path / "a.parquet")
    assert check(tmp_path, log_schema()) == []
    data = open_ranking_data(tmp_path, log_schema(split=(1.0, 0.0, 0.0)))
    (batch,) = data.batches("train", batch_size=300)
    assert batch.features["city"].row(ROW).tolist() == [0]
    assert batch.features["tags"].row(ROW).tolist() == []
