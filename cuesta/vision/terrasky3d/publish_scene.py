"""One scene of a data set: its files linked into place, its pairs measured and chosen, hashed, archived.
A scene's record in work/ tells that it is done, of what, and what the manifest says of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, final

import h5py
import numpy as np

from cuesta import __version__
from cuesta.data.files import atomic_file, atomic_folder, sha256_of, write_text
from cuesta.data.maps import read_map
from cuesta.data.scenes.colmap import read_reconstruction
from cuesta.data.scenes.exports import link
from cuesta.data.scenes.pair_table import write_pair_table
from cuesta.data.scenes.scene import Json, Scene, read_about, read_json
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.archive import write_archive
from cuesta.vision.terrasky3d.curate import outlier_cameras
from cuesta.vision.terrasky3d.datasheet import NOT_STATED, Statement
from cuesta.vision.terrasky3d.selection import PairRules, choose, measure_pairs, view_graph
from cuesta.vision.terrasky3d.stages import OnProgress, fingerprint
from cuesta.vision.terrasky3d.strata import count_strata

_CODE = 2  # raised when what is published of a scene changes
_TINY, _HUGE = float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max)

Encoding = Literal["float32", "float16"]


@final
@dataclass(frozen=True, kw_only=True)
class PublishSettings:
    """Say what is published, and how.

    `test` names the scenes for testing by their folders; all others are for training. Depth is linked
    as it is (`float32`), or rounded to `float16` with the largest relative error recorded.
    """

    test: tuple[str, ...] = ()
    statement: Statement = field(default_factory=Statement)
    rules: PairRules = field(default_factory=PairRules)
    depth: Encoding = "float32"
    has_archives: bool = True
    allows_leaks: bool = False


def publish_scene(
    scene: Scene, views: Views, out: Path, settings: PublishSettings, on_progress: OnProgress
) -> tuple[dict[str, Json], bool]:
    """Return the record of a scene, and whether it was made now."""
    name = scene.root.resolve().name
    split = split_of(name, settings)
    made_of = [_CODE, __version__, sha256_of(scene.manifest), split, settings.depth]
    mark = fingerprint([*made_of, asdict(settings.rules), settings.has_archives])
    path = out / "work" / f"{name}.json"
    record = read_json(path, f"remove {path}") if path.is_file() else {}
    if isinstance(record, dict) and record.get("mark") == mark and _is_there(out, record):
        return record, False
    path.unlink(missing_ok=True)
    target = out / "data" / name
    with atomic_folder(target, overwrite=True) as temporary:
        temporary.mkdir(exist_ok=True)
        error = _link_files(scene, views, Scene(temporary), settings.depth)
        try:
            about = _write_pairs(scene, views, Scene(temporary), settings, on_progress)
        except UserError as broken:  # what is to be mended is the scene's own file
            raise UserError(str(broken).replace(str(temporary), str(scene.root))) from broken
    files = sorted(file.relative_to(out).as_posix() for file in target.rglob("*") if file.is_file())
    listed: dict[str, Json] = {}
    for done, file in enumerate(files):
        on_progress(f"{name}: hashes", done, len(files))
        listed[file] = about_file(out / file)
    if settings.has_archives:
        on_progress(f"{name}: archive", 0, 1)
        archive = f"archives/{name}.tar"
        write_archive(out / archive, out, files)
        listed[archive] = about_file(out / archive)
    facts = {"split": split, "max_relative_depth_error": error, **_about(scene, views), **about}
    made: dict[str, Json] = {"mark": mark, "facts": facts, "files": listed}
    write_text(path, json.dumps(made, indent=1) + "\n")
    return made, True


def about_file(path: Path) -> dict[str, Json]:
    """Return what the manifest says of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def split_of(name: str, settings: PublishSettings) -> Literal["train", "test"]:
    """Return the split that a scene is in."""
    return "test" if name in settings.test else "train"


