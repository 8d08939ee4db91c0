"""The run folder: where each file of a run lies, who may begin in it, and its append-only journals.

Whole files are written under another name and renamed (`cuesta.data.files`). Journals
(`losses.jsonl`, `evaluations.jsonl`) grow by a line a step; they are synced before each checkpoint
and cut back to its step on resume, so that they always hold exactly the steps that count.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from cuesta.data.files import write_text
from cuesta.engine.recipe import Json
from cuesta.errors import UserError

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EACCES: "no permission; change the folder's rights",
    errno.EPERM: "no permission; change the folder's rights",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an error; check it",
}


@dataclass(frozen=True)
class RunFolder:
    """Name the files of the run at `path`."""

    path: Path

    @property
    def recipe(self) -> Path:
        """Return the recipe's JSON form."""
        return self.path / "recipe.json"

    @property
    def environment(self) -> Path:
        """Return commit, hardware and versions of every session that trained here."""
        return self.path / "environment.json"

    @property
    def losses(self) -> Path:
        """Return the losses of every step, in full precision."""
        return self.path / "losses.jsonl"

    @property
    def evaluations(self) -> Path:
        """Return the validation metrics of every evaluation."""
        return self.path / "evaluations.jsonl"

    @property
    def events(self) -> Path:
        """Return the folder of TensorBoard events."""
        return self.path / "events"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of checkpoints, each complete or absent."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Return the final metrics."""
        return self.path / "metrics.json"

    @property
    def weights(self) -> Path:
        """Return the best weights."""
        return self.path / "weights.safetensors"

    @property
    def report(self) -> Path:
        """Return the report, one HTML file."""
        return self.path / "report.html"


def check_start(run: RunFolder, *, resume: bool, overwrite: bool) -> None:
    """Raise `UserError` unless a run may begin, or go on, in this folder; change nothing."""
    begun = run.recipe.exists()
    if resume and overwrite:
        raise UserError("a run is either resumed or overwritten; give one of the two")
    if resume and not begun:
        raise UserError(f"nothing to resume in {run.path}: it has no {run.recipe.name}")
    if run.path.exists() and not run.path.is_dir():
        raise UserError(f"{run.path} is a file, not a folder; choose another run folder")
    if run.path.exists() and any(run.path.iterdir()) and not resume:
        if not overwrite:
            raise UserError(
                f"run folder {run.path} exists; resume it, overwrite it, or choose another one"
            )
        if not begun:
            raise UserError(
                f"{run.path} holds something else than a run; it will not be overwritten"
            )
    existing = next(
        parent for parent in (run.path, *run.path.absolute().parents) if parent.exists()
    )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"no permission to write in {existing}; choose another run folder")


def empty(run: RunFolder) -> None:
    """Remove the run, its recipe last, so that a half-removed run is still known as one."""
    if run.path.exists():
        for item in run.path.iterdir():
            if item.is_dir():
                shutil.rmtree(item)
            elif item != run.recipe:
                item.unlink()
        run.recipe.unlink(missing_ok=True)


@contextmanager
def disk_errors_in(folder: Path) -> Iterator[None]:
    """Turn a disk's error inside the block into a `UserError` naming the path and the remedy."""
    try:
        yield
    except OSError as error:
        path = folder if error.filename is None else Path(os.fsdecode(error.filename))
        is_ours = path.absolute().is_relative_to(folder.absolute())
        if error.errno not in _DISK_ERRORS or not is_ours:
            raise
        message = f"cannot write {path}: {_DISK_ERRORS[error.errno]}; then resume {folder}"
        raise UserError(message) from error


def write_json(path: Path, value: Json) -> None:
    """Write `value` to `path` atomically, indented; NaN and infinities become null."""
    write_text(path, json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Json:
    """Return what `path` holds; raises `UserError` when it is missing or damaged."""
    try:
        value: Json = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is {path.parent} a run folder?") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged at line {error.lineno}: {error.msg}") from None
    return value


@final
class Journal:
    """Append one JSON line a step to a file; made by `open_journal`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def append(self, line: Mapping[str, Json]) -> None:
        """Write one line; floats keep their full precision, NaN becomes null."""
        self._file.write(json.dumps(without_nan(dict(line)), allow_nan=False) + "\n")

    def sync(self) -> None:
        """Wait until every line is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_journal(path: Path, *, last_step: int) -> Journal:
    """Return the journal at `path`, cut back to the lines of steps up to `last_step`."""
    kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= last_step]
    write_text(path, "".join(kept))
    return Journal(path)


def read_journal(path: Path) -> list[dict[str, float]]:
    """Return the lines of a journal as numbers by name, nulls as NaN."""
    lines = [json.loads(line) for line in _whole_lines(path)]
    return [
        {name: math.nan if value is None else float(value) for name, value in line.items()}
        for line in lines
    ]


def _whole_lines(path: Path) -> list[str]:
    """Return the lines of a file; none if it is missing, and not a last one that was cut off."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def without_nan(value: Json) -> Json:
    """Return `value` with null for every NaN and infinity, which JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return value
