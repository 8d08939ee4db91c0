"""`cuesta bench reader`: batches out of a Parquet log, against pyarrow reading the same columns of the same file
and doing nothing with them.

The log is a synthetic click stream, written for the bench and read from the page cache. pyarrow decodes with
its own threads; we decode, check, encode, cut histories, shuffle where the case says so, and hand out
tensors. The reader service is measured against the reader in this process, which in training has other work
to do: its own seconds of CPU stand beside the rates. Memory growth is the highest resident size in the last
quarter of an epoch over that in its first quarter.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from cuesta.cli.bench.collate import measure_collate
from cuesta.cli.bench.harness import (
    OURS,
    Bar,
    Contender,
    Findings,
    Settings,
    check_bars,
    progress,
    rate_rows,
    refuse,
    sample_rows,
    time_in_turns,
)
from cuesta.data.batch import RankingBatch
from cuesta.data.order import Order
from cuesta.data.ranking import RankingData, open_ranking_data
from cuesta.data.reader_service import BatchSource, ReaderService
from cuesta.data.schema import Feature, Schema, load_schema
from cuesta.data.streams import StreamConfig, write_stream

BENCH = "reader"
BATCH_SIZE = 4096
PYARROW = "pyarrow.iter_batches"
LEAST_SHARE = 0.5  # of pyarrow's rate
EPOCHS_WATCHED = 5
NUM_READERS = 2
HASH_SIZE = 100_000
STATM = Path("/proc/self/statm")


@final
@dataclass(frozen=True, kw_only=True)
class ReaderCase:
    """Name what is read of the log and how; `seed` None keeps the file's order."""

    name: str
    schema: Schema
    seed: int | None = None


def measure(settings: Settings) -> Findings:
    """Write a log, prove that its batches hold what it holds, and time every case."""
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="cuesta-bench-") as temporary:
        folder = Path(temporary) / "log"
        progress(f"{BENCH}: writing a log")
        stream = StreamConfig.mini() if settings.quick else StreamConfig.small()
        write_stream(replace(stream, split=(1.0, 0.0, 0.0)), folder)
        cases = _cases(load_schema(folder / "schema.toml"))
        for number, case in enumerate(cases):
            progress(f"{BENCH}: case {number + 1} of {len(cases)}: {case.name}")
            reason = prove(folder, case)
            if reason is not None:
                refuse(BENCH, f"{case.name}: {reason}")
            _time(findings, folder, case, settings)
        progress(f"{BENCH}: the service, {NUM_READERS} readers")
        reason = _time_service(findings, folder, cases[2], settings)
    progress(f"{BENCH}: combined format")
    reason = reason or measure_collate(settings, findings)
    if reason is not None:
        refuse(BENCH, reason)
    findings.note(
        "every case was first compared, row by row, with what pyarrow reads: labels, dense "
        "columns, ids, and the last events of every history"
    )
    if not settings.quick:
        check_bars(findings, [Bar(case.name, (PYARROW,), LEAST_SHARE) for case in cases])
    return findings


def prove(folder: Path, case: ReaderCase) -> str | None:
    """Return what is wrong with the batches of `case`, or None."""
    data = open_ranking_data(folder, case.schema)
    table = pq.read_table(_file(folder), columns=list(case.schema.columns()))
    first, seen = int(table[case.schema.time][0].as_py()), 0
    for batch in data.batches("train", batch_size=BATCH_SIZE, seed=case.seed):
        seen += batch.num_rows
        rows = batch.time.numpy() - first  # in a stream, one row passes each second
        reason = _difference(batch, table.take(rows), data)
        if reason is not None:
            return reason
    return None if seen == table.num_rows else f"{seen} rows of {table.num_rows} were read"


def _difference(batch: RankingBatch, rows: pa.Table, data: RankingData) -> str | None:
    """Return which column of a batch is not what the file's `rows` say, or None."""
    schema = data.schema
    expected = {schema.label: rows[schema.label].to_numpy().astype(np.float32)}
    actual = {schema.label: batch.label.numpy()}
    for position, name in enumerate(schema.dense):
        expected[name], actual[name] = rows[name].to_numpy(), batch.dense[:, position].numpy()
    for feature in schema.features:
        column = rows[feature.column].combine_chunks()
        ragged = batch.features[feature.name]
        if feature.ragged:
            kept = _last(column, feature.longest)
            actual[f"{feature.name} offsets"] = ragged.offsets.numpy()
            expected[f"{feature.name} offsets"] = kept.offsets.to_numpy()
            column = kept.values
            if feature.weights:
                weights = _last(rows[feature.weights].combine_chunks(), feature.longest)
                expected[feature.weights] = weights.values.to_numpy()
                actual[feature.weights] = batch.features.weights_of(feature.name).numpy()
        actual[feature.name] = ragged.values.numpy()
        owner = schema.feature(feature.encoder)
        expected[feature.name] = _encoded(column.to_numpy(zero_copy_only=False), owner)
    for name, right in expected.items():
        if not np.array_equal(actual[name], right):
            return f"{name} differs from the file"
    return None


