"""Where depth and normals go: the scene's own layout, and a dense workspace of COLMAP beside it.

```
depth/maps/cam_0/a.h5                 depth/normals/cam_0/a.bin        depth/sources.json, depth.json, report.html
colmap/dense/images/cam_0/a.jpg       colmap/dense/sparse/             colmap/dense/stereo/fusion.cfg, patch-match.cfg
colmap/dense/stereo/depth_maps/cam_0/a.jpg.geometric.bin               .../normal_maps/cam_0/a.jpg.geometric.bin
```

`colmap stereo_fusion --workspace_path SCENE/colmap/dense`, OpenMVS's `InterfaceCOLMAP -i SCENE/colmap/dense` and
their likes go on from there; maps may be smaller than images, as COLMAP's own. Images and normals are
links where the file system has them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cuesta.data.files import atomic_file, atomic_folder, write_text
from cuesta.data.maps import read_map, write_map
from cuesta.data.scenes.scene import Scene, read_about, write_manifest
from cuesta.vision.terrasky3d.depth_report import write_depth_report
from cuesta.vision.terrasky3d.settings import StereoSettings

_MASKS = ("masks_geometric",)  # made from the depth that is being replaced
_REPLACED = ("depth/", "colmap/dense/")


def publish_depth(
    scene: Scene,
    maps: Path,
    about: Mapping[str, Any],
    settings: StereoSettings,
    *,
    model: Path,
    is_fresh: bool,
) -> None:
    """Put the maps below `maps` (depth/*.h5, normals/*.bin) into the scene, and rewrite its manifest.

    `model` has tracks, by which COLMAP chooses the images that it fuses with one another.
    With `is_fresh` off, nothing is done where the scene has them already.
    """
    record = scene.root / "depth" / "depth.json"
    if not is_fresh and _is_listed(scene, record) and _are_there(scene, about["images"]):
        return
    _unlist(scene)
    record.unlink(missing_ok=True)
    for kind in _MASKS:
        shutil.rmtree(scene.root / "depth" / kind, ignore_errors=True)
    for kind, suffix in (("depth", ".h5"), ("normals", ".bin")):
        target = scene.root / "depth" / ("maps" if kind == "depth" else kind)
        with atomic_folder(target, overwrite=True) as temporary:
            for name in about["images"]:
                own = PurePosixPath(name).with_suffix(suffix)
                _link(maps / kind / own, temporary / own)
    sources = {name: image["sources"] for name, image in about["images"].items()}
    write_text(scene.root / "depth" / "sources.json", json.dumps(sources, indent=1) + "\n")
    _write_workspace(scene, model, sources)
    write_depth_report(scene, about, settings)
    write_text(record, json.dumps(about, indent=1) + "\n")
    write_manifest(scene, read_about(scene))


def normal_map(scene: Scene, image: str) -> Path:
    """Return where the normals of an image are, or belong: [Y, X, 3], in its camera's axes."""
    return (scene.root / "depth" / "normals" / PurePosixPath(image)).with_suffix(".bin")


def _is_listed(scene: Scene, file: Path) -> bool:
    """Return whether the manifest, which is written last, has a file."""
    files = json.loads(scene.manifest.read_text(encoding="utf-8"))["files"]
    return file.relative_to(scene.root).as_posix() in files


def _unlist(scene: Scene) -> None:
    """Take what is about to be replaced out of the manifest, so that a run that is cut off leaves a scene."""
    manifest = json.loads(scene.manifest.read_text(encoding="utf-8"))
    files = manifest["files"]
    manifest["files"] = {name: files[name] for name in files if not name.startswith(_REPLACED)}
    write_text(scene.manifest, json.dumps(manifest, indent=1) + "\n")


def _write_workspace(scene: Scene, model: Path, sources: Mapping[str, list[str]]) -> None:
    with atomic_folder(scene.root / "colmap" / "dense", overwrite=True) as temporary:
        for name in sources:
            _link(scene.frame(name), temporary / "images" / name)
            depth = read_map(scene.depth_map(name))
            stereo = temporary / "stereo"
            target = stereo / "depth_maps" / f"{name}.geometric.bin"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_map(target, depth)
            _link(normal_map(scene, name), stereo / "normal_maps" / f"{name}.geometric.bin")
        for file in sorted(model.iterdir()):
            _link(file, temporary / "sparse" / file.name)
        write_text(temporary / "stereo" / "fusion.cfg", "".join(f"{n}\n" for n in sources))
        lines = [f"{name}\n{', '.join(others)}\n" for name, others in sources.items()]
        write_text(temporary / "stereo" / "patch-match.cfg", "".join(lines))


def _are_there(scene: Scene, images: Mapping[str, Any]) -> bool:
    files = [scene.depth_map(name) for name in images]
    return all(path.is_file() for path in [*files, *(normal_map(scene, name) for name in images)])


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        with atomic_file(target) as temporary:
            shutil.copyfile(source, temporary)
