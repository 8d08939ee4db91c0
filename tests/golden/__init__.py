"""Golden losses: 20 full-precision losses of every debug recipe, one thread. `python -m
tests.golden` writes those of this kind of processor anew.

Without AVX-512 kernels of attention sum in another order, and training enlarges what that rounds: from 1e-7
to 2e-4 in twelve steps. Such a processor has files of its own where it needs them, `NAME.avx2.json`.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch

from cuesta.cli.recipes import RECIPES, recipe_named
from cuesta.engine.optim import build_optimizer
from cuesta.engine.recipe import Recipe
from cuesta.ops.lanes import has_feature

FOLDER = Path(__file__).parent
DEBUG_RECIPES = [name for name in RECIPES if name.endswith(".debug")]
NUM_LOSSES = 20


def golden_file(name: str) -> Path:
    """Return the golden losses of a recipe on this kind of processor."""
    own = FOLDER / f"{name}.avx2.json"
    return own if own.exists() and not has_feature("avx512f") else FOLDER / f"{name}.json"


def losses_of(recipe: Recipe, num_steps: int = NUM_LOSSES) -> list[float]:
    """Return the first losses of a recipe, trained on one thread without the loop around it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(recipe.seed)
        task = recipe.task.build(seed=recipe.seed, device=torch.device("cpu"))
        optimizer = build_optimizer(task.model, recipe.optim, num_steps=num_steps)
        losses = []
        batches = task.train_batches(0, 0)
        for step in range(num_steps):
            torch.manual_seed(step)
            loss = task.losses(next(batches))["loss"]
            loss.backward()
            optimizer.step(step)
            losses.append(loss.item())
        return losses
    finally:
        torch.set_num_threads(threads)


def write() -> None:
    """Write the golden file of every debug recipe."""
    for name in DEBUG_RECIPES:
        losses = losses_of(replace(recipe_named(name), seed=0))
        golden_file(name).write_text(json.dumps(losses, indent=1) + "\n")