def _is_there(out: Path, record: dict[str, Json]) -> bool:
    files = record.get("files")
    return isinstance(files, dict) and all(
        isinstance(about, dict)
        and (out / file).is_file()
        and (out / file).stat().st_size == about["bytes"]
        for file, about in files.items()
    )


def _link_files(scene: Scene, views: Views, target: Scene, encoding: Encoding) -> float:
    """Put models, frames, depth and masks in place; return the largest relative error of the depth."""
    for model in (scene.model, scene.metric_model):
        for file in sorted(model.glob("*")) if model.is_dir() else ():
            link(file, target.root / file.relative_to(scene.root))
    error = 0.0
    for name in views.names:
        link(scene.frame(name), target.frame(name))
        for path in (scene.geometric_mask(name), scene.semantic_mask(name)):
            if path.is_file():
                link(path, target.root / path.relative_to(scene.root))
        if encoding == "float32":
            link(scene.depth_map(name), target.depth_map(name))
        else:
            error = max(error, write_half(scene.depth_map(name), target.depth_map(name)))
    return error


def write_half(source: Path, target: Path) -> float:
    """Write a depth map as float16 and return its largest relative error: 2^-11 at most.

    Raises `UserError` where a depth is outside what float16 holds as exactly.
    """
    depth = read_map(source)
    deep = depth[depth > 0]
    if deep.size and not (deep.min() >= _TINY and deep.max() < _HUGE):
        raise UserError(
            f"{source}: depths from {deep.min():g} to {deep.max():g} do not fit into float16; publish "
            "with --depth float32"
        )
    half = depth.astype(np.float16)
    with atomic_file(target) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("depth", data=half, compression="gzip", shuffle=True)
    errors = np.abs(half[depth > 0].astype(np.float64) - deep) / deep
    return float(errors.max(initial=0.0))


def _write_pairs(
    scene: Scene, views: Views, target: Scene, settings: PublishSettings, on_progress: OnProgress
) -> dict[str, Json]:
    """Measure the pairs of the published files, write pairs.csv, and return what is said of them."""
    name, rules = scene.root.resolve().name, settings.rules
    outliers = outlier_cameras(scene, views)
    graph = view_graph(scene, read_reconstruction(target.model), rules)
    rows = measure_pairs(
        target,
        views,
        graph,
        rules,
        on_progress=lambda done, total: on_progress(f"{name}: pairs", done, total),
    )
    chosen = [
        row._replace(is_kept=bool(row.is_kept) and not {row.image_a, row.image_b} & set(outliers))
        for row in choose(rows, split_of(name, settings), graph, rules)
    ]
    write_pair_table(target.root / "pairs.csv", chosen)
    one_way = [row for row in chosen if row.is_kept and row.image_a < row.image_b]
    strata: dict[str, Json] = {
        kind: dict(counts)
        for kind, counts in count_strata((row.stratum, row.overlap) for row in one_way).items()
    }
    return {
        "num_pairs": len(one_way),
        "view_graph": graph.source,
        "strata": strata,
        "outlier_cameras": list(outliers),
    }


def _about(scene: Scene, views: Views) -> dict[str, Json]:
    about = read_about(scene)
    num_masks = {
        kind: sum(path(name).is_file() for name in views.names)
        for kind, path in (("geometric", scene.geometric_mask), ("semantic", scene.semantic_mask))
    }
    return {
        "num_images": len(views),
        "licence": about.get("licence", NOT_STATED),
        "unit": about.get("unit", NOT_STATED),
        "made_by": about.get("made_by", about.get("maker", NOT_STATED)),
        "kind": about.get("kind", NOT_STATED),
        "num_masks": {**num_masks},
        "verdict": _verdict(scene),
        "source_manifest_sha256": sha256_of(scene.manifest),
    }


def _verdict(scene: Scene) -> Json:
    """Return the grade that the scene's gates gave it, where they were asked."""
    path = scene.root / "verdict.json"
    content = read_json(path, "make the scene again") if path.is_file() else {}
    return content.get("verdict", NOT_STATED) if isinstance(content, dict) else NOT_STATED
