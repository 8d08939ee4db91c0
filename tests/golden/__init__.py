"""Golden losses: 20 full-precision losses of every debug recipe, one thread. `python -m
tests.golden` writes them anew.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch

from cuesta.cli.recipes import RECIPES, recipe_named
from cuesta.engine.optim import build_optimizer
from cuesta.engine.recipe import Recipe

FOLDER = Path(__file__).parent
DEBUG_RECIPES = [name for name in RECIPES if name.endswith(".debug")]
NUM_LOSSES = 20


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
        (FOLDER / f"{name}.json").write_text(json.dumps(losses, indent=1) + "\n")
