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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cuesta.data.files import atomic_folder
from cuesta.engine.optim import Optimizer
from cuesta.engine.run_folder import RunFolder, read_json
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
    run: RunFolder, model: nn.Module, optimizer: Optimizer, state: TrainingState, *, keep: int
) -> None:
    """Write the checkpoint of `state.step`, then remove all but the last `keep` and the best one.

    Raises `UserError` when it cannot be written; earlier checkpoints are then untouched.
    """
    folder = _folder(run, state.step)
    with atomic_folder(folder, overwrite=True) as temporary:
        save_tensors(temporary / "model.safetensors", model.state_dict())
        save_tensors(temporary / "optimizer.safetensors", optimizer.state_dict())
        (temporary / "state.json").write_text(json.dumps(dataclasses.asdict(state)))
    removable = [step for step in checkpoint_steps(run)[:-keep] if step != state.best_step]
    for step in removable:
        shutil.rmtree(_folder(run, step))


def load_checkpoint(
    run: RunFolder, step: int, model: nn.Module, optimizer: Optimizer
) -> TrainingState:
    """Put the checkpoint of `step` into `model` and `optimizer`, and return its state."""
    folder = _folder(run, step)
    load_weights(folder / "model.safetensors", model)
    optimizer.load_state_dict(_load_tensors(folder / "optimizer.safetensors"))
    saved = read_json(folder / "state.json")
    try:
        return TrainingState(**saved)  # type: ignore[arg-type]
    except TypeError as error:
        raise UserError(f"{folder / 'state.json'} is of another version: {error}") from None


def load_best(run: RunFolder, state: TrainingState, model: nn.Module) -> int:
    """Put the best weights into `model`, else the last ones, and return their step."""
    step = state.step if state.best_step is None else state.best_step
    load_weights(_folder(run, step) / "model.safetensors", model)
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


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` to one safetensors file; tied tensors are written once per name."""
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        tied = tensor.numel() > 0 and tensor.data_ptr() in seen
        plain[name] = tensor.clone() if tied else tensor
        seen.add(tensor.data_ptr())
    save_file(plain, path)
    path.chmod(0o644)  # safetensors keeps files from everybody else


def load_weights(path: Path, model: nn.Module) -> None:
    """Put a safetensors file into `model`; raises `UserError` naming a tensor that does not fit."""
    tensors = _load_tensors(path)
    own = model.state_dict()
    for name in dict.fromkeys([*own, *tensors]):
        if name not in tensors or name not in own:
            where = "the model" if name in own else path
            raise UserError(f"{path} does not fit the model: only {where} has {name!r}")
        if own[name].shape != tensors[name].shape:
            shapes = (
                f"{list(tensors[name].shape)} in the file, {list(own[name].shape)} in the model"
            )
            raise UserError(
                f"{path} does not fit the model: {name!r} is {shapes}; was the data changed?"
            )
    model.load_state_dict(tensors)


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; has the run finished?") from None
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _folder(run: RunFolder, step: int) -> Path:
    return run.checkpoints / f"step-{step:09d}"
