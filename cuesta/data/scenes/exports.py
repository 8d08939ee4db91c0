"""A data set's scenes in the forms of other tools: COLMAP, nerfstudio, MVSNet and MegaDepth.

```
colmap        SCENE/images, sparse/0 (with its tracks), masks/IMAGE.png (0 = ignore),
              stereo/depth_maps/IMAGE.geometric.bin
nerfstudio    SCENE/images, masks, transforms.json (mask_path: white = keep)
mvsnet        SCENE/images, cams, pair.txt, depths/00000000.pfm
megadepth     SCENE/images, depths; scene_info/SCENE.npz
```

Frames are links where the file system can. Depth has the masks applied, 0 = none. A scene appears whole
or not at all, and what is there is not made again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cuesta.data.files import atomic_file, atomic_folder, write_text
from cuesta.data.maps import write_map
from cuesta.data.scenes.colmap import read_colmap, read_reconstruction, write_reconstruction
from cuesta.data.scenes.mvsnet import MvsnetScene, write_mvsnet
from cuesta.data.scenes.pair_table import PairRow, kept_pairs, read_pair_table
from cuesta.data.scenes.release import MaskPolicy, read_depth
from cuesta.data.scenes.scene import Scene
from cuesta.data.scenes.transforms_json import write_transforms_json
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.ragged import Ragged

Form = Literal["colmap", "nerfstudio", "mvsnet", "megadepth"]
_PLANES = 192
_MARGINS = ((0.01, 0.75), (0.99, 1.25))  # quantiles of depth and what they are multiplied with
_MOST_SOURCES = 10
_MOST_SAMPLED = 10_000  # depths of an image that its range is found of


def export(
    data_set: str | Path,
    out: str | Path,
    form: Form,
    *,
    masks: MaskPolicy = "available",
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Path]:
    """Write every scene of a data set in a form, and return their folders.

    Raises `UserError` where there is no scene, or a file of one is missing or broken.
    """
    data_set, out = Path(data_set), Path(out)
    roots = sorted(path.parent for path in data_set.glob("data/*/colmap"))
    if not roots:
        raise UserError(f"{data_set}: it has no scene data/SCENE/colmap; name another data set")
    write = _WRITERS[form]
    made = []
    for done, root in enumerate(roots):
        on_progress(form, done, len(roots))
        target = out / root.name
        if not target.exists():
            with atomic_folder(target) as temporary:
                write(Scene(root), read_colmap(Scene(root).model), temporary, masks)
        if form == "megadepth":
            _write_scene_info(Scene(root), out, root.name)
        made.append(target)
    on_progress(form, len(roots), len(roots))
    return made


def _to_colmap(scene: Scene, views: Views, folder: Path, masks: MaskPolicy) -> None:
    write_reconstruction(folder / "sparse" / "0", read_reconstruction(scene.model))
    for name in views.names:
        link(scene.frame(name), folder / "images" / name)
        depth = _depth(scene, views, name, masks)
        write_map(folder / "stereo" / "depth_maps" / f"{name}.geometric.bin", depth)
        if scene.semantic_mask(name).is_file():
            link(scene.semantic_mask(name), folder / "masks" / f"{name}.png")


def _to_nerfstudio(scene: Scene, views: Views, folder: Path, _: MaskPolicy) -> None:
    names = tuple(f"images/{name}" for name in views.names)
    path = folder / "transforms.json"
    write_transforms_json(path, Views(names, views.cameras, views.camera_ids, views.cam_from_world))
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, frame in zip(views.names, content["frames"], strict=True):
        link(scene.frame(name), folder / "images" / name)
        if scene.semantic_mask(name).is_file():
            mask = PurePosixPath("masks", name).with_suffix(".png").as_posix()
            link(scene.semantic_mask(name), folder / mask)
            frame["mask_path"] = mask
    write_text(path, json.dumps(content, indent=1) + "\n")


def _to_mvsnet(scene: Scene, views: Views, folder: Path, masks: MaskPolicy) -> None:
    ranges = []
    for number, name in enumerate(views.names):
        depth = _depth(scene, views, name, masks)
        write_map(folder / "depths" / f"{number:08d}.pfm", depth)
        ranges.append(depth_range(depth, name))
    pairs, scores = source_views(views.names, read_pair_table(scene.root / "pairs.csv"))
    whole = MvsnetScene(views, np.array(ranges), pairs, scores)
    write_mvsnet(folder / "mvsnet", whole, images=scene.frames)
    for part in ("images", "cams", "pair.txt"):
        (folder / "mvsnet" / part).rename(folder / part)
    (folder / "mvsnet").rmdir()


def _to_megadepth(scene: Scene, views: Views, folder: Path, masks: MaskPolicy) -> None:
    for name in views.names:
        link(scene.frame(name), folder / "images" / name)
        target = folder / "depths" / PurePosixPath(name).with_suffix(".h5")
        write_map(target, _depth(scene, views, name, masks))


def _write_scene_info(scene: Scene, out: Path, name: str) -> None:
    """Write what MegaDepth's loaders read of a scene: plain arrays, so that nothing is unpickled.

    `image_paths` and `depth_paths` below `out`, `intrinsics` [V, 3, 3], `poses` [V, 4, 4] (cam_from_world,
    float64), `overlap_matrix` [V, V], and `pair_infos` of ((i, j), overlap, an empty list of matches).
    """
    views = read_colmap(scene.model)
    rows = read_pair_table(scene.root / "pairs.csv")
    places = {image: place for place, image in enumerate(views.names)}
    overlap = np.zeros((len(views), len(views)), np.float32)
    for row in rows:
        overlap[places[row.image_a], places[row.image_b]] = row.overlap
    pairs = [(places[a], places[b]) for a, b in kept_pairs(rows)]
    kind = np.dtype(
        [("pair", np.int64, 2), ("overlap", np.float32), ("matches", np.float32, (0, 4))]
    )
    infos = np.zeros(len(pairs), kind)
    for number, (i, j) in enumerate(pairs):
        infos["pair"][number] = i, j
        infos["overlap"][number] = min(overlap[i, j], overlap[j, i])
    depths = [PurePosixPath(name, "depths", image).with_suffix(".h5") for image in views.names]
    with atomic_file(out / "scene_info" / f"{name}.npz") as temporary:
        np.savez_compressed(
            temporary,
            image_paths=np.array([f"{name}/images/{image}" for image in views.names]),
            depth_paths=np.array([path.as_posix() for path in depths]),
            intrinsics=torch.stack([views.camera(image).matrix() for image in views.names]).numpy(),
            poses=views.cam_from_world.matrix().numpy(),
            overlap_matrix=overlap,
            pair_infos=infos,
        )


def depth_range(depth: NDArray[np.float32], name: str) -> tuple[float, float, float, float]:
    """Return min, interval, number and max of the planes of a sweep over a depth map.

    From 0.75 times the 1 % quantile to 1.25 times the 99 % quantile. Raises `UserError` without depth.
    """
    deep = depth[depth > 0]
    if not deep.size:
        raise UserError(f"{name}: its depth map is empty, so a sweep has no range; leave it out")
    deep = deep[:: max(1, deep.size // _MOST_SAMPLED)].astype(np.float64)
    low, high = (float(np.quantile(deep, at)) * factor for at, factor in _MARGINS)
    return low, (high - low) / (_PLANES - 1), float(_PLANES), high


def source_views(names: Sequence[str], rows: Sequence[PairRow]) -> tuple[Ragged, Ragged]:
    """Return each view's sources by falling overlap, ten at most, and these overlaps in percent."""
    places = {name: place for place, name in enumerate(names)}
    sources: list[list[PairRow]] = [[] for _ in names]
    for row in rows:
        sources[places[row.image_a]].append(row)
    chosen = [sorted(found, key=lambda row: -row.overlap)[:_MOST_SOURCES] for found in sources]
    lengths = [len(found) for found in chosen]
    flat = [row for found in chosen for row in found]
    values = torch.tensor([places[row.image_b] for row in flat], dtype=torch.int64)
    scores = torch.tensor([100 * row.overlap for row in flat], dtype=torch.float64)
    return Ragged.from_lengths(values, lengths), Ragged.from_lengths(scores, lengths)


def link(source: Path, target: Path) -> None:
    """Make `target` a file that shares its bytes with `source` where the file system can.

    Raises `UserError` where `source` is missing.
    """
    if not source.is_file():
        raise UserError(f"{source}: no such file; bring it back")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _depth(scene: Scene, views: Views, name: str, masks: MaskPolicy) -> NDArray[np.float32]:
    camera = views.camera(name)
    return read_depth(scene, name, (camera.width, camera.height), masks)


_WRITERS: dict[str, Callable[[Scene, Views, Path, MaskPolicy], None]] = {
    "colmap": _to_colmap,
    "nerfstudio": _to_nerfstudio,
    "mvsnet": _to_mvsnet,
    "megadepth": _to_megadepth,
}
