"""The loop's promises: updates, stops, refusals, and what is left when something goes wrong."""

from __future__ import annotations

import ast
import dataclasses
import errno
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_task import SmallConfig, recipe_named, small_recipe
from torch import Tensor

import cuesta.engine
from cuesta.engine.checkpoint import checkpoint_steps
from cuesta.engine.finish import evaluate_run
from cuesta.engine.loop import train
from cuesta.engine.optim import OptimConfig
from cuesta.engine.progress import Progress
from cuesta.engine.recipe import LoopConfig, Recipe
from cuesta.engine.run_folder import RunFolder, read_journal
from cuesta.engine.stop import TrainingStopped
from cuesta.errors import UserError

pytestmark = pytest.mark.usefixtures("no_report")


def losses_of(folder: Path) -> Tensor:
    """Return the loss of every step."""
    return torch.tensor([line["loss"] for line in read_journal(folder / "losses.jsonl")])


def test_training_lowers_the_loss_and_tells_its_outcome(tmp_path: Path) -> None:
    recipe = small_recipe(SmallConfig(num_rows=1000), loop=LoopConfig(epochs=5, evaluate_every=21))
    result = train(recipe, tmp_path / "run")
    losses = losses_of(tmp_path / "run")
    assert losses[-50:].mean() < losses[:50].mean()
    assert result.step == len(losses) == 5 * 63
    assert result.validation["ne"] < 1
    evaluations = read_journal(tmp_path / "run" / "evaluations.jsonl")
    best = min(evaluations, key=lambda line: line["ne"])
    assert (result.best_step, result.validation["ne"]) == (best["step"], best["ne"])
    assert result.to_json()["test"] == result.test


def test_the_best_is_the_highest_where_more_is_better(tmp_path: Path) -> None:
    loop = LoopConfig(epochs=3, evaluate_every=2, monitor="auc", mode="max")
    result = train(small_recipe(optim=OptimConfig(lr=1.0), loop=loop), tmp_path / "run")
    evaluations = read_journal(tmp_path / "run" / "evaluations.jsonl")
    best = max(evaluations, key=lambda line: line["auc"])
    assert (result.best_step, result.validation["auc"]) == (best["step"], best["auc"])
    assert result.best_step < result.step


def test_equal_seeds_give_equal_runs_and_other_seeds_other_ones(tmp_path: Path) -> None:
    recipe = small_recipe()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(dataclasses.replace(recipe, seed=seed), tmp_path / name)
    assert torch.equal(losses_of(tmp_path / "a"), losses_of(tmp_path / "b"))
    assert not torch.equal(losses_of(tmp_path / "a"), losses_of(tmp_path / "c"))


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    for name, batch_size, accumulate in (("large", 64, 1), ("small", 16, 4)):
        task = SmallConfig(batch_size=batch_size, dropout=0.0)  # the last one has 16, 16, 4 rows
        recipe = small_recipe(task, loop=LoopConfig(epochs=3, accumulate=accumulate))
        train(recipe, tmp_path / name)
    assert len(losses_of(tmp_path / "large")) == 6
    torch.testing.assert_close(losses_of(tmp_path / "large"), losses_of(tmp_path / "small"))
    large, small = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("large", "small")
    )
    torch.testing.assert_close(large, small)


def test_bfloat16_runs_the_model_in_bfloat16_and_keeps_float32_parameters(tmp_path: Path) -> None:
    train(small_recipe(loop=LoopConfig(precision="bf16")), tmp_path / "bf16")
    train(small_recipe(loop=LoopConfig(precision="fp32")), tmp_path / "fp32")
    assert not torch.equal(losses_of(tmp_path / "bf16"), losses_of(tmp_path / "fp32"))
    weights = load_file(tmp_path / "bf16" / "weights.safetensors")
    assert weights["hidden.weight"].dtype == torch.float32


