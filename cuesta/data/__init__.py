"""Ranking data: Parquet logs and their schemas in, batches of `RaggedFeatures` out.

`open_ranking_data` opens a log for training, `check.check` names what is wrong with one,
`get_data_set` fetches a registered one, `write_stream` makes one whose Bayes error is known. Names
are imported on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cuesta.data.batch import RankingBatch
    from cuesta.data.encoders import Encoders
    from cuesta.data.files import atomic_file, atomic_folder
    from cuesta.data.ranking import RankingData, open_ranking_data
    from cuesta.data.registry import DATA_SETS, get_data_set
    from cuesta.data.schema import Feature, Schema, load_schema, save_schema
    from cuesta.data.sort import sort_by_time
    from cuesta.data.streams import StreamConfig, stream_batches, write_stream
    from cuesta.data.violations import Violation

__all__ = [
    "DATA_SETS",
    "Encoders",
    "Feature",
    "RankingBatch",
    "RankingData",
    "Schema",
    "StreamConfig",
    "Violation",
    "atomic_file",
    "atomic_folder",
    "get_data_set",
    "load_schema",
    "open_ranking_data",
    "save_schema",
    "sort_by_time",
    "stream_batches",
    "write_stream",
]

_MODULES = {
    "DATA_SETS": "registry",
    "Encoders": "encoders",
    "Feature": "schema",
    "RankingBatch": "batch",
    "RankingData": "ranking",
    "Schema": "schema",
    "StreamConfig": "streams",
    "Violation": "violations",
    "atomic_file": "files",
    "atomic_folder": "files",
    "get_data_set": "registry",
    "load_schema": "schema",
    "open_ranking_data": "ranking",
    "save_schema": "schema",
    "sort_by_time": "sort",
    "stream_batches": "streams",
    "write_stream": "streams",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
