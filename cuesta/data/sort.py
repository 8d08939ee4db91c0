"""`sort_by_time`: a log in time order, whatever its size, in the memory of one bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cuesta.data.columns import ticks_of
from cuesta.data.files import atomic_file, atomic_folder
from cuesta.data.log import ParquetLog, open_footer, parquet_files
from cuesta.data.schema import Schema
from cuesta.data.violations import ViolationError

BUCKET_BYTES = 256 * 2**20


def sort_by_time(
    source: str | Path | Sequence[str | Path],
    target: str | Path,
    schema: Schema,
    *,
    bucket_bytes: int = BUCKET_BYTES,
) -> None:
    """Write the rows of `source` in time order to the Parquet file `target`, atomically.

    Rows of equal time keep their order; columns that the schema does not name are left out. Rows are
    first dealt into files by ranges of time of about `bucket_bytes` each, then each file is sorted.
    Beside one bucket, 8 bytes a row are held.
    """
    footers = {}
    for file in parquet_files(source):
        footers[file], violations = open_footer(file, schema)
        if violations:
            raise ViolationError(violations[0])
    log = ParquetLog.of(footers)
    times = np.concatenate(
        [ticks_of(table[schema.time].combine_chunks()) for table in _tables(log, [schema.time])]
    )
    rows_a_bucket = max(int(bucket_bytes / max(log.bytes_per_row(schema.columns()), 1)), 1)
    bounds = np.unique(np.sort(times)[rows_a_bucket::rows_a_bucket])
    target = Path(target)
    with atomic_file(target) as temporary, ExitStack() as stack:
        buckets = stack.enter_context(_scratch(target))
        files = _deal(log, schema, bounds, buckets)
        writer: pq.ParquetWriter | None = None
        for file in files:
            rows = pq.read_table(file)
            order = np.argsort(ticks_of(rows[schema.time].combine_chunks()), kind="stable")
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(temporary, rows.schema))
            writer.write_table(rows.take(order), row_group_size=65_536)
