"""Recipes of rankers whose histories are encoded by attention on ragged rows; each differs from a
baseline by what one can read here.
"""

from __future__ import annotations

from dataclasses import replace

from cuesta.engine.recipe import Recipe
from cuesta.rec.baselines.model import DCNv2Config, DLRMConfig
from cuesta.rec.baselines.recipes import ML_100K_INPUTS, STREAM_INPUTS, dcnv2_ml100k, dlrm_debug
from cuesta.rec.baselines.task import RankingTaskConfig

JAGGED_ML_100K_INPUTS = replace(ML_100K_INPUTS, pooling="jagged")


def jagged_ml100k() -> Recipe:
    """Return `dcnv2_ml100k` with the history's events encoded by causal self-attention as well."""
    base = dcnv2_ml100k()
    task = RankingTaskConfig(
        data="ml-100k",
        model=DCNv2Config(inputs=JAGGED_ML_100K_INPUTS),
        batch_size=512,
        slices=("item_log_count", "neighbour_residual"),
    )
    return replace(base, name="jagged.ml100k", task=task)


def jagged_dlrm_ml100k() -> Recipe:
    """Return the same encoder in DLRM."""
    base = jagged_ml100k()
    model = DLRMConfig(inputs=JAGGED_ML_100K_INPUTS, dropout=0.1)
    task = RankingTaskConfig(data="ml-100k", model=model)
    return replace(base, name="jagged.dlrm.ml100k", task=task)


def jagged_debug() -> Recipe:
    """Return DLRM with an encoded history, within a window, on a small stream: seconds."""
    inputs = replace(STREAM_INPUTS, pooling="jagged", window=8)
    task = RankingTaskConfig(data="stream.mini", model=DLRMConfig(inputs=inputs), batch_size=256)
    return replace(dlrm_debug(), name="jagged.debug", task=task)
