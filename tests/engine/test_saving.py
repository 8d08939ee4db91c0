"""Saving beside training: a checkpoint is of its step, saves do not overtake each other, and failures are told."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from small_task import SmallModel, small_recipe
from torch import nn

from cuesta.engine.checkpoint import Saver, TrainingState, checkpoint_steps, load_checkpoint
from cuesta.engine.finish import TrainResult
from cuesta.engine.loop import train
from cuesta.engine.optim import OptimConfig, Optimizer, build_optimizer
from cuesta.engine.progress import Progress
from cuesta.engine.run_folder import RunFolder
from cuesta.engine.waits import WAITS, Waits
from cuesta.engine.world import World
from cuesta.errors import UserError

pytestmark = pytest.mark.usefixtures("no_report")


class GatedWorld(World):
    """Write only when the gate is open, and keep a record."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.record: list[str] = []

    @contextmanager
    def folder(self, path: Path) -> Iterator[Path]:
        self.record.append(f"begin {path.name[-1]}")
        self.gate.wait()
        with super().folder(path) as temporary:
            yield temporary
        self.record.append(f"end {path.name[-1]}")


def small() -> tuple[SmallModel, Optimizer]:
    model = SmallModel(width=4, dropout=0.0)
    return model, build_optimizer(model, OptimConfig(lr=0.1), num_steps=9)


def update(model: nn.Module, optimizer: Optimizer, step: int) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step(step)


def test_a_checkpoint_is_of_its_step_whatever_is_trained_before_it_is_written(
    tmp_path: Path,
) -> None:
    world, run = GatedWorld(), RunFolder(tmp_path)
    model, optimizer = small()
    with Saver(run, world, keep=1, beside=True) as saver:
        update(model, optimizer, 0)
        expected = {name: each.clone() for name, each in model.state_dict().items()}
        moments = {name: each.clone() for name, each in optimizer.state_dict().items()}
        state = TrainingState(step=1, best_step=1)
        saver.save(model, optimizer, state)
        update(model, optimizer, 1)
        state.step = state.best_step = 2
        world.gate.set()
    assert not torch.equal(model.out.weight, expected["out.weight"])
    again, other = small()
    assert load_checkpoint(run, 1, again, other, World()) == TrainingState(step=1, best_step=1)
    assert all(torch.equal(each, expected[name]) for name, each in again.state_dict().items())
    assert all(torch.equal(each, moments[name]) for name, each in other.state_dict().items())


def test_saves_do_not_overtake_each_other(tmp_path: Path) -> None:
    world, run = GatedWorld(), RunFolder(tmp_path)
    model, optimizer = small()
    with Saver(run, world, keep=2, beside=True) as saver:
        saver.save(model, optimizer, TrainingState(step=1))
        threading.Timer(0.05, world.gate.set).start()  # the next save begins to wait before
        saver.save(model, optimizer, TrainingState(step=2))
        saver.save(model, optimizer, TrainingState(step=3))
    assert world.record == [f"{word} {step}" for step in (1, 2, 3) for word in ("begin", "end")]
    assert checkpoint_steps(run) == [2, 3]


def test_runs_that_wait_for_saves_and_that_do_not_are_equal(tmp_path: Path) -> None:
    for name in ("beside", "waiting"):
        train(small_recipe(), tmp_path / name, saves_beside=name == "beside")
    for file in ("losses.jsonl", "evaluations.jsonl", "weights.safetensors"):
        assert (tmp_path / "beside" / file).read_bytes() == (
            tmp_path / "waiting" / file
        ).read_bytes()
    last = "checkpoints/step-000000021"
    for file in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (tmp_path / name / last / file for name in ("beside", "waiting"))
        assert ours.read_bytes() == theirs.read_bytes()


def full_disk_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no checkpoint of `step` be written."""
    save = World.snapshot

    def failing(world: World, model: nn.Module, *, copies: bool) -> object:
        write = save(world, model, copies=copies)

        def write_or_fail(folder: Path) -> None:
            if folder.name.endswith(f"step-{step:09d}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            write(folder)

        return write_or_fail

    monkeypatch.setattr(World, "snapshot", failing)


@pytest.mark.parametrize("saves_beside", [True, False])
def test_a_last_save_that_fails_is_no_finished_run(
    saves_beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk_at(21, monkeypatch)
    with pytest.raises(UserError, match=r"^cannot write .*: the disk is full; free "):
        train(small_recipe(), tmp_path / "run", saves_beside=saves_beside)
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert 21 not in checkpoint_steps(RunFolder(tmp_path / "run"))


def test_a_stop_whose_save_fails_does_not_say_that_it_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk_at(5, monkeypatch)

    def stop_at_5(progress: Progress) -> None:
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(UserError, match=r"^cannot write .*: the disk is full; free "):
        train(small_recipe(), tmp_path / "run", on_progress=stop_at_5)


def test_waits_are_summed_and_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.0, 3.0, 5.0, 9.0, 10.0, 10.5])
    monkeypatch.setattr("cuesta.engine.waits.time.perf_counter", lambda: next(clock))
    waits = Waits()
    with waits.during("ids"):
        pass
    assert list(waits.each("reader", iter("ab"))) == ["a", "b"]
    expected = dict.fromkeys(WAITS, 0.0) | {"ids": 1.0, "reader": 2.0 + 4.0 + 0.5}
    assert dict(zip(WAITS, waits.take(), strict=True)) == expected
    assert sum(waits.take()) == 0.0


def test_waits_go_on_over_sessions_and_are_told(tmp_path: Path) -> None:
    def stop_at_5(progress: Progress) -> None:
        if progress.step == 5 and progress.metrics is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small_recipe(), tmp_path / "run", on_progress=stop_at_5)
    result: TrainResult = train(small_recipe(), tmp_path / "run", resume=True)
    assert set(result.waited_s) == set(WAITS)
    seen = {name for name, seconds in result.waited_s.items() if seconds > 0}
    assert seen == {"reader", "saving"}, "one process waits for no other"
    assert result.to_json()["waited_s"] == result.waited_s
