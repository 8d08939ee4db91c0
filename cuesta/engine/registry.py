"""`RecipeEntry`: where a named recipe is found and what it is, without importing it.

The command lists recipes without importing torch; only the chosen one is loaded. This is the
project's one dynamic import by string. The table of names itself belongs to the command, which
knows every wing.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cuesta.engine.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class RecipeEntry:
    """Point to a recipe function as `module:function`, with one line that says what it trains."""

    target: str
    summary: str


def load_recipe(name: str, entry: RecipeEntry) -> Recipe:
    """Return what the function behind `entry` returns; its `name` must be the registered `name`."""
    module_name, _, function_name = entry.target.partition(":")
    recipe: Recipe = getattr(importlib.import_module(module_name), function_name)()
    if recipe.name != name:
        raise ValueError(f"{entry.target} calls its recipe {recipe.name!r}, registered as {name!r}")
    return recipe
