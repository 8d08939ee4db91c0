"""Recipes as JSON and as flags: nothing is lost, every mistake is one line with its remedy."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from small_task import SmallConfig, SmallTask, recipe_named, small_recipe

from cuesta.engine.finish import saved_recipe
from cuesta.engine.optim import OptimConfig
from cuesta.engine.override import override, settings
from cuesta.engine.recipe import LoopConfig, Recipe, differences, fingerprint, from_json, to_json
from cuesta.engine.registry import RecipeEntry, load_recipe
from cuesta.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Gentle:
    """Hold one of two choices."""

    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Harsh:
    """Hold the other."""

    rate: float = 0.9
    power: int = 2


@dataclass(frozen=True, kw_only=True)
class RichConfig:
    """Hold every kind of field that a recipe may have."""

    path: Path = Path("data/log.parquet")
    choice: Gentle | Harsh = field(default_factory=Gentle)
    choices: tuple[Gentle | Harsh, ...] = ()
    maybe: Harsh | None = None
    sizes: tuple[int, ...] = (1, 2)
    shares: dict[str, float] = field(default_factory=dict)
    is_fast: bool = False

    def build(self, *, seed: int, device: torch.device) -> SmallTask:
        """Return nothing of use."""
        raise NotImplementedError(seed, device)


def rich_recipe(**fields: Any) -> Recipe:
    """Return a recipe around the fields of a `RichConfig`."""
    return Recipe(name="rich", task=RichConfig(**fields))


FULL = rich_recipe(
    path=Path("other"),
    choice=Harsh(rate=0.5),
    choices=(Harsh(power=3), Gentle()),
    maybe=Harsh(),
    sizes=(),
    shares={"a": 0.25},
)


@pytest.mark.parametrize("recipe", [rich_recipe(), FULL, small_recipe()])
def test_json_gives_the_same_recipe_back(recipe: Recipe) -> None:
    saved = json.loads(json.dumps(to_json(recipe)))
    default = small_recipe() if recipe.name == "small" else rich_recipe()
    assert from_json(saved, default, where="recipe.json") == recipe


def test_any_change_is_seen_and_named() -> None:
    one, other = rich_recipe(), rich_recipe(choice=Gentle(rate=0.2))
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(rich_recipe())
    assert differences(one, other) == ["task.choice.rate: 0.1 -> 0.2"]
    assert differences(one, rich_recipe(choice=Harsh(rate=0.1))) == [
        'task.choice.class: "Gentle" -> "Harsh"',
        "task.choice.power: null -> 2",
    ]


def saved_with(tmp_path: Path, before: str, after: str) -> Path:
    """Return a run folder whose recipe.json has `before` replaced by `after`."""
    text = json.dumps(to_json(small_recipe()), indent=2)
    assert before in text
    (tmp_path / "recipe.json").write_text(text.replace(before, after))
    return tmp_path


def test_a_saved_field_that_no_longer_exists_is_named_with_the_nearest(tmp_path: Path) -> None:
    folder = saved_with(tmp_path, '"batch_size"', '"batchsize"')
    expected = r"recipe\.json: field task\.batchsize does not exist in this version; did you mean "
    with pytest.raises(UserError, match=expected + r"batch_size\?$"):
        saved_recipe(folder, recipe_named)


def test_a_field_that_was_added_since_takes_its_default(tmp_path: Path) -> None:
    folder = saved_with(tmp_path, '"patience": null,', "")
    assert saved_recipe(folder, recipe_named) == small_recipe()


def test_a_class_that_no_longer_exists_is_named(tmp_path: Path) -> None:
    folder = saved_with(tmp_path, '"SmallConfig"', '"OldConfig"')
    with pytest.raises(UserError, match=r"task is a OldConfig, which this version of the recipe"):
        saved_recipe(folder, recipe_named)


def test_a_damaged_recipe_names_file_and_line(tmp_path: Path) -> None:
    folder = saved_with(tmp_path, '"name": "small",', '"name": small,')
    with pytest.raises(UserError, match=r"recipe\.json is damaged at line 3: "):
        saved_recipe(folder, recipe_named)


def test_flags_set_fields_of_every_depth() -> None:
    args = ["--optim.lr", "0.5", "--task.batch-size=7", "--loop.precision", "bf16", "--seed", "3"]
    args += ["--loop.patience", "4", "--optim.betas", "0.5", "0.6", "--task.sizes", "1", "2", "3"]
    recipe = override(small_recipe(), args)
    expected = dataclasses.replace(
        small_recipe(
            SmallConfig(batch_size=7, sizes=(1, 2, 3)),
            dataclasses.replace(small_recipe().optim, lr=0.5, betas=(0.5, 0.6)),
            dataclasses.replace(small_recipe().loop, precision="bf16", patience=4),
        ),
        seed=3,
    )
    assert recipe == expected
    assert override(recipe, ["--loop.patience", "None"]).loop.patience is None


def test_flags_take_paths_and_truth_values() -> None:
    recipe = override(rich_recipe(), ["--task.path", "-x/y", "--task.is_fast", "true"])
    assert recipe == rich_recipe(path=Path("-x/y"), is_fast=True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--optim.learning-rat", "1"], "small has no setting --optim.learning-rat; "),
        (["--optim.l", "1"], "did you mean --optim.lr?"),
        (["--name", "other"], "small has no setting --name; "),
        (["--optim.lr", "fast"], "--optim.lr fast: expected float"),
        (["--optim.lr", "1", "2"], "--optim.lr 1 2: expected float"),
        (["--optim.lr"], "--optim.lr needs a value, float; it is 0.01 now"),
        (["--loop.precision", "fp8"], "--loop.precision fp8: expected one of fp32, bf16"),
        (["--loop.patience", "long"], "--loop.patience long: expected int or None"),
        (["--optim.betas", "1"], "--optim.betas 1: expected float and float"),
        (["--task.sizes", "a"], "--task.sizes a: expected one or more of int"),
        (["--loop.epochs", "0"], "loop.epochs must be at least 1, got 0"),
        (["--loop.evaluate-every", "0"], "loop.evaluate-every must be at least 1 or None, got 0"),
        (["--optim.lr", "-1"], "optim.lr must not be negative, got -1.0"),
        (["--seed", "-1"], "seed must not be negative, got -1"),
        (["0.5"], "expected a flag such as --optim.lr, got '0.5'"),
    ],
)
def test_a_wrong_flag_is_one_line(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as error:
        override(small_recipe(), args)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert capsys.readouterr() == ("", ""), "nothing else is printed"


def test_settings_are_all_fields_but_the_name_and_what_flags_cannot_say() -> None:
    flags = settings(rich_recipe())
    assert "--optim.warmup-steps" in flags
    assert "--task.choice.rate" in flags
    assert flags["--seed"].value == 0
    for absent in ("--name", "--task.choices", "--task.maybe"):
        assert absent not in flags


def test_a_registered_recipe_is_loaded_by_its_target() -> None:
    entry = RecipeEntry(target="small_task:small_recipe", summary="a small one")
    assert load_recipe("small", {"small": entry}) == small_recipe()
    with pytest.raises(ValueError, match="calls its recipe 'small', registered as 'large'"):
        load_recipe("large", {"large": entry})


@pytest.mark.parametrize(
    ("name", "hint"), [("smal", "did you mean small?"), ("q", "known are small")]
)
def test_an_unknown_recipe_is_told_with_what_there_is(name: str, hint: str) -> None:
    entry = RecipeEntry(target="nowhere:nothing", summary="not loaded")
    with pytest.raises(UserError) as error:
        load_recipe(name, {"small": entry})
    assert str(error.value) == f"there is no recipe '{name}'; {hint}"


def test_configs_are_their_defaults() -> None:
    recipe = Recipe(name="plain", task=SmallConfig())
    assert (recipe.optim, recipe.loop) == (OptimConfig(), LoopConfig())
