"""`run_scenes`: many scenes, each a list of commands that run one after the other in processes of their
own, on this machine or over Ray.

A process that is killed (a crash, a machine out of memory) costs the step of one scene that it was at:
the step is run again, a bounded number of times, and goes on where it was, for all steps of cuesta do.
A step that fails ends its scene; the others go on. What was done is in a file of JSON lines, a line a
scene, written anew after each step: the same call goes on from it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, final

from cuesta.data.files import write_text
from cuesta.data.scenes.scene import Json
from cuesta.engine.workers import Backend, Command, LocalBackend, Outcome, RayBackend

RETRIES = 1
_SHELL_SIGNAL = 128  # a shell's status of a command that a signal ended is this and the signal

Status = Literal["done", "failed", "waiting"]


@final
@dataclass(frozen=True, kw_only=True)
class Step:
    """Hold one command of a scene.

    It is not run again when it was done with the same arguments and the same `mark` (a word for
    what it reads, say a fingerprint), and `makes`, where given, exists.
    """

    name: str
    arguments: tuple[str, ...]
    mark: str = ""
    makes: Path | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Job:
    """Hold a scene's name and its steps, in order."""

    scene: str
    steps: tuple[Step, ...]


class StepResult(NamedTuple):
    """Hold how a step ended: `exit_status` is minus the signal that ended it, None while it waits."""

    name: str
    arguments: tuple[str, ...]
    mark: str
    status: Status
    exit_status: int | None
    attempts: int
    seconds: float
    last_line: str


class JobResult(NamedTuple):
    """Hold the steps of a scene; those after one that failed are still waiting."""

    scene: str
    steps: tuple[StepResult, ...]

    @property
    def is_done(self) -> bool:
        return all(step.status == "done" for step in self.steps)


class Progress(NamedTuple):
    """Tell that a step began (`result` is None) or ended, of how many, and how long the rest takes."""

    scene: str
    step: str
    result: StepResult | None
    num_ended: int
    num_steps: int
    remaining_s: float | None


OnProgress = Callable[[Progress], None]


def ignore_scenes(_progress: Progress) -> None:
    """Show nothing."""


def run_scenes(
    jobs: Sequence[Job],
    record: Path,
    *,
    workers: int,
    backend: Literal["local", "ray"] = "local",
    retries: int = RETRIES,
    on_progress: OnProgress = ignore_scenes,
) -> list[JobResult]:
    """Run the steps of all jobs, `workers` scenes at a time; return the results in the order of `jobs`.

    `record` is the file of results; `logs/SCENE.STEP.out` and `.err` beside it hold what commands
    said. A process that a signal ended is started again up to `retries` times. Ctrl-C ends what runs.
    Raises `ValueError` where two jobs name one scene or a number is not positive, `UserError` where
    `record` cannot be written or Ray is not there.
    """
    names = [job.scene for job in jobs]
    if len(set(names)) < len(names) or workers < 1 or retries < 0:
        raise ValueError(
            f"jobs need different scenes, workers >= 1 and retries >= 0, "
            f"got {names}, {workers} and {retries}"
        )
    fleet = _Fleet(jobs, record, on_progress, retries=retries, workers=workers)
    if fleet.is_ended():
        fleet.save()
        return fleet.results()
    runner: Backend
    runner = LocalBackend(workers) if backend == "local" else RayBackend(workers, retries=retries)
    try:
        fleet.run(runner, workers)
    finally:
        runner.stop()
    return fleet.results()


