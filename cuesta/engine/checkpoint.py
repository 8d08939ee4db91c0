"""Checkpoints: a folder per step, complete or absent, from which no code is ever run.

```
checkpoints/step-000000120/model.safetensors      model.state_dict(), tables with their moments
                           optimizer.safetensors  AdamW's moments by parameter name
                           state.json             position, best so far, clock
```

The folder is written under another name, synced and renamed, so the highest step present is the one
to resume from. It is written from a copy in memory, in a thread, while training goes on. No random
state is kept, because the loop seeds every step from (seed, step). Why
not `torch.distributed.checkpoint` with its default storage: its reader calls `pickle.load` on the
`.metadata` file (torch 2.13, `FileSystemReader.read_metadata`), so loading a checkpoint from
somebody else could run their code. Its `HuggingFaceStorageWriter` writes safetensors too, and reads
these very files once states are sharded; for a state that one process holds whole it is the same
file, written three times slower.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import final

from torch import nn

from cuesta.engine.optim import Optimizer
from cuesta.engine.run_folder import RunFolder, read_json
from cuesta.engine.tensor_files import kept, load_tensors, save_tensors
from cuesta.engine.world import World
from cuesta.errors import UserError


@dataclass
class TrainingState:
    """Hold where a run is and what it has seen; all that the loop changes besides parameters.

    `step` updates are done; the next batch is number `batch` of epoch `epoch`. `seconds` are those
    spent in steps, `waited_s` the seconds of each wait (`cuesta.engine.waits`), the mean over ranks.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    examples: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_value: float | None = None
    evaluations_since_best: int = 0
    waited_s: dict[str, float] = field(default_factory=dict)


@final
class Saver:
    """Write checkpoints `beside` training, each in a thread, or while training stands still.

    Beside training, a save first copies all that this rank holds, weights and states, into host memory: so much
    more is needed there while it is written. One is written at a time: the next waits for it, and so do the end of
    the block, an error and a requested stop. Ranks agree about a save from their threads, for which `World.folder`
    has a group of its own: the collectives of one group must come in the same order on all ranks, and those of a
    thread would come between those of training at random. An error of a save is kept until `wait`; the loop asks
    for it at each step, together with all ranks.
    """

    def __init__(self, run: RunFolder, world: World, *, keep: int, beside: bool) -> None:
        self._run, self._world, self._keep = run, world, keep
        self._beside = beside and world.saves_apart
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        elif self._thread is not None:  # the error of the block is told; what was begun is finished
            self._thread.join()

    @property
    def has_failed(self) -> bool:
        """Return whether `wait` would raise an error."""
        return self._error is not None

    def save(self, model: nn.Module, optimizer: Optimizer, state: TrainingState) -> None:
        """Begin the checkpoint of `state.step`; when it is there, all but the last and the best are removed.

        Raises what `wait` does.
        """
        with self._world.waits.during("saving"):
            self.wait()
            write_model = self._world.snapshot(model, copies=self._beside)
            moments = kept(optimizer.state_dict(), copies=self._beside)
            words, step, best = json.dumps(dataclasses.asdict(state)), state.step, state.best_step

            def write(folder: Path) -> None:
                write_model(folder)
                if self._world.rank == 0:
                    save_tensors(folder / "optimizer.safetensors", moments)
                    (folder / "state.json").write_text(words)

            self._thread = threading.Thread(
                target=self._write, args=(write, step, best), name="save", daemon=True
            )
            self._thread.start()
            if not self._beside:
                self.wait()

    def wait(self) -> None:
        """Wait until what was begun is on the disk; raises `UserError` if it cannot be written.

        Earlier checkpoints are then untouched.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, write: Callable[[Path], None], step: int, best_step: int | None) -> None:
        try:
            with self._world.folder(_folder(self._run, step)) as temporary:
                write(temporary)
            if self._world.rank == 0:
                _keep_last(self._run, self._keep, best_step)
        except Exception as error:  # of whatever kind: `wait` raises it
            self._error = error


def load_checkpoint(
    run: RunFolder, step: int, model: nn.Module, optimizer: Optimizer, world: World
) -> TrainingState:
    """Put the checkpoint of `step` into `model` and `optimizer`, and return its state."""
    folder = _folder(run, step)
    world.load_model(folder, model)
    optimizer.load_state_dict(load_tensors(folder / "optimizer.safetensors"))
    saved = read_json(folder / "state.json")
    try:
        return TrainingState(**saved)  # type: ignore[arg-type]
    except TypeError as error:
        raise UserError(f"{folder / 'state.json'} is of another version: {error}") from None


def load_best(run: RunFolder, state: TrainingState, model: nn.Module, world: World) -> int:
    """Put the best weights into `model`, else the last ones, and return their step."""
    step = state.step if state.best_step is None else state.best_step
    world.load_model(_folder(run, step), model)
    return step


def checkpoint_steps(run: RunFolder) -> list[int]:
    """Return the steps that have a checkpoint, rising."""
    names = (path.name for path in run.checkpoints.glob("step-*"))
    return sorted(int(name.removeprefix("step-")) for name in names)


def sweep_checkpoints(run: RunFolder) -> list[int]:
    """Remove what a killed save left behind, and return the steps that have a checkpoint."""
    steps = checkpoint_steps(run)
    whole = {_folder(run, step) for step in steps}
    for leftover in set(run.checkpoints.glob("*")) - whole:
        shutil.rmtree(leftover)
    return steps


def _keep_last(run: RunFolder, keep: int, best_step: int | None) -> None:
    """Remove all checkpoints but the last `keep` and the best."""
    for step in checkpoint_steps(run)[:-keep]:
        if step != best_step:
            shutil.rmtree(_folder(run, step))


def _folder(run: RunFolder, step: int) -> Path:
    return run.checkpoints / f"step-{step:09d}"
