"""The same recipe on one rank and on several: equal losses, checkpoints that all resume from, errors that all hear."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from cuesta.cli.main import main
from cuesta.engine.finish import TrainResult
from cuesta.engine.loop import train
from cuesta.engine.progress import Progress
from cuesta.engine.recipe import LoopConfig, Recipe
from cuesta.engine.run_folder import RunFolder, read_journal
from cuesta.engine.task import Task, TaskConfig
from cuesta.engine.waits import WAITS
from cuesta.errors import UserError
from cuesta.rec.baselines.recipes import dlrm_debug
from cuesta.rec.neo import checkpoint
from cuesta.rec.neo.launch import Ranked, world_here
from cuesta.rec.neo.plan import Plan, TablePlan
from cuesta.rec.neo.ranks import Ranks
from cuesta.rec.neo.sharded import ShardedOptions
from cuesta.rec.neo.tiers import Tiers
from tests.rec.neo.groups import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:.*Matplotlib.*")


class Seeded(Ranked):
    """Draw weights as a process of its own would: threads share torch's random numbers."""

    drawing = threading.Lock()

    def build(self, config: TaskConfig, *, seed: int, device: torch.device) -> Task[Any]:
        with self.drawing:
            torch.manual_seed(seed)
            return super().build(config, seed=seed, device=device)


def recipe(steps: int = 8) -> Recipe:
    """Return a short training run, checkpointed every third step."""
    return replace(
        dlrm_debug(), loop=LoopConfig(max_steps=steps, evaluate_every=4, checkpoint_every=3)
    )


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_journal(RunFolder(folder).losses)]


def on_ranks(size: int, folder: Path, steps: int = 8, *, resume: bool = False) -> list[TrainResult]:
    """Train, and save beside training."""
    store = dist.HashStore()

    def work(ranks: Ranks) -> TrainResult:
        group = dist.ProcessGroupGloo(store, ranks.rank, size, timedelta(seconds=20))
        world = Seeded(ranks, savers=Ranks(group))
        return train(recipe(steps), folder, resume=resume, world=world)

    return run_ranks(size, work)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(recipe(), folder)
    return folder


@pytest.mark.parametrize("size", [2, 3])
def test_losses_and_metrics_are_those_of_one_process(
    size: int, alone: Path, tmp_path: Path
) -> None:
    results = on_ranks(size, tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), rel=1e-5)
    expected = json.loads((alone / "metrics.json").read_text())
    for result in results:
        assert result.step == 8
        for split in ("validation", "test"):
            found = getattr(result, split)
            assert found["ne"] == pytest.approx(expected[split]["ne"], rel=1e-5)
            assert found["rows"] == expected[split]["rows"]
        assert set(result.waited_s) == set(WAITS)
        assert min(result.waited_s[each] for each in ("reader", "dense gradients", "saving")) > 0
    assert not list(tmp_path.glob("run/checkpoints/.*"))


