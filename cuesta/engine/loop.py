"""The training loop, one for both wings: `train` runs a recipe into a folder, or resumes it there.

Resuming is exact. Everything a step computes is a function of the parameters and of (seed, step):
the loop seeds torch before every step, batches are a function of (epoch, position), and a
checkpoint holds the rest. So the losses after any interruption equal those of the unbroken run, bit
for bit on one CPU, and elsewhere as far as the device's own kernels repeat themselves.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, final

import numpy as np
import torch

from cuesta.engine import environment, run_folder
from cuesta.engine.checkpoint import (
    Saver,
    TrainingState,
    checkpoint_steps,
    load_checkpoint,
    sweep_checkpoints,
)
from cuesta.engine.events import Events
from cuesta.engine.finish import TrainResult, evaluate_split, finish, model_precision
from cuesta.engine.optim import Optimizer, build_optimizer
from cuesta.engine.progress import OnProgress, Progress, ignore_progress
from cuesta.engine.recipe import Recipe, differences, from_json, to_json
from cuesta.engine.run_folder import Journal, RunFolder, open_journal, read_json, write_json
from cuesta.engine.stop import StopRequest, TrainingStopped, stop_on_signals
from cuesta.engine.task import BatchType, Task
from cuesta.engine.waits import WAITS
from cuesta.engine.world import World
from cuesta.errors import UserError


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str | torch.device | None = None,
    on_progress: OnProgress = ignore_progress,
    world: World | None = None,
    saves_beside: bool = True,
) -> TrainResult:
    """Train `recipe`, evaluate its best weights, write the report and return the outcome.

    A new run needs an absent or empty `folder`, unless `overwrite` allows to replace the run in it;
    `resume` goes on from its last checkpoint, from the start if it has none. `device` is a GPU if
    there is one, unless given. `world` is who trains with this process; all of its ranks call, and share
    the folder. With `saves_beside` checkpoints are written while training goes on, from a copy.
    Nothing is written before the task is built. Raises `UserError` for
    all that the user can mend, a loss that is not finite among them, and `TrainingStopped` after
    SIGTERM or Ctrl-C, when everything is saved.
    """
    run = RunFolder(Path(folder))
    world = world or World()

    def check() -> None:
        run_folder.check_start(run, resume=resume, overwrite=overwrite)
        if resume:
            _check_same_recipe(run, recipe)

    def begin() -> None:
        if not resume:
            run_folder.empty(run)
            write_json(run.recipe, to_json(recipe))
        sweep_checkpoints(run)

    world.first(check)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(recipe.seed)
    task = world.build(recipe.task, seed=recipe.seed, device=device)
    num_steps = _num_steps(recipe, task.num_train_batches)
    optimizer = build_optimizer(task.model, recipe.optim, num_steps=num_steps)
    with run_folder.disk_errors_in(run.path), world.journals(run) as journals:
        world.first(begin)
        steps, state = checkpoint_steps(run), TrainingState()
        if steps:
            state = load_checkpoint(run, steps[-1], task.model, optimizer, world)
        world.first(lambda: _note_session(run, device, state.step))
        keep = recipe.loop.keep_checkpoints
        with Saver(run, world, keep=keep, beside=saves_beside) as saver:
            _Training(
                recipe, journals, task, optimizer, state, device, num_steps, on_progress, world,
                run, saver,
            ).run_to_end()  # fmt: skip
        return finish(recipe, run, task, state, device=device, world=world)


@final
@dataclass
class _Training(Generic[BatchType]):
    """Hold what the loop works on between `train`'s set-up and its end."""

    recipe: Recipe
    journals: RunFolder
    task: Task[BatchType]
    optimizer: Optimizer
    state: TrainingState
    device: torch.device
    num_steps: int
    on_progress: OnProgress
    world: World
    run: RunFolder
    saver: Saver
    _losses: Journal = field(init=False)
    _evaluations: Journal = field(init=False)
    _events: Events = field(init=False)
    _recent_seconds: deque[float] = field(init=False, default_factory=lambda: deque(maxlen=20))

    def run_to_end(self) -> None:
        """Do all steps that remain; leave the checkpoint of the last one, and of the best."""
        step = self.state.step
        with contextlib.ExitStack() as files:
            losses = open_journal(self.journals.losses, last_step=step)
            self._losses = files.enter_context(contextlib.closing(losses))
            evaluations = open_journal(self.journals.evaluations, last_step=step)
            self._evaluations = files.enter_context(contextlib.closing(evaluations))
            events = Events(self.journals.events, from_step=step)
            self._events = files.enter_context(contextlib.closing(events))
            stop = files.enter_context(stop_on_signals())
            while not self._is_done():
                self._run_epoch(stop)
            self._agree([])

    def _run_epoch(self, stop: StopRequest) -> None:
        """Do the steps that remain of the current epoch, or fewer if the run ends in it."""
        epoch, start = self.state.epoch, self.state.batch
        self.task.model.train()
        batches = self.world.batches(self.task, epoch, start)
        groups = _groups(batches, self.recipe.loop.accumulate)
        began = time.perf_counter()
        for group in groups:
            losses = self._update(group, stop)
            self._count(group, time.perf_counter() - began)
            self._report(losses)
            self._evaluate_and_save(stop)
            began = time.perf_counter()
            if self.state.epoch != epoch or self._is_done():
                return
        raise ValueError(
            f"train_batches(epoch={epoch}, start={start}) ended after batch {self.state.batch}, "
            f"but num_train_batches is {self.task.num_train_batches}"
        )

    def _update(self, group: list[BatchType], stop: StopRequest) -> dict[str, float]:
        """Update the parameters once by `group` as by one batch; return the losses of its rows.

        Nothing is updated unless every loss and the gradients are finite. A rank that is asked to stop asks all.
        """
        torch.manual_seed(_step_seed(self.recipe.seed, self.state.step, self.world.rank))
        rows = sum(batch.num_rows for batch in group)
        totals: dict[str, float] = {}
        for index, batch in enumerate(group):
            with model_precision(self.recipe.loop.precision, self.device):
                losses = self.task.losses(batch)
            share = batch.num_rows / rows
            for name, loss in losses.items():
                value = float(loss.detach())
                self._check_finite(f"{name} is {value}", value, index)
                totals[name] = totals.get(name, 0.0) + share * value
            (losses["loss"] * share).backward()
        *sums, asked = self._agree([*totals.values(), float(stop.signal_number or 0)])
        totals = dict(zip(totals, sums, strict=True))
        if asked and stop.signal_number is None:
            stop.signal_number = signal.SIGTERM
        for name, value in totals.items():
            self._check_finite(f"{name} is {value}", value, len(group) - 1)
        self.world.add_gradients(self.task.model.parameters())
        norm = self.optimizer.clip_gradients()
        self._check_finite(f"the norm of the gradients is {norm}", norm, len(group) - 1)
        lr = self.optimizer.step(self.state.step)
        line = {"step": self.state.step + 1, "epoch": self.state.epoch, **totals}
        self._losses.append({**line, "lr": lr, "gradient_norm": norm})
        return totals

    def _agree(self, numbers: list[float]) -> list[float]:
        """Return the sums of numbers over all ranks; count their waits. Raises where a save of one has failed."""
        own = [float(self.saver.has_failed), *self.world.waits.take(), *numbers]
        failed, *sums = self.world.add(own)
        if failed:
            self.saver.wait()
        waited = self.state.waited_s
        for name, seconds in zip(WAITS, sums, strict=False):
            waited[name] = waited.get(name, 0.0) + seconds / self.world.size
        return sums[len(WAITS) :]

    def _check_finite(self, words: str, value: float, index: int) -> None:
        if math.isfinite(value):
            return
        self.saver.wait()
        steps = checkpoint_steps(self.run)
        kept = (
            f"the checkpoint of step {steps[-1]} is whole"
            if steps
            else "there is no checkpoint yet"
        )
        raise UserError(
            f"{words} at step {self.state.step + 1} "
            f"(epoch {self.state.epoch}, batch {self.state.batch + index}); {kept}; check "
            "that batch, lower --optim.lr or set --optim.clip-norm, and train again"
        )

    def _count(self, group: list[BatchType], seconds: float) -> None:
        """Move the state past `group`, which took `seconds`."""
        state = self.state
        state.step += 1
        state.batch += len(group)
        if state.batch >= self.task.num_train_batches:
            state.epoch, state.batch = state.epoch + 1, 0
        state.examples += sum(batch.num_rows for batch in group)
        state.seconds += seconds
        self._recent_seconds.append(seconds)

    def _report(
        self, losses: Mapping[str, float], metrics: Mapping[str, float] | None = None
    ) -> None:
        state = self.state
        progress = Progress(
            step=state.step,
            num_steps=self.num_steps,
            epoch=state.epoch,
            losses=losses,
            examples_per_second=state.examples / max(state.seconds, 1e-9),
            remaining_s=statistics.median(self._recent_seconds) * (self.num_steps - state.step),
            metrics=metrics,
        )
        if state.step % self.recipe.loop.log_every == 0 or metrics is not None:
            self._events.add(progress)
        self.on_progress(progress)

    def _evaluate_and_save(self, stop: StopRequest) -> None:
        """Evaluate and save where the recipe says so and at the end; save on a signal."""
        loop, state = self.recipe.loop, self.state
        epoch_ended = state.batch == 0
        at_end = state.step == self.num_steps
        is_better = False
        if at_end or _is_due(loop.evaluate_every, state.step, epoch_ended):
            is_better = self._evaluate()
        is_due = _is_due(loop.checkpoint_every, state.step, epoch_ended)
        if is_better or is_due or self._is_done() or stop.signal_number is not None:
            self._losses.sync()
            self._evaluations.sync()
            self.saver.save(self.task.model, self.optimizer, state)
        if stop.signal_number is not None and not self._is_done():
            self.saver.wait()
            raise TrainingStopped(self.run.path, step=state.step, signal_number=stop.signal_number)

    def _evaluate(self) -> bool:
        """Evaluate on the validation split; return whether it is the best so far."""
        loop, state = self.recipe.loop, self.state
        precision = loop.precision
        evaluation = evaluate_split(
            self.task, "validation", precision=precision, device=self.device
        )
        self.world.waits.take()  # those of an evaluation are no step's
        metrics = evaluation.metrics
        if loop.monitor not in metrics:
            known = ", ".join(metrics)
            raise UserError(
                f"--loop.monitor {loop.monitor} is no metric of this task; it has {known}"
            )
        value = metrics[loop.monitor]
        sign = 1.0 if loop.mode == "min" else -1.0
        best = math.inf if state.best_value is None else sign * state.best_value
        is_better = sign * value < best
        if is_better:
            state.best_step, state.best_value = state.step, value
        state.evaluations_since_best = 0 if is_better else state.evaluations_since_best + 1
        self._evaluations.append({"step": state.step, "epoch": state.epoch, **metrics})
        self._report({}, metrics)
        return is_better

    def _is_done(self) -> bool:
        patience = self.recipe.loop.patience
        is_patient = patience is None or self.state.evaluations_since_best < patience
        return self.state.step >= self.num_steps or not is_patient


