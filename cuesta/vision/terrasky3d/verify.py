"""`verify`: everything that is wrong with a published data set, all of it, one line each.

Names, sizes and SHA-256 of files and of what archives hold; lists against models, to 1e-9; then each
scene's contents against one another, see `agreement`, which also finds what was exchanged together with
its hash. Data sets come from strangers: no path leaves the folder, no more is read than was announced.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from cuesta.data.files import sha256_of
from cuesta.data.scenes.colmap import read_reconstruction, views_of
from cuesta.data.scenes.pair_table import PairRow, read_pair_table
from cuesta.data.scenes.scene import Json, Scene, read_json
from cuesta.data.scenes.terrasky3d import (
    CalibratedPairs,
    calibrate_pairs,
    read_calibrated_pairs,
    read_train_data,
    read_views_txt,
)
from cuesta.data.scenes.views import Views, is_inside
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.agreement import Finding, check_files, check_pairs, check_points
from cuesta.vision.terrasky3d.archive import read_members
from cuesta.vision.terrasky3d.publish import FORMAT, VERSION, list_test_pairs
from cuesta.vision.terrasky3d.selection import reader
from cuesta.vision.terrasky3d.stages import OnProgress, ignore_stages

_EXACT = 1e-9
_UNLISTED = ("manifest.json", "work")
_LONG_SIDE = 1600
_REMEDY = "name the folder of a data set that `cuesta publish` made"


class Verified(NamedTuple):
    """Hold what was found, and how much was looked at."""

    findings: tuple[Finding, ...]
    num_files: int
    num_scenes: int
    num_images: int


def verify(root: str | Path, *, on_progress: OnProgress = ignore_stages) -> Verified:
    """Return everything that is wrong with the data set in a folder.

    Raises `UserError` where there is none: no manifest, or one of another kind.
    """
    root = Path(root)
    manifest = _read_manifest(root)
    files, scenes = _entries(manifest, "files"), _entries(manifest, "scenes")
    findings = [*_check_manifest(root, files, on_progress)]
    for done, name in enumerate(file for file in files if file.endswith(".tar")):
        on_progress("archives", done, 0)
        findings += _check_archive(root, name, files)
    views: dict[str, Views] = {}
    for done, name in enumerate(scenes):
        on_progress("scenes", done, len(scenes))
        if not is_inside(name) or "/" in name:
            findings.append(Finding("manifest", repr(name), "no name of a scene"))
            continue
        try:
            found = _check_scene(root, name, manifest, views)
            findings += found
        except UserError as error:
            findings.append(Finding("scene", name, str(error)))
    findings += _check_lists(root, scenes, views)
    on_progress("scenes", len(scenes), len(scenes))
    num_images = sum(len(one) for one in views.values())
    return Verified(tuple(findings), len(files), len(scenes), num_images)


def _read_manifest(root: Path) -> dict[str, Json]:
    path = root / "manifest.json"
    if not path.is_file():
        raise UserError(f"{root}: no data set (it has no manifest.json); {_REMEDY}")
    content = read_json(path, _REMEDY)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a manifest of a {FORMAT}; {_REMEDY}")
    if content.get("version") != VERSION:
        raise UserError(f"{path}: version {content.get('version')!r}, this cuesta reads {VERSION}")
    return content


def _entries(content: Mapping[str, Json], name: str) -> dict[str, dict[str, Json]]:
    """Return the entries of a part of the manifest that are objects; others count as empty ones."""
    part = content.get(name)
    found = part if isinstance(part, dict) else {}
    return {key: value if isinstance(value, dict) else {} for key, value in found.items()}


def _check_manifest(
    root: Path, files: Mapping[str, dict[str, Json]], on_progress: OnProgress
) -> Iterator[Finding]:
    """Yield files that are missing, added, of another size or other bytes; and unsafe names."""
    for done, (name, about) in enumerate(files.items()):
        on_progress("hashes", done, len(files))
        if not is_inside(name):
            yield Finding("manifest", repr(name), "leads out of the data set")
            continue
        path = root / name
        if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
            yield Finding("file", name, "is in the manifest but not in the folder")
        elif path.stat().st_size != about.get("bytes"):
            size = path.stat().st_size
            yield Finding("file", name, f"has {size} bytes, the manifest says {about.get('bytes')}")
        elif sha256_of(path) != about.get("sha256"):
            yield Finding("file", name, "is not the file that the manifest describes (SHA-256)")
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        is_hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        is_counted = name.split("/")[0] not in _UNLISTED and not is_hidden
        if path.is_file() and is_counted and name not in files:
            yield Finding("file", name, "is in the folder but not in the manifest")


def _check_archive(
    root: Path, name: str, files: Mapping[str, dict[str, Json]]
) -> Iterator[Finding]:
    scene = name.removeprefix("archives/").removesuffix(".tar")
    expected = {file: about for file, about in files.items() if file.startswith(f"data/{scene}/")}
    sizes = {
        file: size
        for file, about in expected.items()
        if isinstance(size := about.get("bytes"), int)
    }
    if not is_inside(name) or not (root / name).is_file():
        return  # told by _check_manifest
    seen = set()
    try:
        for member in read_members(root / name, sizes):
            if member.complaint:
                yield Finding("archive", name, f"its member {member.name!r} {member.complaint}")
            elif member.sha256 != expected[member.name].get("sha256"):
                yield Finding(
                    "archive", name, f"its member {member.name} has other bytes (SHA-256)"
                )
            if member.name in seen:
                yield Finding("archive", name, f"its member {member.name} is there twice")
            seen.add(member.name)
    except (tarfile.TarError, OSError) as error:
        yield Finding("archive", name, f"cannot be read: {error}")
        return
    for file in sorted(set(expected) - seen):
        yield Finding("archive", name, f"it lacks {file}")


def _check_scene(
    root: Path, name: str, manifest: Mapping[str, Json], views: dict[str, Views]
) -> list[Finding]:
    """Return what is wrong with a scene's contents; its views are put into `views`."""
    scene = Scene(root / "data" / name)
    model = read_reconstruction(scene.model)
    views[name] = own = views_of(model)
    findings = [*check_files(scene, own, name), *check_points(scene, own, model, name)]
    rows = read_pair_table(scene.root / "pairs.csv")
    known = set(own.names)
    unknown = sorted({image for row in rows for image in (row.image_a, row.image_b)} - known)
    findings += [Finding("pairs", f"{name}/{image}", "pairs.csv names it") for image in unknown]
    usable = [row for row in rows if {row.image_a, row.image_b} <= known]
    rules = manifest.get("pair_rules")
    side = rules.get("long_side") if isinstance(rules, dict) else None
    long_side = side if isinstance(side, int) and 0 < side <= 1 << 14 else _LONG_SIDE
    findings += check_pairs(own, _in_order(usable), reader(scene, own, long_side), name)
    return findings


