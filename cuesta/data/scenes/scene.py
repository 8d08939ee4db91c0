"""`Scene`: a folder of one place in the layout that the TerraSky3D data set is published in, with a
manifest.

```
scene/
├── manifest.json                what it is, its unit and licence; size and SHA-256 of every file
├── colmap/sparse/0/             cameras, poses, points: a COLMAP model
├── colmap/metric/0/             the same in metres, where that is known
├── frames/cam_0/a.jpg           the images; one folder a camera, named as in the model
├── depth/maps/cam_0/a.h5        dataset "depth": z, 0 = none
├── depth/masks_geometric/cam_0/a.png    8 bits, 255 = keep
├── depth/masks_semantic/cam_0/a.png     8 bits, 255 = keep
├── report.html                  what people look at; not in the manifest
└── work/                        what a pipeline needs to go on; not in the manifest, may be deleted
```
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import final

from cuesta.data.files import sha256_of, write_text
from cuesta.data.scenes.views import is_inside
from cuesta.errors import UserError

FORMAT = "cuesta scene"
VERSION = 1
_UNLISTED = ("manifest.json", "report.html", "work")

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@final
@dataclass(frozen=True)
class Scene:
    """Name the files of a scene below `root`; images are named as in the model, `cam_0/a.jpg`.

    >>> Scene(Path("castle")).depth_map("cam_0/a.jpg").as_posix()
    'castle/depth/maps/cam_0/a.h5'
    """

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def model(self) -> Path:
        return self.root / "colmap" / "sparse" / "0"

    @property
    def metric_model(self) -> Path:
        return self.root / "colmap" / "metric" / "0"

    @property
    def frames(self) -> Path:
        return self.root / "frames"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def work(self) -> Path:
        return self.root / "work"

    def frame(self, image: str) -> Path:
        """Return where an image is."""
        return self.frames / image

    def depth_map(self, image: str) -> Path:
        """Return where the depth of an image is, or belongs."""
        return self._beside("maps", image, ".h5")

    def geometric_mask(self, image: str) -> Path:
        """Return where the mask of depth that other views confirm is, or belongs."""
        return self._beside("masks_geometric", image, ".png")

    def semantic_mask(self, image: str) -> Path:
        """Return where the mask without sky, people and the like is, or belongs."""
        return self._beside("masks_semantic", image, ".png")

    def _beside(self, kind: str, image: str, suffix: str) -> Path:
        return self.root / "depth" / kind / PurePosixPath(image).with_suffix(suffix)


def open_scene(path: str | Path) -> Scene:
    """Return the scene in a folder, after comparing its manifest with the names and sizes of files.

    Files that the manifest does not list are let be. Raises `UserError` where there is no scene, or a file
    is missing or of another size.
    """
    scene = Scene(Path(path))
    listed, present = _listed_files(scene), {}
    for file in _files(scene):
        present[file.relative_to(scene.root).as_posix()] = file.stat().st_size
    for name, about in listed.items():
        if name not in present:
            raise UserError(
                f"{scene.root}: {name} is in the manifest but not in the folder; "
                "bring it back or make the scene again"
            )
        if present[name] != about["bytes"]:
            raise UserError(
                f"{scene.root}: {name} has {present[name]} bytes, its manifest says "
                f"{about['bytes']}; bring the file back or make the scene again"
            )
    return scene


def verify_scene(path: str | Path) -> None:
    """Compare every file with its SHA-256. Raises `UserError` naming the first that differs."""
    scene = open_scene(path)
    for name, about in _listed_files(scene).items():
        if sha256_of(scene.root / name) != about["sha256"]:
            raise UserError(
                f"{scene.root}: {name} is not the file that its manifest describes (SHA-256); "
                "bring the file back or make the scene again"
            )


def read_about(scene: Scene) -> dict[str, Json]:
    """Return what the manifest says beside its list of files. Raises `UserError` as `open_scene`."""
    manifest = _read_manifest(scene)
    return {name: value for name, value in manifest.items() if name != "files"}


def write_manifest(scene: Scene, about: Mapping[str, Json]) -> None:
    """Write the manifest of the files that are there; `about` says what it is, from where, licence.

    Call it last: a folder without a manifest is no scene yet.
    """
    files = {
        file.relative_to(scene.root).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": sha256_of(file),
        }
        for file in _files(scene)
    }
    manifest = {"format": FORMAT, "version": VERSION, **about, "files": files}
    write_text(scene.manifest, json.dumps(manifest, indent=1) + "\n")


def read_json(path: Path, remedy: str) -> Json:
    """Return what a .json file holds. Raises `UserError` naming it and the remedy if it is broken."""
    try:
        content: Json = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({error}); {remedy}") from error
    return content


def _files(scene: Scene) -> Iterator[Path]:
    for top in sorted(scene.root.iterdir()):
        if top.name in _UNLISTED or top.name.startswith("."):
            continue
        if top.is_file():
            yield top
        for file in sorted(top.rglob("*")):
            is_hidden = any(part.startswith(".") for part in file.relative_to(top).parts)
            if file.is_file() and not is_hidden:
                yield file


def _listed_files(scene: Scene) -> dict[str, dict[str, Json]]:
    files = _read_manifest(scene).get("files")
    if not isinstance(files, dict):
        raise UserError(f"{scene.manifest}: it lists no files; make the scene again")
    listed: dict[str, dict[str, Json]] = {}
    for name, about in files.items():
        if not (is_inside(name) and isinstance(about, dict) and {"bytes", "sha256"} <= set(about)):
            raise UserError(f"{scene.manifest}: its entry {name!r} is broken; make the scene again")
        listed[name] = about
    return listed


def _read_manifest(scene: Scene) -> dict[str, Json]:
    if not scene.manifest.is_file():
        raise UserError(
            f"{scene.root}: no scene (it has no manifest.json); "
            "`cuesta reconstruct PHOTOS` makes one of photos"
        )
    manifest = read_json(scene.manifest, "make the scene again")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{scene.manifest}: not a manifest of a {FORMAT}; name another folder")
    if manifest.get("version") != VERSION:
        raise UserError(
            f"{scene.manifest}: version {manifest.get('version')!r}, this cuesta reads {VERSION}"
        )
    return manifest