def test_a_full_disk_of_one_rank_ends_all_and_the_run_goes_on_as_unbroken(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "rank-00001" in path.name and "step-000000006" in str(path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", failing)
    folder, said = tmp_path / "run", []

    def work(ranks: Ranks) -> None:
        group = dist.ProcessGroupGloo(store, ranks.rank, 2, timedelta(seconds=20))
        with pytest.raises(
            UserError, match=r"^rank 1: cannot write .*: the disk is full; free"
        ) as raised:
            train(recipe(), folder, world=Seeded(ranks, savers=Ranks(group)))
        said.append(str(raised.value))

    store = dist.HashStore()
    run_ranks(2, work)
    assert len(said) == 2
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000000004"]
    monkeypatch.undo()
    on_ranks(2, folder, resume=True)
    on_ranks(2, tmp_path / "unbroken")
    assert losses(folder) == losses(tmp_path / "unbroken")
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-5)


def test_ranks_without_rows_wait_for_the_others(tmp_path: Path) -> None:
    base = recipe(3)
    small = replace(
        base,
        task=replace(base.task, batch_size=2),
        loop=replace(base.loop, evaluate_every=10, checkpoint_every=10),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cuesta.rec.baselines.task.EVALUATION_BATCH", 1999)  # and a batch of one row
        train(small, tmp_path / "alone")
        (result, *_) = run_ranks(
            3, lambda ranks: train(small, tmp_path / "run", world=Seeded(ranks))
        )
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    expected = json.loads((tmp_path / "alone" / "evaluations.jsonl").read_text().splitlines()[-1])
    found = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()[-1])
    assert result.step == 3
    assert found["rows"] == expected["rows"]
    assert found["ne"] == pytest.approx(expected["ne"], rel=1e-5)


def test_a_run_goes_on_with_more_and_fewer_ranks(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        # a run of more steps, ended at its third and sixth: resuming asks for the same recipe
        patch.setattr("cuesta.engine.loop.finish", lambda *_, **__: None)
        for size, last in ((1, 3), (2, 6)):
            patch.setattr(
                "cuesta.engine.loop._Training._is_done", lambda self, n=last: self.state.step >= n
            )
            world = size
            run_ranks(
                world,
                lambda ranks, n=last: train(
                    recipe(), folder, resume=n > 3, world=Seeded(ranks) if ranks.size > 1 else None
                ),
            )
    on_ranks(3, folder, resume=True)
    assert len(losses(folder)) == 8
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-5)
    assert (folder / "checkpoints").is_dir()
    train(recipe(), folder, resume=True, world=Ranked(Ranks()))  # what ranks wrote, one can read


def test_an_error_of_the_first_rank_is_every_ranks(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("precious")
    said = []

    def work(ranks: Ranks) -> None:
        with pytest.raises(UserError, match="exists; resume it, overwrite it") as raised:
            train(recipe(), tmp_path / "run", world=Ranked(ranks))
        said.append(str(raised.value))

    run_ranks(2, work)
    assert [words.startswith("rank 0: ") for words in said] == [True, True]


def test_a_plan_for_several_ranks_is_refused_by_one_process() -> None:
    table = TablePlan(name="item", num_rows=5, dim=2, scheme="table", columns=1, ranks=(0,))
    plan = Plan(world_size=2, ranks_per_node=2, tables={"item": table})
    with pytest.raises(UserError, match="torchrun --nproc-per-node 2"), world_here(plan):
        pass


def test_a_plan_of_another_model_is_refused_by_one_process_before_the_first_step(
    tmp_path: Path,
) -> None:
    table = TablePlan(name="foreign", num_rows=5, dim=2, scheme="table", columns=1, ranks=(0,))
    plan = Plan(world_size=1, ranks_per_node=1, tables={"foreign": table})
    with world_here(plan) as world, pytest.raises(UserError, match="has \\['foreign'\\] that the"):
        train(recipe(), tmp_path / "run", world=world)
    assert not (tmp_path / "run").exists()


def test_killed_ranks_start_anew_under_torchrun_and_lose_nothing(tmp_path: Path) -> None:
    """One is killed in mid-step, then, after all have started anew, one while a checkpoint is saved."""
    victim = str(Path(__file__).with_name("victim.py"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, victim, "1@step:5,0@rename:6", "killed", "unbroken"],
        cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("exitcode: -9") == 2
    assert "gloo" not in done.stderr
    for name in ("losses.jsonl", "evaluations.jsonl", "weights.safetensors"):
        killed, unbroken = (tmp_path / each / name for each in ("killed", "unbroken"))
        assert killed.read_bytes() == unbroken.read_bytes(), name
    sessions = json.loads((tmp_path / "killed" / "environment.json").read_text())
    begun, after_first, after_second = (session["from_step"] for session in sessions)
    assert (begun, after_second) == (0, 4)
    assert after_first in (3, 4), "a kill costs at most the checkpoint that was being written"
    assert not list(tmp_path.glob("killed/checkpoints/.*"))


def test_torchrun_trains_the_recipe_of_the_command_by_a_plan(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = str(tmp_path / "plan.json")
    plan = ["plan", "dlrm.debug", "--cluster.world-size", "2", "--schemes", "row", "--out", out]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(plan)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "cuesta.cli.main", "train", "dlrm.debug", "--out", "run", "--plan", "plan.json", "--json",
            "--loop.max-steps", "4", "--loop.evaluate-every", "4",
        ],
        cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 4
    (index,) = (tmp_path / "run" / "checkpoints").glob("*/tables/*/index.json")
    files = {part["file"] for part in json.loads(index.read_text())["parts"]}
    assert files == {f"rank-0000{rank}-of-00002.safetensors" for rank in (0, 1)}


class KilledError(Exception):
    pass


def kill_at_5(progress: Progress) -> None:
    if progress.step == 5:
        raise KilledError


@pytest.mark.parametrize("size", [1, 2])
def test_tables_in_tiers_train_to_the_same_losses_and_go_on(size: int, tmp_path: Path) -> None:
    tiers = Tiers(fast=0.1, folder=tmp_path / "files")
    for name, each in (("plain", None), ("tiered", tiers)):

        def work(ranks: Ranks, name: str = name, each: Tiers | None = each) -> None:
            options = ShardedOptions(tiers=each)
            with pytest.raises(KilledError):
                train(
                    recipe(), tmp_path / name, world=Seeded(ranks, options=options),
                    on_progress=kill_at_5,
                )  # fmt: skip
            train(recipe(), tmp_path / name, resume=True, world=Seeded(ranks, options=options))

        run_ranks(size, work) if size > 1 else work(Ranks())
    assert losses(tmp_path / "tiered") == losses(tmp_path / "plain")
    plain, tiered = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("plain", "tiered")
    )
    assert plain["test"] == tiered["test"]
    assert not list((tmp_path / "files").iterdir())