def _last(lists: pa.ListArray, longest: int | None) -> pa.ListArray:
    """Return the last `longest` values of every list, in new memory."""
    offsets = lists.offsets.to_numpy()
    lengths = np.diff(offsets)
    kept = lengths if longest is None else np.minimum(lengths, longest)
    begins = np.concatenate([[0], np.cumsum(kept)])
    places = np.arange(begins[-1]) + np.repeat(offsets[1:] - kept - begins[:-1], kept)
    return pa.ListArray.from_arrays(pa.array(begins, pa.int32()), lists.values.take(places))


def _encoded(values: NDArray[np.int64], feature: Feature) -> NDArray[np.int64]:
    """Return table rows as `cuesta.data.encoders` says: ids as they are, hashes by splitmix64."""
    if feature.kind == "id":
        return values
    assert feature.kind == "hash"
    assert feature.size is not None
    z = values.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    z ^= z >> np.uint64(31)
    return (1 + z % np.uint64(feature.size - 1)).astype(np.int64)


def _time(findings: Findings, folder: Path, case: ReaderCase, settings: Settings) -> None:
    data = open_ranking_data(folder, case.schema)
    columns = list(case.schema.columns())

    def ours(epoch: int) -> int:
        batches = data.batches("train", batch_size=BATCH_SIZE, seed=case.seed, epoch=epoch)
        return sum(batch.num_rows for batch in batches)

    def pyarrow_alone(_: int) -> int:
        with pq.ParquetFile(_file(folder)) as file:
            batches = file.iter_batches(batch_size=BATCH_SIZE, columns=columns)
            return sum(batch.num_rows for batch in batches)

    contenders = [Contender(OURS, ours), Contender(PYARROW, pyarrow_alone)]
    seconds = time_in_turns(contenders, _repetitions(settings))
    megabytes = pq.read_table(_file(folder), columns=columns).nbytes / 1e6
    findings.rows += rate_rows(case.name, seconds, data.num_rows("train"), "rows/s")
    findings.rows += rate_rows(case.name, seconds, megabytes, "MB/s")
    if STATM.exists():
        growths = [
            _growth(data, case, epoch) for epoch in range(1 if settings.quick else EPOCHS_WATCHED)
        ]
        findings.rows += sample_rows(f"{case.name}: memory growth", {OURS: growths}, "MiB")


def _time_service(
    findings: Findings, folder: Path, case: ReaderCase, settings: Settings
) -> str | None:
    """Add rates and this process's seconds of the service and of reading here; return what is wrong, or None."""
    data = open_ranking_data(folder, case.schema)
    reader = data.reader("train")
    sources: dict[str, BatchSource] = {OURS: reader}
    for number in (1, NUM_READERS):
        sources[f"{OURS}, service of {number}"] = ReaderService(reader, number)
    order = Order(batch_size=BATCH_SIZE, seed=case.seed)
    for name, source in sources.items():
        pairs = zip(source.batches(order), reader.batches(order), strict=True)
        if not all(_are_equal(left, right) for left, right in pairs):
            return f"the batches of {name} differ"
    own: dict[str, list[float]] = {name: [] for name in sources}

    def epoch(name: str, number: int) -> int:
        began = time.process_time()
        batches = sources[name].batches(replace(order, epoch=number))
        num_rows = sum(batch.num_rows for batch in batches)
        own[name].append(time.process_time() - began)
        return num_rows

    contenders = [Contender(name, partial(epoch, name)) for name in sources]
    seconds = time_in_turns(contenders, _repetitions(settings), warm_up=1)
    title = f"{case.name}: the reader service"
    findings.rows += rate_rows(title, seconds, data.num_rows("train"), "rows/s")
    samples = {name: each[1:] for name, each in own.items()}
    findings.rows += sample_rows(f"{title}, CPU of this process an epoch", samples, "s")
    findings.note("the service's batches were first compared with the reader's, and are equal")
    return None


def _repetitions(settings: Settings) -> int:
    """Return half of what other benches do: a repetition is an epoch."""
    return settings.repetitions // 2


def _are_equal(left: RankingBatch, right: RankingBatch) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in (
            (left.label, right.label),
            (left.dense, right.dense),
            (left.features.values, right.features.values),
            (left.features.offsets, right.features.offsets),
        )
    )


def _growth(data: RankingData, case: ReaderCase, epoch: int) -> float:
    """Return how much more memory the last quarter of an epoch used than the first, in MiB."""
    sizes = [
        _resident_mib()
        for _ in data.batches("train", batch_size=BATCH_SIZE, seed=case.seed, epoch=epoch)
    ]
    quarter = max(len(sizes) // 4, 1)
    return max(sizes[-quarter:]) - max(sizes[:quarter])


def _resident_mib() -> float:
    pages = int(STATM.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _file(folder: Path) -> Path:
    return folder / "stream.parquet"


def _cases(full: Schema) -> list[ReaderCase]:
    plain = replace(full, features=tuple(f for f in full.features if not f.ragged))
    hashed = replace(
        full,
        features=tuple(
            f if f.vocabulary_of else replace(f, kind="hash", size=HASH_SIZE) for f in full.features
        ),
    )
    return [
        ReaderCase(name="ids, no histories", schema=plain),
        ReaderCase(name="ids and histories", schema=full),
        ReaderCase(name="ids and histories, shuffled", schema=full, seed=0),
        ReaderCase(name="hash-encoded ids and histories", schema=hashed),
    ]