class _Fleet:
    """Hold where every scene is; started and told in the main thread only."""

    def __init__(
        self,
        jobs: Sequence[Job],
        record: Path,
        on_progress: OnProgress,
        *,
        retries: int,
        workers: int,
    ) -> None:
        self._jobs, self._record, self._on_progress = jobs, record, on_progress
        self._retries, self._began = retries, time.monotonic()
        self._num_ended_here = 0
        self._workers = workers
        earlier = _read_record(record)
        self._steps = [_known(job, earlier.get(job.scene, {})) for job in jobs]

    def is_ended(self) -> bool:
        return all(self._next(number) is None for number in range(len(self._jobs)))

    def results(self) -> list[JobResult]:
        pairs = zip(self._jobs, self._steps, strict=True)
        return [JobResult(job.scene, tuple(steps)) for job, steps in pairs]

    def save(self) -> None:
        """Write a line a scene, in the order of the jobs."""
        lines = [
            {
                "scene": result.scene,
                "is_done": result.is_done,
                "steps": [step._asdict() for step in result.steps],
            }
            for result in self.results()
        ]
        write_text(self._record, "".join(json.dumps(line) + "\n" for line in lines))

    def run(self, backend: Backend, workers: int) -> None:
        """Keep `workers` scenes going, each at its next step, until none has one."""
        self.save()
        queue = [number for number in range(len(self._jobs)) if self._next(number) is not None]
        running: dict[Future[Outcome], int] = {}
        while queue or running:
            while queue and len(running) < workers:
                number = queue.pop(0)
                running[self._start(backend, number)] = number
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                number = running.pop(future)
                self._note(number, future.result())
                if self._next(number) is not None:
                    queue.insert(
                        0, number
                    )  # a scene that was begun goes on before a new one begins

    def _next(self, number: int) -> int | None:
        """Return the place of the step that a scene is at; None where it is done or has failed."""
        for place, step in enumerate(self._steps[number]):
            if step.status != "done":
                return place if step.status == "waiting" else None
        return None

    def _start(self, backend: Backend, number: int) -> Future[Outcome]:
        job, place = self._jobs[number], self._next(number)
        assert place is not None
        step = job.steps[place]
        if self._steps[number][place].attempts == 0:
            self._tell(job.scene, step.name, None)
        log = self._record.parent / "logs" / f"{job.scene}.{step.name}"
        command = Command(arguments=step.arguments, log=str(log), environment=self._environment())
        return backend.start(command)

    def _environment(self) -> dict[str, str]:
        """Return the threads of a step that starts now: cores are shared by the scenes that can still run."""
        num_left = sum(self._next(number) is not None for number in range(len(self._jobs)))
        share = max(1, (os.cpu_count() or 1) // min(self._workers, num_left))
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(share))}

    def _note(self, number: int, outcome: Outcome) -> None:
        """Note how the scene's step ended: it is done, failed, or waits for another attempt."""
        place = self._next(number)
        assert place is not None
        before = self._steps[number][place]
        attempts = before.attempts + 1
        was_killed = outcome.status < 0 or outcome.status > _SHELL_SIGNAL
        status: Status = "done" if outcome.status == 0 else "failed"
        if was_killed and attempts <= self._retries:
            status = "waiting"
        result = before._replace(
            status=status,
            exit_status=outcome.status,
            attempts=attempts,
            seconds=round(before.seconds + outcome.seconds, 3),
            last_line=outcome.last_line,
        )
        self._steps[number][place] = result
        self.save()
        if status != "waiting":
            self._num_ended_here += 1
            self._tell(self._jobs[number].scene, result.name, result)

    def _tell(self, scene: str, step: str, result: StepResult | None) -> None:
        waiting = 0
        for number, steps in enumerate(self._steps):
            place = self._next(number)
            waiting += 0 if place is None else len(steps) - place
        total = sum(len(steps) for steps in self._steps)
        here = self._num_ended_here
        remaining = (time.monotonic() - self._began) / here * waiting if here else None
        self._on_progress(Progress(scene, step, result, total - waiting, total, remaining))


def _known(job: Job, earlier: dict[str, Json]) -> list[StepResult]:
    """Return the steps of a job: done up to the first that was not done so before, then waiting."""
    steps: list[StepResult] = []
    is_done = True
    for step in job.steps:
        found = earlier.get(step.name)
        is_done = is_done and isinstance(found, dict) and _was_done(step, found)
        if is_done and isinstance(found, dict):
            seconds, attempts = found.get("seconds"), found.get("attempts")
            steps.append(
                StepResult(
                    name=step.name,
                    arguments=step.arguments,
                    mark=step.mark,
                    status="done",
                    exit_status=0,
                    attempts=attempts if isinstance(attempts, int) else 1,
                    seconds=seconds if isinstance(seconds, float) else 0.0,
                    last_line=str(found.get("last_line", "")),
                )
            )
        else:
            steps.append(
                StepResult(step.name, step.arguments, step.mark, "waiting", None, 0, 0.0, "")
            )
    return steps


def _was_done(step: Step, found: dict[str, Json]) -> bool:
    is_same = found.get("arguments") == list(step.arguments) and found.get("mark") == step.mark
    is_there = step.makes is None or step.makes.exists()
    return is_same and is_there and found.get("status") == "done"


def _read_record(path: Path) -> dict[str, dict[str, Json]]:
    """Return each scene's steps by name; of lines that are broken, nothing: they are done again."""
    found: dict[str, dict[str, Json]] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        try:
            value: Json = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("steps"), list):
            steps = value["steps"]
            assert isinstance(steps, list)
            found[str(value.get("scene"))] = {
                str(step.get("name")): step for step in steps if isinstance(step, dict)
            }
    return found
