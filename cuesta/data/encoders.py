"""Encoders from a column's values to the rows of an embedding table, fitted on training rows only.

| kind | table rows | a value becomes |
| --- | --- | --- |
| vocabulary | 1 + values kept | 1, 2, ... from the most frequent down (ties: by value); 0 unknown |
| hash | size | 1 + hash mod (size - 1); 0 = missing |
| id | size | itself; the reader refuses what is not within 0 .. size - 1 |

Strings are looked up by their 64-bit hash: that a string never seen meets the hash of one of n
known ones has probability n / 2^64. `save` writes JSON and Parquet; nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuesta.data.columns import Column
from cuesta.data.files import atomic_folder
from cuesta.data.hashing import hash_into_rows, hash_strings
from cuesta.data.lookup import Lookup
from cuesta.data.schema import Schema
from cuesta.errors import UserError

Keys = NDArray[np.integer]


class Encoder(Protocol):
    """Turn keys (integers as they are, strings as their hashes) into rows of a table."""

    @property
    def size(self) -> int:
        """Return the number of table rows."""
        ...

    def rows(self, keys: Keys, out: NDArray[np.int64], *, are_hashes: bool) -> None:
        """Write the table row of each key to `out`."""
        ...


@final
@dataclass(frozen=True, eq=False)
class VocabularyEncoder:
    """Map value i of `values` (Arrow, int64 or strings) to i + 1 and all others to 0."""

    values: pa.Array
    lookup: Lookup = field(repr=False)

    @staticmethod
    def of(values: pa.Array) -> VocabularyEncoder:
        """Return the encoder of these unique values."""
        keys, _ = keys_of(values)
        return VocabularyEncoder(values, Lookup.of(keys.astype(np.int64, copy=False)))

    @property
    def size(self) -> int:
        """Return the number of values and one for the unknown."""
        return 1 + len(self.values)

    def rows(self, keys: Keys, out: NDArray[np.int64], *, are_hashes: bool) -> None:
        """Write the position of each key's value, from 1; 0 where unknown."""
        del are_hashes
        self.lookup.rows(keys.astype(np.int64, copy=False), out)


@final
@dataclass(frozen=True)
class HashEncoder:
    """Map every value to one of 1 .. size - 1 by its hash."""

    size: int

    def rows(self, keys: Keys, out: NDArray[np.int64], *, are_hashes: bool) -> None:
        """Write 1 + hash mod (size - 1)."""
        wide = keys.astype(np.int64, copy=False)
        if are_hashes:
            out[:] = wide.view(np.uint64) % np.uint64(self.size - 1) + np.uint64(1)
        else:
            hash_into_rows(wide, self.size, out)


@final
@dataclass(frozen=True)
class IdEncoder:
    """Leave ids as they are."""

    size: int

    def rows(self, keys: Keys, out: NDArray[np.int64], *, are_hashes: bool) -> None:
        """Write the keys."""
        assert not are_hashes
        out[:] = keys


