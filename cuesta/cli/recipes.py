"""The registry of recipes: every name, where its function is, and what it trains. Imports nothing
heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cuesta.engine.registry import RecipeEntry, load_recipe

if TYPE_CHECKING:
    from cuesta.engine.recipe import Recipe

BASELINES = "cuesta.rec.baselines.recipes"
JAGGED = "cuesta.rec.jagged_flash.recipes"

RECIPES: dict[str, RecipeEntry] = {
    "dcnv2.ml100k": RecipeEntry(
        target=f"{BASELINES}:dcnv2_ml100k",
        summary="DCNv2 with an attended, de-biased rating history on ml-100k (the demo)",
    ),
    "dlrm.ml100k": RecipeEntry(
        target=f"{BASELINES}:dlrm_ml100k", summary="DLRM with the same inputs on ml-100k"
    ),
    "dlrm.log": RecipeEntry(
        target=f"{BASELINES}:dlrm_log",
        summary="DLRM on a log of your own: --task.data FOLDER (Parquet and schema.toml)",
    ),
    "dcnv2.log": RecipeEntry(
        target=f"{BASELINES}:dcnv2_log",
        summary="DCNv2 on a log of your own: --task.data FOLDER (Parquet and schema.toml)",
    ),
    "dlrm.stream": RecipeEntry(
        target=f"{BASELINES}:dlrm_stream",
        summary="DLRM on a synthetic stream of a million rows with a known Bayes NE",
    ),
    "dlrm.debug": RecipeEntry(
        target=f"{BASELINES}:dlrm_debug", summary="DLRM on a small stream, seconds"
    ),
    "dcnv2.debug": RecipeEntry(
        target=f"{BASELINES}:dcnv2_debug", summary="DCNv2 on a small stream, seconds"
    ),
    "jagged.ml100k": RecipeEntry(
        target=f"{JAGGED}:jagged_ml100k",
        summary="DCNv2 whose history is encoded by jagged flash attention, on ml-100k",
    ),
    "jagged.dlrm.ml100k": RecipeEntry(
        target=f"{JAGGED}:jagged_dlrm_ml100k", summary="DLRM with the same encoder on ml-100k"
    ),
    "jagged.debug": RecipeEntry(
        target=f"{JAGGED}:jagged_debug",
        summary="DLRM with an encoded history on a small stream, seconds",
    ),
}


def recipe_named(name: str) -> Recipe:
    """Return the registered recipe; raise `UserError` with the nearest name for another."""
    return load_recipe(name, RECIPES)
