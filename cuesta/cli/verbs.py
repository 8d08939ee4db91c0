"""The verbs list, demo, train, eval and bench: each takes the parsed options and returns the exit
status.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from cuesta.cli import ranks, tables
from cuesta.cli.recipes import RECIPES, recipe_named
from cuesta.errors import UserError

if TYPE_CHECKING:
    from cuesta.engine.finish import TrainResult
    from cuesta.engine.override import Named
    from cuesta.engine.recipe import Recipe
    from cuesta.engine.world import World

DEMO = "dcnv2.ml100k"
SHOWN = ("auc", "ne", "log_loss", "gauc", "calibration")


def list_everything(options: argparse.Namespace) -> int:
    """Print every recipe, data set and bench with its one line."""
    from cuesta.cli.bench import BENCHES
    from cuesta.cli.data import DATA_NAMES

    recipes = {name: entry.summary for name, entry in RECIPES.items()}
    everything = {"recipes": recipes, "data": DATA_NAMES, "benches": BENCHES}
    if options.json:
        print(json.dumps(everything, indent=1))
        return 0
    width = max(len(name) for names in everything.values() for name in names)
    for kind, names in everything.items():
        print(f"{kind}:")
        for name, summary in names.items():
            print(f"  {name:{width}}  {summary}")
    return 0


def demo(options: argparse.Namespace) -> int:
    """Train the demo recipe and rebuild a generated landmark, into a folder that they may replace."""
    from cuesta.cli.vision import demo_scene, print_verdict

    importlib.import_module("cuesta.vision.terrasky3d.pipeline")  # a missing extra is told first

    out = Path(options.out)
    result = _train(recipe_named(DEMO), out / "ranker", overwrite=True)
    if not options.json:
        _print_result(result, as_json=False)
    scene, accuracy = demo_scene(out / "landmark")
    if options.json:
        print(
            json.dumps({"ranker": result.to_json(), "scene": scene.to_json() | accuracy}, indent=1)
        )
        return 0
    print_verdict(scene)
    print(f"against the true cameras: AUC@5 {accuracy['auc_at_5_deg']:.1f} of 100")
    return 0


def train(options: argparse.Namespace) -> int:
    """Train a recipe with the settings given, or list its settings."""
    if options.recipe is None:
        if options.help:
            options.train_parser.print_help()
            return 0
        options.train_parser.error("name a recipe; `cuesta list` shows them")
    recipe = recipe_named(options.recipe)
    if options.help:
        options.train_parser.print_help()
        print_settings(recipe)
        return 0
    from cuesta.engine.override import override
    from cuesta.engine.run_folder import RunFolder
    from cuesta.engine.stop import TrainingStopped
    from cuesta.rec.neo.launch import is_restarted, world_here
    from cuesta.rec.neo.plan import read_plan

    recipe = override(recipe, options.settings)
    folder = Path(options.out or f"runs/{recipe.name}")
    if options.ranks is not None:
        return ranks.train_on_ranks(options, folder)
    if options.ray or options.max_restarts:
        raise UserError("--ray and --max-restarts are of --ranks; say how many, or leave them out")
    goes_on = is_restarted() and RunFolder(folder).recipe.exists()
    try:
        plan = None if options.plan is None else read_plan(options.plan)
        with world_here(plan, tables.sharded_options(options)) as world:
            result = _train(
                recipe,
                folder,
                resume=options.resume or goes_on,
                overwrite=options.overwrite and not goes_on,
                device=options.device,
                world=world,
                saves_beside=not options.wait_for_saves,
            )
    except TrainingStopped as stopped:
        print(f"cuesta: {stopped}", file=sys.stderr)
        return stopped.exit_status
    if world.rank == 0:
        _print_result(result, as_json=options.json)
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate a finished run on a split."""
    from cuesta.engine.finish import evaluate_run
    from cuesta.engine.run_folder import without_nan

    evaluation = evaluate_run(options.run, recipe_named, split=options.split)
    if options.json:
        print(json.dumps(without_nan(dict(evaluation.metrics)), indent=1))
    else:
        _print_metrics({options.split: evaluation.metrics})
    return 0


def bench(options: argparse.Namespace) -> int:
    """Run one bench, or list them."""
    from cuesta.cli.bench import BENCHES

    if options.name is None:
        for name, summary in BENCHES.items():
            print(f"{name:16}{summary}")
        return 0
    from cuesta.cli.bench import run_bench

    json_path = Path(options.json) if options.json else None
    run_bench(options.name, quick=options.quick, json_path=json_path, save=options.save)
    return 0


def _train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str | None = None,
    world: World | None = None,
    saves_beside: bool = True,
) -> TrainResult:
    from cuesta.engine.loop import train as run_training
    from cuesta.engine.progress import ignore_progress, show_progress

    is_first = world is None or world.rank == 0
    with show_progress(sys.stderr) if is_first else nullcontext(ignore_progress) as on_progress:
        return run_training(
            recipe,
            folder,
            resume=resume,
            overwrite=overwrite,
            device=device,
            on_progress=on_progress,
            world=world,
            saves_beside=saves_beside,
        )


def _print_result(result: TrainResult, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.to_json(), indent=1))
        return
    _print_metrics({"validation": result.validation, "test": result.test})
    rate = f"{result.examples_per_second:,.0f} examples/s"
    print(f"{result.step} steps in {result.seconds:.1f} s, {rate}; best at step {result.best_step}")
    waits = sorted(result.waited_s.items(), key=lambda wait: -wait[1])
    shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in waits if seconds >= 0.005)
    print(f"waited for: {shown or 'nothing'}")
    print(f"report: {result.report.resolve()}")


def _print_metrics(metrics: Mapping[str, Mapping[str, float]]) -> None:
    for split, values in metrics.items():
        shown = "  ".join(f"{name} {values[name]:.4f}" for name in SHOWN if name in values)
        print(f"{split:10}  {shown}")


def print_settings(recipe: Named) -> None:
    """Print every setting that a flag can change, with its value and what it takes."""
    from cuesta.engine.override import settings

    found = settings(recipe)
    width = max(len(flag) for flag in found)
    print(f"\nsettings of {recipe.name}:")
    for flag, setting in found.items():
        print(f"  {flag:{width}}  {setting.value}  ({setting.expected()})")
