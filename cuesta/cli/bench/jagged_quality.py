"""`cuesta bench jagged_quality`: what encoding histories is worth: test AUC of the recipe
`jagged.ml100k` beside the same recipe with mean-pooled histories, over seeds.

Both are trained to the end as `cuesta train` does, and judged by the weights that validation chose.
Differences within what seeds do mean nothing, so each seed's AUC is noted.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from cuesta.cli.bench.harness import OURS, Findings, Settings, progress, sample_rows
from cuesta.cli.recipes import recipe_named
from cuesta.engine.loop import train
from cuesta.engine.recipe import Recipe
from cuesta.rec.baselines.task import RankingTaskConfig

BENCH = "jagged_quality"
MEAN_POOLED = "mean-pooled"
SEEDS = (0, 1, 2)


def measure(settings: Settings) -> Findings:
    """Train both recipes for every seed and compare their AUCs on the test rows."""
    findings = Findings()
    name = "jagged.debug" if settings.quick else "jagged.ml100k"
    recipes = {OURS: recipe_named(name), MEAN_POOLED: mean_pooled(recipe_named(name))}
    seeds = SEEDS[:1] if settings.quick else SEEDS
    aucs: dict[str, list[float]] = {provider: [] for provider in recipes}
    for seed in seeds:
        for provider, recipe in recipes.items():
            progress(f"{BENCH}: {name}, {provider}, seed {seed}")
            with tempfile.TemporaryDirectory() as folder:
                result = train(replace(recipe, seed=seed), Path(folder) / "run", device="cpu")
            aucs[provider].append(result.test["auc"])
            findings.note(
                f"{provider}, seed {seed}: test AUC {result.test['auc']:.4f}, NE "
                f"{result.test['ne']:.4f}, {result.examples_per_second:.0f} examples/s"
            )
    findings.rows += sample_rows(f"{name}: test rows", aucs, "AUC", is_more_better=True)
    if not settings.quick:
        findings.note(verdict(aucs))
    return findings


def mean_pooled(recipe: Recipe) -> Recipe:
    """Return the recipe with histories pooled by their mean instead."""
    task = cast(RankingTaskConfig, recipe.task)
    inputs = replace(task.model.inputs, pooling="mean", num_layers=1, window=None)
    return replace(recipe, task=replace(task, model=replace(task.model, inputs=inputs)))


def verdict(aucs: dict[str, list[float]]) -> str:
    """Return whether the mean over seeds is at least that of mean pooling, and what seeds do."""
    ours, theirs = np.array(aucs[OURS]), np.array(aucs[MEAN_POOLED])
    word = "met" if ours.mean() >= theirs.mean() else "MISSED"
    return (
        f"bar {word}: mean AUC {ours.mean():.4f}, mean-pooled {theirs.mean():.4f} (asked: at "
        f"least); medians {np.median(ours):.4f} and {np.median(theirs):.4f}; seeds differ by up to "
        f"{max(np.ptp(ours), np.ptp(theirs)):.4f}"
    )