def _in_order(rows: list[PairRow]) -> list[PairRow]:
    return sorted(rows, key=lambda row: (row.image_a, row.image_b))


def _check_lists(
    root: Path, scenes: Mapping[str, dict[str, Json]], views: Mapping[str, Views]
) -> Iterator[Finding]:
    """Yield where train_data.json, views.txt and pairs_calibrated.txt differ from the models."""
    for split, file, read in (
        ("train", "train_data.json", read_train_data),
        ("test", "views.txt", read_views_txt),
    ):
        due = [name for name, facts in scenes.items() if facts.get("split") == split]
        if not due and not (root / file).is_file():
            continue
        try:
            listed = read(root / file)
        except UserError as error:
            yield Finding("list", file, str(error))
            continue
        for name in sorted(set(due) ^ set(listed)):
            yield Finding("list", file, f"it lacks or should not have the scene {name}")
        for name in sorted(set(listed) & set(views) & set(due)):
            for image, what in _differences(listed[name], views[name]):
                yield Finding("list", f"{file}: {name}/{image}", what)
    test = [name for name, facts in scenes.items() if facts.get("split") == "test"]
    if test and set(test) <= set(views):
        yield from _check_calibrated(root, {name: views[name] for name in test})


def _differences(listed: Views, own: Views) -> Iterator[tuple[str, str]]:
    for name in sorted(set(listed.names) ^ set(own.names)):
        yield name, "it is in the list or in the model, not in both"
    for name in sorted(set(listed.names) & set(own.names)):
        one, other = listed.camera(name), own.camera(name)
        if (one.width, one.height) != (other.width, other.height):
            yield name, "its size is not that of the model"
        if not _is_same(one.matrix(), other.matrix()):
            yield name, "its K is not that of the model"
        if not _is_same(listed.pose(name).matrix(), own.pose(name).matrix()):
            yield name, "its pose is not that of the model"


def _check_calibrated(root: Path, views: Mapping[str, Views]) -> Iterator[Finding]:
    """Compare the pairs with those that the tables keep, and their numbers with the models."""
    file = "pairs_calibrated.txt"
    try:
        listed = read_calibrated_pairs(root / file)
        expected = list_test_pairs(root, list(views))
        known = {f"{scene}/frames/{image}" for scene, own in views.items() for image in own.names}
        for image in sorted({image for pair in listed.names for image in pair} - known):
            yield Finding("list", file, f"it names {image}, which is not there")
        if set(listed.names) != set(expected):
            count = len(set(listed.names) ^ set(expected))
            yield Finding("list", file, f"{count} pairs are not those that the tables keep")
        usable = [place for place, pair in enumerate(listed.names) if set(pair) <= known]
        true = calibrate_pairs(views, [listed.names[place] for place in usable])
    except ValueError as error:
        yield Finding("list", file, str(error))
        return
    for row, place in enumerate(usable):
        if not _is_same(_numbers(listed, place), _numbers(true, row)):
            words = f"{' and '.join(listed.names[place])}: not the K and pose of the models"
            yield Finding("list", file, words)


def _numbers(pairs: CalibratedPairs, place: int) -> torch.Tensor:
    """Return the numbers of a pair, of its K and its pose."""
    pose = pairs.b_from_a.matrix()[place].flatten()
    return torch.cat([pairs.matrix_a[place].flatten(), pairs.matrix_b[place].flatten(), pose])


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(((one - other).abs() <= _EXACT * (1 + other.abs())).all())