def _groups(batches: Iterator[BatchType], size: int) -> Iterator[list[BatchType]]:
    """Yield `size` batches at a time; the last group may be smaller."""
    while group := list(itertools.islice(batches, size)):
        yield group


def _num_steps(recipe: Recipe, num_train_batches: int) -> int:
    """Return the updates of the whole run; the last of an epoch may have fewer batches."""
    if num_train_batches < 1:
        raise UserError(f"{recipe.name} has nothing to train on: its training split is empty")
    num_steps = recipe.loop.epochs * math.ceil(num_train_batches / recipe.loop.accumulate)
    return min(num_steps, recipe.loop.max_steps or num_steps)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Return 32 bits of seed (all that torch's CPU generator takes) for one step of one run on a rank."""
    drawn_from = (seed, step, rank) if rank else (seed, step)
    return int(np.random.SeedSequence(drawn_from).generate_state(1)[0])


def _is_due(every: int | None, step: int, epoch_ended: bool) -> bool:
    return epoch_ended if every is None else step % every == 0


def _check_same_recipe(run: RunFolder, recipe: Recipe) -> None:
    saved = from_json(read_json(run.recipe), recipe, where=str(run.recipe))
    changed = differences(saved, recipe)
    if changed:
        raise UserError(f"{run.path} cannot be resumed with other settings ({'; '.join(changed)})")


def _note_session(run: RunFolder, device: torch.device, step: int) -> None:
    """Add this session to the run's list of sessions."""
    sessions = read_json(run.environment) if run.environment.exists() else []
    assert isinstance(sessions, list)
    session = environment.describe_environment(device, from_step=step)
    write_json(run.environment, [*sessions, session])
