"""`run_stage`: a step from paths to a folder that is done once, goes on where it was cut off, and is
done again when what it depends on changes.

A stage owns one folder. Its `stage.json` holds a fingerprint of everything that decides the result
(settings, inputs, the fingerprints of the stages before it), whether it is done, and its result as
JSON. A stage that lost a file, or whose files were changed, is done again; one that was begun with
the same fingerprint finds its folder as it left it; one with another fingerprint finds it empty.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from cuesta.data.files import write_text

Json = None | bool | int | float | str | list[Any] | dict[str, Any]
OnProgress = Callable[[str, int, int], None]
"""Called with the stage, how many of its items are done, and how many there are (0: not known)."""


def ignore_stages(_stage: str, _done: int, _total: int) -> None:
    """Show nothing."""


@final
@dataclass(frozen=True, kw_only=True)
class Stage:
    """Hold a finished stage: its name, folder, fingerprint, result, and the seconds it took.

    `is_fresh` tells whether it ran now or was found done.
    """

    name: str
    folder: Path
    fingerprint: str
    result: dict[str, Any]
    seconds: float
    is_fresh: bool


def run_stage(
    name: str,
    work: Path,
    make: Callable[[Path], dict[str, Any]],
    *,
    inputs: Json,
    after: tuple[Stage, ...] = (),
) -> Stage:
    """Return the stage, made by `make(folder)` unless it is done with these inputs.

    `make` writes into `work / name` and returns its result. What it finds there, if anything, is its
    own from a run with the same inputs that was cut off.
    """
    folder = work / name
    print_of = fingerprint([name, inputs, [stage.fingerprint for stage in after]])
    record = _read_record(folder / "stage.json")
    is_whole = not record.get("is_done") or record.get("holds") == _files(folder)
    if record.get("fingerprint") != print_of or not is_whole:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        record = {"fingerprint": print_of, "is_done": False, "seconds": 0.0, "result": {}}
        write_text(folder / "stage.json", json.dumps(record))
    is_fresh = not record["is_done"]
    if is_fresh:
        begin = time.perf_counter()
        result = make(folder)
        seconds = time.perf_counter() - begin
        record = {
            "fingerprint": print_of,
            "is_done": True,
            "seconds": seconds,
            "result": json.loads(json.dumps(result)),
            "holds": _files(folder),
        }
        write_text(folder / "stage.json", json.dumps(record, indent=1))
    return Stage(
        name=name,
        folder=folder,
        fingerprint=print_of,
        result=record["result"],
        seconds=record["seconds"],
        is_fresh=is_fresh,
    )


def fingerprint(value: Json) -> str:
    """Return 16 hexadecimal digits that differ when any part of `value` differs.

    >>> fingerprint([1, "a"]) == fingerprint([1, "b"])
    False
    """
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _files(folder: Path) -> dict[str, list[int]]:
    """Return size and time of change of each file of a stage; of databases, which readers touch, neither."""
    found = {}
    for path in sorted(folder.rglob("*")):
        is_counted = path.is_file() and path.name != "stage.json"
        if is_counted and not path.name.endswith(("-wal", "-shm")):
            about = path.stat()
            is_database = path.suffix == ".db"
            facts = [] if is_database else [about.st_size, about.st_mtime_ns]
            found[path.relative_to(folder).as_posix()] = facts
    return found


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and {"is_done", "result"} <= set(record) else {}
