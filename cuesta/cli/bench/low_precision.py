"""`cuesta bench low_precision`: what 16 bits cost in quality: test NE of `dlrm.stream` with such tables or exchanges.

Every variant is trained to the end from the same seeds on the same batches, and compared with float32 seed by seed:
tables in float16 rounded by chance, and to nearest; under two gloo ranks, lookups in float16 and gradients in bfloat16
on the wire. Neo's specification asks for normalised entropies within 0.02 %.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from cuesta.cli.bench.harness import OURS, Findings, Settings, progress, sample_rows
from cuesta.cli.recipes import recipe_named
from cuesta.engine.loop import train
from cuesta.engine.recipe import Recipe
from cuesta.nn import Storage
from cuesta.ops import RowwiseAdagrad
from cuesta.rec.baselines.task import RankingTaskConfig
from cuesta.rec.neo.calibration import on_ranks
from cuesta.rec.neo.exchange import Wire
from cuesta.rec.neo.launch import Ranked
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.sharded import ShardedOptions

BENCH = "low_precision"
FLOAT32, NEAREST = "float32", "float16, rounded to nearest"
MOST = 2e-4  # of the normalised entropy
SEEDS = (0, 1, 2)


def measure(settings: Settings) -> Findings:
    """Train every variant for every seed and compare their test NE."""
    findings = Findings()
    name = "dlrm.debug" if settings.quick else "dlrm.stream"
    recipe = recipe_named(name)
    tables = {
        OURS: stored(recipe, "float16"),
        NEAREST: stored(recipe, "float16", by_chance=False),
        FLOAT32: recipe,
    }
    wires = {OURS: Wire(forward="float16", backward="bfloat16"), FLOAT32: Wire()}
    seeds = SEEDS[:1] if settings.quick else SEEDS
    found: dict[str, dict[str, list[float]]] = {
        f"{name}: tables in float16, rounded by chance": {provider: [] for provider in tables},
        f"{name}: 16 bits on the wire, 2 ranks": {provider: [] for provider in wires},
    }
    of_tables, of_wires = found.values()
    for seed in seeds:
        for provider, each in tables.items():
            progress(f"{BENCH}: tables, {provider}, seed {seed}")
            of_tables[provider].append(_trained(replace(each, seed=seed), Wire(), Ranks()))
        progress(f"{BENCH}: wires, seed {seed}")
        on_wires = on_ranks(2, partial(_on_wires, replace(recipe, seed=seed), wires))
        for provider, entropy in on_wires.items():
            of_wires[provider].append(entropy)
    for case, entropies in found.items():
        findings.rows += sample_rows(case, entropies, "NE")
        if not settings.quick:
            findings.note(verdict(case, entropies))
    return findings


def stored(recipe: Recipe, storage: Storage, *, by_chance: bool = True) -> Recipe:
    """Return the recipe with its tables stored so."""
    task = cast(RankingTaskConfig, recipe.task)
    tables = cast(RowwiseAdagrad, task.model.inputs.tables)
    inputs = replace(
        task.model.inputs, storage=storage, tables=replace(tables, stochastic_rounding=by_chance)
    )
    return replace(recipe, task=replace(task, model=replace(task.model, inputs=inputs)))


def verdict(case: str, entropies: dict[str, list[float]]) -> str:
    """Return how far ours is from float32, seed by seed, and whether that is little enough."""
    ours, exact = np.array(entropies[OURS]), np.array(entropies[FLOAT32])
    apart = ours / exact - 1
    word = "met" if apart.mean() <= MOST else "MISSED"
    each = ", ".join(f"{100 * value:+.3f} %" for value in apart)
    return (
        f"bar {word}: {case}: NE {100 * apart.mean():+.3f} % of float32's in the mean (asked: {100 * MOST:.2f} % "
        f"at most); by seed {each}; float32's own seeds differ by {100 * np.ptp(exact) / exact.mean():.3f} %"
    )


def _on_wires(recipe: Recipe, wires: Mapping[str, Wire], ranks: Ranks) -> dict[str, float]:
    """Return the test NE of a recipe trained on these ranks over each of the wires."""
    return {provider: _trained(recipe, wire, ranks) for provider, wire in wires.items()}


def _trained(recipe: Recipe, wire: Wire, ranks: Ranks) -> float:
    """Return the test NE of a recipe trained on these ranks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        if ranks.size > 1:  # the first rank's folder is everyone's
            path = Path(ranks.say(str(path))[0])
        world = Ranked(ranks, options=ShardedOptions(wire=wire))
        entropy = train(recipe, path, device="cpu", world=world).test["ne"]
        ranks.together(None)
    return entropy
