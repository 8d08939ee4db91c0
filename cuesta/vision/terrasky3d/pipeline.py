"""`reconstruct`: a folder of photos or a video to a posed, checked scene, stage by stage.

```
photos ─ ingest ─ calibrate ─ features ─ matches ─ sparse ─ undistort ─ metric ─ report, manifest
```

Each stage reads paths and writes one folder under `work/`; see `stages`. The scene is then built beside
the one that is there, if any, and takes its place, the manifest last. After TerraSky3D (specification of the tool
that its data set was made with), on pycolmap.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cuesta import __version__
from cuesta.data.files import atomic_folder, write_text
from cuesta.data.scenes.colmap import read_colmap, read_reconstruction
from cuesta.data.scenes.scene import Scene, open_scene, read_about, write_manifest
from cuesta.data.scenes.views import Views
from cuesta.engine.recipe import to_json
from cuesta.errors import UserError
from cuesta.vision.terrasky3d.calibrate import calibrate, focal_of
from cuesta.vision.terrasky3d.claim import claimed
from cuesta.vision.terrasky3d.features import extract_features
from cuesta.vision.terrasky3d.gates import Gate, Grade, ImageQuality, judge, measure_images
from cuesta.vision.terrasky3d.georegister import georegister
from cuesta.vision.terrasky3d.ingest import ingest, list_inputs
from cuesta.vision.terrasky3d.mapping import map_scene
from cuesta.vision.terrasky3d.matching import match
from cuesta.vision.terrasky3d.settings import Settings
from cuesta.vision.terrasky3d.stages import (
    OnProgress,
    Stage,
    fingerprint,
    ignore_stages,
    run_stage,
)
from cuesta.vision.terrasky3d.undistort import undistort

_CODE = 3  # raised when a stage's result changes; what was made before is then made again


class Excluded(NamedTuple):
    """Hold an input that is not in the scene, and why."""

    name: str
    reason: str


class Reconstruction(NamedTuple):
    """Hold what came out: the scene, how good it is, and everything that is not in it."""

    scene: Scene
    grade: Grade
    gates: list[Gate]
    images: list[ImageQuality]
    excluded: list[Excluded]
    notes: list[str]
    stages: list[Stage]

    def to_json(self) -> dict[str, Any]:
        """Return it in plain data, for `verdict.json` and `--json`."""
        sparse, metric = self.result("sparse")["models"][0], self.result("metric")
        return {
            "scene": str(self.scene.root),
            "verdict": self.grade,
            "gates": [gate._asdict() for gate in self.gates],
            "num_images": len(self.images),
            "num_points": sparse["num_points"],
            "mean_reprojection_px": sparse["mean_reprojection_px"],
            "mean_track_length": sparse["mean_track_length"],
            "excluded": [item._asdict() for item in self.excluded],
            "notes": self.notes,
            "metric": {k: metric[k] for k in ("source", "rmse_m", "num_used", "origin")},
            "seconds": {stage.name: round(stage.seconds, 2) for stage in self.stages},
            "report": str(self.scene.report),
        }

    def as_taken(self) -> Views:
        """Return the scene's cameras under the names that the photos came with."""
        sources = {image["name"]: image["source"] for image in self.result("ingest")["images"]}
        views = read_colmap(self.scene.model)
        names = tuple(sources[name] for name in views.names)
        return Views(names, views.cameras, views.camera_ids, views.cam_from_world)

    def result(self, name: str) -> dict[str, Any]:
        """Return the result of a stage."""
        return next(stage.result for stage in self.stages if stage.name == name)


def reconstruct(
    photos: str | Path,
    out: str | Path,
    settings: Settings,
    *,
    on_progress: OnProgress = ignore_stages,
) -> Reconstruction:
    """Return the scene made of the photos or the video at `photos`, in the folder `out`.

    What a run with the same settings has finished is not done again; with other settings, the stages
    that they touch are. Raises `UserError` in one line where the photos, the settings or the disk do
    not allow it; a scene that was there stays, one that was begun has no manifest, and both go on
    where they were.
    """
    photos, scene = Path(photos), Scene(Path(out))
    settings.scale.check()
    try:
        inputs = list_inputs(photos)
        with claimed(scene, photos, inputs):
            stages = _run_stages(photos, inputs, scene, settings, on_progress)
            result = _judged(scene, stages)
            mark = _mark_of(stages)
            if not _is_published(scene, mark):
                on_progress("publish", 0, 1)
                _publish(scene, result, settings, mark)
    except OSError as error:
        where = error.filename or scene.root
        raise UserError(f"{where}: {error.strerror or error}; choose another --out") from error
    on_progress("publish", 1, 1)
    return result


