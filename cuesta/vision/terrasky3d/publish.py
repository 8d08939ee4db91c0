"""`publish`: scenes to a data set that others can check and load, in the layout of TerraSky3D.

```
dataset/
├── manifest.json            what it is; size and SHA-256 of every file; the last to be written
├── datasheet.md             the same for people
├── croissant.json           the same for search engines and loaders
├── train_data.json          the cameras of the scenes for training, where there are any
├── views.txt, pairs_calibrated.txt      cameras and pairs of those for testing
├── archives/SCENE.tar       each scene in one file
├── data/SCENE/              colmap/, frames/, depth/ as in `Scene`, and pairs.csv
└── work/                    what a run needs to go on; not in the manifest, may be deleted
```

Both splits have scenes, archives and pairs.csv of one form. Files are links to the scenes' own where
the file system can. A scene is done once: it is not made again while it and the settings are the same.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from cuesta import __version__
from cuesta.data.files import write_text
from cuesta.data.scenes.colmap import read_colmap
from cuesta.data.scenes.pair_table import kept_pairs, read_pair_table
from cuesta.data.scenes.parsing import blaming, check_pinholes
from cuesta.data.scenes.scene import Json, Scene, open_scene, read_json
from cuesta.data.scenes.terrasky3d import (
    calibrate_pairs,
    write_calibrated_pairs,
    write_train_data,
    write_views_txt,
)
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.curate import facts_of, find_leaks
from cuesta.vision.terrasky3d.datasheet import (
    write_croissant,
    write_datasheet,
)
from cuesta.vision.terrasky3d.publish_scene import (
    PublishSettings,
    about_file,
    publish_scene,
    split_of,
)
from cuesta.vision.terrasky3d.stages import OnProgress, ignore_stages

FORMAT, VERSION = "cuesta data set", 1
_REMEDY = "publish the data set again"


class Published(NamedTuple):
    """Hold what was published: the folder, its manifest, and the names of scenes that were made now."""

    root: Path
    manifest: dict[str, Json]
    fresh: tuple[str, ...]


def publish(
    scenes: Sequence[str | Path],
    out: str | Path,
    settings: PublishSettings,
    *,
    on_progress: OnProgress = ignore_stages,
) -> Published:
    """Return the data set made of scenes, in the folder `out`.

    Raises `UserError` in one line where a scene is broken, has no depth or a lens that is not
    undistorted, where train and test show one place, or `out` holds something else. Interrupted, the
    same call goes on.
    """
    out = Path(out)
    sources = _sources(scenes, settings)
    _claim(out)
    views = {name: _views(scene) for name, scene in sources.items()}
    leaks = _check_leaks(sources, views, settings, on_progress)
    (out / "manifest.json").unlink(missing_ok=True)
    records, fresh = {}, []
    for name, scene in sources.items():
        record, is_fresh = publish_scene(scene, views[name], out, settings, on_progress)
        records[name] = record
        fresh += [name] * is_fresh
    _remove_others(out, records)
    on_progress("lists", 0, 1)
    _write_lists(out, views, records)
    manifest = _manifest(out, records, settings, leaks)
    for write, file in ((write_datasheet, "datasheet.md"), (write_croissant, "croissant.json")):
        write(out / file, manifest)
        _files_of(manifest)[file] = about_file(out / file)
    write_text(out / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    on_progress("lists", 1, 1)
    return Published(out, manifest, tuple(fresh))


def _sources(scenes: Sequence[str | Path], settings: PublishSettings) -> dict[str, Scene]:
    """Return the scenes by name, sorted; a folder without manifest stands for the scenes in it."""
    found: dict[str, Scene] = {}
    for path in map(Path, scenes):
        folders = [path]
        if path.is_dir() and not (path / "manifest.json").is_file():
            folders = sorted(file.parent for file in path.glob("*/manifest.json")) or [path]
        for folder in folders:
            scene = open_scene(folder)
            name = folder.resolve().name
            if name in found:
                raise UserError(f"{folder}: another scene is called {name} too; rename one")
            found[name] = scene
    if not found:
        raise UserError("no scene to publish; name the folders of scenes")
    unknown = sorted(set(settings.test) - set(found))
    if unknown:
        known = ", ".join(found)
        raise UserError(f"{unknown[0]}: no scene of this name to test on; choose among {known}")
    return dict(sorted(found.items()))


def _claim(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: it is a file; name a folder for the data set")
    is_ours = (out / "work").is_dir() or _is_data_set(out / "manifest.json")
    if out.is_dir() and any(out.iterdir()) and not is_ours:
        raise UserError(f"{out}: it holds something else; name another folder or remove it")


def _is_data_set(manifest: Path) -> bool:
    if not manifest.is_file():
        return False
    content = read_json(manifest, "name another folder")
    return isinstance(content, dict) and content.get("format") == FORMAT


def _views(scene: Scene) -> Views:
    """Return the views of a scene, if everything is there that is published of it."""
    views = read_colmap(scene.model)
    with blaming(scene.model, "publish the scene that `cuesta reconstruct` undistorts"):
        check_pinholes(views)
        if len(views) < 2:
            raise ValueError("a scene needs two images at least")
    missing = [name for name in views.names if not scene.depth_map(name).is_file()]
    if missing:
        raise UserError(
            f"{scene.root}: {missing[0]} has no depth map ({len(missing)} of {len(views)} lack it); "
            f"`cuesta depth {scene.root}` makes them"
        )
    return views


def _check_leaks(
    sources: dict[str, Scene],
    views: dict[str, Views],
    settings: PublishSettings,
    on_progress: OnProgress,
) -> list[Json]:
    """Return the leaks that are allowed; raise `UserError` naming the first that is not."""
    if not settings.test or set(settings.test) == set(sources):
        return []
    facts = {}
    for done, (name, scene) in enumerate(sources.items()):
        on_progress("leaks", done, len(sources))
        facts[name] = facts_of(scene, views[name])
    train, test = (
        {name: facts[name] for name in sources if split_of(name, settings) == split}
        for split in ("train", "test")
    )
    leaks = find_leaks(train, test, sources)
    if leaks and not settings.allows_leaks:
        train_name, test_name, reason = leaks[0]
        more = f" (and {len(leaks) - 1} more)" if len(leaks) > 1 else ""
        raise UserError(
            f"{train_name} is for training and {test_name} for testing, but {reason}{more}; put them "
            "into one split, or publish with --allow-leaks"
        )
    return [leak._asdict() for leak in leaks]


def _remove_others(out: Path, records: dict[str, dict[str, Json]]) -> None:
    """Remove scenes that an earlier run published here and this one does not name."""
    for record in (out / "work").glob("*.json"):
        name = record.stem
        if name not in records:
            shutil.rmtree(out / "data" / name, ignore_errors=True)
            (out / "archives" / f"{name}.tar").unlink(missing_ok=True)
            record.unlink()
    kept = {file for record in records.values() for file in _files_of(record)}
    for archive in (out / "archives").glob("*.tar"):
        if f"archives/{archive.name}" not in kept:
            archive.unlink()


def _write_lists(out: Path, views: dict[str, Views], records: dict[str, dict[str, Json]]) -> None:
    for file in ("train_data.json", "views.txt", "pairs_calibrated.txt"):
        (out / file).unlink(missing_ok=True)
    train, test = (
        {name: views[name] for name in records if _facts(records[name])["split"] == split}
        for split in ("train", "test")
    )
    if train:
        write_train_data(out / "train_data.json", train)
    if test:
        write_views_txt(out / "views.txt", test)
        pairs = calibrate_pairs(test, list_test_pairs(out, list(test)))
        write_calibrated_pairs(out / "pairs_calibrated.txt", pairs)


def list_test_pairs(out: Path, scenes: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs that the tables of scenes keep, by paths scene/frames/image."""
    return [
        (f"{scene}/frames/{image_a}", f"{scene}/frames/{image_b}")
        for scene in scenes
        for image_a, image_b in kept_pairs(read_pair_table(out / "data" / scene / "pairs.csv"))
    ]


