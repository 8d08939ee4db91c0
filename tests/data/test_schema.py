"""A schema survives its file; a mistake in one is a line naming file, key, value and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuesta.data import Feature, Schema, load_schema, save_schema
from cuesta.data.schema import split_bounds
from cuesta.errors import UserError
from tests.data.logs import log_schema

GOOD = """
label = "clicked"
time = "time"
user = "user"
split = [0.8, 0.1, 0.1]
[features.item]
min_count = 2
[features.history]
vocabulary_of = "item"
ragged = true
longest = 50
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "schema.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_saved_schema_loads_equal(tmp_path: Path) -> None:
    odd = Feature(name='a "quoted" näme', column="x.y", kind="id", size=3)
    for schema in (log_schema(), log_schema(features=(odd,), dense=(), split=(1.0, 0.0, 0.0))):
        save_schema(schema, tmp_path / "schema.toml")
        assert load_schema(tmp_path / "schema.toml") == schema


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    schema = load_schema(write(tmp_path, GOOD))
    assert schema.feature("item") == Feature(name="item", column="item", min_count=2)
    assert schema.feature("history").encoder == "item"
    assert schema.columns() == ("clicked", "time", "user", "item", "history")


@pytest.mark.parametrize(
    ("given", "instead", "message"),
    [
        ('label = "clicked"', "", "missing key label; add it: text in quotes"),
        ('label = "clicked"', "label = 3", "label is 3; give text in quotes"),
        (
            'label = "clicked"',
            'label = "x"\nlable = "x"',
            "unknown key lable; did you mean 'label'?",
        ),
        ("[0.8, 0.1, 0.1]", "[0.8, 0.1]", r"split is \[0.8, 0.1\]; give the shares of train"),
        ("[0.8, 0.1, 0.1]", "[0.8, 0.1, 0.2]", "add up to 1"),
        ("[0.8, 0.1, 0.1]", "[0, 0.5, 0.5]", "training needs a share above 0"),
        ("min_count = 2", "min_count = true", "features.item.min_count is True; give a whole"),
        ("min_count = 2", "min_count = 0", "features.item.min_count is 0; give at least 1"),
        ("min_count = 2", "mincount = 2", "unknown key features.item.mincount; did you mean"),
        ("min_count = 2", 'kind = "vocab"', "kind is 'vocab'; did you mean 'vocabulary'?"),
        ("min_count = 2", 'kind = "hash"', "features.item.size is None; a feature of kind 'hash'"),
        ("min_count = 2", "longest = 3", "longest is 3; only ragged = true has it"),
        ('vocabulary_of = "item"', 'vocabulary_of = "items"', "did you mean 'item'?"),
        ('vocabulary_of = "item"', 'vocabulary_of = "item"\nsize = 3', "remove these"),
        ("longest = 50", "longest = 0", "features.history.longest is 0; give at least 1"),
        ("[features.item]", "[features.item", "not valid TOML: .*line 6"),
    ],
)
def test_a_mistake_names_file_key_value_and_remedy(
    tmp_path: Path, given: str, instead: str, message: str
) -> None:
    assert given in GOOD
    path = write(tmp_path, GOOD.replace(given, instead))
    with pytest.raises(UserError, match=message) as caught:
        load_schema(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_schema_without_features_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_schema(tmp_path / "none.toml")
    with pytest.raises(UserError, match=r"no features; add at least one \[features.NAME\]"):
        load_schema(write(tmp_path, GOOD.split("[features")[0] + "[features]"))


def test_members_of_a_group_keep_as_many(tmp_path: Path) -> None:
    del tmp_path
    with pytest.raises(UserError, match=r"longest differs within group 'g': .*'a': 3.*'b': 4"):
        Schema(
            label="y",
            time="t",
            user="u",
            features=tuple(
                Feature(name=name, ragged=True, group="g", longest=longest)
                for name, longest in (("a", 3), ("b", 4))
            ),
        )


@given(st.integers(0, 10**12), st.floats(0.01, 1), st.floats(0, 1))
def test_splits_cover_all_rows_in_order(num_rows: int, train: float, rest: float) -> None:
    validation = (1 - train) * rest
    schema = log_schema(split=(train, validation, 1 - train - validation))
    bounds = split_bounds(num_rows, schema)
    assert bounds == sorted(bounds)
    assert (bounds[0], bounds[-1]) == (0, num_rows)