def test_max_steps_ends_the_run_in_mid_epoch(tmp_path: Path) -> None:
    result = train(small_recipe(loop=LoopConfig(epochs=3, max_steps=10)), tmp_path / "run")
    assert result.step == len(losses_of(tmp_path / "run")) == 10


def test_patience_ends_the_run_once_nothing_gets_better(tmp_path: Path) -> None:
    loop = LoopConfig(epochs=3, evaluate_every=2, patience=2)
    result = train(small_recipe(optim=OptimConfig(lr=3.0), loop=loop), tmp_path / "run")
    assert result.step == result.best_step + 2 * 2 < 21
    again = train(small_recipe(optim=OptimConfig(lr=3.0), loop=loop), tmp_path / "run", resume=True)
    assert again.step == result.step, "a run that patience ended stays ended"


def send_and_wait(number: signal.Signals) -> None:
    """Send this process a signal and return once its handler was called: Python does so when it likes."""
    handler = signal.getsignal(number)
    signal.raise_signal(number)
    while signal.getsignal(number) is handler:
        time.sleep(0.001)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops_and_gives_the_handlers_back(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(each) for each in numbers]

    def stop_at_5(progress: Progress) -> None:
        if progress.step == 5:
            send_and_wait(number)

    with pytest.raises(TrainingStopped, match=f"{number.name}: saved .* at step 5; ") as stopped:
        train(small_recipe(), tmp_path / "run", on_progress=stop_at_5)
    assert stopped.value.exit_status == status
    assert checkpoint_steps(RunFolder(tmp_path / "run"))[-1] == 5
    assert len(losses_of(tmp_path / "run")) == 5
    assert [signal.getsignal(each) for each in numbers] == before