def _manifest(
    out: Path,
    records: dict[str, dict[str, Json]],
    settings: PublishSettings,
    leaks: list[Json],
) -> dict[str, Json]:
    files: dict[str, Json] = {}
    for record in records.values():
        files |= _files_of(record)
    for file in ("train_data.json", "views.txt", "pairs_calibrated.txt"):
        if (out / file).is_file():
            files[file] = about_file(out / file)
    scenes: dict[str, Json] = {name: _facts(record) for name, record in records.items()}
    errors = [_facts(record)["max_relative_depth_error"] for record in records.values()]
    return {
        "format": FORMAT,
        "version": VERSION,
        "made_by": f"cuesta {__version__}",
        "statement": asdict(settings.statement),
        "depth": {
            "encoding": settings.depth,
            "none": 0,
            "max_relative_error": max(error for error in errors if isinstance(error, float)),
        },
        "masks": {"keep": 255, "remove": 0},
        "pair_rules": asdict(settings.rules),
        "leaks": leaks,
        "scenes": scenes,
        "files": files,
    }


def _facts(record: dict[str, Json]) -> dict[str, Json]:
    facts = record["facts"]
    assert isinstance(facts, dict)
    return facts


def _files_of(record: dict[str, Json]) -> dict[str, Json]:
    files = record["files"]
    assert isinstance(files, dict)
    return files
