"""A run that is killed at any moment and resumed equals the unbroken run, byte for byte."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM
from subprocess import PIPE

import pytest
from safetensors.torch import load_file
from small_task import SmallConfig, small_recipe

from cuesta.engine.checkpoint import checkpoint_steps
from cuesta.engine.loop import train
from cuesta.engine.optim import OptimConfig
from cuesta.engine.recipe import LoopConfig
from cuesta.engine.run_folder import RunFolder, open_journal, read_journal, read_json
from cuesta.errors import UserError

pytestmark = pytest.mark.usefixtures("no_report")
SAME_FILES = ("losses.jsonl", "evaluations.jsonl", "weights.safetensors", "recipe.json")


Victim = Callable[..., int]


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    """Yield a function that trains in a process that ends itself, and returns its exit status."""
    command = [sys.executable, str(Path(__file__).with_name("victim.py"))]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def train_until(folder: Path, moment: str, *flags: str) -> int:
            print(folder, moment, *flags, file=stdin, flush=True)
            return int(stdout.readline())

        yield train_until
        stdin.close()


def assert_same_run(folder: Path, other: Path) -> None:
    """Compare everything that a run computes."""
    for name in SAME_FILES:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    metrics, others = read_json(folder / "metrics.json"), read_json(other / "metrics.json")
    assert isinstance(metrics, dict)
    assert isinstance(others, dict)
    for name in ("validation", "test", "step", "best_step", "fingerprint"):
        assert metrics[name] == others[name], name


def sessions_of(folder: Path) -> list[int]:
    """Return the steps at which the sessions of a run began."""
    sessions = read_json(folder / "environment.json")
    assert isinstance(sessions, list)
    return [session["from_step"] for session in sessions]


def test_killed_anywhere_and_resumed_equals_the_unbroken_run(
    tmp_path: Path, victim: Victim
) -> None:
    folder = tmp_path / "run"
    unbroken = tmp_path / "unbroken"
    assert victim(unbroken, "never") == 0
    assert victim(folder, "step:2") == -SIGKILL, "before the first checkpoint"
    assert checkpoint_steps(RunFolder(folder)) == []
    assert victim(folder, "rename:8", "--resume") == -SIGKILL, "while saving"
    assert checkpoint_steps(RunFolder(folder)) == [6]
    left_behind = next((folder / "checkpoints").glob(".tmp*"))
    left_behind.rename(left_behind.with_name(".tmp-of-another-machine"))
    assert victim(folder, "step:11", "--resume") == -SIGKILL, "in the middle of an epoch"
    leftovers = (folder / "checkpoints").glob(".tmp*")
    assert ".tmp-of-another-machine" not in {path.name for path in leftovers}, "it was swept"
    with (folder / "losses.jsonl").open("a") as losses:
        losses.write('{"step": 12, "epo')  # a line that the kill cut off
    assert victim(folder, "term:17", "--resume") == 128 + SIGTERM
    assert checkpoint_steps(RunFolder(folder))[-1] == 17
    assert victim(folder, "never", "--resume") == 0
    assert_same_run(folder, unbroken)
    *before, after_kill, last = sessions_of(folder)
    assert before == [0, 0, 6]
    assert after_kill in (8, 9), "a kill costs at most the checkpoint that was being written"
    assert last == 17


def test_resuming_a_finished_run_changes_nothing_but_notes_the_session(tmp_path: Path) -> None:
    train(small_recipe(), tmp_path / "run")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in SAME_FILES}
    train(small_recipe(), tmp_path / "run", resume=True)
    assert before == {name: (tmp_path / "run" / name).read_bytes() for name in SAME_FILES}
    assert sessions_of(tmp_path / "run") == [0, 21]


def test_optimiser_state_survives_a_checkpoint_bit_by_bit(tmp_path: Path) -> None:
    train(small_recipe(), tmp_path / "a")
    checkpoint = tmp_path / "a" / "checkpoints" / "step-000000021"
    moments = load_file(checkpoint / "optimizer.safetensors")
    assert {name.rpartition(".")[2] for name in moments} == {"step", "exp_avg", "exp_avg_sq"}
    assert {name.rpartition(".")[0] for name in moments} == {
        "hidden.weight",
        "hidden.bias",
        "out.weight",
        "out.bias",
    }
    assert int(load_file(checkpoint / "model.safetensors")["table.updates"]) == 21


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    train(small_recipe(), tmp_path / "run")
    other = small_recipe(SmallConfig(width=9), OptimConfig(lr=0.5))
    with pytest.raises(UserError, match=r"task\.width: 8 -> 9; optim\.lr: 0\.01 -> 0\.5"):
        train(other, tmp_path / "run", resume=True)


def test_a_folder_without_a_run_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to resume in .*/run: it has no recipe\.json"):
        train(small_recipe(), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(small_recipe(), tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "step-000000021" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read: ") as error:
        train(small_recipe(), tmp_path / "run", resume=True)
    assert "\n" not in str(error.value)


def test_the_best_and_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    loop = LoopConfig(
        epochs=3, evaluate_every=5, checkpoint_every=2, keep_checkpoints=2, monitor="auc"
    )
    result = train(small_recipe(loop=loop), tmp_path / "run")
    assert result.best_step == 5, "with mode min the lowest AUC is best, that of the first steps"
    assert checkpoint_steps(RunFolder(tmp_path / "run")) == [5, 20, 21]
    at_5 = read_journal(tmp_path / "run" / "evaluations.jsonl")[0]
    assert result.validation["auc"] == at_5["auc"], "the outcome is that of the best weights"


def test_a_journal_is_cut_without_touching_the_lines_that_stay(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    journal = open_journal(path, last_step=0)
    for step in (1, 2, 3):
        journal.append({"step": step, "third": step / 3, "gauc": math.nan})
    journal.sync()
    before = path.read_text().splitlines(keepends=True)
    journal.close()
    open_journal(path, last_step=2).close()
    assert path.read_text() == "".join(before[:2])
    assert before[0] == '{"step": 1, "third": 0.3333333333333333, "gauc": null}\n'
    assert [math.isnan(line["gauc"]) for line in read_journal(path)] == [True, True]