def _run_stages(
    photos: Path,
    inputs: list[list[Any]],
    scene: Scene,
    settings: Settings,
    on_progress: OnProgress,
) -> list[Stage]:
    """Run what is not done; each stage's inputs are its settings and the stages before it."""
    work, seed = scene.work, settings.seed

    def show(name: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(name, done, total)

    def run(name: str, make: Callable[[Path], dict[str, Any]], inputs: Any, *after: Stage) -> Stage:
        on_progress(name, 0, 0)
        return run_stage(name, work, make, inputs=[_CODE, to_json(inputs)], after=after)

    def ingest_photos(folder: Path) -> dict[str, Any]:
        return ingest(photos, folder, settings.ingest, show("ingest"))

    taken = run("ingest", ingest_photos, [inputs, settings.ingest])
    images, names = taken.folder / "images", taken.result["images"]

    def calibrate_cameras(folder: Path) -> dict[str, Any]:
        groups = taken.result["cameras"]
        return calibrate(groups, names, folder, settings.calibrate, show("calibrate"))

    files = [_facts_of(settings.calibrate.intrinsics), _facts_of(settings.calibrate.board)]
    known = replace(settings.calibrate, intrinsics=None, board=None)
    lenses = run("calibrate", calibrate_cameras, [known, files], taken)
    cameras = lenses.result["cameras"]

    def find_features(folder: Path) -> dict[str, Any]:
        return extract_features(images, folder, cameras, names, settings.features, show("features"))

    features = run("features", find_features, settings.features, lenses)

    def match_pairs(folder: Path) -> dict[str, Any]:
        return match(features.folder, folder, names, settings.matching, seed, show("matches"))

    matches = run("matches", match_pairs, [settings.matching, seed], features)

    def map_images(folder: Path) -> dict[str, Any]:
        return map_scene(
            images, matches.folder, folder, cameras, settings.mapping, seed, show("sparse")
        )

    sparse = run("sparse", map_images, [settings.mapping, seed], matches)
    model = sparse.folder / "models" / "0"

    def undistort_images(folder: Path) -> dict[str, Any]:
        return undistort(model, images, folder, settings.undistort, show("undistort"))

    flat = run("undistort", undistort_images, settings.undistort, sparse)

    def find_metres(folder: Path) -> dict[str, Any]:
        flat_model = flat.folder / "model"
        return georegister(flat_model, folder, names, settings.scale, seed, show("metric"))

    metric = run("metric", find_metres, [settings.scale, seed], flat)
    return [taken, lenses, features, matches, sparse, flat, metric]


def _judged(scene: Scene, stages: list[Stage]) -> Reconstruction:
    """Return the verdict: the gates, and for each input that is not in the scene the reason."""
    results = {stage.name: stage.result for stage in stages}
    photos, models = results["ingest"]["images"], results["sparse"]["models"]
    inliers = results["matches"]["inliers"]
    model = read_reconstruction(scene.work / "sparse" / "models" / "0")
    images = measure_images(model)
    apart = [other for other in models[1:] if not set(other["images"]) <= set(models[0]["images"])]
    grade, gates = judge(images, models[0], apart, photos, inliers, results["calibrate"]["cameras"])
    excluded = [Excluded(item["source"], item["reason"]) for item in results["ingest"]["excluded"]]
    excluded += _not_placed(photos, results["matches"]["parts"], models)
    notes = [note for result in results.values() for note in result.get("notes", ())]
    notes += [f"{photo['source']}: {note}" for photo in photos for note in photo["notes"]]
    return Reconstruction(scene, grade, gates, images, excluded, notes, stages)


def _not_placed(
    photos: list[dict[str, Any]], parts: list[list[str]], models: list[dict[str, Any]]
) -> list[Excluded]:
    """Name the images that are not in the largest model: of another place, another part, or lost."""
    placed, largest = set(models[0]["images"]), set(parts[0])
    elsewhere = {name: n for n, model in enumerate(models[1:], 2) for name in model["images"]}
    excluded = []
    for photo in photos:
        name = photo["name"]
        if name in placed:
            continue
        if name in elsewhere:
            size = len(models[elsewhere[name] - 1]["images"])
            reason = f"in another model of {size} images, which nothing connects with this one"
        elif name not in largest:
            reason = "shows nothing that the others show: another place, or too far from them"
        else:
            reason = "shares too little with the others to be placed"
        excluded.append(Excluded(photo["source"], reason))
    return excluded


def _publish(scene: Scene, result: Reconstruction, settings: Settings, mark: str) -> None:
    """Build the scene beside the one that is there, and put it in its place, the manifest last.

    While files are replaced there is no manifest, so that it never disagrees with them.
    """
    ready = Scene(scene.root / ".publish")
    try:
        _build(ready, result, settings, mark)
        scene.manifest.unlink(missing_ok=True)
        for name in ("frames", "colmap", "verdict.json", "report.html", "manifest.json"):
            target = scene.root / name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(ready.root / name, target)
    finally:
        shutil.rmtree(ready.root, ignore_errors=True)


def _build(ready: Scene, result: Reconstruction, settings: Settings, mark: str) -> None:
    """Link frames and models into the scene's layout; then write verdict, report and manifest."""
    from cuesta.vision.terrasky3d.report import write_report

    shutil.rmtree(ready.root, ignore_errors=True)  # of a run that was killed
    work = result.scene.work
    flat, metric = work / "undistort", work / "metric" / "model"
    _link_tree(flat / "frames", ready.frames)
    _link_tree(flat / "model", ready.model)
    if metric.exists():
        _link_tree(metric, ready.metric_model)
    write_text(ready.root / "verdict.json", json.dumps(result.to_json(), indent=1) + "\n")
    write_report(ready, result, settings)
    about = {
        "name": result.scene.root.resolve().name,
        "kind": "reconstruction",
        "made_by": f"cuesta {__version__}",
        "made_from": mark,
        "unit": "the model's own; metres in colmap/metric"
        if metric.exists()
        else "the model's own",
        "metres_from_model": result.result("metric")["metres_from_model"],
        "licence": "that of the photos",
        "settings": to_json(settings),
        "cameras": _about_cameras(result),
        "images": _about_images(result),
    }
    write_manifest(ready, about)


def _about_cameras(result: Reconstruction) -> list[dict[str, Any]]:
    """Return for each camera what EXIF calls it, and the focal length it began with and from where."""
    exif = {camera["folder"]: camera["exif"] for camera in result.result("ingest")["cameras"]}
    return [
        {
            "folder": camera["folder"],
            "exif": exif[camera["folder"]],
            "focal_px": focal_of(camera),
            "focal_from": camera["source"],
            "is_fixed": camera["is_fixed"],
        }
        for camera in result.result("calibrate")["cameras"]
    ]


def _about_images(result: Reconstruction) -> dict[str, dict[str, Any]]:
    """Return for each frame the photo it is of, where that was taken, and its clip."""
    photos = {photo["name"]: photo for photo in result.result("ingest")["images"]}
    return {
        image.name: {key: photos[image.name][key] for key in ("source", "gps", "clip")}
        for image in result.images
    }


def _mark_of(stages: list[Stage]) -> str:
    """Return a fingerprint of this making of the stages: it changes when one is done again."""
    records = [(stage.folder / "stage.json").read_text(encoding="utf-8") for stage in stages]
    return fingerprint([__version__, _CODE, *records])


def _is_published(scene: Scene, mark: str) -> bool:
    """Return whether the scene is that of these stages, and all its files are there."""
    try:
        is_same = read_about(open_scene(scene.root)).get("made_from") == mark
    except UserError:
        return False
    return is_same and scene.report.is_file()


def _link_tree(source: Path, target: Path) -> None:
    """Make `target` a copy of a folder that shares its bytes where the file system can."""
    with atomic_folder(target, overwrite=True) as temporary:
        shutil.copytree(source, temporary, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _facts_of(path: Path | None) -> list[list[Any]] | None:
    """Return names, sizes and times of the files that a stage reads beside its inputs, if any."""
    if path is None:
        return None
    files = sorted(path.rglob("*")) if path.is_dir() else [path] * path.exists()
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