@final
@dataclass(frozen=True, eq=False)
class Encoders:
    """Hold one encoder for each feature of a schema that owns one."""

    by_owner: Mapping[str, Encoder]
    owners: Mapping[str, str]  # of every feature: the feature whose encoder it uses

    @property
    def sizes(self) -> dict[str, int]:
        """Return the number of table rows of every feature."""
        return {name: self.by_owner[owner].size for name, owner in self.owners.items()}

    def encode(
        self, name: str, values: pa.Array, *, out: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Return the table rows of a column's values (integers, strings or a dictionary of these).

        A null becomes 0. With `out` they are written there.
        """
        out = np.empty(len(values), np.int64) if out is None else out
        encoder = self.by_owner[self.owners[name]]
        if pa.types.is_dictionary(values.type):
            rows = np.zeros(len(values.dictionary) + 1, out.dtype)
            _encode(encoder, values.dictionary, rows[:-1])
            indices = values.indices.fill_null(len(values.dictionary))
            np.take(rows, indices.to_numpy(zero_copy_only=False), out=out, mode="clip")
        else:
            _encode(encoder, values, out)
        return out

    def save(self, folder: str | Path) -> None:
        """Write encoders.json and one Parquet file per vocabulary into a new folder, atomically."""
        with atomic_folder(folder) as temporary:
            kinds: dict[str, object] = {}
            for number, (owner, encoder) in enumerate(self.by_owner.items()):
                if isinstance(encoder, VocabularyEncoder):
                    file = f"vocabulary_{number}.parquet"
                    pq.write_table(pa.table({"value": encoder.values}), temporary / file)
                    kinds[owner] = {"kind": "vocabulary", "file": file}
                else:
                    kind = "hash" if isinstance(encoder, HashEncoder) else "id"
                    kinds[owner] = {"kind": kind, "size": encoder.size}
            tree = {"encoders": kinds, "owners": dict(self.owners)}
            (temporary / "encoders.json").write_text(json.dumps(tree, indent=1), encoding="utf-8")

    @staticmethod
    def load(folder: str | Path) -> Encoders:
        """Return the encoders that `save` wrote; raise `UserError` when the folder is not whole."""
        folder = Path(folder)
        try:
            tree = json.loads((folder / "encoders.json").read_text(encoding="utf-8"))
            by_owner = {name: _load(folder, entry) for name, entry in tree["encoders"].items()}
            return Encoders(by_owner, tree["owners"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder}: not a folder of encoders ({error}); remove it, and open the data again"
            ) from error


def fit_encoders(schema: Schema, training: Iterable[Mapping[str, Column]]) -> Encoders:
    """Return the encoders of `schema` fitted on the rows of `training`, given part by part.

    Parts hold the columns that `vocabulary_columns` names and are visited once, so that a log
    larger than memory can be fitted; what is held is the counts of the distinct values.
    """
    owners = {feature.name: feature for feature in schema.features if not feature.vocabulary_of}
    counts = {name: _Counts() for name, f in owners.items() if f.kind == "vocabulary"}
    for part in training if counts else ():
        for name, count in counts.items():
            count.add(part[owners[name].column].values)
    by_owner: dict[str, Encoder] = {}
    for name, feature in owners.items():
        if feature.kind == "vocabulary":
            values = counts[name].values(min_count=feature.min_count)
            by_owner[name] = VocabularyEncoder.of(values)
        else:
            assert feature.size is not None
            encoder = HashEncoder if feature.kind == "hash" else IdEncoder
            by_owner[name] = encoder(feature.size)
    return Encoders(by_owner, {feature.name: feature.encoder for feature in schema.features})


def vocabulary_columns(schema: Schema) -> tuple[str, ...]:
    """Return the columns whose values become vocabularies."""
    columns = [f.column for f in schema.features if f.kind == "vocabulary" and not f.vocabulary_of]
    return tuple(dict.fromkeys(columns))


def keys_of(values: pa.Array) -> tuple[Keys, bool]:
    """Return what identifies each value, an integer itself or a string's hash, and whether hashed.

    Nulls get an arbitrary key.
    """
    if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        filled = values.fill_null(0) if values.null_count else values
        return filled.to_numpy(zero_copy_only=False), False
    return hash_strings(values).view(np.int64), True


def group_keys(values: pa.Array) -> NDArray[np.int64]:
    """Return a number for each value without nulls, equal where the values are: for grouping."""
    if pa.types.is_dictionary(values.type):
        keys = keys_of(values.dictionary)[0][values.indices.to_numpy(zero_copy_only=False)]
    else:
        keys = keys_of(values)[0]
    return keys.astype(np.int64, copy=False)


class _Counts:
    """Count distinct values, merging now and then so that the work stays linear."""

    def __init__(self) -> None:
        self._total = pl.DataFrame()
        self._parts: list[pl.DataFrame] = []
        self._height = 0

    def add(self, values: pa.Array) -> None:
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        series = pl.Series("value", values)
        if series.dtype != pl.String:
            series = series.cast(pl.Int64, wrap_numerical=True)
        self._parts.append(series.drop_nulls().value_counts(name="count"))
        self._height += self._parts[-1].height
        if self._height > 2 * self._total.height + 1_000_000:
            self._merge()

    def values(self, *, min_count: int) -> pa.Array:
        """Return the values seen at least `min_count` times, the most frequent first."""
        self._merge()
        if not self._total.width:
            return pa.array([], pa.int64())
        kept = self._total.filter(pl.col("count") >= min_count)
        ordered = kept.sort(["count", "value"], descending=[True, False])["value"]
        return ordered.to_arrow(compat_level=pl.CompatLevel.oldest())

    def _merge(self) -> None:
        parts = [part for part in [self._total, *self._parts] if part.width]
        if parts:
            merged = pl.concat(parts).group_by("value").agg(pl.col("count").sum())
            self._total, self._parts, self._height = merged, [], 0


def _encode(encoder: Encoder, values: pa.Array, out: NDArray[np.int64]) -> None:
    keys, are_hashes = keys_of(values)
    encoder.rows(keys, out, are_hashes=are_hashes)
    if values.null_count:
        out[values.is_null().to_numpy(zero_copy_only=False)] = 0


def _load(folder: Path, entry: Mapping[str, object]) -> Encoder:
    if entry["kind"] == "vocabulary":
        table = pq.read_table(folder / str(entry["file"]))
        return VocabularyEncoder.of(table["value"].combine_chunks())
    size = entry["size"]
    assert isinstance(size, int)
    return HashEncoder(size) if entry["kind"] == "hash" else IdEncoder(size)
