"""Recipes of the baselines: each function returns one frozen recipe, and two differ by what one can
read here.
"""

from __future__ import annotations

from dataclasses import replace

from cuesta.engine.optim import OptimConfig
from cuesta.engine.recipe import LoopConfig, Recipe
from cuesta.ops import RowwiseAdagrad
from cuesta.rec.baselines.inputs import InputConfig
from cuesta.rec.baselines.model import DCNv2Config, DLRMConfig
from cuesta.rec.baselines.task import RankingTaskConfig

ML_100K_INPUTS = InputConfig(
    dim=16,
    target=("item", "genre_set", "year"),
    history=("history_item", "history_genre_set", "history_year"),
    values_of="history_item",
    ages_of="history_rating",
    left_out=("user", "history_rating"),
    tables=RowwiseAdagrad(lr=0.03),
)
STREAM_INPUTS = InputConfig(
    dim=8, target=("item",), history=("history_item",), values_of="history_item"
)


def dcnv2_ml100k() -> Recipe:
    """Return DCNv2 with an attended, de-biased rating history on ml-100k: the project's demo."""
    return Recipe(
        name="dcnv2.ml100k",
        task=RankingTaskConfig(
            data="ml-100k",
            model=DCNv2Config(inputs=ML_100K_INPUTS),
            batch_size=512,
            slices=("item_log_count", "neighbour_residual"),
        ),
        optim=OptimConfig(lr=2e-3, weight_decay=1e-2, schedule="linear", warmup_steps=50),
        loop=LoopConfig(epochs=1, evaluate_every=52),
    )


def dlrm_ml100k() -> Recipe:
    """Return DLRM on the same data, inputs and schedule as `dcnv2_ml100k`."""
    base = dcnv2_ml100k()
    task = RankingTaskConfig(data="ml-100k", model=DLRMConfig(inputs=ML_100K_INPUTS, dropout=0.1))
    return replace(base, name="dlrm.ml100k", task=task)


def dlrm_debug() -> Recipe:
    """Return DLRM with an attended history on a small stream: seconds."""
    return Recipe(
        name="dlrm.debug",
        task=RankingTaskConfig(
            data="stream.mini", model=DLRMConfig(inputs=STREAM_INPUTS), batch_size=256
        ),
        optim=OptimConfig(lr=2e-3),
        loop=LoopConfig(max_steps=40, evaluate_every=20, checkpoint_every=20),
    )


def dcnv2_debug() -> Recipe:
    """Return DCNv2 with a mean-pooled history on a small stream: seconds."""
    inputs = replace(STREAM_INPUTS, pooling="mean")
    task = RankingTaskConfig(data="stream.mini", model=DCNv2Config(inputs=inputs), batch_size=256)
    return replace(dlrm_debug(), name="dcnv2.debug", task=task)


def dlrm_stream() -> Recipe:
    """Return DLRM on a stream of a million rows whose Bayes NE is known: minutes."""
    return Recipe(
        name="dlrm.stream",
        task=RankingTaskConfig(
            data="stream.small",
            model=DLRMConfig(inputs=replace(STREAM_INPUTS, dim=16)),
            batch_size=1024,
        ),
        optim=OptimConfig(lr=1e-3, schedule="linear", warmup_steps=100),
        loop=LoopConfig(epochs=1, evaluate_every=200),
    )


def dlrm_log() -> Recipe:
    """Return DLRM for a log of one's own, `--task.data FOLDER`: all its features, histories by mean."""
    return Recipe(
        name="dlrm.log",
        task=RankingTaskConfig(data="stream.mini", model=DLRMConfig(dropout=0.1), batch_size=256),
        optim=OptimConfig(lr=1e-3),
        loop=LoopConfig(epochs=10, patience=2),
    )


def dcnv2_log() -> Recipe:
    """Return DCNv2 for a log of one's own, `--task.data FOLDER`: all its features, histories by mean."""
    task = RankingTaskConfig(data="stream.mini", model=DCNv2Config(), batch_size=256)
    return replace(dlrm_log(), name="dcnv2.log", task=task)
