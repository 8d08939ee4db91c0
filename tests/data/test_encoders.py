"""Encoders: fitted on training rows only, stable for ever, the same after a save."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuesta.data import Encoders, Feature, Schema, open_ranking_data
from cuesta.data.columns import Column
from cuesta.data.encoders import fit_encoders
from cuesta.data.hashing import hash_integers, hash_strings
from cuesta.data.lookup import Lookup
from cuesta.errors import UserError
from tests.data.logs import log_frame, log_schema, write_log

integers = st.integers(-(2**63), 2**63 - 1)


def fit_one(values: pa.Array, feature: Feature) -> Encoders:
    schema = Schema(label="y", time="t", user="u", features=(feature,))
    return fit_encoders(schema, [{feature.column: Column(values, None)}])


def test_hashes_are_pinned() -> None:
    """Saved models depend on these numbers."""
    assert hash_integers(np.array([0, 1, -1])).tolist() == [
        0,
        6238072747940578789,
        13029008266876403067,
    ]
    assert hash_strings(pa.array(["", "a", "cité"])).tolist() == [
        17665956581633026203,
        198367012849983736,
        9784369260495110218,
    ]


@given(st.lists(st.text(max_size=8)), st.integers(0, 3))
def test_the_hash_of_a_string_is_fnv_1a_and_the_splitmix_finaliser(
    texts: list[str], skip: int
) -> None:
    def naive(text: str) -> int:
        value = 0xCBF29CE484222325
        for byte in text.encode():
            value = (value ^ byte) * 0x100000001B3 % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    expected = [naive(text) for text in texts]
    assert hash_strings(pa.array(texts, pa.string())).tolist() == expected
    assert hash_strings(pa.array(texts, pa.string()).slice(skip)).tolist() == expected[skip:]


@given(st.lists(integers, unique=True), st.lists(integers), st.integers(0, 2**62))
def test_a_lookup_finds_its_keys_and_no_others(
    keys: list[int], others: list[int], near: int
) -> None:
    for known in (keys, [near + k for k in {k % 100 for k in keys}]):
        lookup = Lookup.of(np.array(known, np.int64))
        asked = np.array(known + others, np.int64)
        rows = np.empty(len(asked), np.int64)
        lookup.rows(asked, rows)
        expected = {key: position + 1 for position, key in enumerate(known)}
        assert rows.tolist() == [expected.get(int(key), 0) for key in asked]


@given(st.lists(st.one_of(st.none(), st.integers(-5, 5))), st.integers(1, 3))
def test_a_vocabulary_counts_from_the_most_frequent(
    values: list[int | None], min_count: int
) -> None:
    array = pa.array(values, pa.int16())
    encoders = fit_one(array, Feature(name="x", min_count=min_count))
    counts = Counter(value for value in values if value is not None)
    kept = sorted((v for v, n in counts.items() if n >= min_count), key=lambda v: (-counts[v], v))
    expected = {value: position + 1 for position, value in enumerate(kept)}
    assert encoders.encode("x", array).tolist() == [expected.get(value, 0) for value in values]
    assert encoders.sizes == {"x": 1 + len(kept)}


@given(st.lists(st.one_of(st.none(), st.text("abé", max_size=3))))
def test_strings_and_their_dictionaries_encode_alike(values: list[str | None]) -> None:
    array = pa.array(values, pa.string())
    for feature in (Feature(name="x"), Feature(name="x", kind="hash", size=7)):
        encoders = fit_one(array, feature)
        plain = encoders.encode("x", array)
        assert np.array_equal(plain, encoders.encode("x", array.dictionary_encode()))
        assert np.array_equal(plain == 0, [value is None for value in values])
        assert plain.max(initial=0) < encoders.sizes["x"]


@given(st.lists(integers, min_size=1), st.integers(2, 2**40))
def test_hashing_reaches_every_row_but_0(values: list[int], size: int) -> None:
    array = pa.array(values, pa.int64())
    rows = fit_one(array, Feature(name="x", kind="hash", size=size)).encode("x", array)
    hashes = hash_integers(np.array(values)).tolist()
    assert rows.tolist() == [1 + h % (size - 1) for h in hashes]


def test_encoders_know_only_values_of_training_rows(tmp_path: Path) -> None:
    is_late = pl.col("row") >= 300
    frame = log_frame(500).with_columns(
        city=pl.when(is_late).then(pl.format("late {}", "city")).otherwise("city"),
        item=pl.when(is_late).then(pl.col("item") + 1 + pl.col("row") % 3).otherwise("item"),
    )
    data = open_ranking_data(write_log(frame, tmp_path), log_schema())
    train = frame[: data.num_rows("train")]
    city = data.encoders.by_owner["city"]
    assert set(city.values.to_pylist()) == set(train["city"].drop_nulls())
    counts = Counter(train["item"])
    item = data.encoders.by_owner["item"]
    assert set(item.values.to_pylist()) == {v for v, n in counts.items() if n >= 2}
    only_later = set(frame["item"]) - set(train["item"])
    assert only_later
    assert data.encoders.encode("item", pa.array(sorted(only_later), pa.int64())).sum() == 0


def test_saved_encoders_encode_alike(tmp_path: Path) -> None:
    frame = log_frame(300)
    data = open_ranking_data(write_log(frame, tmp_path), log_schema())
    data.encoders.save(tmp_path / "encoders")
    loaded = Encoders.load(tmp_path / "encoders")
    assert loaded.sizes == data.sizes
    for name in ("city", "item", "user", "tags"):
        values = frame[name].explode() if name == "tags" else frame[name]
        array = values.to_arrow(compat_level=None).cast(
            pa.string() if name in ("city", "tags") else pa.int64()
        )
        assert np.array_equal(loaded.encode(name, array), data.encoders.encode(name, array))
    assert not list((tmp_path / "encoders").glob("*.pkl"))


def test_a_broken_folder_of_encoders_is_told(tmp_path: Path) -> None:
    (tmp_path / "encoders.json").write_text("{")
    with pytest.raises(UserError, match="not a folder of encoders"):
        Encoders.load(tmp_path)
