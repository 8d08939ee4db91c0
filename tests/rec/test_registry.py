"""Every registered recipe builds from its own words; every debug recipe trains, matches its golden
losses, saves and resumes.
"""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

from cuesta.cli.recipes import RECIPES, recipe_named
from cuesta.engine.loop import train
from cuesta.engine.recipe import from_json, to_json
from tests.golden import DEBUG_RECIPES, NUM_LOSSES, golden_file, losses_of


@cache
def first_losses(name: str) -> list[float]:
    return losses_of(recipe_named(name))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_json(name: str) -> None:
    recipe = recipe_named(name)
    assert from_json(json.loads(json.dumps(to_json(recipe))), recipe, where="here") == recipe


def test_every_system_has_a_debug_recipe() -> None:
    systems = {name.split(".")[0] for name in RECIPES}
    assert systems == {name.removesuffix(".debug") for name in DEBUG_RECIPES}


@pytest.mark.parametrize("name", DEBUG_RECIPES)
def test_losses_are_golden(name: str) -> None:
    golden = json.loads(golden_file(name).read_text())
    losses = first_losses(name)
    assert losses == losses_of(recipe_named(name)), "two runs in one process differ"
    assert losses == pytest.approx(golden, rel=1e-5)


@pytest.mark.parametrize("name", DEBUG_RECIPES)
def test_a_debug_recipe_trains_and_resumes_exactly(name: str, tmp_path) -> None:
    recipe = recipe_named(name)
    unbroken = train(recipe, tmp_path / "unbroken")
    lines = (tmp_path / "unbroken/losses.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert unbroken.test["ne"] < 1.0

    class KilledError(Exception):
        pass

    def kill(progress) -> None:
        if progress.step == 30:
            raise KilledError

    with pytest.raises(KilledError):
        train(recipe, tmp_path / "broken", on_progress=kill)
    train(recipe, tmp_path / "broken", resume=True)
    for file in ("losses.jsonl", "weights.safetensors"):
        assert (tmp_path / "broken" / file).read_bytes() == (
            tmp_path / "unbroken" / file
        ).read_bytes()


def test_bfloat16_tables_train() -> None:
    recipe = recipe_named("dlrm.debug")
    inputs = replace(recipe.task.model.inputs, storage="bfloat16")
    model = replace(recipe.task.model, inputs=inputs)
    half = losses_of(replace(recipe, task=replace(recipe.task, model=model)))
    assert sum(half[-5:]) < sum(half[:5])
    assert half != first_losses("dlrm.debug")
    assert torch.tensor(half).isfinite().all()


@pytest.mark.parametrize("name", DEBUG_RECIPES)
def test_a_debug_recipe_trains_in_bf16(name: str, tmp_path) -> None:
    recipe = recipe_named(name)
    half = replace(recipe, loop=replace(recipe.loop, precision="bf16"))
    result = train(half, tmp_path / "half")
    lines = (tmp_path / "half/losses.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert losses[:NUM_LOSSES] != first_losses(name), "bf16 changed nothing: was it on?"
    assert result.test["ne"] < 1.0