def test_a_second_ctrl_c_interrupts_at_once(tmp_path: Path) -> None:
    def stop_twice(_progress: Progress) -> None:
        send_and_wait(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            train(small_recipe(), tmp_path / "run", on_progress=stop_twice)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_loss_that_is_not_finite_stops_with_step_and_batch(tmp_path: Path) -> None:
    recipe = small_recipe(SmallConfig(spoil_batch=5))
    expected = r"^loss is nan at step 6 \(epoch 0, batch 5\); the checkpoint of step 4 is whole; "
    with pytest.raises(UserError, match=expected) as error:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(error.value)
    saved = tmp_path / "run" / "checkpoints" / "step-000000004" / "model.safetensors"
    assert all(torch.isfinite(tensor).all() for tensor in load_file(saved).values())
    assert len(losses_of(tmp_path / "run")) == 5
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_the_batch_named_is_the_one_within_an_accumulated_update(tmp_path: Path) -> None:
    recipe = small_recipe(SmallConfig(spoil_batch=5), loop=LoopConfig(accumulate=2))
    expected = r"step 3 \(epoch 0, batch 5\); there is no checkpoint yet"
    with pytest.raises(UserError, match=expected):
        train(recipe, tmp_path / "run")


def test_gradients_that_are_not_finite_stop_before_the_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cuesta.engine.optim.Optimizer.clip_gradients", lambda _: float("inf"))
    monkeypatch.setattr("cuesta.engine.optim.Optimizer.step", lambda *_: pytest.fail("updated"))
    with pytest.raises(UserError, match=r"^the norm of the gradients is inf at step 1 "):
        train(small_recipe(), tmp_path / "run")


def test_a_full_disk_while_saving_leaves_the_earlier_checkpoint_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_half(tensors: Mapping[str, Tensor], path: Path) -> None:
        if "step-000000006" in str(path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save_file(dict(tensors), path)

    monkeypatch.setattr("cuesta.engine.tensor_files.save_file", save_half)
    with pytest.raises(UserError, match=r"^cannot write .*: the disk is full; free ") as error:
        train(small_recipe(), tmp_path / "run")
    assert "\n" not in str(error.value)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert [path.name for path in sorted(checkpoints.iterdir())][-1] == "step-000000004"
    assert not list(checkpoints.rglob(".tmp*"))
    monkeypatch.undo()
    train(small_recipe(), tmp_path / "run", resume=True)
    train(small_recipe(), tmp_path / "unbroken")
    assert torch.equal(losses_of(tmp_path / "run"), losses_of(tmp_path / "unbroken"))


def test_a_full_disk_while_logging_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cuesta.engine.run_folder.Journal.append", fail)
    with pytest.raises(UserError, match=r"^cannot write .*run: the disk is full; .* then resume "):
        train(small_recipe(), tmp_path / "run")


def test_a_run_folder_that_exists_is_neither_touched_nor_lost(tmp_path: Path) -> None:
    train(small_recipe(loop=LoopConfig(max_steps=2)), tmp_path / "run")
    with pytest.raises(UserError, match=r"run folder .*run exists; resume it, overwrite it, or"):
        train(small_recipe(), tmp_path / "run")
    assert len(losses_of(tmp_path / "run")) == 2
    train(small_recipe(loop=LoopConfig(max_steps=3)), tmp_path / "run", overwrite=True)
    assert len(losses_of(tmp_path / "run")) == 3
    assert len(list((tmp_path / "run" / "events").iterdir())) == 1


def test_a_folder_that_is_no_run_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"holds something else than a run"):
        train(small_recipe(), tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(UserError, match=r"thesis\.txt is a file, not a folder"):
        train(small_recipe(), tmp_path / "thesis.txt")


def test_no_permission_is_told_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root
    monkeypatch.setattr(SmallConfig, "build", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(UserError, match=rf"^no permission to write in {tmp_path}; "):
        train(small_recipe(), tmp_path / "deep" / "run")
    assert not list(tmp_path.iterdir())


def test_a_task_that_cannot_be_built_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UserError("log.parquet: no column 'label'")

    monkeypatch.setattr(SmallConfig, "build", refuse)
    with pytest.raises(UserError, match="no column 'label'"):
        train(small_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_empty_training_split_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^small has nothing to train on: "):
        train(small_recipe(SmallConfig(num_rows=0)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_monitor_is_named_with_the_metrics_there_are(tmp_path: Path) -> None:
    recipe = small_recipe(loop=LoopConfig(monitor="accuracy"))
    with pytest.raises(UserError, match=r"--loop\.monitor accuracy is no metric .* it has auc, ne"):
        train(recipe, tmp_path / "run")


def test_a_finished_run_evaluates_to_the_metrics_it_reported(tmp_path: Path) -> None:
    result = train(small_recipe(), tmp_path / "run")
    for split, metrics in (("test", result.test), ("validation", result.validation)):
        assert evaluate_run(tmp_path / "run", recipe_named, split=split).metrics == metrics


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    train(small_recipe(SmallConfig(width=8)), tmp_path / "run")
    recipe_file = tmp_path / "run" / "recipe.json"
    recipe_file.write_text(recipe_file.read_text().replace('"width": 8', '"width": 9'))
    with pytest.raises(UserError, match=r"'table\.weight' is \[30, 8\] in the file, \[30, 9\]"):
        evaluate_run(tmp_path / "run", recipe_named)


def test_a_run_that_has_not_finished_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        train(small_recipe(SmallConfig(spoil_batch=5)), tmp_path / "run")
    with pytest.raises(UserError, match=r"weights\.safetensors does not exist; has the run fini"):
        evaluate_run(tmp_path / "run", recipe_named)
    with pytest.raises(UserError, match=r"recipe\.json does not exist; is .* a run folder\?"):
        evaluate_run(tmp_path / "nothing", recipe_named)


def test_every_setting_of_the_engine_is_read_somewhere() -> None:
    sources = Path(cuesta.engine.__file__).parent.glob("*.py")
    trees = [ast.parse(path.read_text()) for path in sources]
    read = {
        node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }
    for config in (Recipe, OptimConfig, LoopConfig):
        assert {field.name for field in dataclasses.fields(config)} <= read
