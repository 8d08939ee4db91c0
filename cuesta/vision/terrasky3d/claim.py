"""`claimed`: a scene's folder for one run alone, and only if it is empty or of the same photos.

`work/inputs.json` tells what the folder is made of. It is written before any stage begins, so that a run
that was cut off knows its folder again; without it (`work/` may be deleted), the manifest tells.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cuesta.data.files import write_text
from cuesta.data.scenes.scene import Scene, read_about
from cuesta.errors import UserError

Inputs = Sequence[Sequence[Any]]
"""Name, size and time of change of each photo and video."""


@contextmanager
def claimed(scene: Scene, photos: Path, inputs: Inputs) -> Iterator[None]:
    """Keep every other run out of the scene's folder until the block ends, or the process.

    Raises `UserError` where another run is in it, or where it holds something else, a scene of other
    photos, or the photos themselves.
    """
    _check_apart(scene.root, photos)
    _check_ours(scene, inputs)
    with only_run(scene):
        marker, text = _marker(scene), json.dumps(inputs)
        if not marker.is_file() or marker.read_text(encoding="utf-8") != text:
            write_text(marker, text)
        yield


@contextmanager
def only_run(scene: Scene) -> Iterator[None]:
    """Keep every other run out of the scene's folder until the block ends, or the process.

    Raises `UserError` where another run is in it.
    """
    scene.work.mkdir(parents=True, exist_ok=True)
    with open(scene.work / ".lock", "a", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{scene.root}: another run is writing into it; wait for it") from None
        yield


def _check_apart(root: Path, photos: Path) -> None:
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: a file, not a folder; choose another --out")
    if photos.is_dir() and root.resolve().is_relative_to(photos.resolve()):
        raise UserError(f"{root}: lies inside the photos; choose an --out elsewhere")
    if photos.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{root}: the photos lie inside it; choose an --out elsewhere")


def _check_ours(scene: Scene, inputs: Inputs) -> None:
    root, is_same = scene.root, _is_made_of(scene, inputs)
    if is_same is False:
        raise UserError(f"{root}: is made of other photos; choose another --out or delete it")
    if is_same or not root.is_dir():
        return
    if any(path != scene.work for path in root.iterdir()):
        raise UserError(f"{root}: holds something else; choose an empty folder for --out")
    begun = scene.work.iterdir() if scene.work.is_dir() else ()
    if any(not path.name.startswith(".") for path in begun):
        raise UserError(f"{scene.work}: holds something else; choose an empty folder for --out")


def _is_made_of(scene: Scene, inputs: Inputs) -> bool | None:
    """Return whether the folder is made of some of these photos; None where it is none of ours."""
    marker = _marker(scene)
    if not marker.is_file():
        sources = _sources_of(scene)
        return None if sources is None else not sources.isdisjoint(name for name, *_ in inputs)
    try:
        known = {(name, size) for name, size, _ in json.loads(marker.read_text(encoding="utf-8"))}
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{marker}: damaged ({error}); delete {scene.root} or choose another --out"
        ) from error
    return not known.isdisjoint((name, size) for name, size, _ in inputs)


def _sources_of(scene: Scene) -> set[str] | None:
    """Return the photos and videos that a manifest of ours names; None where there is none."""
    try:
        about: Any = read_about(scene)
        if about["kind"] != "reconstruction":
            return None
        return {image["clip"] or image["source"] for image in about["images"].values()}
    except (UserError, LookupError, TypeError, AttributeError):
        return None


def _marker(scene: Scene) -> Path:
    return scene.work / "inputs.json"
