"""The benches of `cuesta bench NAME`: each proves the answers right, then times us and our peers in
the same process.

Importing this package imports neither torch nor a peer; a bench is loaded when it runs.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cuesta.cli import THREAD_ENVIRONMENT
from cuesta.errors import UserError

if TYPE_CHECKING:
    from cuesta.cli.bench.harness import BenchResult

BENCHES: dict[str, str] = {
    "embedding_bag": "embedding lookup and exact fused update, against FBGEMM and nn.EmbeddingBag",
    "dlrm": "training steps of one DLRM, against TorchRec with FBGEMM and plain PyTorch",
    "dlrm_sharded": "the same on 2 and 4 gloo ranks, against TorchRec with the same plan",
    "tiers": "training steps of a DLRM four times larger than its memory, against one that fits",
    "planner": "steps of sharded tables as the calibrated planner predicts them, against the same steps",
    "low_precision": "test NE with tables and exchanges in 16 bits, against float32",
    "jagged_attention": "softmax attention on ragged rows, against padded, nested and looped SDPA",
    "gdpa": "generalised dot-product attention on ragged rows, against padded and looped products",
    "jagged_training": "training steps with ragged histories, against the same model padded",
    "jagged_quality": "test AUC of encoded histories, against mean-pooled ones",
    "reconstruct": "photos to a posed scene, against bare calls of pycolmap with the same settings",
    "worlds": "pictures of generated worlds, and their rays against Embree's",
    "depth": "depth of posed photographs, against OpenCV's SGBM and a plane sweep",
    "fuse": "depth maps to a cloud, against pycolmap's fusion",
    "end_to_end": "photos to clouds and to a published data set by the commands, against the time asked",
    "reader": "batches out of a Parquet log, against pyarrow reading the same columns",
}
RESULTS = Path("benchmarks/results")

# What torch reads once, when it is imported; every contender runs under it. Big tables lie on huge
# pages.
PROCESS_ENVIRONMENT: Mapping[str, str] = {**THREAD_ENVIRONMENT, "THP_MEM_ALLOC_ENABLE": "1"}


def run_bench(
    name: str, *, quick: bool = False, json_path: Path | None = None, save: bool = False
) -> BenchResult:
    """Run bench `name`, print its table of ratios and return what it found.

    `quick` takes tiny sizes, to see that it runs; its times mean nothing. `json_path` receives the
    result as one JSON object; `save` writes benchmarks/results/NAME_HARDWARE_DATE.md and .json.
    Raises `UserError` for an unknown name, `WrongAnswerError` where our own answer is wrong: then
    nothing is timed.
    """
    if name not in BENCHES:
        raise UserError(f"no bench {name!r}; choose one of {', '.join(BENCHES)}")
    if "torch" not in sys.modules:
        os.environ.update(PROCESS_ENVIRONMENT)
    from cuesta.cli.bench import report
    from cuesta.cli.bench.harness import Settings, run

    module = importlib.import_module(f"cuesta.cli.bench.{name}")
    result = run(name, module.measure, Settings(quick=quick))
    report.print_result(result)
    if json_path is not None:
        report.write_json(result, json_path)
    if save:
        for path in report.save(result, RESULTS):
            print(f"wrote {path}")
    return result
