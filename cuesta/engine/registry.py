"""`RecipeEntry`: where a named recipe is found and what it is, without importing it.

The command lists recipes without importing torch; only the chosen one is loaded. This is the
project's one dynamic import by string. The table of names belongs to the command, which knows
every wing.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cuesta.errors import UserError

if TYPE_CHECKING:
    from cuesta.engine.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class RecipeEntry:
    """Point to a recipe function as `module:function`, with one line that says what it trains."""

    target: str
    summary: str


def load_recipe(name: str, entries: Mapping[str, RecipeEntry]) -> Recipe:
    """Return what the function behind `entries[name]` returns.

    Raises `UserError` naming the nearest recipe when there is none of that name.
    """
    if name not in entries:
        raise UserError(f"there is no recipe {name!r}{did_you_mean(name, entries)}")
    target = entries[name].target
    module_name, _, function_name = target.partition(":")
    recipe: Recipe = getattr(importlib.import_module(module_name), function_name)()
    if recipe.name != name:
        raise ValueError(f"{target} calls its recipe {recipe.name!r}, registered as {name!r}")
    return recipe


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean x?` for the nearest known word, or `; known are …` without one."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
