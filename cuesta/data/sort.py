"""`sort_by_time`: a log in time order, whatever its size, in about the memory of one bucket."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuesta.data.columns import ticks_of
from cuesta.data.files import atomic_file
from cuesta.data.log import ParquetLog, num_rows_of, open_log, read_sound
from cuesta.data.schema import Schema

BUCKET_BYTES = 256 * 2**20


def sort_by_time(
    source: str | Path | Sequence[str | Path],
    target: str | Path,
    schema: Schema,
    *,
    bucket_bytes: int = BUCKET_BYTES,
) -> None:
    """Write the rows of `source` in time order to the Parquet file `target`, atomically.

    Rows of equal time keep their order; columns that the schema does not name are left out. The
    rows are dealt into one file per range of time, about `bucket_bytes` decoded bytes each, and
    each file is sorted; beside one bucket, 8 bytes a row are held. Raises `UserError` at bad rows.
    """
    log = open_log(source, schema)
    times = np.concatenate(
        [
            ticks_of(read_sound(log, number, schema)[schema.time].values)
            for number in range(len(log.groups))
        ]
    )
    num_buckets = 1 + int(log.bytes_per_row(schema.columns()) * num_rows_of(log) / bucket_bytes)
    times.sort()
    bounds = np.unique(times[len(times) // num_buckets :: max(len(times) // num_buckets, 1)])
    with atomic_file(target) as temporary, TemporaryDirectory(dir=temporary.parent) as scratch:
        with ExitStack() as stack:
            files = [Path(scratch) / f"{number}.parquet" for number in range(len(bounds) + 1)]
            arrow_schema = log.table_of(0, schema.columns()).schema
            writers = [stack.enter_context(pq.ParquetWriter(f, arrow_schema)) for f in files]
            _deal(log, schema, bounds, writers)
        with pq.ParquetWriter(temporary, arrow_schema) as writer:
            for file in files:
                rows = pq.read_table(file)
                order = np.argsort(_times(rows, schema), kind="stable")
                writer.write_table(rows.take(order), row_group_size=65_536)


def _deal(
    log: ParquetLog,
    schema: Schema,
    bounds: NDArray[np.int64],
    writers: Sequence[pq.ParquetWriter],
) -> None:
    """Write each row to the bucket of its time; equal times meet in one bucket, in their order."""
    for number in range(len(log.groups)):
        rows = log.table_of(number, schema.columns())
        buckets = np.searchsorted(bounds, _times(rows, schema), side="right")
        for bucket in np.unique(buckets):
            writers[bucket].write_table(rows.filter(pa.array(buckets == bucket)))


def _times(rows: pa.Table, schema: Schema) -> NDArray[np.int64]:
    return ticks_of(rows[schema.time].combine_chunks())
