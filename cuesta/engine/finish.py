"""After training, and for `cuesta eval`: the best weights, their evaluations, the report."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from cuesta.data.files import atomic_file
from cuesta.engine.checkpoint import TrainingState, load_best
from cuesta.engine.optim import embedding_bytes
from cuesta.engine.recipe import Json, Recipe, fingerprint, from_json
from cuesta.engine.report import write_report
from cuesta.engine.run_folder import RunFolder, read_json, without_nan, write_json
from cuesta.engine.task import BatchType, Evaluation, Task
from cuesta.engine.tensor_files import load_weights, save_tensors
from cuesta.engine.world import World
from cuesta.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Hold the outcome of a run; `validation` and `test` are the metrics of the weights of
    `best_step`.

    `seconds` are those spent in training steps, over all sessions, evaluations not counted; `waited_s` those of
    them in which nothing was done but wait, by what for, and those of `saving`, beside them: the mean over ranks.
    """

    folder: Path
    step: int
    best_step: int
    validation: dict[str, float]
    test: dict[str, float]
    seconds: float
    waited_s: dict[str, float]
    examples_per_second: float
    embedding_bytes: int
    report: Path

    def to_json(self) -> dict[str, Json]:
        """Return the fields for `--json` and `metrics.json`, paths as strings, NaN as null."""
        return {
            "folder": str(self.folder),
            "step": self.step,
            "best_step": self.best_step,
            "validation": without_nan(dict(self.validation)),
            "test": without_nan(dict(self.test)),
            "seconds": self.seconds,
            "waited_s": dict(self.waited_s),
            "examples_per_second": self.examples_per_second,
            "embedding_bytes": self.embedding_bytes,
            "report": str(self.report),
        }


def finish(
    recipe: Recipe,
    run: RunFolder,
    task: Task[BatchType],
    state: TrainingState,
    *,
    device: torch.device,
    world: World,
) -> TrainResult:
    """Evaluate the best weights, write weights, metrics and report, and return the outcome.

    In a world of many ranks the first does it, with the whole model.
    """
    if world.size > 1:
        world.first(lambda: _finish_whole(recipe, run, state, device, world))
        return _result(run)
    best_step = load_best(run, state, task.model, world)
    precision = recipe.loop.precision
    evaluations = {
        split: evaluate_split(task, split, precision=precision, device=device)
        for split in ("validation", "test")
    }
    result = TrainResult(
        folder=run.path,
        step=state.step,
        best_step=best_step,
        validation=dict(evaluations["validation"].metrics),
        test=dict(evaluations["test"].metrics),
        seconds=state.seconds,
        waited_s=dict(state.waited_s),
        examples_per_second=state.examples / max(state.seconds, 1e-9),
        embedding_bytes=embedding_bytes(task.model),
        report=run.report,
    )
    summary = {"recipe": recipe.name, "fingerprint": fingerprint(recipe), **result.to_json()}
    with atomic_file(run.weights) as temporary:
        save_tensors(temporary, task.model.state_dict())
    write_json(run.metrics, summary)
    write_report(run, recipe, evaluations)
    return result


def _finish_whole(
    recipe: Recipe, run: RunFolder, state: TrainingState, device: torch.device, world: World
) -> None:
    alone = world.alone()
    task = alone.build(recipe.task, seed=recipe.seed, device=device)
    finish(recipe, run, task, state, device=device, world=alone)


def _result(run: RunFolder) -> TrainResult:
    """Return the outcome that the first rank wrote."""
    saved = read_json(run.metrics)
    assert isinstance(saved, dict)
    fields = {each.name: saved[each.name] for each in dataclasses.fields(TrainResult)}
    for split in ("validation", "test"):
        metrics = saved[split]
        assert isinstance(metrics, dict)
        fields[split] = {
            name: math.nan if value is None else value for name, value in metrics.items()
        }
    return TrainResult(**{**fields, "folder": run.path, "report": run.report})


def evaluate_split(
    task: Task[BatchType],
    split: str,
    *,
    precision: Literal["fp32", "bf16"],
    device: torch.device,
) -> Evaluation:
    """Return the task's evaluation of `split`, without dropout or gradients, in this precision."""
    was_training = task.model.training
    task.model.eval()
    try:
        with torch.no_grad(), model_precision(precision, device):
            return task.evaluate(split)
    finally:
        task.model.train(was_training)


def model_precision(
    precision: Literal["fp32", "bf16"], device: torch.device
) -> contextlib.AbstractContextManager[object]:
    """Return the context in which the model runs: bfloat16 autocast, or as it is."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def saved_recipe(folder: str | Path, recipe_named: Callable[[str], Recipe]) -> Recipe:
    """Return the recipe of a run: the one `recipe_named` returns, with the field values of
    `recipe.json`.

    Raises `UserError` naming the file and the field when the recipe has changed too much since.
    """
    run = RunFolder(Path(folder))
    saved = read_json(run.recipe)
    if not isinstance(saved, dict) or not isinstance(saved.get("name"), str):
        raise UserError(f"{run.recipe} names no recipe; is {run.path} a run folder?")
    return from_json(saved, recipe_named(str(saved["name"])), where=str(run.recipe))


def evaluate_run(
    folder: str | Path,
    recipe_named: Callable[[str], Recipe],
    *,
    split: str = "test",
    device: str | torch.device | None = None,
) -> Evaluation:
    """Return the evaluation of a finished run's best weights on `split`; write nothing."""
    run = RunFolder(Path(folder))
    recipe = saved_recipe(folder, recipe_named)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(recipe.seed)
    task = recipe.task.build(seed=recipe.seed, device=device)
    load_weights(run.weights, task.model)
    return evaluate_split(task, split, precision=recipe.loop.precision, device=device)
