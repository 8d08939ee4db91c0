"""Checkpoints: a folder per step, complete or absent, from which no code is ever run.

```
checkpoints/step-000000120/model.safetensors      model.state_dict(), tables with their moments
                           optimizer.safetensors  AdamW's moments by parameter name
                           state.json             position, best so far, clock
```

The folder is written under another name, synced and renamed, so the highest step present is the one
to resume from. No random state is kept, because the loop seeds every step from (seed, step). Why
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
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cuesta.engine.optim import Optimizer
from cuesta.engine.run_folder import RunFolder, read_json
from cuesta.engine.tensor_files import load_tensors, save_tensors
from cuesta.engine.world import World
from cuesta.errors import UserError


@dataclass
class TrainingState:
    """Hold where a run is and what it has seen; all that the loop changes besides parameters.

    `step` updates are done; the next batch is number `batch` of epoch `epoch`. `seconds` are those
    spent in steps.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    examples: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_value: float | None = None
    evaluations_since_best: int = 0


def save_checkpoint(
    run: RunFolder,
    model: nn.Module,
    optimizer: Optimizer,
    state: TrainingState,
    *,
    keep: int,
    world: World,
) -> None:
    """Write the checkpoint of `state.step`, then remove all but the last `keep` and the best one.

    Raises `UserError` when it cannot be written; earlier checkpoints are then untouched.
    """
    folder = _folder(run, state.step)
    with world.folder(folder) as temporary:
        world.save_model(temporary, model)
        if world.rank == 0:
            save_tensors(temporary / "optimizer.safetensors", optimizer.state_dict())
            (temporary / "state.json").write_text(json.dumps(dataclasses.asdict(state)))
    if world.rank == 0:
        removable = [step for step in checkpoint_steps(run)[:-keep] if step != state.best_step]
        for step in removable:
            shutil.rmtree(_folder(run, step))


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


def _folder(run: RunFolder, step: int) -> Path:
    return run.checkpoints / f"step-{step:09d}"
