"""`RankingData`: a ranking log opened for training: split by time, encoded, read as batches.

Rows are in time order (a log that is not is sorted in memory when small, refused when large), so a
split is a range of rows and the encoders are fitted on the first of them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from cuesta.data.batch import RankingBatch
from cuesta.data.columns import floats_of
from cuesta.data.encoders import Encoders, fit_encoders, vocabulary_columns
from cuesta.data.log import (
    Log,
    ParquetLog,
    find_unsorted,
    num_rows_of,
    open_log,
    parts,
    read_sound,
    sorted_in_memory,
)
from cuesta.data.order import Order
from cuesta.data.reader import Reader
from cuesta.data.schema import SPLITS, Schema, load_schema, schema_to_tree, split_bounds
from cuesta.data.violations import Violation, ViolationError
from cuesta.errors import UserError

SORT_LIMIT_BYTES = 512 * 2**20


@final
@dataclass(frozen=True, eq=False)
class RankingData:
    """Hold an opened log, its schema and its encoders; `open_ranking_data` makes one."""

    log: Log
    schema: Schema
    encoders: Encoders

    @property
    def sizes(self) -> dict[str, int]:
        """Return the number of embedding table rows of every feature."""
        return self.encoders.sizes

    def num_rows(self, split: str) -> int:
        """Return the number of rows of "train", "validation" or "test"."""
        begin, end = self._range(split)
        return end - begin

    def num_batches(self, split: str, batch_size: int, *, drop_last: bool = False) -> int:
        """Return how many batches an epoch of `split` has."""
        order = Order(batch_size=batch_size, drop_last=drop_last)
        return order.num_batches(self.num_rows(split))

    def base_rate(self, split: str) -> float:
        """Return the mean label of `split`; the first call reads the label column."""
        num_rows = self.num_rows(split)
        if num_rows == 0:
            raise UserError(f"split {split!r} has no rows; give it a share in the schema")
        return self._label_sums[split] / num_rows

    def batches(
        self,
        split: str,
        *,
        batch_size: int,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        drop_last: bool = False,
    ) -> Iterator[RankingBatch]:
        """Yield the batches of `split`, made ahead by a background thread.

        `seed` None keeps the file's order; a number shuffles by (seed, epoch), the same on every
        machine. `start` skips that many batches without decoding them. Bad rows raise `UserError`
        naming file, row group and row. Close the iterator to stop early.
        """
        order = Order(
            batch_size=batch_size, seed=seed, epoch=epoch, start=start, drop_last=drop_last
        )
        return self.reader(split).batches(order)

    def reader(self, split: str) -> Reader:
        """Return the reader of "train", "validation" or "test"."""
        bounds = self._range(split)
        if split not in self._readers:
            self._readers[split] = Reader(self.log, self.schema, self.encoders, *bounds)
        return self._readers[split]

    @functools.cached_property
    def _readers(self) -> dict[str, Reader]:
        """Hold one reader a split: an epoch writes into the memory of the one before."""
        return {}

    @functools.cached_property
    def _label_sums(self) -> dict[str, float]:
        label = self.schema.label
        return {
            split: sum(
                float(floats_of(part[label].values).sum(dtype="float64"))
                for part in parts(self.log, *self._range(split), [label])
            )
            for split in SPLITS
        }

    def _range(self, split: str) -> tuple[int, int]:
        if split not in SPLITS:
            raise UserError(f"no split {split!r}; choose one of {', '.join(SPLITS)}")
        bounds = split_bounds(num_rows_of(self.log), self.schema)
        return bounds[SPLITS.index(split)], bounds[SPLITS.index(split) + 1]


def open_ranking_data(
    paths: str | Path | Sequence[str | Path],
    schema: Schema | str | Path | None = None,
    *,
    cache_folder: str | Path | None = None,
) -> RankingData:
    """Open Parquet files (or folders of them) for training.

    `schema` defaults to the schema.toml in the folder. The encoders are fitted on the training rows
    and, with a `cache_folder`, kept there for the next time. Raises `UserError` for a schema or a
    file that is wrong, a log without rows, and a log out of time order that is too large to sort in
    memory.
    """
    schema = _schema_for(paths, schema)
    files = open_log(paths, schema)
    log = _in_time_order(files, schema)
    bounds = split_bounds(num_rows_of(log), schema)
    if bounds[1] == 0:
        raise UserError(f"{paths}: no rows to train on; name a log with rows")
    columns = vocabulary_columns(schema)
    if cache_folder is None or not columns:
        return RankingData(log, schema, fit_encoders(schema, parts(log, 0, bounds[1], columns)))
    folder = Path(cache_folder) / f"encoders-{_fingerprint(files.footers, schema)}"
    if not folder.exists():
        fit_encoders(schema, parts(log, 0, bounds[1], columns)).save(folder)
    return RankingData(log, schema, Encoders.load(folder))


def _schema_for(
    paths: str | Path | Sequence[str | Path], schema: Schema | str | Path | None
) -> Schema:
    if isinstance(schema, Schema):
        return schema
    if schema is not None:
        return load_schema(schema)
    if isinstance(paths, str | Path) and Path(paths).is_dir():
        return load_schema(Path(paths) / "schema.toml")
    raise UserError(f"{paths}: no schema given; name a TOML file, or a folder with a schema.toml")


def _in_time_order(log: ParquetLog, schema: Schema) -> Log:
    unsorted = next(find_unsorted(log, schema.time), None)
    if unsorted is None:
        return log
    group, row = log.groups[unsorted[0]], unsorted[1]
    num_bytes = log.bytes_per_row(schema.columns()) * num_rows_of(log)
    if num_bytes > SORT_LIMIT_BYTES:
        message = (
            f"{schema.time} is earlier than in the row before, and the log is too large to sort in "
            "memory; sort it once with cuesta.data.sort_by_time(source, target, schema)"
        )
        raise ViolationError(Violation("unsorted", group.file, message, group.number, row))
    for number in range(len(log.groups)):  # sorting loses where a row was, so look before
        read_sound(log, number, schema)
    return sorted_in_memory(log, schema)


def _fingerprint(files: Iterable[Path], schema: Schema) -> str:
    """Return a name for these files, by name, size and time of change, under this schema."""
    states = [(file, file.stat()) for file in files]
    known = [(str(file.resolve()), state.st_size, state.st_mtime_ns) for file, state in states]
    text = json.dumps([known, schema_to_tree(schema)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
